//! Who calls, as a handler sees it, and the one place that decides whether they may.

use mi_kernel::{AccountId, Actor, Error, OfficeId, Result};
use mi_proto::{rules::MethodRule, v1};
use tonic::{Request, Status};

use crate::{Access, Refusal, Refusals, status};

/// The caller of one RPC. The guard puts it into every request before a handler sees it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub actor: Actor,
    /// The rule of the RPC that is called.
    pub rule: &'static MethodRule,
    /// Trace of the call, 32 hex digits.
    pub trace_id: String,
    /// Where it is noted when the call is refused.
    pub refusals: Refusals,
}

/// Header with the network of whoever calls from outside: an IPv4 address, or an IPv6 one that stands for its /64. Only
/// the gateway sets it.
pub const SOURCE_HEADER: &str = "mi-source";

/// Where a request comes from, to count by; empty: from within.
pub fn source_of<T>(request: &Request<T>) -> &str {
    request.metadata().get(SOURCE_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default()
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
    pub fn enter(&self, office_id: OfficeId, owner: AccountId) -> Result<Access> {
        if !self.actor.may_read(office_id, owner) {
            // The feed is the victim's, who learns what was tried and not who: that is another tenant.
            let kind = match self.actor {
                Actor::Agent(_) => "an agent of another office",
                _ => "an operator of another account",
            };
            self.note(office_id, "", kind);
            return Err(Error::not_found("office", office_id));
        }
        use v1::Caller::{Administrator, Ancestor, Member, Owner, Self_};
        let access = Access::new(office_id, &self.actor, &self.trace_id);
        let (kinds, problem) = match access.is_owner() {
            // Only the administrator is admitted where no owner is.
            true => (&[Owner, Administrator][..], "only agents of the office may call this"),
            false => (&[Member, Self_, Ancestor][..], "agents may not call this; ask the operator of the office"),
        };
        match kinds.iter().any(|kind| self.rule.callers.contains(kind)) {
            true => Ok(access),
            false => Err(self.refused(office_id, Error::denied(problem))),
        }
    }

    /// Notes in the office's feed that the call is refused.
    pub fn refused(&self, office_id: OfficeId, error: Error) -> Error {
        match &self.actor {
            Actor::Agent(agent) => self.note(office_id, &agent.name, "an agent of the office"),
            _ => self.note(office_id, "", "an operator of the office"),
        }
        error
    }

    fn note(&self, office_id: OfficeId, agent: &str, kind: &str) {
        let method = self.rule.path.trim_start_matches('/');
        let refusal = Refusal {
            office_id,
            agent: agent.to_owned(),
            kind: "access.refused",
            summary: format!("{method} refused to {kind}"),
            detail: method.to_owned(),
        };
        self.refusals.note(refusal, &self.trace_id);
    }

    /// Whether the caller passes the part of the rule that needs no office. RPCs about an office are left to
    /// [`Caller::enter`], which knows whose it is.
    ///
    /// # Errors
    /// `Unauthenticated` for nobody in particular, `PermissionDenied` for a kind of caller that the rule does not list.
    pub fn admitted(&self) -> Result<()> {
        use v1::Caller::{
            Administrator, Ancestor, Anyone, Authenticated, Member, Operator, Owner, Self_, Service, Unspecified,
        };
        let passes = self.rule.callers.iter().any(|kind| match (kind, &self.actor) {
            (Anyone, _) => true,
            (Unspecified, _) | (_, Actor::Anonymous) => false,
            (Service, _) => matches!(self.actor, Actor::Service { .. }),
            (_, Actor::Service { .. }) => false,
            (Owner | Member | Self_ | Ancestor | Authenticated, _) => true,
            (Administrator, _) => matches!(self.actor, Actor::Operator { administrator: true, .. }),
            (Operator, _) => matches!(self.actor, Actor::Operator { .. }),
        });
        match &self.actor {
            _ if passes => Ok(()),
            Actor::Anonymous => Err(Error::unauthenticated(
                "this call needs a credential: send `authorization: Bearer mi_...` (an API key) or an agent's token",
            )),
            Actor::Agent(agent) => {
                Err(self.refused(agent.office_id, Error::denied("this caller may not use this method")))
            }
            Actor::Operator { .. } | Actor::Service { .. } => Err(Error::denied("this caller may not use this method")),
        }
    }
}
