//! What is decided about tasks: cancelling, retrying, assigning, verifying.

use mi_kernel::{Error, Result, TaskId};
use mi_tenancy::Author;

use super::{
    batch::Batch,
    model::{Assignee, Cause, State, Task, TaskTransition},
};

/// A decision on a task.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) task_id: TaskId,
    pub(super) by: Author,
    /// As an owner of the office.
    pub(super) owner: bool,
    pub(super) what: Verdict,
}

/// What is decided.
#[derive(Debug)]
pub(super) enum Verdict {
    Cancel(String),
    Retry,
    /// None: to nobody in particular.
    Assign(Option<Assignee>),
    /// With the attempt that was judged, if that is said.
    Accept(Option<i32>),
    Reject(String, Option<i32>),
}

impl Batch<'_> {
    /// Decides.
    pub(super) async fn decide(&mut self, decision: &Decision, trace_id: &str) -> Result<Task> {
        let id = decision.task_id;
        let task = self.get(id)?.clone();
        let created = task.spec.creator.is_some() && task.spec.creator == decision.by.agent_id;
        match &decision.what {
            Verdict::Cancel(_) | Verdict::Retry | Verdict::Assign(_) if !decision.owner && !created => {
                return Err(Error::denied("an agent decides only on tasks that it created"));
            }
            Verdict::Cancel(reason) => {
                // Asked again, or too late for nothing to matter.
                if *task.state() != State::Cancelled {
                    self.transition(id, TaskTransition::Cancel(reason.clone()), trace_id)?;
                }
            }
            Verdict::Retry
                if *task.state() == State::Cancelled
                    && (self.roots.contains_key(&id) || self.consequences.cancels(id)) =>
            {
                let text = "its subtasks are still being cancelled; try again in a moment";
                return Err(Error::precondition("SUBTASKS_OPEN", text));
            }
            Verdict::Retry => {
                let cause = match decision.by.agent_id {
                    Some(agent) => self.cause_of(agent).await?,
                    None => Cause::default(),
                };
                self.within_depth(&decision.by.name, &cause, trace_id)?;
                if task.state().is_final() {
                    self.room_for(1)?;
                }
                self.transition(id, TaskTransition::Retry { depth: cause.depth }, trace_id)?;
                self.reconsider(id, trace_id).await?;
            }
            Verdict::Assign(_) if task.spec.answers.is_some() => {
                let text = "a task that answers a message stays with the agent that it was written to";
                return Err(Error::precondition("TASK_STATE", text));
            }
            Verdict::Assign(assigned) => {
                if task.progress.assigned != *assigned {
                    self.transition(id, TaskTransition::Assign(assigned.clone()), trace_id)?;
                }
            }
            Verdict::Accept(attempt) | Verdict::Reject(_, attempt) => {
                if task.progress.worker.as_ref().is_some_and(|worker| same(worker, &decision.by)) {
                    return Err(Error::denied("whoever did the work does not verify it"));
                }
                if attempt.is_some_and(|attempt| attempt != task.progress.attempt) {
                    let text =
                        format!("the work is that of attempt {} by now; look at it first", task.progress.attempt);
                    return Err(Error::precondition("TASK_STATE", text));
                }
                self.judges.insert(id, decision.by.clone());
                let step = match &decision.what {
                    Verdict::Reject(note, _) => TaskTransition::Reject(note.clone()),
                    _ => TaskTransition::Accept,
                };
                self.transition(id, step, trace_id)?;
                self.reconsider(id, trace_id).await?;
            }
        }
        Ok(self.get(id)?.clone())
    }
}

/// Whether these are one: agents by id, operators by their key.
fn same(worker: &Author, by: &Author) -> bool {
    (worker.agent_id, worker.api_key_id) == (by.agent_id, by.api_key_id)
}
