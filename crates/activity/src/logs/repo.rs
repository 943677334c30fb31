//! Tables `log_streams`, `log_tail` and `log_segments`.

use std::ops::Range;

use mi_kernel::{AgentActor, AgentId, OfficeId, Time};
use mi_store::{Conn, DbResult, on};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{block::Block, source::Sources};

/// How far a log and its sources got.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) next_seq: i64,
    pub(crate) sources: Sources,
}

/// Lines of a log: a block of the tail, or a segment.
#[derive(Debug, FromRow)]
pub(crate) struct Chunk {
    pub(crate) first_seq: i64,
    pub(crate) last_seq: i64,
    pub(crate) raw_bytes: i64,
    /// The block; none: it is a segment.
    pub(crate) lines: Option<Vec<u8>>,
    /// Where the segment is; none: it is a block.
    pub(crate) path: Option<String>,
}

/// A block of the tail and what its row says.
#[derive(Debug, FromRow)]
pub(crate) struct TailRow {
    pub(crate) first_seq: i64,
    pub(crate) last_seq: i64,
    pub(crate) first_time: Time,
    pub(crate) last_time: Time,
    pub(crate) written_at: Time,
    pub(crate) raw_bytes: i64,
    pub(crate) lines: Vec<u8>,
}

/// A segment's index row.
#[derive(Debug)]
pub(crate) struct SegmentRow {
    pub(crate) agent_id: AgentId,
    pub(crate) seqs: (i64, i64),
    pub(crate) times: (Time, Time),
    pub(crate) written_at: Time,
    pub(crate) raw_bytes: i64,
    pub(crate) stored_bytes: i64,
    pub(crate) path: String,
}

/// The newest log under a name, and the sequence its next line gets.
pub(crate) async fn stream_find(conn: &mut Conn, office_id: OfficeId, agent: &str) -> DbResult<Option<(AgentId, i64)>> {
    let row: Option<(Uuid, i64)> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT agent_id, next_seq FROM log_streams WHERE office_id = $1 AND agent = $2
             ORDER BY agent_id DESC LIMIT 1",
        )
        .bind(office_id.0)
        .bind(agent)
        .fetch_optional(&mut *c)
        .await
    })?;
    Ok(row.map(|(agent_id, next_seq)| (AgentId(agent_id), next_seq)))
}

/// Takes a log for this transaction alone; makes it when there is none.
pub(crate) async fn stream_lock(tx: &mut Conn, agent: &AgentActor, now: Time) -> DbResult<StreamState> {
    let (next_seq, Json(sources)): (i64, Json<Sources>) = on!(tx, |c| {
        sqlx::query_as(
            "INSERT INTO log_streams (agent_id, office_id, agent, next_seq, sources, updated_at)
             VALUES ($1, $2, $3, 1, $4, $5)
             ON CONFLICT (agent_id) DO UPDATE SET next_seq = log_streams.next_seq
             RETURNING next_seq, sources",
        )
        .bind(agent.agent_id.0)
        .bind(agent.office_id.0)
        .bind(&agent.name)
        .bind(Json(Sources::default()))
        .bind(now)
        .fetch_one(&mut *c)
        .await
    })?;
    Ok(StreamState { next_seq, sources })
}

pub(crate) async fn stream_save(tx: &mut Conn, agent_id: AgentId, stream: &StreamState, now: Time) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query("UPDATE log_streams SET next_seq = $2, sources = $3, updated_at = $4 WHERE agent_id = $1")
            .bind(agent_id.0)
            .bind(stream.next_seq)
            .bind(Json(&stream.sources))
            .bind(now)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Some logs of an office.
