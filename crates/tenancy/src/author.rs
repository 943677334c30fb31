//! Who did something, as it is written down.

use mi_kernel::{AgentId, ApiKeyId, text::OPERATOR};
use mi_rpc::Access;
use serde::{Deserialize, Serialize};

/// Who did something in an office, as its rows keep it: an agent, or an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Name of the agent, or [`OPERATOR`].
    pub name: String,
    /// The agent; none: an operator.
    pub agent_id: Option<AgentId>,
    /// The operator's key; none: an agent, or nobody noted it.
    pub api_key_id: Option<ApiKeyId>,
}

impl Author {
    /// The caller who entered the office.
    pub fn of(access: &Access) -> Self {
        match access.agent() {
            Some(agent) => Self::agent(agent.agent_id, agent.name.clone()),
            None => Self { api_key_id: access.api_key_id(), ..Self::operator() },
        }
    }

    /// An agent.
    pub fn agent(id: AgentId, name: String) -> Self {
        Self { name, agent_id: Some(id), api_key_id: None }
    }

    /// Operators, whoever of them.
    pub fn operator() -> Self {
        Self { name: OPERATOR.into(), agent_id: None, api_key_id: None }
    }

    /// The agent's name, for events; empty: it is an operator.
    pub fn agent_name(&self) -> &str {
        self.agent_id.map_or("", |_| &self.name)
    }
}
