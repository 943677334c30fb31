//! The front of an office's queue, to be remembered.

use mi_store::{DbResult, FromRow, OfficeConn, all};

use crate::model::Task;

/// Bytes of tasks that are read together, besides those of the one that comes to more.
const MAX_BYTES: i64 = 1 << 20;

/// The most urgent tasks that are queued, each with whether nothing waits for it and it has no open subtasks.
pub(crate) type QueueFront = Vec<(Task, bool)>;

#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    task: Task,
    is_leaf: bool,
}

/// Reads that: at most so many.
pub(crate) async fn task_front(conn: &mut OfficeConn, limit: i64) -> DbResult<QueueFront> {
    let sql = "SELECT id, cursor, spec, progress,
             NOT EXISTS (SELECT 1 FROM task_dependencies AS d WHERE d.office_id = $1 AND d.depends_on = t.id)
             AND NOT EXISTS (SELECT 1 FROM tasks AS part WHERE part.office_id = $1 AND part.parent_id = t.id
                 AND part.status IN ('blocked', 'queued', 'running', 'verifying')) AS is_leaf
         FROM (SELECT id, cursor, spec, progress, priority,
                 sum(octet_length(CAST(spec AS text))) OVER (ORDER BY priority, id ROWS UNBOUNDED PRECEDING)
                     - octet_length(CAST(spec AS text)) AS before
             FROM (SELECT id, cursor, spec, progress, priority FROM tasks WHERE office_id = $1 AND status = 'queued'
                 ORDER BY priority, id LIMIT $2) AS first) AS t
         WHERE before < $3 ORDER BY priority, id";
    let found: Vec<Row> = all!(conn, sql, limit, MAX_BYTES)?;
    Ok(found.into_iter().map(|row| (row.task, row.is_leaf)).collect())
}
