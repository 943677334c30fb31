//! Group commit: whatever is asked of an office's queue at the same time shares one transaction, and whoever waits for work
//! is served in it as soon as there is some.
//!
//! An operation that is refused keeps none of the others from being done, and neither does one in which we are at fault:
//! see [`Group`]. An office has a task that drives its operations only while there is something to do.

mod command;
mod group;
mod pending_ops;
mod transaction;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use mi_base::{
    budget::{Budget, Share},
    caught, metrics,
};
use mi_kernel::{AgentId, Error, ErrorKind, OfficeId, Result};
use tokio::sync::oneshot::{self, error::RecvError};

pub(super) use self::command::{Patience, TaskCommand};
use self::{group::Group, pending_ops::PendingOps, transaction::Served};
use super::{
    Tasks,
    batch::Roster,
    model::{Cause, Task},
};

/// Bytes of operations that may wait in a process, of one office at most half of it: beyond it callers are told to come
/// back.
const MAX_WAITING_BYTES: usize = 512 << 20;
/// After a transaction that failed those who wait for work look again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a transaction is tried that lost a race with another process.
const MAX_TRIES: usize = 3;
/// The name of this work in metrics.
const WORK: &str = "task-commit";

/// The tasks that an operation is about, as they are after it.
pub(super) type Answer = Result<Vec<Task>>;

/// What is answered when the process ends meanwhile.
fn ending() -> Error {
    Error::unavailable("the platform is shutting down; try again")
}

/// What is answered to an operation that has no answer although nothing ends: a fault of ours.
pub(super) fn unanswered() -> Error {
    metrics::fault(WORK);
    Error::internal("an operation of the queue has no answer")
}

/// An operation and whom to answer.
pub(super) struct PendingOp {
    command: TaskCommand,
    roster: Option<Roster>,
    trace_id: String,
    answer: oneshot::Sender<Answer>,
    /// The room that it takes until it is answered, with those that were asked together with it.
    _share: Option<Arc<Share>>,
}

impl PendingOp {
    /// Answers that the process ends.
    fn end(self) {
        let _ = self.answer.send(Err(ending()));
    }
}

/// What is asked of the queues of all offices in this process.
#[derive(Clone)]
pub(super) struct GroupCommit {
    offices: Arc<Mutex<HashMap<OfficeId, PendingOps>>>,
    waiting: Budget,
}

impl Default for GroupCommit {
    fn default() -> Self {
        Self { offices: Arc::default(), waiting: Budget::new(MAX_WAITING_BYTES) }
    }
}

impl GroupCommit {
    // The map is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, HashMap<OfficeId, PendingOps>> {
        self.offices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for what somebody asks for together. What the platform has to do by itself needs none.
    ///
    /// # Errors
    /// `Exhausted` when too much waits already, of this office or of all.
    fn admit(&self, office_id: OfficeId, commands: &[TaskCommand]) -> Result<Option<Arc<Share>>> {
        let bytes: usize = commands.iter().filter(|command| command.is_asked()).map(TaskCommand::held).sum();
        if bytes == 0 {
            return Ok(None);
        }
        let share = self.waiting.take(office_id, bytes).ok_or_else(|| {
            let text = "too much is asked of the platform's queues at the moment";
            Error::exhausted("QUEUE_BUSY", text, Duration::from_millis(500))
        })?;
        Ok(Some(Arc::new(share)))
    }

    /// Offices where somebody waits for work.
    pub(super) fn waited_for(&self) -> Vec<OfficeId> {
        self.lock().iter().filter(|(_, pending)| !pending.waiting.is_empty()).map(|(id, _)| *id).collect()
    }

    /// Notes that those who wait are to look again; false: nobody waits. A claim that waits is elsewhere while a
    /// transaction is under way, which may not see what this is about.
    fn kick(&self, office_id: OfficeId) -> bool {
        let mut offices = self.lock();
        let waited = offices.get_mut(&office_id).filter(|pending| pending.running || !pending.waiting.is_empty());
        waited.map(|pending| pending.kicked = true).is_some()
    }
}

impl Tasks {
    /// Puts operations among the office's pending ones, next to each other.
    ///
    /// # Errors
    /// `Exhausted` when too many wait there.
    pub(super) fn enqueue(
        &self,
        office_id: OfficeId,
        commands: Vec<TaskCommand>,
        roster: Option<&Roster>,
        trace_id: &str,
    ) -> Result<Vec<oneshot::Receiver<Answer>>> {
        let share = self.group_commit.admit(office_id, &commands)?;
        let mut answers = Vec::with_capacity(commands.len());
        {
            let mut offices = self.group_commit.lock();
            if self.background.shutdown().is_cancelled() {
                return Err(ending());
            }
            let pending = offices.entry(office_id).or_default();
            for command in commands {
                let (answer, answered) = oneshot::channel();
                let (roster, trace_id) = (roster.cloned(), trace_id.to_owned());
                pending.push(PendingOp { command, roster, trace_id, answer, _share: share.clone() });
                answers.push(answered);
            }
        }
        self.run(office_id);
        Ok(answers)
    }

