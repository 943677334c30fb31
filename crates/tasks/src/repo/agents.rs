//! Tasks by the agents that they count on.

use mi_kernel::{AgentId, OfficeId, TaskId};
use mi_store::{DbResult, OfficeConn, PlatformConn, json_text, on};
use sqlx::types::Json;
use uuid::Uuid;

use super::Row;
use crate::model::Task;

/// Offices of a page.
const OFFICES: i64 = 500;

/// Everything that an agent works on.
pub(crate) async fn task_held_by(conn: &mut OfficeConn, agent: AgentId) -> DbResult<Vec<Task>> {
    let office_id = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as("SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND worker_id = $2")
            .bind(office_id.0)
            .bind(agent.0)
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(Task::from).collect())
}

/// Whom open tasks count on, each once: read from the indexes by leaps, however many tasks there are.
#[derive(Debug, Default)]
pub(crate) struct CountedOn {
    /// Who holds some.
    pub(crate) workers: Vec<AgentId>,
    /// For whom some are kept.
    pub(crate) assigned: Vec<AgentId>,
    /// Which tools some need together.
    pub(crate) tools: Vec<Vec<String>>,
}

/// See [`CountedOn`].
pub(crate) async fn task_counts_on(conn: &mut OfficeConn) -> DbResult<CountedOn> {
    let office_id = conn.office_id();
    let workers: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as(
            "WITH RECURSIVE leap (id) AS (
                 SELECT (SELECT worker_id FROM tasks WHERE office_id = $1 AND worker_id IS NOT NULL
                     ORDER BY worker_id LIMIT 1)
                 UNION ALL SELECT (SELECT worker_id FROM tasks WHERE office_id = $1 AND worker_id > leap.id
                     ORDER BY worker_id LIMIT 1) FROM leap WHERE leap.id IS NOT NULL)
             SELECT id FROM leap WHERE id IS NOT NULL",
        )
        .bind(office_id.0)
        .fetch_all(&mut *c)
        .await
    })?;
    let assigned: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as(
            "WITH RECURSIVE leap (id) AS (
                 SELECT (SELECT assigned_id FROM tasks WHERE office_id = $1 AND assigned_id IS NOT NULL
                     AND status IN ('blocked', 'queued') ORDER BY assigned_id LIMIT 1)
                 UNION ALL SELECT (SELECT assigned_id FROM tasks WHERE office_id = $1 AND assigned_id > leap.id
                     AND status IN ('blocked', 'queued') ORDER BY assigned_id LIMIT 1) FROM leap WHERE leap.id IS NOT NULL)
             SELECT id FROM leap WHERE id IS NOT NULL",
        )
        .bind(office_id.0)
        .fetch_all(&mut *c)
        .await
    })?;
    let tools: Vec<(Json<Vec<String>>,)> = on!(conn, |c| {
        sqlx::query_as(
            "WITH RECURSIVE leap (tools) AS (
                 SELECT (SELECT tools FROM tasks WHERE office_id = $1 AND tools <> '[]'
                     AND status IN ('blocked', 'queued') ORDER BY tools LIMIT 1)
                 UNION ALL SELECT (SELECT tools FROM tasks WHERE office_id = $1 AND tools <> '[]' AND tools > leap.tools
                     AND status IN ('blocked', 'queued') ORDER BY tools LIMIT 1) FROM leap WHERE leap.tools IS NOT NULL)
             SELECT tools FROM leap WHERE tools IS NOT NULL",
        )
        .bind(office_id.0)
        .fetch_all(&mut *c)
        .await
    })?;
    let ids = |rows: Vec<(Uuid,)>| rows.into_iter().map(|(id,)| id.into()).collect();
    let tools = tools.into_iter().map(|(tools,)| tools.0).collect();
    Ok(CountedOn { workers: ids(workers), assigned: ids(assigned), tools })
}

