//! Table `agents`: when the planner next wants to look at each, and the signs of life that put it off.
//!
//! Every change of a row makes it due at once, in the same statement. What the planner concludes is written only while the
//! row is still the one it was made from; whatever makes a row due makes it another one, too, since what it is due for need
//! not be in the row. So what is due is in the database, whatever signals are lost.

use mi_kernel::{AgentId, OfficeId, Time};
use mi_store::{DbResult, FromRow, OfficeConn, PlatformConn, all, exec, json_text, scalar, scalars, time_text};

use crate::plan::{OFFLINE_AFTER, SILENCE_LIMIT};

/// Before any other time.
pub(super) const AT_ONCE: Time = Time::UNIX_EPOCH;

/// What is due, and the first that is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Agents to look at, the longest due first.
    pub(crate) agents: Vec<AgentId>,
    /// When there is the next one.
    pub(crate) next: Option<Time>,
}

/// Agents of these shards that are due, of each at most so many, which on SQLite is one for all. Spans offices: the reconciler
/// works for all of them.
pub(crate) async fn look_due(conn: &mut PlatformConn, now: Time, shards: &[i32], limit: i64) -> DbResult<Due> {
    let sql = conn.pick(
        "SELECT id FROM agents WHERE next_look_at <= $1 ORDER BY next_look_at, id LIMIT $3",
        "SELECT due.id FROM json_array_elements_text($2::json) AS own,
         LATERAL (SELECT id FROM agents WHERE shard = own::int AND next_look_at <= $1
             ORDER BY next_look_at, id LIMIT $3) AS due",
    );
    let shards = json_text(shards)?;
    let agents = scalars!(conn, sql, now, &shards, limit)?;
    let sql = conn.pick(
        "SELECT next_look_at FROM agents WHERE next_look_at > $1 ORDER BY next_look_at LIMIT 1",
        "SELECT min(first.at) FROM json_array_elements_text($2::json) AS own,
         LATERAL (SELECT next_look_at AS at FROM agents
             WHERE shard = own::int AND next_look_at > $1
             ORDER BY next_look_at LIMIT 1) AS first",
    );
    let next: Option<Option<Time>> = scalar!(conn, sql, now, &shards)?;
    Ok(Due { agents, next: next.flatten() })
}

/// Writes what the planner concluded from this version of the row: when it wants to look again, whether signs of life put
/// that off, and what is in the agent's way. Nothing, when the row has changed since.
pub(crate) async fn look_set(
    tx: &mut OfficeConn,
    (id, revision): (AgentId, i64),
    at: Option<Time>,
    listening: bool,
    trouble: &str,
) -> DbResult<()> {
    let sql = "UPDATE agents SET next_look_at = $4, listening = $5, trouble = $6
         WHERE office_id = $1 AND id = $2 AND revision = $3
         AND (next_look_at IS DISTINCT FROM $4 OR listening <> $5 OR trouble <> $6)";
    exec!(tx, sql, id, revision, at, listening, trouble).map(drop)
}

/// Puts off an agent of which a step failed for this reason, and answers its office; of whatever office, since its row may be
/// what cannot be read.
pub(crate) async fn look_put_off(
    tx: &mut PlatformConn,
    id: AgentId,
    at: Time,
    trouble: &str,
) -> DbResult<Option<OfficeId>> {
    let sql = "UPDATE agents SET next_look_at = $2, listening = FALSE, trouble = $3 WHERE id = $1 RETURNING office_id";
    scalar!(tx, sql, id, at, trouble)
}

/// Makes all agents of the office due at once: they are as many as its settings allow.
pub(crate) async fn look_at_all(tx: &mut OfficeConn) -> DbResult<()> {
    let sql = "UPDATE agents SET next_look_at = $2, listening = FALSE, revision = revision + 1 WHERE office_id = $1";
    exec!(tx, sql, AT_ONCE).map(drop)
}

