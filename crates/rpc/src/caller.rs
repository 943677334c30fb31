//! Who calls, as a handler sees it, and the one place that decides whether they may.

use mi_kernel::{AccountId, Actor, AgentActor, Error, OfficeId, Result};
use mi_proto::{rules::MethodRule, v1};
use tonic::{Request, Status};

use crate::status;

/// The caller of one RPC. The guard puts it into every request before a handler sees it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub actor: Actor,
    /// The rule of the RPC that is called.
    pub rule: &'static MethodRule,
    /// Trace of the call, 32 hex digits.
    pub trace_id: String,
}

/// In what capacity a caller entered an office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// As its owner, or the administrator.
    Owner,
    /// As an agent of it.
    Member(AgentActor),
}

impl Caller {
    /// The caller of a request.
    ///
    /// # Errors
    /// `Unauthenticated` when the request did not come through the guard.
    #[allow(clippy::result_large_err, reason = "tonic's status is what handlers return")]
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| status(Error::unauthenticated("the call carries no principal")))
    }

    /// Lets the caller into an office, or not: foreign is NOT_FOUND, whatever else is wrong with the call.
    ///
    /// # Errors
    /// `NotFound` for strangers, `PermissionDenied` for own callers whose kind the RPC's rule does not list.
    pub fn enter(&self, office_id: OfficeId, owner: AccountId) -> Result<Entry> {
        let entry = if self.actor.owns(owner) {
            Entry::Owner
        } else if let Some(agent) = self.actor.member(office_id) {
            Entry::Member(agent.clone())
        } else {
            return Err(Error::not_found("office", office_id));
        };
        use v1::Caller::{Ancestor, Member, Owner, Self_};
        let allowed = |kinds: &[v1::Caller]| kinds.iter().any(|kind| self.rule.callers.contains(kind));
        match &entry {
            Entry::Owner if allowed(&[Owner]) => Ok(entry),
            Entry::Member(_) if allowed(&[Member, Self_, Ancestor]) => Ok(entry),
            Entry::Owner => Err(Error::denied("only agents of the office may call this")),
            Entry::Member(_) => Err(Error::denied("agents may not call this; ask the operator of the office")),
        }
    }

    /// Whether the caller passes the part of the rule that needs no office. RPCs about an office are left to
    /// [`Caller::enter`], which knows whose it is.
    pub(crate) fn admitted(actor: &Actor, rule: &MethodRule) -> Result<()> {
        use v1::Caller::{
            Administrator, Ancestor, Anyone, Authenticated, Member, Operator, Owner, Self_, Service, Unspecified,
        };
        let passes = rule.callers.iter().any(|kind| match (kind, actor) {
            (Anyone, _) => true,
            (Unspecified, _) | (_, Actor::Anonymous) => false,
            (Service, _) => matches!(actor, Actor::Service { .. }),
            (_, Actor::Service { .. }) => false,
            (Owner | Member | Self_ | Ancestor | Authenticated, _) => true,
            (Administrator, _) => matches!(actor, Actor::Operator { administrator: true, .. }),
            (Operator, _) => matches!(actor, Actor::Operator { .. }),
        });
        match actor {
            _ if passes => Ok(()),
            Actor::Anonymous => Err(Error::unauthenticated(
                "this call needs a credential: send `authorization: Bearer mi_...` (an API key) or an agent's token",
            )),
            _ => Err(Error::denied("this caller may not use this method")),
        }
    }
}
