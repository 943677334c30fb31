//! What is metered: who spends, what is set aside for a call, and what agents and tasks cost.

use std::time::Duration;

use mi_kernel::{AgentId, CallId, TaskId, Time};
use mi_store::{FromRow, time_text};
use serde::{Deserialize, Serialize, Serializer};

/// Who spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spender {
    /// The agent.
    pub agent_id: AgentId,
    /// Its name.
    pub name: String,
    /// Its hirer, the hirer's hirer and so on, nearest first: their budgets count too.
    pub lineage: Vec<AgentId>,
}

impl Spender {
    /// Whose budgets count.
    pub(crate) fn chain(&self) -> impl Iterator<Item = AgentId> {
        std::iter::once(self.agent_id).chain(self.lineage.iter().copied())
    }
}

/// A task that pays, and the one at the top of its tree, whose ceiling counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// The task.
    pub task_id: TaskId,
    /// The one above it that has no parent; itself when it has none.
    pub root_id: TaskId,
}

/// Sets credits aside for a call.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The call.
    pub call_id: CallId,
    /// Who makes it.
    pub spender: Spender,
    /// The task for which it is made; none: none that is known.
    pub payer: Option<Payer>,
    /// Who serves the model.
    pub provider: String,
    /// The provider's name of it.
    pub model: String,
    /// Micro-credits that it costs at most.
    pub amount: i64,
    /// For how long they are set aside.
    pub valid_for: Duration,
}

/// Tokens of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Of the request, of every kind.
    pub input: i64,
    /// Of the answer, of every kind.
    pub output: i64,
}

/// Ends a reservation.
#[derive(Debug, Clone)]
pub struct Settle {
    /// The call.
    pub call_id: CallId,
    /// Micro-credits that it cost; none: nobody knows, so it is what was set aside.
    pub amount: Option<i64>,
    /// What was used; none: nobody knows.
    pub tokens: Option<Tokens>,
    /// What is unusual about it; empty: nothing.
    pub note: String,
}

/// An agent that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// Who it is.
    pub spender: Spender,
    /// Since when.
    pub since: Time,
}

/// Charges the time for which agents ran.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Until when.
    pub until: Time,
    /// The longest that an agent is charged for at once.
    pub at_most: Duration,
    /// The agents.
    pub agents: Vec<Running>,
}

/// Sets an agent's budget.
#[derive(Debug, Clone)]
pub(crate) struct SetBudget {
    pub(crate) spender: Spender,
    /// Micro-credits; none: no limit of its own.
    pub(crate) budget: Option<i64>,
    /// An agent does not exceed what an operator set.
    pub(crate) by_operator: bool,
    pub(crate) trace_id: String,
}

/// What is asked of an office's credits.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Reserve(Reserve),
    Settle(Settle),
    /// Nobody settled it in time.
    Expire(CallId),
    Compute(Compute),
    SetBudget(SetBudget),
}

/// What is set aside for a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) call_id: CallId,
    pub(crate) agent_id: AgentId,
    pub(crate) agent: String,
    pub(crate) lineage: Vec<AgentId>,
    pub(crate) task_id: Option<TaskId>,
    pub(crate) root_id: Option<TaskId>,
    pub(crate) provider: String,
    pub(crate) model: String,
    /// What is set aside; what it cost once it is settled.
    pub(crate) amount: i64,
    /// Whether it has ended and is only remembered.
    pub(crate) settled: bool,
    /// Whether it ended since its time was up: what it cost may be corrected.
    pub(crate) expired: bool,
    #[serde(serialize_with = "as_stored")]
    pub(crate) expires_at: Time,
}

impl Reservation {
    pub(crate) fn spender(&self) -> Spender {
        Spender { agent_id: self.agent_id, name: self.agent.clone(), lineage: self.lineage.clone() }
    }

    pub(crate) fn payer(&self) -> Option<Payer> {
        Some(Payer { task_id: self.task_id?, root_id: self.root_id? })
    }
}

/// What an agent spent, with all whom it hired, and what it may.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) agent_id: AgentId,
    /// Empty while it is known from the lineage of others alone.
    pub(crate) name: String,
    #[sqlx(json)]
    pub(crate) lineage: Vec<AgentId>,
    pub(crate) budget: Option<i64>,
    /// What an operator set last.
    pub(crate) operator_budget: Option<i64>,
    pub(crate) spent: i64,
    pub(crate) reserved: i64,
    /// Why it has to wait; empty: it need not.
    pub(crate) reached: String,
    /// Why the office's credits do not suffice for it; empty: they do, as far as it asked. It need not wait: whoever has
    /// something to pay for asks again.
    pub(crate) broke: String,
    /// Grows with every change that the scheduler has to know.
    pub(crate) version: i64,
    /// The version that it knows.
    pub(crate) told_version: i64,
    /// Until when it was seen to run.
    #[serde(serialize_with = "as_stored")]
    pub(crate) seen_until: Option<Time>,
    /// Milliseconds for which it ran until then and is not charged yet, less than a minute.
    pub(crate) unpaid_ms: i64,
}

impl Account {
    pub(crate) fn new(agent_id: AgentId) -> Self {
        Self {
            agent_id,
            name: String::new(),
            lineage: Vec::new(),
            budget: None,
            operator_budget: None,
            spent: 0,
            reserved: 0,
            reached: String::new(),
            broke: String::new(),
            version: 0,
            told_version: 0,
            seen_until: None,
            unpaid_ms: 0,
        }
    }

    /// Whether all of its budget is spent.
    pub(crate) fn is_spent(&self) -> bool {
        self.budget.is_some_and(|budget| self.spent >= budget)
    }

    /// What it is called in a sentence for this agent: another one may be gone, and then its id is all that names it.
    pub(crate) fn shown_to(&self, agent: AgentId) -> String {
        let Self { name, agent_id, .. } = self;
        if *agent_id == agent || name.is_empty() { self.shown() } else { format!("agent {name:?} ({agent_id})") }
    }

    /// What it is called in sentences.
    pub(crate) fn shown(&self) -> String {
        if self.name.is_empty() { format!("agent {}", self.agent_id) } else { format!("agent {:?}", self.name) }
    }
}

/// What a task cost.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub(crate) struct TaskCost {
    pub(crate) task_id: TaskId,
    /// By itself.
    pub(crate) spent: i64,
    /// With all tasks below it, if it has no parent.
    pub(crate) tree_spent: i64,
    /// What is set aside for these.
    pub(crate) tree_reserved: i64,
}

/// What was used, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) amount: i64,
    pub(crate) tokens: Tokens,
    pub(crate) calls: i64,
}

impl Usage {
    pub(crate) fn add(&mut self, more: Self) {
        self.amount = self.amount.saturating_add(more.amount);
        self.tokens.input = self.tokens.input.saturating_add(more.tokens.input);
        self.tokens.output = self.tokens.output.saturating_add(more.tokens.output);
        self.calls = self.calls.saturating_add(more.calls);
    }
}

/// A time, if there is one, in a row that is written as JSON.
pub(crate) fn as_stored<S: Serializer>(time: &(impl Into<Option<Time>> + Copy), to: S) -> Result<S::Ok, S::Error> {
    (*time).into().map(time_text).serialize(to)
}
