//! One transaction of an office's queue: a write by what is remembered of it, or by a look, where that is enough, else with
//! the queue's row locked.

use mi_kernel::{Error, ErrorKind, OfficeId, Result, TaskId, error::Fault};

use super::{Answer, PendingOp, TaskCommand};
use crate::{
    Tasks,
    batch::{Batch, NEEDS_LOCK, QUEUE_MOVED, Roster, needs_lock},
    members::Reconcile,
    memory::{Known, Left, Memory},
    model::Task,
    repo::{self, Asked, Rest, Told, Wanted},
    work::{Claim, Offer, not_working, wanted},
};

impl Tasks {
    /// One transaction. What takes no more than is remembered of the queue, or than a look at it where the database is far, goes
    /// without reading with its lock.
    pub(super) async fn attempt(
        &self,
        office_id: OfficeId,
        ops: &[PendingOp],
        waiting: &[PendingOp],
        kicked: bool,
    ) -> Result<Served> {
        let asking = Asking::new(office_id, ops, waiting, kicked);
        let mut known = self.memories.take(office_id);
        let served = self.attempt_knowing(&asking, &mut known).await;
        if served.is_err() {
            // It may have been committed all the same.
            known.memory = None;
        }
        self.memories.put(office_id, known);
        served
    }

    async fn attempt_knowing(&self, asking: &Asking<'_>, known: &mut Known) -> Result<Served> {
        if asking.ops.iter().all(|op| op.command.is_simple()) {
            match self.attempt_unlocked(asking, known).await {
                Err(error) if [NEEDS_LOCK, QUEUE_MOVED].contains(&error.reason) => {}
                served => return served,
            }
        }
        let mut tx = self.db.office(asking.office_id).begin_sharing("").await?;
        let mut batch = Batch::open(&mut tx, &*self.clock).await?;
        known.saw(&batch.began);
        self.prepare(&mut batch, asking);
        // What is to be cancelled is not handed out before: until then nobody is looked for something.
        let held = batch.consequences.cancel();
        let asked = if held { Asked { wanted: Wanted::default(), ..asking.asked() } } else { asking.asked() };
        batch.prefetch(&asked).await?;
        let served = self.perform(&mut batch, asking).await?;
        let (left, statements) = (Left::of(&mut batch), tx.statements());
        tx.commit().await?;
        known.follow(left);
        asking.told(statements);
        Ok(served)
    }

    /// The same by what is remembered, and where that is not enough, by a look: not on SQLite, where waiting for the lock costs
    /// nothing.
    ///
    /// # Errors
    /// [`NEEDS_LOCK`], [`QUEUE_MOVED`], besides failures of the database.
    async fn attempt_unlocked(&self, asking: &Asking<'_>, known: &mut Known) -> Result<Served> {
        let (office_id, asked, metered) = (asking.office_id, asking.asked(), self.credits.metered());
        let mut statements = 0;
        if let Some(limit) = known.front(&asked) {
            statements += 2;
            self.remember(asking, known, limit).await?;
        }
        let found = known.memory.as_ref().and_then(|memory| Some((memory, memory.answer(&asked, &asking.claims)?)));
        if let Some((memory, found)) = found {
            let mut batch = Batch::remembered(&self.db, memory, (found, &asked), metered, &*self.clock)?;
            self.prepare(&mut batch, asking);
            statements += 1;
            match self.perform(&mut batch, asking).await {
                Ok(served) if served.changed => {
                    known.served(Left::of(&mut batch));
                    asking.told(statements);
                    return Ok(served);
                }
                // What writes nothing is compared with nothing: it may be too old.
                Ok(_) => {}
                Err(error) if error.reason == QUEUE_MOVED => known.lost(),
                Err(error) => return Err(error),
            }
        }
        if !self.db.is_shared() {
            return Err(needs_lock());
        }
        let mut batch = Batch::look(&self.db, office_id, &asked, metered, &*self.clock).await?;
        known.saw(&batch.began);
        self.prepare(&mut batch, asking);
        let served = self.perform(&mut batch, asking).await?;
        if served.changed {
            known.follow(Left::of(&mut batch));
        }
        asking.told(statements + 1 + u32::from(served.changed));
        Ok(served)
    }