pub(crate) async fn stream_list(conn: &mut Conn, office_id: OfficeId, limit: i64) -> DbResult<Vec<AgentId>> {
    let ids: Vec<Uuid> = on!(conn, |c| {
        sqlx::query_scalar("SELECT agent_id FROM log_streams WHERE office_id = $1 LIMIT $2")
            .bind(office_id.0)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(ids.into_iter().map(AgentId).collect())
}

/// Deletes a log's rows, all of them.
pub(crate) async fn stream_delete(tx: &mut Conn, agent_id: AgentId) -> DbResult<()> {
    for sql in [
        "DELETE FROM log_tail WHERE agent_id = $1",
        "DELETE FROM log_segments WHERE agent_id = $1",
        "DELETE FROM log_streams WHERE agent_id = $1",
    ] {
        on!(tx, |c| sqlx::query(sql).bind(agent_id.0).execute(&mut *c).await.map(drop))?;
    }
    Ok(())
}

pub(crate) async fn tail_insert(
    tx: &mut Conn,
    agent_id: AgentId,
    first_seq: i64,
    block: &Block,
    now: Time,
) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO log_tail (agent_id, first_seq, last_seq, first_time, last_time, written_at, raw_bytes, lines)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(agent_id.0)
        .bind(first_seq)
        .bind(first_seq + block.count - 1)
        .bind(block.first_time)
        .bind(block.last_time)
        .bind(now)
        .bind(block.raw_bytes)
        .bind(block.data.as_slice())
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// Logs whose tail is due for a segment: large, of many blocks, or old.
pub(crate) async fn tail_backlog(
    conn: &mut Conn,
    bytes: i64,
    blocks: i64,
    written_before: Time,
    limit: i64,
) -> DbResult<Vec<(OfficeId, AgentId)>> {
    let rows: Vec<(Uuid, Uuid)> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT s.office_id, s.agent_id FROM log_streams s JOIN (
                 SELECT agent_id FROM log_tail GROUP BY agent_id
                 HAVING SUM(raw_bytes) >= $1 OR COUNT(*) > $2 OR MIN(written_at) < $3 LIMIT $4
             ) t ON t.agent_id = s.agent_id",
        )
        .bind(bytes)
        .bind(blocks)
        .bind(written_before)
        .bind(limit)
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(|(office_id, agent_id)| (OfficeId(office_id), AgentId(agent_id))).collect())
}

