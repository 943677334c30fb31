//! Messages, who writes them, and who may read them.

use mi_kernel::{Actor, AgentId, MessageId, OfficeId, Time, text::OPERATOR};

/// Who writes, or is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Party {
    /// Operators, whoever of them.
    Operator,
    /// An agent.
    Agent {
        /// Itself, for good.
        id: AgentId,
        /// Its name then.
        name: String,
    },
}

impl Party {
    /// As whom the actor writes in the office.
    pub(super) fn of(actor: &Actor, office_id: OfficeId) -> Self {
        match actor.member(office_id) {
            Some(agent) => Self::Agent { id: agent.agent_id, name: agent.name.clone() },
            None => Self::Operator,
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Operator => OPERATOR,
            Self::Agent { name, .. } => name,
        }
    }

    /// The agent that it is.
    pub(crate) fn agent_id(&self) -> Option<AgentId> {
        match self {
            Self::Operator => None,
            Self::Agent { id, .. } => Some(*id),
        }
    }

    /// How a sentence speaks of it.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Operator => "an operator".to_owned(),
            Self::Agent { name, .. } => format!("{name:?}"),
        }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its place in the office's order.
    pub(crate) seq: i64,
    /// Itself; grows with `seq`.
    pub(crate) id: MessageId,
    /// Who sent it.
    pub(crate) from: Party,
    /// Whom it is to; none: the group.
    pub(crate) to: Option<Party>,
    /// What it says.
    pub(crate) body: String,
    /// When it was sent.
    pub(crate) time: Time,
    /// The task that it was sent for, or the message that it may answer; empty: none.
    pub(crate) cause: String,
    /// How many causes lead back to an operator.
    pub(crate) depth: i32,
}

/// Who reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reader {
    /// Sees everything.
    Owner,
    /// Sees the group, and what it wrote or was written.
    Agent {
        /// Itself.
        id: AgentId,
        /// Its name.
        name: String,
    },
}

impl Reader {
    /// As whom the actor reads in the office that it has entered.
    pub(super) fn of(actor: &Actor, office_id: OfficeId) -> Self {
        match Party::of(actor, office_id) {
            Party::Operator => Self::Owner,
            Party::Agent { id, name } => Self::Agent { id, name },
        }
    }

    /// Whether the message is the reader's to see.
    pub(super) fn sees(&self, message: &Message) -> bool {
        let Self::Agent { id, .. } = self else { return true };
        message.to.as_ref().is_none_or(|to| to.agent_id() == Some(*id) || message.from.agent_id() == Some(*id))
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