    /// Reads the queue's row and then its front, so that the position is none of after a change that the front does not have.
    /// A row of the front that cannot be read is in the way of nobody but whoever claims it.
    async fn remember(&self, asking: &Asking<'_>, known: &mut Known, limit: i64) -> Result<()> {
        let before = known.memory.take();
        let db = self.db.office(asking.office_id);
        let look = repo::queue_look(&self.db, asking.office_id, &Asked::default()).await?;
        let Some((opened, _)) = look.filter(|(opened, _)| opened.rest == Rest::None) else { return Ok(()) };
        let told = opened.told.map(Told::new);
        let memory = match repo::task_front(&mut db.read().await?, limit).await.map_err(Error::from) {
            Ok(front) => Some(Memory::new(opened, told, front).refreshed(before)),
            Err(error) if error.kind == ErrorKind::Internal => {
                tracing::error!(
                    target: "mi::tasks", office = %asking.office_id, error = %error.chain(),
                    "the front of a queue cannot be read: the queue is not remembered"
                );
                None
            }
            Err(error) => return Err(error),
        };
        known.read(memory, &asking.asked());
        Ok(())
    }

    /// What the transaction goes by besides the database.
    fn prepare(&self, batch: &mut Batch<'_>, asking: &Asking<'_>) {
        batch.ended = Some(self.ended.clone());
        batch.open_quota = self.quotas.open_tasks;
        batch.metered = self.credits.metered();
        batch.roster = roster(self.rosters.get(&asking.office_id), asking.ops, asking.waiting);
    }

    async fn perform(&self, batch: &mut Batch<'_>, asking: &Asking<'_>) -> Result<Served> {
        let Asking { ops, waiting, kicked, wanted, .. } = asking;
        let all: Vec<&PendingOp> = waiting.iter().chain(*ops).collect();
        // Whoever waits found nothing there, unless another process has put something in since.
        let looks = |place: usize| place >= waiting.len() || *kicked;
        let was_held = batch.consequences.cancel();
        let again = ops.iter().filter(|op| op.command.reconsiders());
        batch.prepare(&again.flat_map(|op| op.command.subjects()).collect::<Vec<_>>()).await?;
        // Only where that is asked for: should it fail by a fault of ours, everything else goes on.
        if ops.iter().any(|op| matches!(op.command, TaskCommand::Settle)) {
            batch.carry_on().await?;
        }
        let mut answers: Vec<Answer> = (0..waiting.len()).map(|_| Ok(Vec::new())).collect();
        for op in *ops {
            answers.push(apply(batch, op).await?);
        }
        let works = batch.works();
        batch.settle().await?;
        // Who waits looks again when nothing is to be cancelled any more.
        let held = batch.consequences.cancel();
        if was_held && !held {
            batch.write().await?;
            batch.prefetch(&Asked { wanted: wanted.clone(), ..Asked::default() }).await?;
        }
        let mut offers = Vec::new();
        for (place, op) in all.iter().enumerate() {
            let Some(claim) = op.claim() else { continue };
            // What was reported was taken, or refused, and what is claimed with it is less.
            let reports = matches!(op.command, TaskCommand::Report(_));
            match &works {
                _ if answers[place].is_err() => {}
                _ if batch.is_stopped(claim) => refuse(&mut answers[place], reports, not_working()),
                _ if held || (!looks(place) && !batch.queued) => {}
                Err(error) => refuse(&mut answers[place], reports, error.again()),
                Ok(()) => offers.push((place, Offer { claim, trace_id: &op.trace_id, looks: looks(place) })),
            }
        }
        let (places, offers): (Vec<usize>, Vec<Offer<'_>>) = offers.into_iter().unzip();
        for (place, tasks) in places.into_iter().zip(batch.offer(&offers).await?) {
            if let Ok(answer) = &mut answers[place] {
                answer.extend(tasks);
            }
        }
        let changed = batch.finish().await?;
        let (loops, again) = (std::mem::take(&mut batch.loops), std::mem::take(&mut batch.again));
        let (left, stuck) = (batch.consequences.are_left(), batch.consequences.stuck);
        Ok(Served { answers, changed, loops, held, left, stuck, again })
    }
}

/// What is asked of one transaction.
struct Asking<'a> {
    office_id: OfficeId,
    ops: &'a [PendingOp],
    waiting: &'a [PendingOp],
    kicked: bool,
    /// Claims that look for something.
    claims: Vec<&'a Claim>,
    wanted: Wanted,
    ended: Vec<TaskId>,
    subjects: Vec<TaskId>,
}