    /// Puts operations among the office's pending ones and waits for their answers.
    pub(super) async fn submit(
        &self,
        office_id: OfficeId,
        commands: Vec<TaskCommand>,
        roster: Option<&Roster>,
        trace_id: &str,
    ) -> Result<Vec<Answer>> {
        let answers = self.enqueue(office_id, commands, roster, trace_id)?;
        Ok(join_all(answers).await.into_iter().map(|answer| self.heard(answer)).collect())
    }

    /// What came of an operation. One that was dropped was so because the process ends, or else by a fault of ours.
    pub(super) fn heard(&self, answer: Result<Answer, RecvError>) -> Answer {
        answer.unwrap_or_else(|_| match self.background.shutdown().is_cancelled() {
            true => Err(ending()),
            false => Err(unanswered()),
        })
    }

    /// When the process is to end, nobody is left waiting in it: for work, as soon as it closes, so that it is asked for
    /// elsewhere.
    pub(super) async fn end_waiting(&self) {
        self.background.closing().cancelled().await;
        for pending in self.group_commit.lock().values_mut() {
            pending.waiting.drain(..).for_each(PendingOp::end);
        }
        self.background.shutdown().cancelled().await;
        self.group_commit.lock().clear();
    }

    /// Has those who wait for work look again.
    pub(super) fn kick(&self, office_id: OfficeId) {
        if self.group_commit.kick(office_id) {
            self.run(office_id);
        }
    }

    /// Has those who wait for work look again after a while: what they were to be told of may be lost.
    fn kick_later(&self, office_id: OfficeId) {
        let retries =
            self.group_commit.lock().get_mut(&office_id).map(|pending| std::mem::replace(&mut pending.retries, true));
        if retries != Some(false) {
            return;
        }
        let tasks = self.clone();
        self.background.spawn("task-retry", async move {
            tokio::time::sleep(PAUSE).await;
            if let Some(pending) = tasks.group_commit.lock().get_mut(&office_id) {
                pending.retries = false;
            }
            tasks.kick(office_id);
        });
    }

    /// Drives the office's operations, unless a task does already.
    fn run(&self, office_id: OfficeId) {
        let mut offices = self.group_commit.lock();
        let pending = offices.entry(office_id).or_default();
        if std::mem::replace(&mut pending.running, true) {
            return;
        }
        drop(offices);
        let tasks = self.clone();
        self.background.spawn("task-commit", async move { tasks.drive(office_id).await });
    }

    async fn drive(&self, office_id: OfficeId) {
        loop {
            let (ops, waiting) = {
                let mut offices = self.group_commit.lock();
                let Some(pending) = offices.get_mut(&office_id) else { return };
                pending.waiting.retain(|op| !op.answer.is_closed());
                let kicked = std::mem::take(&mut pending.kicked) && !pending.waiting.is_empty();
                if pending.ops.is_empty() && !kicked {
                    pending.running = false;
                    if pending.waiting.is_empty() {
                        offices.remove(&office_id);
                    }
                    return;
                }
                (pending.pop(), (std::mem::take(&mut pending.waiting), kicked))
            };
            let left = self.serve(office_id, ops, waiting).await;
            if self.background.closing().is_cancelled() {
                left.into_iter().for_each(PendingOp::end);
            } else if let Some(pending) = self.group_commit.lock().get_mut(&office_id) {
                pending.waiting.extend(left);
            }
        }
    }

    /// Does what is asked, in one transaction unless one of us is at fault there. Returns the claims that go on waiting.
    async fn serve(&self, office_id: OfficeId, ops: Vec<PendingOp>, waiting: (Vec<PendingOp>, bool)) -> Vec<PendingOp> {
        let (waiting, kicked) = waiting;
        let mut groups = vec![Group { ops, waiting, kicked }];
        let mut left = Vec::new();
        while let Some(group) = groups.pop() {
            match self.attempt_some(office_id, &group).await {
                Ok(served) => left.extend(self.answer(office_id, group, served).await),
                Err(error) if error.kind == ErrorKind::Internal && group.len() > 1 => groups.extend(group.halves()),
                Err(error) => left.extend(self.give_up(office_id, group, &error)),
            }
        }
        left
    }

