//! One transaction of an office's queue: with a look and a write where that is enough, else with the queue's row locked.

use mi_kernel::{Error, OfficeId, Result, TaskId, error::Fault};

use super::{Answer, PendingOp, TaskCommand};
use crate::{
    Tasks,
    batch::{Batch, NEEDS_LOCK, Roster},
    members::Reconcile,
    model::Task,
    repo::{Asked, Wanted},
    work::{Claim, Offer, not_working, wanted},
};

impl Tasks {
    /// One transaction. What takes no more than a look at the queue goes without its lock where the database is far.
    pub(super) async fn attempt(
        &self,
        office_id: OfficeId,
        ops: &[PendingOp],
        waiting: &[PendingOp],
        kicked: bool,
    ) -> Result<Served> {
        let (needs, operations) = (Needs::of(ops, waiting, kicked), ops.len() + waiting.len());
        let asked = Asked { ids: &needs.subjects, ended: &needs.ended, wanted: needs.wanted.clone() };
        if self.db.is_shared() && ops.iter().all(|op| op.command.is_simple()) {
            let metered = self.credits.metered();
            let served = async {
                let mut batch = Batch::look(&self.db, office_id, &asked, metered, &*self.clock).await?;
                self.prepare(&mut batch, office_id, ops, waiting);
                self.perform(&mut batch, ops, waiting, kicked, &needs.wanted).await
            };
            match served.await {
                Err(error) if error.reason == NEEDS_LOCK => {}
                served => {
                    let statements = served.as_ref().map_or(1, |served| 1 + u32::from(served.changed));
                    told(office_id, operations, statements);
                    return served;
                }
            }
        }
        let mut tx = self.db.office(office_id).begin().await?;
        let mut batch = Batch::open(&mut tx, &*self.clock).await?;
        self.prepare(&mut batch, office_id, ops, waiting);
        // What is to be cancelled is not handed out before: until then nobody is looked for something.
        let wanted = if batch.consequences.cancel() { Wanted::default() } else { needs.wanted.clone() };
        batch.prefetch(&Asked { wanted, ..asked }).await?;
        let served = self.perform(&mut batch, ops, waiting, kicked, &needs.wanted).await?;
        let statements = tx.statements();
        tx.commit().await?;
        told(office_id, operations, statements);
        Ok(served)
    }

    /// What the transaction goes by besides the database.
    fn prepare(&self, batch: &mut Batch<'_>, office_id: OfficeId, ops: &[PendingOp], waiting: &[PendingOp]) {
        batch.ended = Some(self.ended.clone());
        batch.open_quota = self.quotas.open_tasks;
        batch.metered = self.credits.metered();
        batch.roster = roster(self.rosters.get(&office_id), ops, waiting);
    }

    async fn perform(
        &self,
        batch: &mut Batch<'_>,
        ops: &[PendingOp],
        waiting: &[PendingOp],
        kicked: bool,
        wanted: &Wanted,
    ) -> Result<Served> {
        let all: Vec<&PendingOp> = waiting.iter().chain(ops).collect();
        // Whoever waits found nothing there, unless another process has put something in since.
        let looks = |place: usize| place >= waiting.len() || kicked;
        let was_held = batch.consequences.cancel();
        let again = ops.iter().filter(|op| op.command.reconsiders());
        batch.prepare(&again.flat_map(|op| op.command.subjects()).collect::<Vec<_>>()).await?;
        // Only where that is asked for: should it fail by a fault of ours, everything else goes on.
        if ops.iter().any(|op| matches!(op.command, TaskCommand::Settle)) {
            batch.carry_on().await?;
        }
        let mut answers: Vec<Answer> = (0..waiting.len()).map(|_| Ok(Vec::new())).collect();
        for op in ops {
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

fn told(office_id: OfficeId, operations: usize, statements: u32) {
    tracing::debug!(target: "mi::tasks", office = %office_id, operations, statements, "a transaction of the queue");
}

/// What a transaction has to know.
struct Needs {
    wanted: Wanted,
    ended: Vec<TaskId>,
    subjects: Vec<TaskId>,
}

impl Needs {
    fn of(ops: &[PendingOp], waiting: &[PendingOp], kicked: bool) -> Self {
        // Whoever waits found nothing there, unless another process has put something in since.
        let looking = waiting.iter().filter(|_| kicked).chain(ops);
        let spare = ops.iter().filter(|op| op.command.takes()).count();
        let wanted = wanted(&looking.filter_map(PendingOp::claim).collect::<Vec<_>>(), spare);
        let ended = ops.iter().filter_map(|op| op.command.ends()).collect();
        Self { wanted, ended, subjects: ops.iter().flat_map(|op| op.command.subjects()).collect() }
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