/// Last sequence and size of a log's oldest blocks.
pub(crate) async fn tail_sizes(conn: &mut Conn, agent_id: AgentId, limit: i64) -> DbResult<Vec<(i64, i64)>> {
    Ok(on!(conn, |c| {
        sqlx::query_as("SELECT last_seq, raw_bytes FROM log_tail WHERE agent_id = $1 ORDER BY last_seq LIMIT $2")
            .bind(agent_id.0)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?)
}

/// A log's blocks up to a sequence, in order.
pub(crate) async fn tail_list(conn: &mut Conn, agent_id: AgentId, last_seq: i64) -> DbResult<Vec<TailRow>> {
    Ok(on!(conn, |c| {
        sqlx::query_as(
            "SELECT first_seq, last_seq, first_time, last_time, written_at, raw_bytes, lines FROM log_tail
             WHERE agent_id = $1 AND last_seq <= $2 ORDER BY last_seq",
        )
        .bind(agent_id.0)
        .bind(last_seq)
        .fetch_all(&mut *c)
        .await
    })?)
}

/// Deletes a log's blocks up to a sequence and returns how many there were.
pub(crate) async fn tail_delete(tx: &mut Conn, agent_id: AgentId, last_seq: i64) -> DbResult<u64> {
    Ok(on!(tx, |c| {
        sqlx::query("DELETE FROM log_tail WHERE agent_id = $1 AND last_seq <= $2")
            .bind(agent_id.0)
            .bind(last_seq)
            .execute(&mut *c)
            .await
            .map(|done| done.rows_affected())
    })?)
}

/// The first chunk that holds a line after this sequence. One statement, so that a block which becomes a segment at
/// this moment is seen once, as either.
pub(crate) async fn chunk_after(conn: &mut Conn, agent_id: AgentId, seq: i64) -> DbResult<Option<Chunk>> {
    let sql = conn.pick(
        "SELECT first_seq, last_seq, raw_bytes, lines, NULL AS path FROM log_tail
         WHERE agent_id = $1 AND last_seq > $2
         UNION ALL SELECT first_seq, last_seq, raw_bytes, NULL, path FROM log_segments
         WHERE agent_id = $1 AND last_seq > $2
         ORDER BY last_seq LIMIT 1",
        "SELECT first_seq, last_seq, raw_bytes, lines, NULL::text AS path FROM log_tail
         WHERE agent_id = $1 AND last_seq > $2
         UNION ALL SELECT first_seq, last_seq, raw_bytes, NULL::bytea, path FROM log_segments
         WHERE agent_id = $1 AND last_seq > $2
         ORDER BY last_seq LIMIT 1",
    );
    Ok(on!(conn, |c| sqlx::query_as(sql).bind(agent_id.0).bind(seq).fetch_optional(&mut *c).await)?)
}

/// The last chunks that begin before this sequence and may hold lines of the time span, newest first.
pub(crate) async fn chunk_before(
    conn: &mut Conn,
    agent_id: AgentId,
    seq: i64,
    span: &Range<Time>,
    limit: i64,
) -> DbResult<Vec<Chunk>> {
    let sql = conn.pick(
        "SELECT first_seq, last_seq, raw_bytes, lines, NULL AS path FROM log_tail
         WHERE agent_id = $1 AND first_seq < $2 AND last_time >= $3 AND first_time < $4
         UNION ALL SELECT first_seq, last_seq, raw_bytes, NULL, path FROM log_segments
         WHERE agent_id = $1 AND first_seq < $2 AND last_time >= $3 AND first_time < $4
         ORDER BY last_seq DESC LIMIT $5",
        "SELECT first_seq, last_seq, raw_bytes, lines, NULL::text AS path FROM log_tail
         WHERE agent_id = $1 AND first_seq < $2 AND last_time >= $3 AND first_time < $4
         UNION ALL SELECT first_seq, last_seq, raw_bytes, NULL::bytea, path FROM log_segments
         WHERE agent_id = $1 AND first_seq < $2 AND last_time >= $3 AND first_time < $4
         ORDER BY last_seq DESC LIMIT $5",
    );
    Ok(on!(conn, |c| {
        sqlx::query_as(sql)
            .bind(agent_id.0)
            .bind(seq)
            .bind(span.start)
            .bind(span.end)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?)
}

pub(crate) async fn segment_insert(tx: &mut Conn, segment: &SegmentRow) -> DbResult<()> {
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO log_segments
             (agent_id, first_seq, last_seq, first_time, last_time, written_at, raw_bytes, stored_bytes, path)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(segment.agent_id.0)
        .bind(segment.seqs.0)
        .bind(segment.seqs.1)
        .bind(segment.times.0)
        .bind(segment.times.1)
        .bind(segment.written_at)
        .bind(segment.raw_bytes)
        .bind(segment.stored_bytes)
        .bind(&segment.path)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// Paths of segments whose lines all came in before this time.
pub(crate) async fn segment_list_before(conn: &mut Conn, written_before: Time, limit: i64) -> DbResult<Vec<String>> {
    Ok(on!(conn, |c| {
        sqlx::query_scalar("SELECT path FROM log_segments WHERE written_at < $1 ORDER BY written_at LIMIT $2")
            .bind(written_before)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?)
}

/// Logs whose segments take more than this many bytes, and by how many.
pub(crate) async fn segment_oversize(conn: &mut Conn, bytes: i64) -> DbResult<Vec<(AgentId, i64)>> {
    let rows: Vec<(Uuid, i64)> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT agent_id, CAST(SUM(stored_bytes) - $1 AS bigint) FROM log_segments
             GROUP BY agent_id HAVING SUM(stored_bytes) > $1",
        )
        .bind(bytes)
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(|(agent_id, excess)| (AgentId(agent_id), excess)).collect())
}

/// Size and path of a log's oldest segments.
pub(crate) async fn segment_list(conn: &mut Conn, agent_id: AgentId, limit: i64) -> DbResult<Vec<(i64, String)>> {
    Ok(on!(conn, |c| {
        sqlx::query_as("SELECT stored_bytes, path FROM log_segments WHERE agent_id = $1 ORDER BY last_seq LIMIT $2")
            .bind(agent_id.0)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?)
}

pub(crate) async fn segment_delete(tx: &mut Conn, paths: &[String]) -> DbResult<()> {
    for path in paths {
        on!(tx, |c| {
            sqlx::query("DELETE FROM log_segments WHERE path = $1").bind(path).execute(&mut *c).await.map(drop)
        })?;
    }
    Ok(())
}

/// Whether an index row names the object.
pub(crate) async fn segment_exists(conn: &mut Conn, path: &str) -> DbResult<bool> {
    let found: Option<i64> = on!(conn, |c| {
        sqlx::query_scalar("SELECT last_seq FROM log_segments WHERE path = $1").bind(path).fetch_optional(&mut *c).await
    })?;
    Ok(found.is_some())
}
