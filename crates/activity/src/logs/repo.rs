//! Tables `log_streams`, `log_tail` and `log_segments`.

use std::ops::Range;

use mi_kernel::{AgentActor, AgentId, OfficeId, Time};
use mi_store::{
    DbResult, FromRow, Json, OfficeConn, PlatformConn, all, exec, json_text, one, optional, scalar, scalars,
};

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
pub(crate) async fn stream_find(conn: &mut OfficeConn, agent: &str) -> DbResult<Option<(AgentId, i64)>> {
    let sql = "SELECT agent_id, next_seq FROM log_streams WHERE office_id = $1 AND agent = $2
         ORDER BY agent_id DESC LIMIT 1";
    optional!(conn, sql, agent)
}

/// Takes a log for this transaction alone; makes it when there is none. Fails when another office has the log.
pub(crate) async fn stream_lock(tx: &mut OfficeConn, agent: &AgentActor, now: Time) -> DbResult<StreamState> {
    let sql = "INSERT INTO log_streams (agent_id, office_id, agent, next_seq, sources, updated_at)
         VALUES ($2, $1, $3, 1, $4, $5)
         ON CONFLICT (agent_id) DO UPDATE SET next_seq = log_streams.next_seq
         WHERE log_streams.office_id = excluded.office_id
         RETURNING next_seq, sources";
    let (next_seq, Json(sources)): (i64, Json<Sources>) =
        one!(tx, sql, agent.agent_id, &agent.name, Json(Sources::default()), now)?;
    Ok(StreamState { next_seq, sources })
}

pub(crate) async fn stream_save(
    tx: &mut OfficeConn,
    agent_id: AgentId,
    stream: &StreamState,
    now: Time,
) -> DbResult<()> {
    let sql =
        "UPDATE log_streams SET next_seq = $3, sources = $4, updated_at = $5 WHERE office_id = $1 AND agent_id = $2";
    exec!(tx, sql, agent_id, stream.next_seq, Json(&stream.sources), now).map(drop)
}

/// Some logs of the office.
pub(crate) async fn stream_list(conn: &mut OfficeConn, limit: i64) -> DbResult<Vec<AgentId>> {
    scalars!(conn, "SELECT agent_id FROM log_streams WHERE office_id = $1 ORDER BY agent, agent_id LIMIT $2", limit)
}

/// Deletes a log's rows, all of them.
pub(crate) async fn stream_delete(tx: &mut OfficeConn, agent_id: AgentId) -> DbResult<()> {
    for sql in [
        "DELETE FROM log_tail WHERE office_id = $1 AND agent_id = $2",
        "DELETE FROM log_segments WHERE office_id = $1 AND agent_id = $2",
        "DELETE FROM log_streams WHERE office_id = $1 AND agent_id = $2",
    ] {
        exec!(tx, sql, agent_id)?;
    }
    Ok(())
}

pub(crate) async fn tail_insert(
    tx: &mut OfficeConn,
    agent_id: AgentId,
    first_seq: i64,
    block: &Block,
    now: Time,
) -> DbResult<()> {
    let sql = "INSERT INTO log_tail
         (office_id, agent_id, first_seq, last_seq, first_time, last_time, written_at, raw_bytes, lines)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let last_seq = first_seq + block.count - 1;
    let Block { first_time, last_time, raw_bytes, data, .. } = block;
    exec!(tx, sql, agent_id, first_seq, last_seq, first_time, last_time, now, raw_bytes, data).map(drop)
}

/// When a tail is due for a segment: one of these is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// Before compression, at least.
    pub(crate) bytes: i64,
    /// More blocks than this.
    pub(crate) blocks: i64,
    pub(crate) written_before: Time,
}

/// Logs, after one, whose tail is due for a segment: large, of many blocks, or old. Spans offices: compaction works for all.
pub(crate) async fn tail_backlog(
    conn: &mut PlatformConn,
    after: Option<AgentId>,
    due: Due,
    limit: i64,
) -> DbResult<Vec<(OfficeId, AgentId)>> {
    let sql = "SELECT s.office_id, s.agent_id FROM log_streams s JOIN (
             SELECT agent_id FROM log_tail WHERE agent_id > $5 GROUP BY agent_id
             HAVING SUM(raw_bytes) >= $1 OR COUNT(*) > $2 OR MIN(written_at) < $3 ORDER BY agent_id LIMIT $4
         ) t ON t.agent_id = s.agent_id ORDER BY t.agent_id";
    all!(conn, sql, due.bytes, due.blocks, due.written_before, limit, after.unwrap_or(AgentId::MIN))
}

