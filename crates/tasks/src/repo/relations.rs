//! Tasks as others see them: what depends on them, their subtasks, what judges them.

use mi_kernel::{AgentId, TaskId};
use mi_store::{DbResult, FromRow, OfficeConn, all, json_text};

use super::by_ids;
use crate::model::Task;

/// Columns of a [`Standing`], of `tasks`.
macro_rules! standing {
    () => {
        "status, hangs_on, coalesce(CASE
             WHEN status IN ('failed', 'cancelled') AND coalesce(spec ->> 'answers', '') <> 'direct'
                 THEN progress ->> 'error'
             WHEN hangs_on IS NOT NULL AND coalesce(spec ->> 'answers', '') <> 'direct'
                 THEN progress -> 'state' ->> 'reason' END, '') AS text"
    };
}

/// An open subtask of each of these that has one, besides those that are known, with its parent and where it stands: rather
/// one that goes on by itself.
pub(crate) async fn task_some_subtasks(
    conn: &mut OfficeConn,
    parents: &[TaskId],
    known: &[TaskId],
) -> DbResult<Vec<(TaskId, TaskId, Standing)>> {
    let sql = conn.pick(
        concat!(
            "SELECT parent_id, tasks.id, ",
            standing!(),
            " FROM json_each($2) AS e CROSS JOIN tasks ON office_id = $1 AND tasks.id = coalesce(
                 (SELECT p.id FROM tasks AS p WHERE p.office_id = $1 AND p.parent_id = unhex(e.value, '-')
                     AND p.status IN ('blocked', 'queued', 'running', 'verifying') AND p.hangs_on IS NULL
                     AND p.id NOT IN (SELECT unhex(value, '-') FROM json_each($3)) LIMIT 1),
                 (SELECT p.id FROM tasks AS p WHERE p.office_id = $1 AND p.parent_id = unhex(e.value, '-')
                     AND p.status IN ('blocked', 'queued', 'running', 'verifying') AND p.hangs_on IS NOT NULL
                     AND p.id NOT IN (SELECT unhex(value, '-') FROM json_each($3)) LIMIT 1))"
        ),
        concat!(
            "SELECT p.* FROM json_array_elements_text($2::json) AS e (parent), LATERAL (
                 (SELECT parent_id, id, ",
            standing!(),
            " FROM tasks WHERE office_id = $1 AND parent_id = e.parent::uuid
                     AND status IN ('blocked', 'queued', 'running', 'verifying') AND hangs_on IS NULL
                     AND id <> ALL (ARRAY(SELECT json_array_elements_text($3::json)::uuid)) LIMIT 1)
                 UNION ALL (SELECT parent_id, id, ",
            standing!(),
            " FROM tasks WHERE office_id = $1 AND parent_id = e.parent::uuid
                     AND status IN ('blocked', 'queued', 'running', 'verifying') AND hangs_on IS NOT NULL
                     AND id <> ALL (ARRAY(SELECT json_array_elements_text($3::json)::uuid)) LIMIT 1)
                 LIMIT 1) AS p"
        ),
    );
    let (parents, known) = (json_text(parents)?, json_text(known)?);
    let rows: Vec<SubtaskRow> = all!(conn, sql, parents, known)?;
    Ok(rows.into_iter().map(|row| (row.parent_id, row.id, row.standing)).collect())
}

#[derive(FromRow)]
struct SubtaskRow {
    parent_id: TaskId,
    id: TaskId,
    #[sqlx(flatten)]
    standing: Standing,
}

/// What others see of a task that they wait for.
#[derive(Debug, FromRow)]
pub(crate) struct Standing {
    pub(crate) status: String,
    /// What went wrong, or on what it hangs and why; nothing when it says what only one may read.
    pub(crate) text: String,
    pub(crate) hangs_on: Option<TaskId>,
}

#[derive(FromRow)]
struct Stands {
    id: TaskId,
    #[sqlx(flatten)]
    standing: Standing,
}

/// Where those of these tasks stand that the office has.
pub(crate) async fn task_standing(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<(TaskId, Standing)>> {
    let ids = json_text(ids)?;
    let sql = conn.pick(
        concat!(
            "SELECT id, ",
            standing!(),
            " FROM tasks WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))"
        ),
        concat!(
            "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id), LATERAL (SELECT id, ",
            standing!(),
            " FROM tasks WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t"
        ),
    );
    let rows: Vec<Stands> = all!(conn, sql, ids)?;
    Ok(rows.into_iter().map(|row| (row.id, row.standing)).collect())
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
    let ids = json_text(ids)?;
    let sql = conn.pick(
        "SELECT id, status, unhex(spec ->> 'creator', '-'), worker_id FROM tasks
         WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id), LATERAL (
             SELECT id, status, (spec ->> 'creator')::uuid, worker_id FROM tasks
             WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t",
    );
    let rows: Vec<(TaskId, String, Option<AgentId>, Option<AgentId>)> = all!(conn, sql, ids)?;
    Ok(rows.into_iter().map(|(id, status, creator, worker)| (id, Parent { status, creator, worker })).collect())
}

/// Open tasks that are to judge one of these.
pub(crate) async fn task_reviews(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND verifies_id IN (SELECT unhex(value, '-') FROM json_each($2))
         AND status IN ('blocked', 'queued', 'running')",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND verifies_id = wanted.id::uuid
                 AND status IN ('blocked', 'queued', 'running') OFFSET 0) AS t",
    );
    by_ids(conn, sql, ids).await
}