/// Tasks that these agents hold, or that are kept for them, at most so many.
pub(crate) async fn task_with_agents(
    conn: &mut OfficeConn,
    workers: &[AgentId],
    assigned: &[AgentId],
    limit: i64,
) -> DbResult<Vec<Task>> {
    let office_id = conn.office_id();
    let sql = conn.pick(
        "SELECT * FROM (SELECT tasks.id, cursor, spec, progress FROM json_each($2) AS gone
             CROSS JOIN tasks ON office_id = $1 AND worker_id = unhex(gone.value, '-') LIMIT $4)
         UNION ALL SELECT * FROM (SELECT tasks.id, cursor, spec, progress FROM json_each($3) AS gone
             CROSS JOIN tasks ON office_id = $1 AND assigned_id = unhex(gone.value, '-')
                 AND status IN ('blocked', 'queued') LIMIT $4)",
        "(SELECT t.* FROM json_array_elements_text($2::json) AS gone (agent),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND worker_id = gone.agent::uuid OFFSET 0) AS t LIMIT $4)
         UNION ALL (SELECT t.* FROM json_array_elements_text($3::json) AS gone (agent),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND assigned_id = gone.agent::uuid AND status IN ('blocked', 'queued') OFFSET 0) AS t
             LIMIT $4)",
    );
    let (workers, assigned) = (json_text(workers)?, json_text(assigned)?);
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as(sql).bind(office_id.0).bind(workers).bind(assigned).bind(limit).fetch_all(&mut *c).await
    })?;
    Ok(rows.into_iter().map(Task::from).collect())
}

/// Tasks of this status that need just these tools, after this one, by id, at most so many.
pub(crate) async fn task_in_need(
    conn: &mut OfficeConn,
    tools: &[String],
    status: &str,
    after: TaskId,
    limit: i64,
) -> DbResult<Vec<Task>> {
    let office_id = conn.office_id();
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND tools <> '[]' AND tools = $2
         AND status IN ('blocked', 'queued') AND status = $3 AND id > $4 ORDER BY id LIMIT $5",
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND tools <> '[]' AND tools = $2::jsonb
         AND status IN ('blocked', 'queued') AND status = $3 AND id > $4 ORDER BY id LIMIT $5",
    );
    let tools = json_text(tools)?;
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as(sql)
            .bind(office_id.0)
            .bind(tools)
            .bind(status)
            .bind(after.0)
            .bind(limit)
            .fetch_all(&mut *c)
            .await
    })?;
    Ok(rows.into_iter().map(Task::from).collect())
}

/// What waits for an agent.
pub(crate) async fn task_kept_for(conn: &mut OfficeConn, agent: AgentId) -> DbResult<Vec<Task>> {
    let office_id = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT id, cursor, spec, progress FROM tasks
             WHERE office_id = $1 AND assigned_id = $2 AND status IN ('blocked', 'queued') ORDER BY id",
        )
        .bind(office_id.0)
        .bind(agent.0)
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(Task::from).collect())
}

/// Offices in which open tasks are held by, or kept for, this agent. Spans offices: it finds where an agent that is gone is
/// still counted on.
pub(crate) async fn office_of_agent(conn: &mut PlatformConn, agent: AgentId) -> DbResult<Vec<OfficeId>> {
    let rows: Vec<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT office_id FROM tasks WHERE worker_id = $1
             UNION SELECT office_id FROM tasks WHERE assigned_id = $1 AND status IN ('blocked', 'queued')",
        )
        .bind(agent.0)
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(|(id,)| id.into()).collect())
}

/// Offices after this one, a page of them, and whether open tasks of each count on agents: held by one, kept for one, or in
/// need of tools. Spans offices: it finds where agents that are gone are still counted on.
pub(crate) async fn office_page_by_agents(
    conn: &mut PlatformConn,
    after: Option<OfficeId>,
) -> DbResult<Vec<(OfficeId, bool)>> {
    let rows: Vec<(Uuid, bool)> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT id, EXISTS (SELECT 1 FROM tasks WHERE office_id = o.id AND worker_id IS NOT NULL)
                 OR EXISTS (SELECT 1 FROM tasks WHERE office_id = o.id AND assigned_id IS NOT NULL
                     AND status IN ('blocked', 'queued'))
                 OR EXISTS (SELECT 1 FROM tasks WHERE office_id = o.id AND tools <> '[]'
                     AND status IN ('blocked', 'queued')) AS counts
             FROM (SELECT id FROM offices WHERE id > $1 ORDER BY id LIMIT $2) AS o",
        )
        .bind(after.map_or(Uuid::nil(), |id| id.0))
        .bind(OFFICES)
        .fetch_all(&mut *c)
        .await
    })?;
    Ok(rows.into_iter().map(|(id, counts)| (id.into(), counts)).collect())
}
