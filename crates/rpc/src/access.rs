//! Proof that a caller was let into an office.

use mi_kernel::{Actor, AgentActor, ApiKeyId, OfficeId};

/// Proof that a caller was let into an office, and as whom. Only [`Caller::enter`](crate::Caller::enter) makes one, so
/// that whatever takes it need not ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    office_id: OfficeId,
    actor: Actor,
    trace_id: String,
}

impl Access {
    pub(crate) fn new(office_id: OfficeId, actor: &Actor, trace_id: &str) -> Self {
        Self { office_id, actor: actor.clone(), trace_id: trace_id.to_owned() }
    }

    /// The office that the caller entered.
    pub fn office_id(&self) -> OfficeId {
        self.office_id
    }

    /// The agent of the office that calls; none: the office's owner, or the administrator.
    pub fn agent(&self) -> Option<&AgentActor> {
        self.actor.member(self.office_id)
    }

    /// Whether the caller is the office's owner, or the administrator.
    pub fn is_owner(&self) -> bool {
        self.agent().is_none()
    }

    /// The API key that an owner used; none: an agent calls.
    pub fn api_key_id(&self) -> Option<ApiKeyId> {
        match self.actor {
            Actor::Operator { api_key_id, .. } => Some(api_key_id),
            _ => None,
        }
    }

    /// A stable text that names the caller, for the scope of request ids. All keys of an account are one caller.
    pub fn key(&self) -> String {
        self.actor.key()
    }

    /// Trace of the call, 32 hex digits.
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }
}
