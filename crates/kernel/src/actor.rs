//! Who calls.

use serde::{Deserialize, Serialize};

use crate::{AccountId, AgentId, ApiKeyId, OfficeId};

/// An authenticated agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AgentActor {
    /// Its office.
    pub office_id: OfficeId,
    /// Itself.
    pub agent_id: AgentId,
    /// Its name.
    pub name: String,
}

/// Who calls, as the gateway established it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Actor {
    /// Nobody in particular: no credential was sent.
    Anonymous,
    /// A human or script with an API key.
    Operator {
        /// The account it acts for.
        account_id: AccountId,
        /// The key it used.
        api_key_id: ApiKeyId,
        /// Whether the account is the administrator's.
        administrator: bool,
    },
    /// An agent.
    Agent(AgentActor),
    /// Another role of the platform.
    Service {
        /// Its name.
        role: String,
    },
}

impl Actor {
    /// Whether the actor may act in an office of this account as its owner.
    pub fn owns(&self, owner: AccountId) -> bool {
        match self {
            Self::Operator { account_id, administrator, .. } => *administrator || *account_id == owner,
            _ => false,
        }
    }

    /// The agent, if it is one of this office.
    pub fn member(&self, office_id: OfficeId) -> Option<&AgentActor> {
        match self {
            Self::Agent(agent) if agent.office_id == office_id => Some(agent),
            _ => None,
        }
    }

    /// Whether the actor may read in an office that this account owns.
    pub fn may_read(&self, office_id: OfficeId, owner: AccountId) -> bool {
        self.owns(owner) || self.member(office_id).is_some()
    }

    /// A stable text that names the actor, for idempotency scopes and rate limits.
    pub fn key(&self) -> String {
        match self {
            Self::Anonymous => "anonymous".into(),
            Self::Operator { account_id, .. } => format!("account:{account_id}"),
            Self::Agent(agent) => format!("agent:{}", agent.agent_id),
            Self::Service { role } => format!("service:{role}"),
        }
    }
}
