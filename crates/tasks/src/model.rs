//! What a task is, and the one function that moves it from state to state.

mod cause;
mod deadline;
mod new_task;
mod report;
mod transition;

use std::time::Duration;

use mi_kernel::{AgentId, Error, ErrorKind, LeaseId, Result, TaskId, Time};
use mi_store::FromRow;
use mi_tenancy::Author;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use self::cause::Cause;
pub(crate) use self::{
    deadline::{ANSWER_LIMIT, Due, VERIFY_LIMIT},
    new_task::{MAX_TITLE, New, Reference},
    report::{Report, ReportKind, Signed},
    transition::TaskTransition,
};
use super::sweep_clock::Moment;

/// A piece of work.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    /// Position of its last change.
    pub(crate) cursor: i64,
    #[sqlx(json)]
    pub(crate) spec: Spec,
    #[sqlx(json)]
    pub(crate) progress: Progress,
}

/// Kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Kind {
    General,
    Code,
    Research,
    Review,
    Command,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Where the message was written that a task is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Channel {
    /// To the agent alone.
    Direct,
    Group,
}

/// What never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) kind: Kind,
    pub(crate) priority: i32,
    pub(crate) parent: Option<TaskId>,
    pub(crate) depends_on: Vec<TaskId>,
    pub(crate) required_tools: Vec<String>,
    pub(crate) max_attempts: i32,
    pub(crate) verification_required: bool,
    /// Name of an agent, or [`mi_kernel::text::OPERATOR`].
    pub(crate) created_by: String,
    /// The agent that created it; none: an operator, or the platform.
    pub(crate) creator: Option<AgentId>,
    /// `task/ID` or `message/ID`; empty: an operator asked for it.
    pub(crate) cause: String,
    /// Task whose work this one is to judge.
    pub(crate) verifies: Option<TaskId>,
    /// Where the message was written that it is to answer; none: it is other work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answers: Option<Channel>,
    /// Who may not claim it.
    pub(crate) excluded: Option<AgentId>,
    /// The call that asked for it, if that can be told from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Asked>,
    /// Conversation that it goes on with; none: it begins one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<String>,
    pub(crate) created_at: Time,
}

/// A creating call, by which it is known when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Whose call it is, and the id that it gave it: once in an office.
    pub(crate) key: String,
    /// SHA-256 of what it said, in lower-case hex.
    pub(crate) digest: String,
}

/// The only agent that may claim a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignee {
    pub(crate) name: String,
    pub(crate) id: AgentId,
}

/// A claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) expires_at: Time,
    /// How long it was given for.
    #[serde(default = "usual_lease")]
    pub(crate) length: Duration,
}

/// Of leases from before their length was kept.
fn usual_lease() -> Duration {
    LEASE
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) result: String,
    pub(crate) artifacts: Vec<String>,
    /// A JWS; may be empty.
    pub(crate) receipt: String,
    /// Raw public key that the receipt was checked against, lower-case hex.
    pub(crate) public_key: String,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case", tag = "is")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum State {
    Blocked {
        reason: String,
        /// The task that failed or was cancelled, on which it hangs, by whatever way; none: it goes on by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hangs_on: Option<TaskId>,
    },
    Queued,
    Running(Lease),
    Verifying {
        work: Work,
        until: Time,
    },
    Done {
        work: Work,
    },
    Failed,
    Cancelled,
}

/// How the worker of a lease ended it, to know the same report again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) lease_id: LeaseId,
    /// SHA-256 of what was reported, lower-case hex.
    pub(crate) report: String,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) state: State,
    pub(crate) assigned: Option<Assignee>,
    /// Number of the attempt that runs or comes next; 0 before the first claim.
    pub(crate) attempt: i32,
    /// Attempts before the last retry: they do not count towards the most there may be.
    pub(crate) forgiven: i32,
    /// How often its worker gave it back to wait for subtasks, since the last retry.
    #[serde(default)]
    pub(crate) waits: i32,
    /// How long the platform had been away in all when its deadline was set, in microseconds.
    #[serde(default)]
    pub(crate) away: i64,
    /// By how much its deadline was put off since, because the platform was away, in microseconds.
    #[serde(default)]
    pub(crate) postponed: i64,
    /// How many causes lead back to an operator.
    pub(crate) depth: i32,
    /// Who works on it, or last did.
    pub(crate) worker: Option<Author>,
    /// Why the task, or its last attempt, failed.
    pub(crate) error: String,
    /// Why none of its open subtasks goes on by itself, for whoever works on it next; empty: they do, or there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) stalled: String,
    pub(crate) ended: Option<Ended>,
    pub(crate) claimed_at: Option<Time>,
    pub(crate) finished_at: Option<Time>,
    pub(crate) updated_at: Time,
}