/// Last sequence and size of a log's oldest blocks.
pub(crate) async fn tail_sizes(conn: &mut OfficeConn, agent_id: AgentId, limit: i64) -> DbResult<Vec<(i64, i64)>> {
    let sql = "SELECT last_seq, raw_bytes FROM log_tail WHERE office_id = $1 AND agent_id = $2
         ORDER BY last_seq LIMIT $3";
    all!(conn, sql, agent_id, limit)
}

/// A log's blocks up to a sequence, in order.
pub(crate) async fn tail_list(conn: &mut OfficeConn, agent_id: AgentId, last_seq: i64) -> DbResult<Vec<TailRow>> {
    let sql = "SELECT first_seq, last_seq, first_time, last_time, written_at, raw_bytes, lines FROM log_tail
         WHERE office_id = $1 AND agent_id = $2 AND last_seq <= $3 ORDER BY last_seq";
    all!(conn, sql, agent_id, last_seq)
}

/// Deletes a log's blocks up to a sequence and returns how many there were.
pub(crate) async fn tail_delete(tx: &mut OfficeConn, agent_id: AgentId, last_seq: i64) -> DbResult<i64> {
    exec!(tx, "DELETE FROM log_tail WHERE office_id = $1 AND agent_id = $2 AND last_seq <= $3", agent_id, last_seq)
}

/// The first chunk that holds a line after this sequence. One statement, so that a block which becomes a segment at
/// this moment is seen once, as either.
pub(crate) async fn chunk_after(conn: &mut OfficeConn, agent_id: AgentId, seq: i64) -> DbResult<Option<Chunk>> {
    let sql = conn.pick(
        "SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, lines, NULL AS path FROM log_tail
             WHERE office_id = $1 AND agent_id = $2 AND last_seq > $3 ORDER BY last_seq LIMIT 1) AS tail
         UNION ALL SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, NULL, path FROM log_segments
             WHERE office_id = $1 AND agent_id = $2 AND last_seq > $3 ORDER BY last_seq LIMIT 1) AS segments
         ORDER BY last_seq LIMIT 1",
        "SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, lines, NULL::text AS path FROM log_tail
             WHERE office_id = $1 AND agent_id = $2 AND last_seq > $3 ORDER BY last_seq LIMIT 1) AS tail
         UNION ALL SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, NULL::bytea, path FROM log_segments
             WHERE office_id = $1 AND agent_id = $2 AND last_seq > $3 ORDER BY last_seq LIMIT 1) AS segments
         ORDER BY last_seq LIMIT 1",
    );
    optional!(conn, sql, agent_id, seq)
}

/// The last chunks that begin before this sequence and may hold lines of the time span, newest first.
pub(crate) async fn chunk_before(
    conn: &mut OfficeConn,
    agent_id: AgentId,
    seq: i64,
    span: &Range<Time>,
    limit: i64,
) -> DbResult<Vec<Chunk>> {
    let sql = conn.pick(
        "SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, lines, NULL AS path FROM log_tail
             WHERE office_id = $1 AND agent_id = $2 AND first_seq < $3 AND last_time >= $4 AND first_time < $5
             ORDER BY last_seq DESC LIMIT $6) AS tail
         UNION ALL SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, NULL, path FROM log_segments
             WHERE office_id = $1 AND agent_id = $2 AND first_seq < $3 AND last_time >= $4 AND first_time < $5
             ORDER BY last_seq DESC LIMIT $6) AS segments
         ORDER BY last_seq DESC LIMIT $6",
        "SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, lines, NULL::text AS path FROM log_tail
             WHERE office_id = $1 AND agent_id = $2 AND first_seq < $3 AND last_time >= $4 AND first_time < $5
             ORDER BY last_seq DESC LIMIT $6) AS tail
         UNION ALL SELECT * FROM (SELECT first_seq, last_seq, raw_bytes, NULL::bytea, path FROM log_segments
             WHERE office_id = $1 AND agent_id = $2 AND first_seq < $3 AND last_time >= $4 AND first_time < $5
             ORDER BY last_seq DESC LIMIT $6) AS segments
         ORDER BY last_seq DESC LIMIT $6",
    );
    all!(conn, sql, agent_id, seq, span.start, span.end, limit)
}