impl<'a> Asking<'a> {
    fn new(office_id: OfficeId, ops: &'a [PendingOp], waiting: &'a [PendingOp], kicked: bool) -> Self {
        // Whoever waits found nothing there, unless another process has put something in since.
        let looking = waiting.iter().filter(|_| kicked).chain(ops);
        let claims: Vec<&Claim> = looking.filter_map(PendingOp::claim).collect();
        let spare = ops.iter().filter(|op| op.command.takes()).count();
        let (wanted, ended) = (wanted(&claims, spare), ops.iter().filter_map(|op| op.command.ends()).collect());
        let subjects = ops.iter().flat_map(|op| op.command.subjects()).collect();
        Self { office_id, ops, waiting, kicked, claims, wanted, ended, subjects }
    }

    fn asked(&self) -> Asked<'_> {
        Asked { ids: &self.subjects, ended: &self.ended, wanted: self.wanted.clone() }
    }

    fn told(&self, statements: u32) {
        let (office, operations) = (self.office_id, self.ops.len() + self.waiting.len());
        tracing::debug!(target: "mi::tasks", %office, operations, statements, "a transaction of the queue");
    }
}

/// What came of a transaction.
pub(super) struct Served {
    /// Of those who waited, then of the other operations.
    pub(super) answers: Vec<Result<Vec<Task>>>,
    pub(super) changed: bool,
    pub(super) loops: Vec<(String, String)>,
    /// Nothing was handed out, until tasks are cancelled that are to be.
    pub(super) held: bool,
    /// There is something left to do about changes of tasks.
    pub(super) left: bool,
    /// It was tried, in vain.
    pub(super) stuck: bool,
    /// Agents are to be looked at further.
    pub(super) again: Vec<(Reconcile, Option<Roster>)>,
}

impl PendingOp {
    /// The claim, if it is one that somebody still waits for.
    fn claim(&self) -> Option<&Claim> {
        self.command.claim().filter(|_| !self.answer.is_closed())
    }
}

/// The agents that a transaction goes by: those that are `known`, which nothing that is asked has newer ones than. What
/// waited may have older ones, such as the further pages of a look at the agents: whoever was hired since is not gone.
/// Where none are known any more, it is the last look's.
pub(super) fn roster(known: Option<Roster>, ops: &[PendingOp], waiting: &[PendingOp]) -> Option<Roster> {
    let looks = ops.iter().rev().filter(|op| matches!(op.command, TaskCommand::Reconcile(_)));
    let asked = looks.chain(ops.iter().rev()).chain(waiting.iter().rev());
    known.or_else(|| asked.filter_map(|op| op.roster.clone()).next())
}

/// Refuses a claim. One that came with a report leaves the report's answer as it is.
fn refuse(answer: &mut Answer, reports: bool, error: Error) {
    if !reports {
        *answer = Err(error);
    }
}

/// Does one operation. The outer error is the database's and ends the transaction; the inner one is the caller's.
async fn apply(batch: &mut Batch<'_>, op: &PendingOp) -> Result<Result<Vec<Task>>> {
    let trace_id = &op.trace_id;
    let done = match &op.command {
        TaskCommand::Create(news, by) => batch.create(news, by, trace_id).await,
        TaskCommand::Report(report) => batch.report(report, trace_id).await.map(|task| vec![task]),
        TaskCommand::Decide(decision) => batch.decide(decision, trace_id).await.map(|task| vec![task]),
        TaskCommand::Expire(ids) => batch.expire(ids).await.map(|()| Vec::new()),
        TaskCommand::Reconcile(asked) => batch.reconcile(asked).await.map(|next| {
            batch.again.extend(next.map(|next| (next, op.roster.clone())));
            Vec::new()
        }),
        // Served at the end, when everything that could be claimed is written.
        TaskCommand::Claim(..) | TaskCommand::Settle => Ok(Vec::new()),
    };
    match done {
        Err(error) if error.fault == Fault::Caller => Ok(Err(error)),
        Err(error) => Err(error),
        Ok(tasks) => Ok(Ok(tasks)),
    }
}
