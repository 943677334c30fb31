//! The logs of agents: lines in compressed blocks, never a row a line.
//!
//! A batch becomes one block in `log_tail`; compaction joins an agent's blocks into segments in object storage.

pub(crate) mod block;
pub(crate) mod compact;
pub(crate) mod read;
pub(crate) mod repo;
pub(crate) mod retain;
pub(crate) mod source;
pub(crate) mod writer;

use std::sync::Arc;

use mi_base::failure_backoff::FailureBackoff;
use mi_kernel::{AgentActor, AgentId, Clock, Error, OfficeId, Result};
use mi_proto::v1::LogLine;
use mi_store::{Db, Topic};
use object_store::ObjectStore;

use crate::offices::Offices;
use block::Block;
use source::Source;
use writer::Writer;

/// Whose log it is. Readers know an agent by its name, blocks by its id: a name may be used again.
pub(crate) type LogName = (OfficeId, String);

/// What the change bus tells of when an agent logged.
fn topic(office_id: OfficeId, agent: &str) -> Topic {
    Topic::named(office_id, "logs", agent)
}

/// The logs.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) db: Db,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) clock: Arc<dyn Clock>,
    offices: Offices,
    writer: Writer,
    /// Logs that could not be compacted.
    pub(crate) failure_backoff: Arc<FailureBackoff<AgentId>>,
}

/// One batch of one writer, compressed and ready to be stored.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) agent: AgentActor,
    pub(crate) source: Source,
    pub(crate) first_index: i64,
    pub(crate) block: Block,
}

impl Batch {
    /// Checks and compresses lines.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub(crate) async fn new(
        agent: AgentActor,
        source: Source,
        first_index: i64,
        lines: Vec<LogLine>,
        clock: &dyn Clock,
    ) -> Result<Self> {
        let last = i64::try_from(lines.len()).ok().and_then(|count| first_index.checked_add(count));
        if first_index < 1 || last.is_none() {
            return Err(Error::invalid(
                "first_index",
                "must be the number of the batch's first line in its source, from 1",
            ));
        }
        Ok(Self { agent, source, first_index, block: Block::new(lines, clock.now()).await? })
    }
}

impl Logs {
    pub(crate) fn new(
        db: Db,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        offices: Offices,
        tasks: &mi_base::Tasks,
    ) -> Self {
        let writer = Writer::spawn(db.clone(), clock.clone(), tasks);
        let failure_backoff = Arc::new(FailureBackoff::new(compact::BACKOFF));
        Self { db, objects, clock, offices, writer, failure_backoff }
    }

    /// Stores a batch and answers, once it is durable, up to which index its source is. Lines stored before are left
    /// out.
    ///
    /// # Errors
    /// `NotFound` when the office is removed. Other failures say nothing about what is stored: send the batch again.
    pub(crate) async fn append(&self, batch: Batch) -> Result<i64> {
        self.writer.append(batch).await
    }

    /// The index row of the log that a name stands for: the newest agent's of that name.
    pub(crate) async fn find(&self, name: &LogName) -> Result<Option<(AgentId, i64)>> {
        Ok(repo::stream_find(&mut self.db.office(name.0).read().await?, &name.1).await?)
    }
}

/// A failure of the object storage.
pub(crate) fn storage(error: object_store::Error) -> Error {
    Error::unavailable("the object storage of the logs cannot be reached at the moment; try again").caused_by(error)
}