pub(crate) async fn segment_insert(tx: &mut OfficeConn, segment: &SegmentRow) -> DbResult<()> {
    let sql = "INSERT INTO log_segments
         (office_id, agent_id, first_seq, last_seq, first_time, last_time, written_at, raw_bytes, stored_bytes, path)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let SegmentRow { agent_id, seqs, times, written_at, raw_bytes, stored_bytes, path } = segment;
    exec!(tx, sql, agent_id, seqs.0, seqs.1, times.0, times.1, written_at, raw_bytes, stored_bytes, path).map(drop)
}

/// Segments, after one, whose lines all came in before this time: when the last of them did, whose they are, and their
/// paths. Spans offices: one retention time holds for all logs.
pub(crate) async fn segment_list_before(
    conn: &mut PlatformConn,
    after: Option<&(Time, OfficeId, String)>,
    written_before: Time,
    limit: i64,
) -> DbResult<Vec<(Time, OfficeId, String)>> {
    let (time, path) = after.map_or((Time::UNIX_EPOCH, ""), |(time, _, path)| (*time, path.as_str()));
    let sql = "SELECT written_at, office_id, path FROM log_segments
         WHERE written_at < $1 AND (written_at, path) > ($2, $3) ORDER BY written_at, path LIMIT $4";
    all!(conn, sql, written_before, time, path, limit)
}

/// Logs after one, and by how many bytes the segments of each are more than this. Spans offices: one limit holds for each
/// log.
pub(crate) async fn segment_excess(
    conn: &mut PlatformConn,
    after: Option<AgentId>,
    bytes: i64,
    limit: i64,
) -> DbResult<Vec<(OfficeId, AgentId, i64)>> {
    let sql = "SELECT s.office_id, s.agent_id, CAST(COALESCE(
             (SELECT SUM(g.stored_bytes) FROM log_segments g WHERE g.agent_id = s.agent_id), 0) - $1 AS bigint)
         FROM log_streams s WHERE s.agent_id > $2 ORDER BY s.agent_id LIMIT $3";
    all!(conn, sql, bytes, after.unwrap_or(AgentId::MIN), limit)
}

/// A log's oldest segments without which it has at most so many bytes, as few as possible.
pub(crate) async fn segment_beyond(
    conn: &mut OfficeConn,
    agent_id: AgentId,
    bytes: i64,
    limit: i64,
) -> DbResult<Vec<String>> {
    let sql = "SELECT path FROM (
             SELECT path, last_seq, SUM(stored_bytes) OVER () AS total,
                 SUM(stored_bytes) OVER (ORDER BY last_seq ROWS UNBOUNDED PRECEDING) - stored_bytes AS older
             FROM log_segments WHERE office_id = $1 AND agent_id = $2
         ) AS summed WHERE older < total - $3 ORDER BY last_seq LIMIT $4";
    scalars!(conn, sql, agent_id, bytes, limit)
}

/// A log's oldest segments.
pub(crate) async fn segment_list(conn: &mut OfficeConn, agent_id: AgentId, limit: i64) -> DbResult<Vec<String>> {
    let sql = "SELECT path FROM log_segments WHERE office_id = $1 AND agent_id = $2 ORDER BY last_seq LIMIT $3";
    scalars!(conn, sql, agent_id, limit)
}

pub(crate) async fn segment_delete(tx: &mut OfficeConn, paths: &[String]) -> DbResult<()> {
    let sql = tx.pick(
        "DELETE FROM log_segments WHERE office_id = $1 AND path IN (SELECT value FROM json_each($2))",
        "DELETE FROM log_segments WHERE office_id = $1 AND path = ANY (ARRAY(SELECT json_array_elements_text($2::json)))",
    );
    exec!(tx, sql, json_text(paths)?).map(drop)
}

/// Whether an index row names the object. Spans offices: the sweep goes through the objects of all.
pub(crate) async fn segment_exists(conn: &mut PlatformConn, path: &str) -> DbResult<bool> {
    let found: Option<i64> = scalar!(conn, "SELECT last_seq FROM log_segments WHERE path = $1", path)?;
    Ok(found.is_some())
}
