//! Table `events`.

use std::ops::Range;

use mi_kernel::{
    EventId, OfficeId, Result, Time,
    chain::{self, End, Hash},
    event::{Category, Event},
    page::Page,
};
use mi_rpc::convert;
use mi_store::{DbError, DbResult, OfficeConn, PlatformConn, on};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{FeedEvent, FeedKey, Filter};

#[derive(FromRow)]
struct Row {
    event_id: Uuid,
    office_id: Uuid,
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
            id: EventId(row.event_id),
            office_id: OfficeId(row.office_id),
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

/// False: it was there already.
pub(crate) async fn event_insert(
    tx: &mut OfficeConn,
    event: &Event,
    seq: i64,
    prev_hash: &Hash,
    hash: &Hash,
) -> DbResult<bool> {
    let office_id = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query(
            "INSERT INTO events
             (event_id, office_id, seq, time, agent, category, type, summary, metadata, trace_id, prev_hash, hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (event_id) DO NOTHING",
        )
        .bind(event.id.0)
        .bind(office_id.0)
        .bind(seq)
        .bind(event.time)
        .bind(&event.agent)
        .bind(event.category.as_str())
        .bind(&event.kind)
        .bind(&event.summary)
        .bind(Json(&event.metadata))
        .bind(&event.trace_id)
        .bind(&prev_hash[..])
        .bind(&hash[..])
        .execute(&mut *c)
        .await
        .map(|done| done.rows_affected() == 1)
    })?)
}

/// The rows of one page and one more.
pub(crate) async fn event_list(
    conn: &mut OfficeConn,
    filter: &Filter,
    span: &Range<Time>,
    page: &Page<FeedKey>,
) -> Result<Vec<FeedEvent>> {
    let office_id = conn.office_id();
    // Two texts, because a condition that may be off keeps either database from using the index of the agent.
    let sql = if filter.agent.is_empty() {
        "SELECT * FROM events
         WHERE office_id = $1 AND $2 = '' AND time >= $3 AND time < $4 AND (time, seq) < ($5, $6)
         AND category IN ($7, $8, $9, $10, $11, $12, $13, $14)
         ORDER BY time DESC, seq DESC LIMIT $15"
    } else {
        "SELECT * FROM events
         WHERE office_id = $1 AND agent = $2 AND time >= $3 AND time < $4 AND (time, seq) < ($5, $6)
         AND category IN ($7, $8, $9, $10, $11, $12, $13, $14)
         ORDER BY time DESC, seq DESC LIMIT $15"
    };
    let (time, seq) = page.after.unwrap_or((span.end, i64::MAX));
    // Always eight, repeated when there are fewer: one text for every choice.
    let wanted = if filter.categories.is_empty() { &Category::ALL[..] } else { &filter.categories };
    let categories: [&str; 8] = std::array::from_fn(|i| wanted[i % wanted.len()].as_str());
    let rows: Vec<Row> = on!(conn, |c| {
        let mut query = sqlx::query_as(sql)
            .bind(office_id.0)
            .bind(&filter.agent)
            .bind(span.start)
            .bind(span.end)
            .bind(time)
            .bind(seq);
        for category in categories {
            query = query.bind(category);
        }
        query.bind(page.fetch()).fetch_all(&mut *c).await
    })
    .map_err(DbError::from)?;
    rows.into_iter().map(FeedEvent::try_from).collect()
}

/// Events after a cursor, oldest first.
pub(crate) async fn event_after(conn: &mut OfficeConn, seq: i64, limit: i64) -> Result<Vec<FeedEvent>> {
    let office_id = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM events WHERE office_id = $1 AND seq > $2 ORDER BY seq LIMIT $3")
            .bind(office_id.0)
            .bind(seq)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })
    .map_err(DbError::from)?;
    rows.into_iter().map(FeedEvent::try_from).collect()
}

/// Offices with events of before a time. Spans offices: one retention time holds for all feeds.
pub(crate) async fn event_offices_before(conn: &mut PlatformConn, time: Time) -> DbResult<Vec<OfficeId>> {
    let rows: Vec<Uuid> = on!(conn, |c| {
        sqlx::query_scalar("SELECT DISTINCT office_id FROM events WHERE time < $1").bind(time).fetch_all(&mut *c).await
    })?;
    Ok(rows.into_iter().map(OfficeId).collect())
}

/// Deletes the first events of the feed up to the first that is not of before the time; the last one deleted, and how
/// many; none: there was none.
pub(crate) async fn event_delete_before(tx: &mut OfficeConn, time: Time, limit: i64) -> DbResult<Option<(End, i64)>> {
    let office_id = tx.office_id();
    let last: Option<(i64, Vec<u8>)> = on!(tx, |c| {
        sqlx::query_as(
            "SELECT seq, hash FROM (
                 SELECT seq, hash FROM events WHERE office_id = $1 AND seq < COALESCE(
                     (SELECT min(seq) FROM events WHERE office_id = $1 AND time >= $2), 9223372036854775807)
                 ORDER BY seq LIMIT $3) AS batch
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(office_id.0)
        .bind(time)
        .bind(limit)
        .fetch_optional(&mut *c)
        .await
    })?;
    let Some((cursor, hash)) = last else { return Ok(None) };
    let deleted = on!(tx, |c| {
        sqlx::query("DELETE FROM events WHERE office_id = $1 AND seq <= $2")
            .bind(office_id.0)
            .bind(cursor)
            .execute(&mut *c)
            .await
            .map(|done| done.rows_affected().try_into().unwrap_or(i64::MAX))
    })?;
    // Events from before there was a chain have no hash.
    Ok(Some((End { cursor, hash: hash.try_into().unwrap_or(chain::START) }, deleted)))
}

/// Returns how many were deleted.
pub(crate) async fn event_delete_office(tx: &mut OfficeConn, limit: i64) -> DbResult<i64> {
    let office_id = tx.office_id();
    Ok(on!(tx, |c| {
        sqlx::query("DELETE FROM events WHERE event_id IN (SELECT event_id FROM events WHERE office_id = $1 LIMIT $2)")
            .bind(office_id.0)
            .bind(limit)
            .execute(&mut *c)
            .await
            .map(|done| done.rows_affected().try_into().unwrap_or(i64::MAX))
    })?)
}
