//! Group commit: one task writes what all agents sent meanwhile in one transaction, so that a commit is paid once for
//! many batches. Callers hear of a batch only after it is durable. Where a fault of ours shows in a transaction, such as a
//! row that cannot be read, it is halved until what is at fault is alone: that batch fails, and the others are stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mi_base::{Tasks, caught, metrics};
use mi_kernel::{AgentId, Clock, Error, ErrorKind, OfficeId, Result};
use mi_store::{Db, OfficeConn};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Batch, repo, topic};
use crate::offices::repo::office_hold;

/// Batches that wait for the writer.
const QUEUE: usize = 1024;
/// Compressed bytes that wait or are being written, in KiB; each batch counts for at least one.
const QUEUE_KIB: u32 = 32 << 10;
/// Batches of one transaction.
const GROUP: usize = 256;
/// The name of the writer's work in metrics.
const WORK: &str = "log-writer";

/// The way to the writing task.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Pending>,
    room: Arc<Semaphore>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Pending {
    batch: Batch,
    answer: oneshot::Sender<Result<i64>>,
    _room: OwnedSemaphorePermit,
}

struct Task {
    db: Db,
    clock: Arc<dyn Clock>,
}

impl Writer {
    pub(crate) fn spawn(db: Db, clock: Arc<dyn Clock>, tasks: &Tasks) -> Self {
        let (queue, batches) = mpsc::channel(QUEUE);
        let task = Task { db, clock };
        tasks.spawn(WORK, task.run(batches));
        Self { queue, room: Arc::new(Semaphore::new(QUEUE_KIB as usize)), tasks: tasks.clone() }
    }

    /// Waits for room, then for the commit.
    pub(crate) async fn append(&self, batch: Batch) -> Result<i64> {
        let kib = u32::try_from(batch.block.data.len() >> 10).unwrap_or(QUEUE_KIB).clamp(1, QUEUE_KIB);
        let room = self.room.clone().acquire_many_owned(kib).await.map_err(|_| self.gone())?;
        let (answer, answered) = oneshot::channel();
        let pending = Pending { batch, answer, _room: room };
        self.queue.send(pending).await.map_err(|_| self.gone())?;
        answered.await.map_err(|_| self.gone())?
    }

    /// Why a batch has no answer: the process ends, or else it is a fault of ours.
    fn gone(&self) -> Error {
        if self.tasks.shutdown().is_cancelled() {
            return Error::unavailable("the platform is shutting down; send the lines again");
        }
        metrics::fault(WORK);
        Error::internal("a batch of lines has no answer")
    }
}

impl Task {
    async fn run(self, mut batches: mpsc::Receiver<Pending>) {
        let mut group = Vec::with_capacity(GROUP);
        while batches.recv_many(&mut group, GROUP).await > 0 {
            self.write(std::mem::replace(&mut group, Vec::with_capacity(GROUP))).await;
        }
    }

    /// Writes the batches, in their order, and answers all of them.
    async fn write(&self, group: Vec<Pending>) {
        let mut groups = vec![group];
        while let Some(mut group) = groups.pop() {
            match caught(self.commit(&group)).await {
                Ok(durable) => self.tell(group, durable),
                Err(error) if error.kind == ErrorKind::Internal && group.len() > 1 => {
                    let later = group.split_off(group.len() / 2);
                    groups.extend([later, group]);
                }
                Err(error) => {
                    if error.kind == ErrorKind::Internal {
                        metrics::fault(WORK);
                        tracing::error!(target: "mi::logs", error = %error.chain(), "lines are not stored by a fault of the platform");
                    } else {
                        tracing::warn!(target: "mi::logs", error = %error.chain(), "lines of a group are not stored");
                    }
                    for pending in group {
                        let _ = pending.answer.send(Err(error.again()));
                    }
                }
            }
        }
    }

    /// Answers for batches that are durable up to these lines.
    fn tell(&self, group: Vec<Pending>, durable: Vec<Option<i64>>) {
        for (pending, durable) in group.into_iter().zip(durable) {
            let agent = pending.batch.agent;
            let answer = durable.ok_or_else(|| Error::not_found("office", agent.office_id));
            if answer.is_ok() {
                self.db.notify(topic(agent.office_id, &agent.name));
            }
            // Nobody listens when the caller went away; the lines are stored all the same.
            let _ = pending.answer.send(answer);
        }
    }

    /// Writes the group. Answers for each batch up to where its source is durable; none: its office is removed.
    async fn commit(&self, group: &[Pending]) -> Result<Vec<Option<i64>>> {
        // Platform-wide: a commit is shared by batches of several offices.
        let mut tx = self.db.platform().begin().await?;
        // Offices, then logs, each in the order of their ids: two writers on one database cannot wait for each other.
        let mut removed = BTreeSet::new();
        for office_id in group.iter().map(|pending| pending.batch.agent.office_id).collect::<BTreeSet<OfficeId>>() {
            if !office_hold(tx.within(office_id)).await? {
                removed.insert(office_id);
            }
        }
        let mut by_agent: BTreeMap<(AgentId, OfficeId), Vec<usize>> = BTreeMap::new();
        for (index, pending) in group.iter().enumerate() {
            let agent = &pending.batch.agent;
            if !removed.contains(&agent.office_id) {
                by_agent.entry((agent.agent_id, agent.office_id)).or_default().push(index);
            }
        }
        let mut durable = vec![None; group.len()];
        for ((agent_id, office_id), indexes) in by_agent {
            let batches: Vec<&Batch> = indexes.iter().map(|index| &group[*index].batch).collect();
            let stored = self.store(tx.within(office_id), agent_id, &batches).await?;
            for (index, last) in indexes.into_iter().zip(stored) {
                durable[index] = Some(last);
            }
        }
        tx.commit().await?;
        Ok(durable)
    }

    /// Adds batches to one log, in the order they came in, without the lines that are there already.
    async fn store(&self, tx: &mut OfficeConn, agent_id: AgentId, batches: &[&Batch]) -> Result<Vec<i64>> {
        let now = self.clock.now();
        let Some(first) = batches.first() else {
            return Ok(Vec::new());
        };
        let mut stream = repo::stream_lock(tx, &first.agent, now).await?;
        let before = stream.next_seq;
        let mut durable = Vec::with_capacity(batches.len());
        for batch in batches {
            let (count, last) = (batch.block.count, stream.sources.last(&batch.source));
            // A gap forward is taken as it is: its lines are lost to the sender as well.
            let known = (last + 1 - batch.first_index).clamp(0, count);
            if known < count {
                if known == 0 {
                    repo::tail_insert(tx, agent_id, stream.next_seq, &batch.block, now).await?;
                } else {
                    let rest = batch.block.without_first(known, now).await?;
                    repo::tail_insert(tx, agent_id, stream.next_seq, &rest, now).await?;
                }
                stream.next_seq += count - known;
                stream.sources.advance(&batch.source, batch.first_index + count - 1);
            }
            durable.push(stream.sources.last(&batch.source));
        }
        if stream.next_seq > before {
            repo::stream_save(tx, agent_id, &stream, now).await?;
        }
        Ok(durable)
    }
}
