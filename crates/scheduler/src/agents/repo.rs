//! Table `agents`.

use std::collections::HashMap;

use mi_kernel::{AgentId, Time, page::Page};
use mi_store::{DbError, DbResult, OfficeConn, PlatformConn, on};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{Agent, Desired, Phase, Spec, State, looks::AT_ONCE};

#[derive(FromRow)]
struct Row {
    id: Uuid,
    office_id: Uuid,
    name: String,
    external: bool,
    hired_by: String,
    lineage: Json<Vec<AgentId>>,
    spec: Json<Spec>,
    desired: Json<Desired>,
    generation: i64,
    restore_from: Option<Uuid>,
    state: Json<State>,
    failures: i32,
    restarts: i32,
    observed_generation: i64,
    public_key: Option<Vec<u8>>,
    enrol_sha256: Option<Vec<u8>>,
    enrol_expires_at: Option<Time>,
    last_seen_at: Option<Time>,
    revision: i64,
    created_at: Time,
}

impl From<Row> for Agent {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            office_id: row.office_id.into(),
            name: row.name,
            external: row.external,
            hired_by: row.hired_by,
            lineage: row.lineage.0,
            spec: row.spec.0,
            desired: row.desired.0,
            generation: row.generation,
            restore_from: row.restore_from.map(Into::into),
            state: row.state.0,
            failures: row.failures,
            restarts: row.restarts,
            observed_generation: row.observed_generation,
            public_key: row.public_key,
            enrol_sha256: row.enrol_sha256,
            enrol_expires_at: row.enrol_expires_at,
            last_seen_at: row.last_seen_at,
            revision: row.revision,
            created_at: row.created_at,
        }
    }
}

pub(crate) async fn agent_insert(tx: &mut OfficeConn, agent: &Agent) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO agents
             (id, office_id, name, hired_by, lineage, spec, desired, generation, restore_from, state, phase, failures,
              restarts, observed_generation, revision, created_at, external, public_key, last_seen_at, next_look_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
        )
        .bind(agent.id.0)
        .bind(office.0)
        .bind(&agent.name)
        .bind(&agent.hired_by)
        .bind(Json(&agent.lineage))
        .bind(Json(&agent.spec))
        .bind(Json(&agent.desired))
        .bind(agent.generation)
        .bind(agent.restore_from.map(|id| id.0))
        .bind(Json(&agent.state))
        .bind(agent.phase().as_str())
        .bind(agent.failures)
        .bind(agent.restarts)
        .bind(agent.observed_generation)
        .bind(agent.revision)
        .bind(agent.created_at)
        .bind(agent.external)
        .bind(&agent.public_key)
        .bind(agent.last_seen_at)
        .bind(AT_ONCE)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// Writes everything that can change, if nobody wrote the row since it was read; false: somebody did. The planner is to
/// look at it at once.
pub(crate) async fn agent_update(tx: &mut OfficeConn, agent: &mut Agent) -> DbResult<bool> {
    let office = tx.office_id();
    let updated = on!(tx, |c| {
        sqlx::query(
            "UPDATE agents SET spec = $3, desired = $4, generation = $5, state = $6, phase = $7, failures = $8,
             restarts = $9, observed_generation = $10, public_key = $11, enrol_sha256 = $12, enrol_expires_at = $13,
             last_seen_at = $14, revision = revision + 1, next_look_at = $16, listening = FALSE
             WHERE id = $1 AND revision = $2 AND office_id = $15",
        )
        .bind(agent.id.0)
        .bind(agent.revision)
        .bind(Json(&agent.spec))
        .bind(Json(&agent.desired))
        .bind(agent.generation)
        .bind(Json(&agent.state))
        .bind(agent.phase().as_str())
        .bind(agent.failures)
        .bind(agent.restarts)
        .bind(agent.observed_generation)
        .bind(&agent.public_key)
        .bind(&agent.enrol_sha256)
        .bind(agent.enrol_expires_at)
        .bind(agent.last_seen_at)
        .bind(office.0)
        .bind(AT_ONCE)
        .execute(&mut *c)
        .await
        .map(|done| done.rows_affected() == 1)
    })?;
    agent.revision += i64::from(updated);
    Ok(updated)
}

/// Removes the row; false: somebody did.
pub(crate) async fn agent_delete(tx: &mut OfficeConn, id: AgentId) -> DbResult<bool> {
    let office = tx.office_id();
    Ok(on!(tx, |c| sqlx::query("DELETE FROM agents WHERE office_id = $1 AND id = $2")
        .bind(office.0)
        .bind(id.0)
        .execute(&mut *c)
        .await
        .map(|done| done.rows_affected() == 1))?)
}