/// Makes these agents due at once. Spans offices, as the pass that found them.
pub(crate) async fn look_at(tx: &mut PlatformConn, ids: &[AgentId]) -> DbResult<()> {
    let sql = tx.pick(
        "UPDATE agents SET next_look_at = $2, listening = FALSE, revision = revision + 1
         WHERE id IN (SELECT unhex(value, '-') FROM json_each($1))",
        "UPDATE agents SET next_look_at = $2, listening = FALSE, revision = revision + 1
         WHERE id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::uuid))",
    );
    exec!(tx, sql, json_text(ids)?, AT_ONCE).map(drop)
}

/// Where an agent stands that a pass comes across.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub(crate) struct Standing {
    pub(crate) id: AgentId,
    /// Whether it is not at rest: on its way, behind its intent, suspended but not paused in an office that is active
    /// again, or offline in one that is not.
    pub(crate) unsettled: bool,
    /// Whether the planner will look at it by itself.
    pub(crate) expected: bool,
}

/// All agents after one, so many at a time. Spans offices: the reconciler works for all of them.
pub(crate) async fn look_over(conn: &mut PlatformConn, after: Option<AgentId>, limit: i64) -> DbResult<Vec<Standing>> {
    let sql = "SELECT a.id, a.phase NOT IN ('stopped', 'failed', 'suspended', 'offline')
             OR (a.phase <> 'failed' AND a.observed_generation < a.generation)
             OR (a.phase = 'suspended' AND a.desired ->> 'want' <> 'pause' AND o.active)
             OR (a.phase = 'offline' AND NOT o.active) AS unsettled,
             a.next_look_at IS NOT NULL AS expected
         FROM agents a JOIN offices o ON o.id = a.office_id WHERE a.id > $1 ORDER BY a.id LIMIT $2";
    all!(conn, sql, after.unwrap_or(AgentId::MIN), limit)
}

/// Writes signs of life, all with one statement, and puts off looks at those that are listened for; answers which agents
/// there still are, and the versions of their rows, which this does not change: nothing else reads it for a decision.
/// Spans offices: they are written in batches.
pub(crate) async fn look_seen(
    tx: &mut PlatformConn,
    seen: &[(AgentId, OfficeId, Time)],
) -> DbResult<Vec<(AgentId, i64)>> {
    let sql = tx.pick(
        "UPDATE agents SET last_seen_at = seen.at, next_look_at = CASE WHEN NOT listening THEN next_look_at
             WHEN external THEN seen.offline_at ELSE seen.silent_at END
         FROM (SELECT unhex(value ->> 0, '-') AS agent, unhex(value ->> 1, '-') AS office, value ->> 2 AS at,
             value ->> 3 AS silent_at, value ->> 4 AS offline_at FROM json_each($1)) AS seen
         WHERE agents.id = seen.agent AND agents.office_id = seen.office
             AND (last_seen_at IS NULL OR last_seen_at < seen.at) RETURNING id, revision",
        // In the order of their ids: another process may have heard of the same, and would wait for this one as this for it.
        "WITH locked AS MATERIALIZED (SELECT id FROM agents
             WHERE id = ANY (ARRAY(SELECT (value ->> 0)::uuid FROM json_array_elements($1::json)))
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE agents SET last_seen_at = seen.at, next_look_at = CASE WHEN NOT listening THEN next_look_at
             WHEN external THEN seen.offline_at ELSE seen.silent_at END
         FROM locked, (SELECT (value ->> 0)::uuid AS agent, (value ->> 1)::uuid AS office, (value ->> 2)::timestamptz AS at,
             (value ->> 3)::timestamptz AS silent_at, (value ->> 4)::timestamptz AS offline_at
             FROM json_array_elements($1::json)) AS seen
         WHERE agents.id = locked.id AND agents.id = seen.agent AND agents.office_id = seen.office
             AND (last_seen_at IS NULL OR last_seen_at < seen.at) RETURNING agents.id, revision",
    );
    let row = |(id, office_id, at): &(AgentId, OfficeId, Time)| {
        (*id, *office_id, time_text(*at), time_text(*at + SILENCE_LIMIT), time_text(*at + OFFLINE_AFTER))
    };
    let rows = json_text(&seen.iter().map(row).collect::<Vec<_>>())?;
    all!(tx, sql, rows)
}
