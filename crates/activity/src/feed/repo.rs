//! Table `events`.

use std::{collections::HashSet, ops::Range};

use mi_kernel::{
    EventId, OfficeId, Result, Time,
    chain::{self, End, Link},
    event::{Category, Event},
    page::Page,
};
use mi_rpc::convert;
use mi_store::{
    DbResult, FromRow, Json, OfficeConn, PlatformConn, all, exec, json_text, on_postgres, optional, scalars, time_text,
};
use serde::Serialize;
use sqlx::PgConnection;

use super::{FeedEvent, FeedKey, Filter};

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

impl TryFrom<Row> for FeedEvent {
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
        Ok(Self { event, cursor: row.seq, prev_hash: row.prev_hash, hash: row.hash })
    }
}

/// A link of a chain as SQLite's writing statement takes it: many of them are one JSON text, of which it reads ids, times and
/// hashes as text.
#[derive(Serialize)]
struct Written<'a> {
    event_id: EventId,
    office_id: OfficeId,
    seq: i64,
    time: String,
    agent: &'a str,
    category: &'static str,
    r#type: &'a str,
    summary: &'a str,
    metadata: &'a serde_json::Value,
    trace_id: &'a str,
    prev_hash: String,
    hash: String,
}

impl<'a> From<&'a Link> for Written<'a> {
    fn from(link: &'a Link) -> Self {
        let event = &link.event;
        Self {
            event_id: event.id,
            office_id: event.office_id,
            seq: link.cursor,
            time: time_text(event.time),
            agent: &event.agent,
            category: event.category.as_str(),
            r#type: &event.kind,
            summary: &event.summary,
            metadata: &event.metadata,
            trace_id: &event.trace_id,
            prev_hash: hex::encode(&link.prev_hash),
            hash: hex::encode(&link.hash),
        }
    }
}

/// Those of these events that are there already. Spans offices: so does the batch that they came in.
pub(crate) async fn event_known(conn: &mut PlatformConn, events: &[EventId]) -> DbResult<HashSet<EventId>> {
    let sql = conn.pick(
        "SELECT event_id FROM events WHERE event_id IN (SELECT unhex(value, '-') FROM json_each($1))",
        "SELECT event_id FROM events WHERE event_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::uuid))",
    );
    Ok(scalars!(conn, sql, json_text(events)?)?.into_iter().collect())
}

/// Adds links to the chains of their offices. Spans offices: so does the batch that they came in.
pub(crate) async fn event_insert(tx: &mut PlatformConn, links: &[Link]) -> DbResult<()> {
    let sql = tx.pick(
        // Materialised: `json_each` would write each row out once for every column that is read from it.
        "WITH v AS MATERIALIZED (SELECT value AS link FROM json_each($1))
         INSERT INTO events
             (event_id, office_id, seq, time, agent, category, type, summary, metadata, trace_id, prev_hash, hash)
         SELECT unhex(link ->> 'event_id', '-'), unhex(link ->> 'office_id', '-'), link ->> 'seq',
             link ->> 'time', link ->> 'agent', link ->> 'category', link ->> 'type', link ->> 'summary',
             link -> 'metadata', link ->> 'trace_id', unhex(link ->> 'prev_hash'), unhex(link ->> 'hash') FROM v",
        "INSERT INTO events
             (event_id, office_id, seq, time, agent, category, type, summary, metadata, trace_id, prev_hash, hash)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
             $8::text[], $9::jsonb[], $10::text[], $11::bytea[], $12::bytea[])",
    );
    let insert = async |conn: &mut PgConnection| {
        let of = |column: fn(&Link) -> &str| links.iter().map(column).collect::<Vec<_>>();
        let query = sqlx::query(sql)
            .bind(links.iter().map(|link| link.event.id).collect::<Vec<_>>())
            .bind(links.iter().map(|link| link.event.office_id).collect::<Vec<_>>())
            .bind(links.iter().map(|link| link.cursor).collect::<Vec<_>>())
            .bind(links.iter().map(|link| link.event.time).collect::<Vec<_>>())
            .bind(of(|link| &link.event.agent))
            .bind(of(|link| link.event.category.as_str()))
            .bind(of(|link| &link.event.kind))
            .bind(of(|link| &link.event.summary))
            .bind(links.iter().map(|link| &link.event.metadata).collect::<Vec<_>>())
            .bind(of(|link| &link.event.trace_id))
            .bind(links.iter().map(|link| &link.prev_hash[..]).collect::<Vec<_>>())
            .bind(links.iter().map(|link| &link.hash[..]).collect::<Vec<_>>());
        query.execute(conn).await
    };
    match on_postgres!(tx, |c| insert(c).await) {
        Some(done) => done.map(drop),
        None => exec!(tx, sql, json_text(&links.iter().map(Written::from).collect::<Vec<_>>())?).map(drop),
    }
}

/// The rows of one page and one more.
pub(crate) async fn event_list(
    conn: &mut OfficeConn,
    filter: &Filter,
    span: &Range<Time>,
    page: &Page<FeedKey>,
) -> Result<Vec<FeedEvent>> {
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
    rows.into_iter().map(FeedEvent::try_from).collect()
}

/// Events after a cursor, oldest first.
pub(crate) async fn event_after(conn: &mut OfficeConn, seq: i64, limit: i64) -> Result<Vec<FeedEvent>> {
    let sql = "SELECT * FROM events WHERE office_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let rows: Vec<Row> = all!(conn, sql, seq, limit)?;
    rows.into_iter().map(FeedEvent::try_from).collect()
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
         AND EXISTS (SELECT 1 FROM events WHERE events.office_id = offices.office_id AND time < $2
             ORDER BY time LIMIT 1 OFFSET 0)
         ORDER BY office_id LIMIT $3";
    scalars!(conn, sql, after.unwrap_or(OfficeId::MIN), time, limit)
}

/// Deletes the first events of the feed up to the first that is not of before the time; the last one deleted, and how
/// many; none: there was none.
pub(crate) async fn event_delete_before(tx: &mut OfficeConn, time: Time, limit: i64) -> DbResult<Option<(End, i64)>> {
    // The first young one is looked for in the batch alone, not among all events that are kept.
    let sql = "WITH batch AS (SELECT seq, time, hash FROM events WHERE office_id = $1 ORDER BY seq LIMIT $3)
         SELECT seq, hash FROM batch
         WHERE seq < COALESCE((SELECT min(seq) FROM batch WHERE time >= $2), 9223372036854775807)
         ORDER BY seq DESC LIMIT 1";
    let last: Option<(i64, Vec<u8>)> = optional!(tx, sql, time, limit)?;
    let Some((cursor, hash)) = last else { return Ok(None) };
    let deleted = exec!(tx, "DELETE FROM events WHERE office_id = $1 AND seq <= $2", cursor)?;
    // Events from before there was a chain have no hash.
    Ok(Some((End { cursor, hash: hash.try_into().unwrap_or(chain::START) }, deleted)))
}

/// Returns how many were deleted.
pub(crate) async fn event_delete_office(tx: &mut OfficeConn, limit: i64) -> DbResult<i64> {
    let sql = "DELETE FROM events WHERE event_id IN
         (SELECT event_id FROM events WHERE office_id = $1 ORDER BY seq LIMIT $2)";
    exec!(tx, sql, limit)
}