impl State {
    /// The name in the database.
    pub(crate) fn as_str(&self) -> &'static str {
        self.into()
    }

    /// Whether nothing happens to it by itself any more.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed | Self::Cancelled)
    }
}

pub(crate) fn lease_lost() -> Error {
    Error::new(
        ErrorKind::Aborted,
        "LEASE_LOST",
        "the lease is no longer the task's; what was done under it does not count",
    )
}

pub(crate) fn finished(state: &State) -> Error {
    Error::precondition("TASK_FINISHED", format!("the task is {} already", state.as_str()))
}

impl Progress {
    pub(crate) fn new(state: State, assigned: Option<Assignee>, depth: i32, at: Moment) -> Self {
        Self {
            state,
            assigned,
            attempt: 0,
            forgiven: 0,
            waits: 0,
            away: at.away,
            postponed: 0,
            depth,
            worker: None,
            error: String::new(),
            stalled: String::new(),
            ended: None,
            claimed_at: None,
            finished_at: None,
            updated_at: at.now,
        }
    }

    /// The lease, if it is this one. It is good until the task is taken from its holder: when it has run out and nobody
    /// has noticed, nobody else has the task either.
    ///
    /// # Errors
    /// `LEASE_LOST`.
    pub(crate) fn held(&self, lease_id: LeaseId) -> Result<&Lease> {
        match &self.state {
            State::Running(lease) if lease.id == lease_id => Ok(lease),
            _ => Err(lease_lost()),
        }
    }

    /// The one transition function: every way out of every state goes through it.
    ///
    /// # Errors
    /// `FailedPrecondition` when the step is none from this state; nothing is changed then.
    pub(crate) fn transition(&mut self, step: TaskTransition, max_attempts: i32, at: Moment) -> Result<()> {
        let now = at.now;
        let keeps_deadline = matches!(step, TaskTransition::Unassign | TaskTransition::Assign(_));
        let wrong = |state: &State, what: &str| {
            Error::precondition("TASK_STATE", format!("a task that is {} cannot be {what}", state.as_str()))
        };
        let was = self.state.clone();
        // Whoever works on it is told until that ends.
        let keeps_told = matches!(
            step,
            TaskTransition::Free { .. }
                | TaskTransition::Claim(..)
                | TaskTransition::Renew(_)
                | TaskTransition::Postpone(_)
                | TaskTransition::Unassign
                | TaskTransition::Assign(_)
        );
        self.state = match (was, step) {
            (State::Blocked { .. } | State::Queued, TaskTransition::Block { reason, hangs_on }) => {
                State::Blocked { reason, hangs_on }
            }
            (State::Blocked { .. } | State::Queued, TaskTransition::Free { stalled }) => {
                self.stalled = stalled;
                State::Queued
            }
            (State::Queued, TaskTransition::Claim(lease, worker)) => {
                self.attempt = self.attempt.max(1);
                self.claimed_at = Some(now);
                self.worker = Some(worker);
                State::Running(lease)
            }
            (State::Running(lease), TaskTransition::Renew(renewed)) if lease.id == renewed.id => {
                State::Running(renewed)
            }
            (State::Running(_) | State::Verifying { .. } | State::Queued, TaskTransition::Postpone(by)) => {
                self.postponed = by;
                self.away = at.away;
                return Ok(());
            }
            (State::Running(_), TaskTransition::Release { ended, keep_for, waits }) => {
                self.ended = ended;
                self.waits += i32::from(waits);
                self.assigned = keep_for.or(self.assigned.take());
                State::Queued
            }
            (State::Running(_), TaskTransition::Expire) => self.another("the lease ran out".into(), max_attempts, now),
            (State::Verifying { .. }, TaskTransition::Expire) => {
                self.error = "nobody verified the work in time".into();
                self.finished_at = Some(now);
                State::Failed
            }
            (
                State::Running(_) | State::Queued | State::Blocked { .. },
                TaskTransition::Complete { work, ended, verify_until },
            ) => {
                self.ended = ended;
                self.error.clear();
                match verify_until {
                    Some(until) => State::Verifying { work, until },
                    None => self.done(work, now),
                }
            }
            (
                State::Running(_) | State::Queued | State::Blocked { .. },
                TaskTransition::Fail { error, retryable, ended },
            ) => {
                self.ended = ended;
                if retryable {
                    self.another(error, max_attempts, now)
                } else {
                    self.error = error;
                    self.finished_at = Some(now);
                    State::Failed
                }
            }
            (state, TaskTransition::Cancel(reason)) if !state.is_final() => {
                self.error = reason;
                self.finished_at = Some(now);
                State::Cancelled
            }
            (State::Failed | State::Cancelled, TaskTransition::Retry { depth }) => {
                self.forgiven = self.attempt;
                self.waits = 0;
                self.attempt += i32::from(self.attempt > 0);
                self.depth = self.depth.max(depth);
                self.finished_at = None;
                State::Queued
            }
            (State::Verifying { work, .. }, TaskTransition::Accept) => self.done(work, now),
            (State::Verifying { .. }, TaskTransition::Reject(note)) => {
                self.another(format!("rejected: {note}"), max_attempts, now)
            }
            (state, TaskTransition::Unassign) if !state.is_final() => {
                self.assigned = None;
                state
            }
            (
                state @ (State::Blocked { .. } | State::Queued | State::Failed | State::Cancelled),
                TaskTransition::Assign(assigned),
            ) => {
                self.assigned = assigned;
                state
            }
            (state, step) => {
                let what = match step {
                    TaskTransition::Block { .. } | TaskTransition::Free { .. } | TaskTransition::Unassign => {
                        "held up or freed"
                    }
                    TaskTransition::Claim(..) => "claimed",
                    TaskTransition::Renew(_)
                    | TaskTransition::Postpone(_)
                    | TaskTransition::Release { .. }
                    | TaskTransition::Expire => {
                        return Err(lease_lost());
                    }
                    TaskTransition::Complete { .. } => "completed",
                    TaskTransition::Fail { .. } => "failed",
                    TaskTransition::Cancel(_) => return Err(finished(&state)),
                    TaskTransition::Retry { .. } => "retried",
                    TaskTransition::Assign(_) => "assigned",
                    TaskTransition::Accept | TaskTransition::Reject(_) => "verified",
                };
                return Err(wrong(&state, what));
            }
        };
        if !keeps_deadline {
            self.away = at.away;
            self.postponed = 0;
        }
        if !keeps_told {
            self.stalled.clear();
        }
        self.updated_at = now;
        Ok(())
    }

