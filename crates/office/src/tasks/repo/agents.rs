//! Tasks by the agents that they count on.

use mi_kernel::{AgentId, OfficeId};
use mi_store::{DbResult, OfficeConn, PlatformConn, on};
use uuid::Uuid;

use super::Row;
use crate::tasks::model::Task;

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

/// Open tasks that count on certain agents: held by one, kept for one, or in need of tools.
pub(crate) async fn task_of_agents(conn: &mut OfficeConn) -> DbResult<Vec<Task>> {
    let office_id = conn.office_id();
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as(
            "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1
             AND status IN ('blocked', 'queued', 'running')
             AND (worker_id IS NOT NULL OR assigned_id IS NOT NULL OR tools <> '[]')",
        )
        .bind(office_id.0)
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

/// Offices in which open tasks are held by, or kept for, an agent of this id, or of any. Spans offices: it finds where
/// agents that are gone are still counted on.
pub(crate) async fn office_of_agents(conn: &mut PlatformConn, agent: Option<AgentId>) -> DbResult<Vec<OfficeId>> {
    let sql = conn.pick(
        "SELECT office_id FROM tasks WHERE worker_id IS NOT NULL AND ($1 IS NULL OR worker_id = $1)
         UNION SELECT office_id FROM tasks WHERE assigned_id IS NOT NULL AND ($1 IS NULL OR assigned_id = $1)
             AND status IN ('blocked', 'queued')
         UNION SELECT office_id FROM tasks WHERE status = 'blocked' AND tools <> '[]' AND $1 IS NULL",
        "SELECT office_id FROM tasks WHERE worker_id IS NOT NULL AND ($1::uuid IS NULL OR worker_id = $1)
         UNION SELECT office_id FROM tasks WHERE assigned_id IS NOT NULL AND ($1::uuid IS NULL OR assigned_id = $1)
             AND status IN ('blocked', 'queued')
         UNION SELECT office_id FROM tasks WHERE status = 'blocked' AND tools <> '[]' AND $1::uuid IS NULL",
    );
    let agent = agent.map(|id| id.0);
    let rows: Vec<(Uuid,)> = on!(conn, |c| sqlx::query_as(sql).bind(agent).fetch_all(&mut *c).await)?;
    Ok(rows.into_iter().map(|(id,)| id.into()).collect())
}
