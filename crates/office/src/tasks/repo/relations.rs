//! Tasks as others see them: what depends on them, what is a part of them, what judges them.

use mi_kernel::{AgentId, TaskId};
use mi_store::{DbResult, OfficeConn, json_text, on};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Row, by_ids};
use crate::tasks::model::Task;

/// Tasks that wait for one of these, or did.
pub(crate) async fn task_dependents(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        // A cross join keeps this order: from the ids to the few that depend on them.
        "SELECT tasks.id, cursor, spec, progress FROM json_each($2) AS wanted
         CROSS JOIN task_dependencies AS d ON d.office_id = $1 AND d.depends_on = unhex(wanted.value, '-')
         CROSS JOIN tasks ON tasks.office_id = $1 AND tasks.id = d.task_id",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT task_id FROM task_dependencies
                 WHERE office_id = $1 AND depends_on = wanted.id::uuid OFFSET 0) AS d,
             LATERAL (SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND id = d.task_id OFFSET 0) AS t",
    );
    by_ids(conn, sql, ids).await
}

/// Open subtasks, at most so many, without those that are known.
pub(crate) async fn task_open_parts(
    conn: &mut OfficeConn,
    parent: TaskId,
    known: &[TaskId],
    limit: i64,
) -> DbResult<Vec<Task>> {
    let office_id = conn.office_id();
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND parent_id = $2
         AND status IN ('blocked', 'queued', 'running', 'verifying')
         AND id NOT IN (SELECT unhex(value, '-') FROM json_each($3)) LIMIT $4",
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND parent_id = $2
         AND status IN ('blocked', 'queued', 'running', 'verifying')
         AND id <> ALL (ARRAY(SELECT json_array_elements_text($3::json)::uuid)) LIMIT $4",
    );
    let known = json_text(known)?;
    let rows: Vec<Row> = on!(conn, |c| {
        sqlx::query_as(sql).bind(office_id.0).bind(parent.0).bind(known).bind(limit).fetch_all(&mut *c).await
    })?;
    Ok(rows.into_iter().map(Task::from).collect())
}

/// What others see of a task that they depend on.
#[derive(Debug, FromRow)]
pub(crate) struct Standing {
    pub(crate) status: String,
    /// What went wrong, if it failed or was cancelled.
    pub(crate) error: String,
}

#[derive(FromRow)]
struct Stands {
    id: Uuid,
    #[sqlx(flatten)]
    standing: Standing,
}

/// Where those of these tasks stand that the office has.
pub(crate) async fn task_standing(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<(TaskId, Standing)>> {
    let (office_id, ids) = (conn.office_id(), json_text(ids)?);
    let sql = conn.pick(
        "SELECT id, status, CASE WHEN status IN ('failed', 'cancelled') THEN progress ->> 'error' ELSE '' END AS error
         FROM tasks WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id), LATERAL (
             SELECT id, status, CASE WHEN status IN ('failed', 'cancelled') THEN progress ->> 'error' ELSE '' END AS error
             FROM tasks WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t",
    );
    let rows: Vec<Stands> = on!(conn, |c| sqlx::query_as(sql).bind(office_id.0).bind(ids).fetch_all(&mut *c).await)?;
    Ok(rows.into_iter().map(|row| (row.id.into(), row.standing)).collect())
}

/// What those who add subtasks to a task have to know of it: not what it says.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) status: String,
    /// The agent that created it.
    pub(crate) creator: Option<AgentId>,
    /// The agent that works on it at the moment.
    pub(crate) worker: Option<AgentId>,
}

/// Those of these tasks that the office has.
pub(crate) async fn task_parents(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<(TaskId, Parent)>> {
    let (office_id, ids) = (conn.office_id(), json_text(ids)?);
    let sql = conn.pick(
        "SELECT id, status, unhex(spec ->> 'creator', '-'), worker_id FROM tasks
         WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id), LATERAL (
             SELECT id, status, (spec ->> 'creator')::uuid, worker_id FROM tasks
             WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t",
    );
    let rows: Vec<(Uuid, String, Option<Uuid>, Option<Uuid>)> =
        on!(conn, |c| sqlx::query_as(sql).bind(office_id.0).bind(ids).fetch_all(&mut *c).await)?;
    let parent = |(id, status, creator, worker): (Uuid, String, Option<Uuid>, Option<Uuid>)| {
        (id.into(), Parent { status, creator: creator.map(Into::into), worker: worker.map(Into::into) })
    };
    Ok(rows.into_iter().map(parent).collect())
}

/// Tasks that are to judge one of these.
pub(crate) async fn task_reviews(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND verifies_id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND verifies_id = wanted.id::uuid OFFSET 0) AS t",
    );
    by_ids(conn, sql, ids).await
}
