//! Reading logs: the last lines, and a tail that follows.

use std::ops::Range;

use futures::{Stream, StreamExt, stream};
use mi_kernel::{AgentId, Error, OfficeId, Result, Time};
use mi_proto::v1::LogLine;
use mi_store::Batch;
use object_store::{ObjectStoreExt, path::Path};
use prost::Message;

use super::{LogName, Logs, block, repo, topic};
use crate::span;

/// Chunks read at a time, going back: twice as many each time, as most calls end with the first.
const CHUNKS: Range<i64> = 2..8;
/// An answer stays below the 4 MiB that gRPC clients take by default; the newest lines win.
pub(crate) const MAX_ANSWER: usize = 3 << 20;

/// Where a tail starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// After this sequence.
    After(i64),
    /// With the last lines, this many.
    Last(usize),
}

impl Logs {
    /// The last lines of a time span, oldest first; none for a name that has not logged.
    pub(crate) async fn last(&self, name: &LogName, limit: usize, span: Range<Time>) -> Result<Vec<LogLine>> {
        match self.find(name).await? {
            Some((agent_id, _)) => self.last_of(name.0, agent_id, limit, span).await,
            None => Ok(Vec::new()),
        }
    }

    async fn last_of(
        &self,
        office_id: OfficeId,
        agent_id: AgentId,
        limit: usize,
        span: Range<Time>,
    ) -> Result<Vec<LogLine>> {
        let (mut newest_first, mut bytes) = (Vec::new(), 0);
        let (mut before, mut ask) = (i64::MAX, CHUNKS.start);
        while newest_first.len() < limit {
            let mut conn = self.db.office(office_id).read().await?;
            let chunks = repo::chunk_before(&mut conn, agent_id, before, &span, ask).await?;
            drop(conn);
            if chunks.is_empty() {
                break;
            }
            ask = (ask * 2).min(CHUNKS.end);
            for chunk in chunks {
                let first_seq = chunk.first_seq;
                // A chunk may reach past `before`: blocks become segments between two reads.
                let lines = self.lines(chunk).await?.into_iter().rev().filter(|line| line.sequence < before);
                for line in lines.filter(|line| block::line_time(line).is_some_and(|time| span.contains(&time))) {
                    bytes += line.encoded_len() + 8;
                    if newest_first.len() == limit || (bytes > MAX_ANSWER && !newest_first.is_empty()) {
                        newest_first.reverse();
                        return Ok(newest_first);
                    }
                    newest_first.push(line);
                }
                before = first_seq;
            }
        }
        newest_first.reverse();
        Ok(newest_first)
    }

    /// Lines as they are written, for ever. Holds the lines of one chunk at a time and reads the next when those are
    /// handed on, so a slow reader costs no more than that. Waits for the first line of a name that has not logged.
    pub(crate) async fn follow(
        &self,
        name: LogName,
        start: Start,
    ) -> Result<impl Stream<Item = Result<LogLine>> + Send + use<>> {
        let log = self.db.listen(topic(name.0, &name.1));
        let mut found = self.find(&name).await?;
        let (mut position, past) = match (start, found) {
            (Start::After(seq), _) => (seq, Vec::new()),
            (Start::Last(_), None) => (0, Vec::new()),
            (Start::Last(limit), Some((agent_id, next_seq))) => {
                let lines = self.last_of(name.0, agent_id, limit, span::span(None, None)?).await?;
                (lines.last().map_or(next_seq - 1, |line| line.sequence), lines)
            }
        };
        let logs = self.clone();
        let lines = log.follow(async move || {
            let chunk = match found {
                Some((agent_id, _)) => {
                    repo::chunk_after(&mut logs.db.office(name.0).read().await?, agent_id, position).await?
                }
                None => None,
            };
            let Some(chunk) = chunk else {
                logs.offices.still_there(name.0).await?;
                // A name may have passed to another agent, whose log begins anew.
                let now = logs.find(&name).await?;
                let passed = now.map(|(id, _)| id) != found.map(|(id, _)| id);
                if passed {
                    position = if found.is_some() { 0 } else { position };
                    found = now;
                }
                return Ok(Batch { found: Vec::new(), more: passed });
            };
            let (after, last_seq) = (position, chunk.last_seq);
            let mut found = logs.lines(chunk).await?;
            found.retain(|line| line.sequence > after);
            position = last_seq;
            Ok(Batch { found, more: true })
        });
        Ok(stream::iter(past.into_iter().map(Ok)).chain(lines))
    }

    /// The lines of a chunk, numbered; none when retention was faster.
    async fn lines(&self, chunk: repo::Chunk) -> Result<Vec<LogLine>> {
        let data = match (chunk.lines, chunk.path) {
            (Some(lines), _) => bytes::Bytes::from(lines),
            (None, Some(path)) => match self.objects.get(&Path::from(path)).await {
                Ok(object) => object.bytes().await.map_err(super::storage)?,
                Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(super::storage(error)),
            },
            (None, None) => return Err(Error::internal("a chunk of a log without lines")),
        };
        let mut lines = block::open(&data, chunk.raw_bytes)?;
        for (line, sequence) in lines.iter_mut().zip(chunk.first_seq..) {
            line.sequence = sequence;
        }
        Ok(lines)
    }
}
