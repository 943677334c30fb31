//! Table `events`, which has what came before there were blocks, until its time is over.

use std::ops::Range;

use mi_kernel::{
    EventId, OfficeId, Result, Time,
    chain::{self, End},
    event::{Category, Event},
    page::Page,
};
use mi_proto::v1::ActivityEvent;
use mi_rpc::convert;
use mi_store::{DbResult, FromRow, Json, OfficeConn, PlatformConn, all, exec, optional, scalars};

use super::{FeedKey, Filter};

#[derive(FromRow)]
struct Row {
    event_id: EventId,
    office_id: OfficeId,
    seq: i64,
    time: Time,
    agent: String,
    category: String,
    r#type: String,
    summary: String,
    metadata: Json<serde_json::Value>,
    trace_id: String,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl TryFrom<Row> for ActivityEvent {
    type Error = mi_kernel::Error;
    fn try_from(row: Row) -> Result<Self> {
        let event = Event {
            id: row.event_id,
            office_id: row.office_id,
            agent: row.agent,
            category: convert::category("category", &row.category).map_err(mi_kernel::Error::internal)?,
            kind: row.r#type,
            summary: row.summary,
            time: row.time,
            metadata: row.metadata.0,
            trace_id: row.trace_id,
        };
        let (prev_hash, hash) = (row.prev_hash.into(), row.hash.into());
        Ok(Self { cursor: row.seq, prev_hash, hash, ..convert::event_to_wire(event) })
    }
}

/// The rows of one page and one more.
pub(crate) async fn event_list(
    conn: &mut OfficeConn,
    filter: &Filter,
    span: &Range<Time>,
    page: &Page<FeedKey>,
) -> Result<Vec<ActivityEvent>> {
    // Two texts, because a condition that may be off keeps either database from using the index of the agent. The second
    // compares rows with the agent in front, which that index alone has in order: Postgres would else go by the time at
    // times, over the events of all others.
    let sql = if filter.agent.is_empty() {
        "SELECT * FROM events
         WHERE office_id = $1 AND $2 = '' AND time >= $3 AND time < $4 AND (time, seq) < ($5, $6)
         AND category IN ($7, $8, $9, $10, $11, $12, $13, $14)
         ORDER BY time DESC, seq DESC LIMIT $15"
    } else {
        "SELECT * FROM events
         WHERE office_id = $1 AND (agent, time) >= ($2, $3) AND time < $4 AND (agent, time, seq) < ($2, $5, $6)
         AND category IN ($7, $8, $9, $10, $11, $12, $13, $14)
         ORDER BY agent DESC, time DESC, seq DESC LIMIT $15"
    };
    let (time, seq) = page.after.unwrap_or((span.end, i64::MAX));
    // Always eight, repeated when there are fewer: one text for every choice.
    let wanted = if filter.categories.is_empty() { Category::ALL } else { &filter.categories };
    let categories: [&str; 8] = std::array::from_fn(|i| wanted[i % wanted.len()].as_str());
    let [a, b, c, d, e, f, g, h] = categories;
    let (agent, start, end, limit) = (&filter.agent, span.start, span.end, page.fetch());
    let rows: Vec<Row> = all!(conn, sql, agent, start, end, time, seq, a, b, c, d, e, f, g, h, limit)?;
    rows.into_iter().map(ActivityEvent::try_from).collect()
}

/// Events after a cursor, oldest first.
pub(crate) async fn event_after(conn: &mut OfficeConn, seq: i64, limit: i64) -> Result<Vec<ActivityEvent>> {
    let sql = "SELECT * FROM events WHERE office_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let rows: Vec<Row> = all!(conn, sql, seq, limit)?;
    rows.into_iter().map(ActivityEvent::try_from).collect()
}

/// Offices, after one, with events of before a time. Spans offices: one retention time holds for all feeds.
pub(crate) async fn event_offices_before(
    conn: &mut PlatformConn,
    after: Option<OfficeId>,
    time: Time,
    limit: i64,
) -> DbResult<Vec<OfficeId>> {
    // The offset keeps this a question for each office: as a join, Postgres would read the old events of all offices.
    let sql = "SELECT office_id FROM offices WHERE office_id > $1
         AND (EXISTS (SELECT 1 FROM feed_blocks AS b WHERE b.office_id = offices.office_id AND last_time < $2
             ORDER BY last_time LIMIT 1 OFFSET 0)
         OR EXISTS (SELECT 1 FROM events WHERE events.office_id = offices.office_id AND time < $2
             ORDER BY time LIMIT 1 OFFSET 0))
         ORDER BY office_id LIMIT $3";
    scalars!(conn, sql, after.unwrap_or(OfficeId::MIN), time, limit)
}

/// Deletes the first events of the feed up to the first that is not of before the time, and before the first block; the last one
/// deleted; none: there was none.
pub(crate) async fn event_delete_before(tx: &mut OfficeConn, time: Time, limit: i64) -> DbResult<Option<End>> {
    // The first young one is looked for in the batch alone, not among all events that are kept.
    let sql = "WITH batch AS (SELECT seq, time, hash FROM events WHERE office_id = $1 ORDER BY seq LIMIT $3)
         SELECT seq, hash FROM batch
         WHERE seq < COALESCE((SELECT min(seq) FROM batch WHERE time >= $2), 9223372036854775807)
         AND seq < COALESCE((SELECT min(last_seq) FROM feed_blocks WHERE office_id = $1), 9223372036854775807)
         ORDER BY seq DESC LIMIT 1";
    let last: Option<(i64, Vec<u8>)> = optional!(tx, sql, time, limit)?;
    let Some((cursor, hash)) = last else { return Ok(None) };
    exec!(tx, "DELETE FROM events WHERE office_id = $1 AND seq <= $2", cursor)?;
    // Events from before there was a chain have no hash.
    Ok(Some(End { cursor, hash: hash.try_into().unwrap_or(chain::START) }))
}

/// Returns how many were deleted.
pub(crate) async fn event_delete_office(tx: &mut OfficeConn, limit: i64) -> DbResult<i64> {
    let sql = "DELETE FROM events WHERE event_id IN
         (SELECT event_id FROM events WHERE office_id = $1 ORDER BY seq LIMIT $2)";
    exec!(tx, sql, limit)
}