    /// One transaction, and again when it lost a race.
    async fn attempt_some(&self, office_id: OfficeId, group: &Group) -> Result<Served> {
        let mut tries = 0;
        loop {
            tries += 1;
            match caught(self.attempt(office_id, &group.ops, &group.waiting, group.kicked)).await {
                Err(error) if error.reason == "CONFLICT" && tries < MAX_TRIES => {}
                served => return served,
            }
        }
    }

    /// Answers for a transaction that failed. Whoever waits goes on, unless there is nothing to wait for any more, or it
    /// is its own claim that fails.
    fn give_up(&self, office_id: OfficeId, group: Group, error: &Error) -> Vec<PendingOp> {
        let Group { ops, waiting, .. } = group;
        match error.kind {
            ErrorKind::Internal => {
                metrics::fault(WORK);
                tracing::error!(target: "mi::tasks", office = %office_id, error = %error.chain(), "an operation of the queue failed by a fault of the platform");
            }
            _ => {
                tracing::warn!(target: "mi::tasks", office = %office_id, error = %error.chain(), "the queue's transaction failed");
                self.kick_later(office_id);
                // It may have been committed, and its answer lost: others have to look.
                self.outbox.notify_one();
                self.changed(office_id);
            }
        }
        let ends = matches!(error.kind, ErrorKind::NotFound | ErrorKind::Internal);
        let (told, left) = if ends { (waiting, Vec::new()) } else { (Vec::new(), waiting) };
        for op in told.into_iter().chain(ops) {
            let _ = op.answer.send(Err(error.again()));
        }
        left
    }

    /// Tells everybody what came of a transaction. Returns the claims that go on waiting.
    async fn answer(&self, office_id: OfficeId, group: Group, served: Served) -> Vec<PendingOp> {
        let Group { ops, waiting, .. } = group;
        if served.changed {
            self.outbox.notify_one();
            self.changed(office_id);
        }
        for (agent, message) in served.loops {
            self.pause(office_id, agent, message);
        }
        let mut left = Vec::new();
        let mut unclaimed = Vec::new();
        for (op, answer) in waiting.into_iter().chain(ops).zip(served.answers) {
            let waits = matches!(op.command, TaskCommand::Claim(_, Patience::Waits));
            if let (TaskCommand::Report(report), Ok(tasks)) = (&op.command, &answer)
                && let (Some(agent), Some(task)) = (report.ends_work(), tasks.first())
            {
                self.note_end(agent, task).await;
            }
            match answer {
                Ok(tasks) if tasks.is_empty() && waits => left.push(op),
                answer => {
                    // Whoever asked is gone: what was claimed for it goes back.
                    if let (Err(Ok(tasks)), Some(claim)) = (op.answer.send(answer), op.command.claim()) {
                        let reported = usize::from(matches!(op.command, TaskCommand::Report(_)));
                        let claimed = tasks.iter().skip(reported);
                        unclaimed.extend(claimed.filter_map(|task| super::work::give_back(task, &claim.by)));
                    }
                }
            }
        }
        let mut own: Vec<(TaskCommand, Option<Roster>)> =
            unclaimed.into_iter().map(|report| (TaskCommand::Report(report), None)).collect();
        // What got no further is tried again after a while: by [`Tasks::settle_forever`], or when those who wait look again.
        let goes_on = !served.stuck;
        own.extend((served.left && goes_on).then_some((TaskCommand::Settle, None)));
        own.extend(served.again.into_iter().map(|(next, roster)| (TaskCommand::Reconcile(next), roster)));
        if served.held && served.stuck {
            self.kick_later(office_id);
        }
        if !own.is_empty() || (served.held && goes_on) {
            let mut offices = self.group_commit.lock();
            let pending = offices.entry(office_id).or_default();
            pending.kicked |= served.held && goes_on;
            for (command, roster) in own {
                let answer = oneshot::channel().0;
                pending.push(PendingOp { command, roster, trace_id: String::new(), answer, _share: None });
            }
        }
        left
    }

    /// Remembers the task that an agent ended last. A report that is sent again may be on an earlier one, or another's.
    async fn note_end(&self, agent: AgentId, task: &Task) {
        let (time, worker) = (task.progress.updated_at, task.progress.worker.as_ref());
        let is_its = worker.is_some_and(|worker| worker.agent_id == Some(agent));
        if is_its && self.ended.get(&agent).is_none_or(|(known, _)| known <= time) {
            self.ended.insert(agent, (time, Cause::of(task)));
        }
    }
}

#[cfg(test)]
mod tests;
