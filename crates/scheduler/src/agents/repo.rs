//! Table `agents`.

use std::collections::HashMap;

use mi_kernel::{AgentId, page::Page};
use mi_store::{DbResult, Json, OfficeConn, PlatformConn, all, exec, json_text, optional, scalar, scalar_one, scalars};

use super::{Agent, Phase, next_look::AT_ONCE};

pub(crate) async fn agent_insert(tx: &mut OfficeConn, agent: &Agent) -> DbResult<()> {
    let sql = "INSERT INTO agents
         (id, office_id, name, hired_by, lineage, spec, desired, generation, restore_from, state, phase, failures,
          restarts, observed_generation, revision, created_at, external, public_key, last_seen_at, next_look_at)
         VALUES ($2, $1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";
    exec!(
        tx,
        sql,
        agent.id,
        &agent.name,
        &agent.hired_by,
        Json(&agent.lineage),
        Json(&agent.spec),
        Json(&agent.desired),
        agent.generation,
        agent.restore_from,
        Json(&agent.state),
        agent.phase().as_str(),
        agent.failures,
        agent.restarts,
        agent.observed_generation,
        agent.revision,
        agent.created_at,
        agent.external,
        &agent.public_key,
        agent.last_seen_at,
        AT_ONCE
    )
    .map(drop)
}

/// Writes everything that can change, if nobody wrote the row since it was read; false: somebody did. The planner is to
/// look at it at once.
pub(crate) async fn agent_update(tx: &mut OfficeConn, agent: &mut Agent) -> DbResult<bool> {
    let sql = "UPDATE agents SET spec = $4, desired = $5, generation = $6, state = $7, phase = $8, failures = $9,
         restarts = $10, observed_generation = $11, public_key = $12, enrol_sha256 = $13, enrol_expires_at = $14,
         last_seen_at = $15, revision = revision + 1, next_look_at = $16, listening = FALSE,
         budget = $17, budget_version = $18, budget_reached = $19, broke = $20, has_model = $21, trouble = ''
         WHERE id = $2 AND revision = $3 AND office_id = $1";
    let updated = exec!(
        tx,
        sql,
        agent.id,
        agent.revision,
        Json(&agent.spec),
        Json(&agent.desired),
        agent.generation,
        Json(&agent.state),
        agent.phase().as_str(),
        agent.failures,
        agent.restarts,
        agent.observed_generation,
        &agent.public_key,
        &agent.enrol_sha256,
        agent.enrol_expires_at,
        agent.last_seen_at,
        AT_ONCE,
        agent.budget,
        agent.budget_version,
        &agent.budget_reached,
        &agent.broke,
        agent.has_model
    )? == 1;
    agent.revision += i64::from(updated);
    Ok(updated)
}

/// Whether there are agents that one hired.
pub(crate) async fn agent_hired_any(conn: &mut OfficeConn, name: &str) -> DbResult<bool> {
    let sql = "SELECT id FROM agents WHERE office_id = $1 AND hired_by <> '' AND hired_by = $2 LIMIT 1";
    let found: Option<AgentId> = scalar!(conn, sql, name)?;
    Ok(found.is_some())
}

/// Has agents that one hired count as hired by another, or by an operator, at most so many: their names.
pub(crate) async fn agent_hand_over(tx: &mut OfficeConn, from: &str, to: &str, most: i64) -> DbResult<Vec<String>> {
    let sql = "UPDATE agents SET hired_by = $3, revision = revision + 1 WHERE office_id = $1 AND id IN
         (SELECT id FROM agents WHERE office_id = $1 AND hired_by <> '' AND hired_by = $2 LIMIT $4) RETURNING name";
    scalars!(tx, sql, from, to, most)
}

/// Removes the row; false: somebody did.
pub(crate) async fn agent_delete(tx: &mut OfficeConn, id: AgentId) -> DbResult<bool> {
    Ok(exec!(tx, "DELETE FROM agents WHERE office_id = $1 AND id = $2", id)? == 1)
}

pub(crate) async fn agent_get(conn: &mut OfficeConn, id: AgentId) -> DbResult<Option<Agent>> {
    optional!(conn, "SELECT * FROM agents WHERE office_id = $1 AND id = $2", id)
}

/// The agents with these ids.
pub(crate) async fn agent_get_all(conn: &mut OfficeConn, ids: &[AgentId]) -> DbResult<Vec<Agent>> {
    let sql = conn.pick(
        "SELECT * FROM agents WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT * FROM agents
         WHERE office_id = $1 AND id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
    );
    all!(conn, sql, json_text(ids)?)
}

/// The agent, of whatever office: a key has to be resolved, and the end of an instance looked at, before its office is known.
pub(crate) async fn agent_find(conn: &mut PlatformConn, id: AgentId) -> DbResult<Option<Agent>> {
    optional!(conn, "SELECT * FROM agents WHERE id = $1", id)
}

pub(crate) async fn agent_get_by_name(conn: &mut OfficeConn, name: &str) -> DbResult<Option<Agent>> {
    optional!(conn, "SELECT * FROM agents WHERE office_id = $1 AND name = $2", name)
}

/// The agent, which nobody else changes until the transaction ends.
pub(crate) async fn agent_lock_by_name(tx: &mut OfficeConn, name: &str) -> DbResult<Option<Agent>> {
    let sql = tx.pick(
        "SELECT * FROM agents WHERE office_id = $1 AND name = $2",
        "SELECT * FROM agents WHERE office_id = $1 AND name = $2 FOR UPDATE",
    );
    optional!(tx, sql, name)
}

/// The agent, which nobody else changes until the transaction ends.
pub(crate) async fn agent_lock(tx: &mut OfficeConn, id: AgentId) -> DbResult<Option<Agent>> {
    let sql = tx.pick(
        "SELECT * FROM agents WHERE office_id = $1 AND id = $2",
        "SELECT * FROM agents WHERE office_id = $1 AND id = $2 FOR UPDATE",
    );
    optional!(tx, sql, id)
}

/// The agent whose newest enrolment token this is, locked: of two users of one token, one wins. Of whatever office: who
/// shows a token has not said who they are.
pub(crate) async fn agent_lock_by_token(tx: &mut PlatformConn, sha256: &[u8]) -> DbResult<Option<Agent>> {
    let sql = tx.pick(
        "SELECT * FROM agents WHERE enrol_sha256 = $1",
        "SELECT * FROM agents WHERE enrol_sha256 = $1 FOR UPDATE",
    );
    optional!(tx, sql, sha256)
}

pub(crate) async fn agent_list(conn: &mut OfficeConn, page: &Page<String>) -> DbResult<Vec<Agent>> {
    let sql = "SELECT * FROM agents WHERE office_id = $1 AND name > $2 ORDER BY name LIMIT $3";
    all!(conn, sql, page.after.as_deref().unwrap_or_default(), page.fetch())
}

/// Agents by name after this one, at most so many.
pub(crate) async fn agent_page(conn: &mut OfficeConn, after: &str, most: usize) -> DbResult<Vec<Agent>> {
    let sql = "SELECT * FROM agents WHERE office_id = $1 AND name > $2 ORDER BY name LIMIT $3";
    all!(conn, sql, after, i64::try_from(most).unwrap_or(i64::MAX))
}

/// What is enabled for agents by name after this one, as a JSON array; of those hired before there were integrations, their
/// provider's.
pub(crate) async fn agent_integrations(
    conn: &mut OfficeConn,
    after: &str,
    most: i64,
) -> DbResult<Vec<(String, String)>> {
    let sql = conn.pick(
        "SELECT name, coalesce(json_extract(spec, '$.integrations'), json_array(json_extract(spec, '$.provider')))
         FROM agents WHERE office_id = $1 AND name > $2 ORDER BY name LIMIT $3",
        "SELECT name, coalesce(spec -> 'integrations', jsonb_build_array(spec -> 'provider'))::text
         FROM agents WHERE office_id = $1 AND name > $2 ORDER BY name LIMIT $3",
    );
    all!(conn, sql, after, most)
}

/// Every agent of the office with the version of its row.
pub(crate) async fn agent_revisions(conn: &mut OfficeConn) -> DbResult<HashMap<AgentId, i64>> {
    Ok(all!(conn, "SELECT id, revision FROM agents WHERE office_id = $1")?.into_iter().collect())
}

pub(crate) async fn agent_count(conn: &mut OfficeConn) -> DbResult<i64> {
    scalar_one!(conn, "SELECT count(*) FROM agents WHERE office_id = $1")
}

pub(crate) async fn agent_count_by_phase(conn: &mut OfficeConn) -> DbResult<Vec<(Phase, i64)>> {
    let sql = "SELECT phase, count(*) FROM agents WHERE office_id = $1 GROUP BY phase ORDER BY phase";
    let rows: Vec<(String, i64)> = all!(conn, sql)?;
    let phase = |name: &str| name.parse().map_err(|_| sqlx::Error::Decode(format!("phase {name:?}").into()));
    rows.into_iter().map(|(name, count)| Ok((phase(&name)?, count))).collect()
}
