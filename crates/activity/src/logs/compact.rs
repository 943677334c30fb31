//! Compaction: joins the blocks of a log's tail into a segment in object storage.
//!
//! The object is written first, then one transaction swaps the blocks for the segment's row. A crash in between leaves
//! an object that no row names, under a name that is never used again; [`Logs::sweep`] removes it. Two processes that
//! compact the same log at once write two objects, and the one whose blocks are gone at the swap takes its own back.

use std::time::Duration;

use mi_kernel::{AgentId, OfficeId, Result, backoff::Backoff};
use object_store::{ObjectStoreExt, path::Path};
use uuid::Uuid;

use super::{
    Logs, block,
    repo::{self, SegmentRow},
};
use crate::{offices::repo::office_hold, packed::int};

/// A tail this large, before compression, becomes a segment.
pub(crate) const DUE_BYTES: i64 = 1 << 20;
/// A tail of more blocks than this becomes a segment.
pub(crate) const DUE_BLOCKS: i64 = 64;
/// Blocks older than this become a segment.
pub(crate) const DUE_AGE: Duration = Duration::from_secs(3600);
/// A segment holds about this much before compression, and more only when a single block does.
const SEGMENT_BYTES: i64 = 4 << 20;
/// Blocks of one segment.
const SEGMENT_BLOCKS: i64 = 1024;
/// Logs looked up at a time.
pub(crate) const LOGS: i64 = 100;
/// When a log that failed is tried again.
pub(crate) const BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_secs(600) };

impl Logs {
    /// Compacts until no tail is due. A log that fails is left alone for a while, and in the way of no other.
    pub(crate) async fn compact(&self) -> Result<()> {
        self.failure_backoff.forget(self.clock.now());
        while self.compact_round().await? {}
        Ok(())
    }

    /// Makes a segment of every log that is due; false: there was none to make.
    async fn compact_round(&self) -> Result<bool> {
        let (mut progress, mut after) = (false, None);
        loop {
            let now = self.clock.now();
            let mut conn = self.db.platform().read().await?;
            let due = repo::Due { bytes: DUE_BYTES, blocks: DUE_BLOCKS, written_before: now - DUE_AGE };
            let backlog = repo::tail_backlog(&mut conn, after, due, LOGS).await?;
            drop(conn);
            for (office_id, agent_id) in &backlog {
                if self.failure_backoff.waits(agent_id, now) {
                    continue;
                }
                match self.compact_one(*office_id, *agent_id).await {
                    Ok(compacted) => {
                        progress |= compacted;
                        self.failure_backoff.clear(agent_id);
                    }
                    Err(error) => {
                        self.failure_backoff.add(*agent_id, now);
                        tracing::warn!(
                            target: "mi::logs", office = %office_id, agent = %agent_id, error = %error.chain(),
                            "a log is not compacted yet"
                        );
                    }
                }
            }
            match backlog.last() {
                Some((_, last)) if i64::try_from(backlog.len()) == Ok(LOGS) => after = Some(*last),
                _ => return Ok(progress),
            }
        }
    }

    /// Makes one segment of a log's oldest blocks; false: they were gone, or the office is.
    pub(crate) async fn compact_one(&self, office_id: OfficeId, agent_id: AgentId) -> Result<bool> {
        let mut conn = self.db.office(office_id).read().await?;
        let sizes = repo::tail_sizes(&mut conn, agent_id, SEGMENT_BLOCKS).await?;
        let mut total = 0;
        let fitting = sizes.iter().take_while(|(_, bytes)| {
            total += bytes;
            total <= SEGMENT_BYTES
        });
        let Some((up_to, _)) = fitting.last().or(sizes.first()) else {
            return Ok(false);
        };
        let rows = repo::tail_list(&mut conn, agent_id, *up_to).await?;
        drop(conn);
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(false);
        };
        let (first_seq, last_seq) = (first.first_seq, last.last_seq);
        let times = rows.iter().fold((first.first_time, first.last_time), |(earliest, latest), row| {
            (earliest.min(row.first_time), latest.max(row.last_time))
        });
        let written_at = rows.iter().fold(first.written_at, |latest, row| latest.max(row.written_at));
        let (count, raw_bytes) = (int(rows.len()), rows.iter().map(|row| row.raw_bytes).sum());
        let data = block::join(rows.into_iter().map(|row| (row.lines, row.raw_bytes)).collect()).await?;

        let unique = Uuid::now_v7().simple();
        let path = Path::from(format!("logs/{office_id}/{agent_id}/{first_seq}-{last_seq}-{unique}.zst"));
        let segment = SegmentRow {
            agent_id,
            seqs: (first_seq, last_seq),
            times,
            written_at,
            raw_bytes,
            stored_bytes: int(data.len()),
            path: path.to_string(),
        };
        self.objects.put(&path, data.into()).await.map_err(super::storage)?;
        let mut tx = self.db.office(office_id).begin().await?;
        if office_hold(&mut tx).await? && repo::tail_delete(&mut tx, agent_id, last_seq).await? == count {
            repo::segment_insert(&mut tx, &segment).await?;
            tx.commit().await?;
            return Ok(true);
        }
        drop(tx);
        self.delete_objects(&[segment.path]).await?;
        Ok(false)
    }
}
