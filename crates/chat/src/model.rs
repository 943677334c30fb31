//! Messages, who writes them, and who may read them.

use mi_kernel::{AgentId, MessageId, Time};
use mi_rpc::Access;
use mi_tenancy::Author;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its place in the office's order.
    pub(crate) seq: i64,
    /// Its id, which grows with `seq`.
    pub(crate) id: MessageId,
    /// Who sent it.
    pub(crate) from: Author,
    /// Whom it is to; none: the group.
    pub(crate) to: Option<Author>,
    /// What it says.
    pub(crate) body: String,
    /// When it was sent.
    pub(crate) time: Time,
    /// The task that it was sent for, or the message that it may answer; empty: none.
    pub(crate) cause: String,
    /// How many causes lead back to an operator.
    pub(crate) depth: i32,
}

impl Message {
    /// Whether the caller may see it: owners see everything, an agent the group and what it wrote or was written.
    pub(super) fn is_for(&self, access: &Access) -> bool {
        let Some(agent) = access.agent() else { return true };
        let is = |author: &Author| author.agent_id == Some(agent.agent_id);
        self.to.as_ref().is_none_or(is) || is(&self.from)
    }
}

/// Messages that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conversation {
    /// The office's group.
    Group,
    /// Everything direct from and to whoever is called so.
    With(String),
    /// What this agent and whoever is called so wrote each other.
    Between {
        /// The agent.
        id: AgentId,
        /// Its name.
        name: String,
        /// The other's name.
        other: String,
    },
}
