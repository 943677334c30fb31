//! Group commit: what is asked of an office's credits at the same time shares one transaction.
//!
//! The lock of the office's balance orders its operations; alone in its transaction, each would pay for a commit. One that
//! is refused keeps none of the others from being done, and neither does one in which we are at fault: that is found by
//! halves. An office has a task that drives its operations only while there is something to do.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_base::{caught, metrics};
use mi_kernel::{Error, ErrorKind, OfficeId, Result};
use tokio::sync::oneshot;

use super::{Credits, batch::Batch, model::Op, repo};

/// Operations of an office that may wait; whoever comes then is told to come back.
const MAX_WAITING: usize = 20_000;
/// Operations that share a transaction.
const MAX_BATCH: usize = 500;
/// How often a transaction is tried that lost a race with another process.
const MAX_TRIES: usize = 3;
/// The name of this work in metrics.
const WORK: &str = "credit-commit";

/// An operation, and whom to answer.
struct PendingOp {
    op: Op,
    answer: oneshot::Sender<Result<i64>>,
}

#[derive(Default)]
struct Pending {
    ops: VecDeque<PendingOp>,
    running: bool,
}

/// What is asked of the credits of all offices in this process.
#[derive(Clone, Default)]
pub(super) struct GroupCommit(Arc<Mutex<HashMap<OfficeId, Pending>>>);

impl GroupCommit {
    // The map is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, HashMap<OfficeId, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an operation; true: somebody has to drive the office's operations.
    fn push(&self, office_id: OfficeId, op: PendingOp) -> Result<bool> {
        let mut offices = self.lock();
        let pending = offices.entry(office_id).or_default();
        if pending.ops.len() >= MAX_WAITING {
            let text = "too much is asked of the office's credits at the moment";
            return Err(Error::exhausted("CREDITS_BUSY", text, Duration::from_millis(500)));
        }
        pending.ops.push_back(op);
        Ok(!std::mem::replace(&mut pending.running, true))
    }

    /// What the next transaction does; none: nothing is left, and nobody drives any more.
    fn pop(&self, office_id: OfficeId) -> Option<Vec<PendingOp>> {
        let mut offices = self.lock();
        let pending = offices.get_mut(&office_id)?;
        if pending.ops.is_empty() {
            offices.remove(&office_id);
            return None;
        }
        let count = pending.ops.len().min(MAX_BATCH);
        Some(pending.ops.drain(..count).collect())
    }
}

impl Credits {
    /// Does an operation, together with whatever else is asked of the office's credits meanwhile. It is done even when
    /// whoever asked has gone.
    pub(super) async fn submit(&self, office_id: OfficeId, op: Op) -> Result<i64> {
        let ending = || Error::unavailable("the platform is shutting down; try again");
        // What was set aside is settled to the last: else it would be debited whole.
        if self.background.shutdown().is_cancelled() && !matches!(op, Op::Settle(_)) {
            return Err(ending());
        }
        let (answer, answered) = oneshot::channel();
        if self.group_commit.push(office_id, PendingOp { op, answer })? {
            let credits = self.clone();
            // To its end: what waits has callers, and nobody else would answer them.
            self.background.spawn_to_end("credit-commit", async move {
                while let Some(ops) = credits.group_commit.pop(office_id) {
                    credits.serve(office_id, ops).await;
                }
            });
        }
        answered.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Does what is asked, in one transaction unless one of us is at fault there.
    async fn serve(&self, office_id: OfficeId, ops: Vec<PendingOp>) {
        let mut groups = vec![ops];
        while let Some(mut ops) = groups.pop() {
            match self.attempt_some(office_id, &ops).await {
                Ok(answers) => {
                    for (op, answer) in ops.into_iter().zip(answers) {
                        let _ = op.answer.send(answer);
                    }
                }
                Err(error) if error.kind == ErrorKind::Internal && ops.len() > 1 => {
                    let later = ops.split_off(ops.len() / 2);
                    groups.extend([later, ops]);
                }
                Err(error) => {
                    if error.kind == ErrorKind::Internal {
                        metrics::fault(WORK);
                        tracing::error!(target: "mi::credits", office = %office_id, error = %error.chain(), "an operation of the credits failed by a fault of the platform");
                    }
                    for op in ops {
                        let _ = op.answer.send(Err(error.again()));
                    }
                }
            }
        }
    }

    /// One transaction, and again when it lost a race.
    async fn attempt_some(&self, office_id: OfficeId, ops: &[PendingOp]) -> Result<Vec<Result<i64>>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match caught(self.attempt(office_id, ops)).await {
                Err(error) if error.reason == "CONFLICT" && tries < MAX_TRIES => {}
                done => return done,
            }
        }
    }

    async fn attempt(&self, office_id: OfficeId, ops: &[PendingOp]) -> Result<Vec<Result<i64>>> {
        let all: Vec<&Op> = ops.iter().map(|op| &op.op).collect();
        let mut tx = self.db.office(office_id).begin_sharing(repo::LOCK).await?;
        let mut batch = Batch::open(&mut tx, &*self.clock, self.rules, &all).await?;
        let answers = all.iter().map(|op| batch.apply(op)).collect();
        let done = batch.finish().await?;
        let (operations, statements) = (ops.len(), tx.statements());
        tx.commit().await?;
        tracing::debug!(target: "mi::credits", office = %office_id, operations, statements, "a transaction of the credits");
        if done.told {
            self.outbox.notify_one();
        }
        if done.exhausted {
            // Whoever waits for work is to look again.
            self.db.notify_office(office_id);
        }
        if done.untold {
            self.push_budgets_soon(office_id);
        }
        Ok(answers)
    }
}