pub(crate) async fn agent_get(conn: &mut OfficeConn, id: AgentId) -> DbResult<Option<Agent>> {
    let office = conn.office_id();
    let row: Option<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM agents WHERE office_id = $1 AND id = $2")
            .bind(office.0)
            .bind(id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(Agent::from))
}

/// The agent, of whatever office: a key has to be resolved, and a compute's end looked at, before its office is known.
pub(crate) async fn agent_find(conn: &mut PlatformConn, id: AgentId) -> DbResult<Option<Agent>> {
    let row: Option<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM agents WHERE id = $1").bind(id.0).fetch_optional(&mut *c).await
    })?;
    Ok(row.map(Agent::from))
}

async fn by_name(conn: &mut OfficeConn, sql: &'static str, name: &str) -> DbResult<Option<Agent>> {
    let office = conn.office_id();
    let row: Option<Row> = on!(conn, |c| sqlx::query_as(sql).bind(office.0).bind(name).fetch_optional(&mut *c).await)?;
    Ok(row.map(Agent::from))
}

pub(crate) async fn agent_get_by_name(conn: &mut OfficeConn, name: &str) -> DbResult<Option<Agent>> {
    by_name(conn, "SELECT * FROM agents WHERE office_id = $1 AND name = $2", name).await
}

/// The agent, which nobody else changes until the transaction ends.
pub(crate) async fn agent_lock_by_name(tx: &mut OfficeConn, name: &str) -> DbResult<Option<Agent>> {
    let sql = tx.pick(
        "SELECT * FROM agents WHERE office_id = $1 AND name = $2",
        "SELECT * FROM agents WHERE office_id = $1 AND name = $2 FOR UPDATE",
    );
    by_name(tx, sql, name).await
}

/// The agent whose newest enrolment token this is, locked: of two users of one token, one wins. Of whatever office: who
/// shows a token has not said who they are.
pub(crate) async fn agent_lock_by_token(tx: &mut PlatformConn, sha256: &[u8]) -> DbResult<Option<Agent>> {
    let sql = tx.pick(
        "SELECT * FROM agents WHERE enrol_sha256 = $1",
        "SELECT * FROM agents WHERE enrol_sha256 = $1 FOR UPDATE",
    );
    let row: Option<Row> = on!(tx, |c| sqlx::query_as(sql).bind(sha256).fetch_optional(&mut *c).await)?;
    Ok(row.map(Agent::from))
}

pub(crate) async fn agent_list(conn: &mut OfficeConn, page: &Page<String>) -> DbResult<Vec<Agent>> {
    let office = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM agents WHERE office_id = $1 AND name > $2 ORDER BY name LIMIT $3")
            .bind(office.0)
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(page.fetch())
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(Agent::from).collect())
}

/// Agents by name after this one, at most so many.
pub(crate) async fn agent_page(conn: &mut OfficeConn, after: &str, most: usize) -> DbResult<Vec<Agent>> {
    let office = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT * FROM agents WHERE office_id = $1 AND name > $2 ORDER BY name LIMIT $3")
            .bind(office.0)
            .bind(after)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(Agent::from).collect())
}

/// Every agent of the office with the version of its row.
pub(crate) async fn agent_revisions(conn: &mut OfficeConn) -> DbResult<HashMap<AgentId, i64>> {
    let office = conn.office_id();
    let rows: Vec<(Uuid, i64)> = on!(conn, |c| {
        sqlx::query_as("SELECT id, revision FROM agents WHERE office_id = $1").bind(office.0).fetch_all(&mut *c).await
    })?;
    Ok(rows.into_iter().map(|(id, revision)| (id.into(), revision)).collect())
}

pub(crate) async fn agent_count(conn: &mut OfficeConn) -> DbResult<i64> {
    let office = conn.office_id();
    let (count,): (i64,) = on!(conn, |c| {
        sqlx::query_as("SELECT count(*) FROM agents WHERE office_id = $1").bind(office.0).fetch_one(&mut *c).await
    })?;
    Ok(count)
}

pub(crate) async fn agent_count_by_phase(conn: &mut OfficeConn) -> DbResult<Vec<(Phase, i64)>> {
    let office = conn.office_id();
    let rows: Vec<(String, i64)> = on!(conn, |c| {
        sqlx::query_as("SELECT phase, count(*) FROM agents WHERE office_id = $1 GROUP BY phase ORDER BY phase")
            .bind(office.0)
            .fetch_all(&mut *c)
            .await
    })?;
    let phase = |name: &str| Phase::ALL.into_iter().find(|phase| phase.as_str() == name);
    rows.into_iter()
        .map(|(name, count)| {
            Ok((phase(&name).ok_or_else(|| sqlx::Error::Decode(format!("phase {name:?}").into()))?, count))
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(DbError::from)
}