    fn done(&mut self, work: Work, now: Time) -> State {
        self.finished_at = Some(now);
        State::Done { work }
    }

    /// Another attempt, if there is one left.
    fn another(&mut self, error: String, max_attempts: i32, now: Time) -> State {
        self.error = error;
        if self.attempt.max(1) - self.forgiven >= max_attempts {
            self.finished_at = Some(now);
            return State::Failed;
        }
        self.attempt = self.attempt.max(1) + 1;
        State::Queued
    }
}

/// How long a lease is when nobody says so.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// How often a worker may give a task back to wait for subtasks: each time it works on with ceilings of its own anew.
pub(crate) const MAX_WAITS: i32 = 20;

impl Task {
    /// One more step, checked.
    pub(crate) fn transition(&mut self, step: TaskTransition, at: Moment) -> Result<()> {
        self.progress.transition(step, self.spec.max_attempts, at)
    }

    pub(crate) fn state(&self) -> &State {
        &self.progress.state
    }

    /// Its place in the queue: what is most urgent, and then what was created first, has the least.
    pub(crate) fn place(&self) -> (i32, TaskId) {
        (self.spec.priority, self.id)
    }

    /// Whether it holds words that were written to its agent alone.
    pub(crate) fn is_private(&self) -> bool {
        self.spec.answers == Some(Channel::Direct)
    }

    /// About how long it is on the wire while it is open, in bytes; rather more.
    pub(crate) fn length(&self) -> usize {
        const REST: usize = 4096;
        REST + self.spec.description.len() + self.progress.error.len() + 40 * self.spec.depends_on.len()
    }

    /// The task that failed or was cancelled, on which it hangs.
    pub(crate) fn hangs_on(&self) -> Option<TaskId> {
        match self.state() {
            State::Blocked { hangs_on, .. } => *hangs_on,
            _ => None,
        }
    }

    /// Who holds it at the moment.
    pub(crate) fn holder(&self) -> Option<&Author> {
        self.progress.worker.as_ref().filter(|_| matches!(self.state(), State::Running(_)))
    }
}

#[cfg(test)]
mod tests;
