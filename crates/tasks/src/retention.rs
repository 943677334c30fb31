//! Finished tasks that are kept no longer. One stays for as long as something that is not done depends on it or is a subtask of
//! it (that may yet be tried again), as its parent is open, and as somebody is to judge it.

use async_trait::async_trait;
use mi_credits::Credits;
use mi_kernel::{Clock, OfficeId, Result, TaskId, Time};
use mi_store::{Db, DbResult, FromRow, OfficeConn, all, exec, json_text, scalars};
use mi_tenancy::retention::{Forgotten, History, bound, record};

use super::repo::{queue_forget, queue_open};

/// Tasks that one transaction looks at: it holds up the office, and on SQLite everybody.
const PART: i64 = 200;
/// Notes that one transaction deletes.
const NOTES: i64 = 1000;

#[derive(FromRow)]
struct Row {
    id: TaskId,
    cursor: i64,
    status: String,
    updated_at: Time,
}

/// The finished tasks of an office, in the order of their last changes.
pub struct TaskHistory;

#[async_trait]
impl History for TaskHistory {
    /// Deletes those of the next tasks after a place that are kept no longer.
    async fn forget_some(&self, db: &Db, clock: &dyn Clock, office_id: OfficeId, after: i64) -> Result<Forgotten> {
        let mut tx = db.office(office_id).begin().await?;
        let Some(bound) = bound(&mut tx, clock, |settings| settings.finished_task_retention_seconds).await? else {
            return Ok(Forgotten::default());
        };
        let Some(opened) = queue_open(&mut tx).await? else {
            return Ok(Forgotten::default());
        };
        let mut counts = opened.counts.0;
        let rows = task_after(&mut tx, after, PART).await?;
        let full = i64::try_from(rows.len()) == Ok(PART);
        // In the order of their last changes: behind the first young one there are young ones only.
        let old: Vec<&Row> = rows.iter().take_while(|row| row.updated_at < bound.before).collect();
        let next = old.last().filter(|_| full && old.len() == rows.len()).map(|row| row.cursor);
        let finished = |row: &&&Row| ["done", "failed", "cancelled"].contains(&row.status.as_str());
        let candidates: Vec<TaskId> = old.iter().filter(finished).map(|row| row.id).collect();
        let free = match candidates.is_empty() {
            true => Vec::new(),
            false => task_unneeded(&mut tx, &candidates).await?,
        };
        if free.is_empty() {
            return Ok(Forgotten { deleted: 0, next });
        }
        if note_delete(&mut tx, &free).await? {
            tx.commit().await?;
            // There may be more notes: the same tasks again.
            return Ok(Forgotten { deleted: 0, next: Some(after) });
        }
        task_delete(&mut tx, &free).await?;
        Credits::forget_tasks(&mut tx, &free).await?;
        let gone: Vec<&Row> = old.into_iter().filter(|row| free.contains(&row.id)).collect();
        gone.iter().for_each(|row| counts.add(&row.status, -1));
        queue_forget(&mut tx, gone.iter().map(|row| row.cursor).max().unwrap_or_default(), &counts).await?;
        record(tx, "finished tasks", gone.len(), bound).await?;
        Ok(Forgotten { deleted: gone.len(), next })
    }
}

/// Tasks after a place, in the order of their last changes.
async fn task_after(tx: &mut OfficeConn, after: i64, limit: i64) -> DbResult<Vec<Row>> {
    let sql = tx.pick(
        "SELECT id, cursor, status, progress ->> 'updated_at' AS updated_at FROM tasks
         WHERE office_id = $1 AND cursor > $2 ORDER BY cursor LIMIT $3",
        "SELECT id, cursor, status, (progress ->> 'updated_at')::timestamptz AS updated_at FROM tasks
         WHERE office_id = $1 AND cursor > $2 ORDER BY cursor LIMIT $3",
    );
    all!(tx, sql, after, limit)
}

/// Those of these finished tasks that nothing needs any more. One on which a hundred depend, or with a hundred subtasks, stays
/// until those go, done or not: so many are not looked at while the queue waits.
async fn task_unneeded(tx: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<TaskId>> {
    let ids = json_text(ids)?;
    let sql = tx.pick(
        "SELECT t.id FROM json_each($2) AS wanted CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = unhex(wanted.value, '-')
         WHERE (SELECT count(*) FROM (SELECT 1 FROM task_dependencies WHERE office_id = $1 AND depends_on = t.id LIMIT 100)) < 100
         AND (SELECT count(*) FROM (SELECT 1 FROM tasks WHERE office_id = $1 AND parent_id = t.id LIMIT 100)) < 100
         AND NOT EXISTS (SELECT 1 FROM task_dependencies AS d INDEXED BY task_dependents CROSS JOIN tasks AS other
             ON other.office_id = $1 AND other.id = d.task_id
             WHERE d.office_id = $1 AND d.depends_on = t.id AND other.status <> 'done')
         AND NOT EXISTS (SELECT 1 FROM tasks WHERE office_id = $1 AND parent_id = t.id AND status <> 'done')
         AND NOT EXISTS (SELECT 1 FROM tasks WHERE office_id = $1 AND id = t.parent_id
             AND status IN ('blocked', 'queued', 'running', 'verifying'))
         AND NOT EXISTS (SELECT 1 FROM tasks WHERE office_id = $1 AND verifies_id = t.id
             AND status IN ('blocked', 'queued', 'running', 'verifying'))",
        "SELECT t.id FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT id, parent_id FROM tasks WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t
         WHERE (SELECT count(*) FROM (SELECT 1 FROM task_dependencies
             WHERE office_id = $1 AND depends_on = t.id LIMIT 100) AS d) < 100
         AND (SELECT count(*) FROM (SELECT 1 FROM tasks WHERE office_id = $1 AND parent_id = t.id LIMIT 100) AS p) < 100
         AND NOT EXISTS (SELECT 1 FROM (SELECT task_id FROM task_dependencies
                 WHERE office_id = $1 AND depends_on = t.id OFFSET 0) AS d,
             LATERAL (SELECT status FROM tasks WHERE office_id = $1 AND id = d.task_id OFFSET 0) AS other
             WHERE other.status <> 'done')
         AND NOT EXISTS (SELECT 1 FROM (SELECT status FROM tasks WHERE office_id = $1 AND parent_id = t.id OFFSET 0) AS p
             WHERE p.status <> 'done')
         AND NOT EXISTS (SELECT 1 FROM (SELECT status FROM tasks WHERE office_id = $1 AND id = t.parent_id OFFSET 0) AS p
             WHERE p.status IN ('blocked', 'queued', 'running', 'verifying'))
         AND NOT EXISTS (SELECT 1 FROM (SELECT status FROM tasks WHERE office_id = $1 AND verifies_id = t.id OFFSET 0) AS r
             WHERE r.status IN ('blocked', 'queued', 'running', 'verifying'))",
    );
    scalars!(tx, sql, ids)
}

/// Deletes notes on these tasks; true: there may be more.
async fn note_delete(tx: &mut OfficeConn, ids: &[TaskId]) -> DbResult<bool> {
    let sql = tx.pick(
        "DELETE FROM task_notes WHERE office_id = $1 AND (task_id, id) IN (
             SELECT n.task_id, n.id FROM json_each($2) AS wanted CROSS JOIN task_notes AS n
             ON n.office_id = $1 AND n.task_id = unhex(wanted.value, '-') LIMIT $3)",
        "DELETE FROM task_notes WHERE office_id = $1 AND (task_id, id) IN (
             SELECT n.task_id, n.id FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT task_id, id FROM task_notes WHERE office_id = $1 AND task_id = wanted.id::uuid OFFSET 0) AS n
             LIMIT $3)",
    );
    Ok(exec!(tx, sql, json_text(ids)?, NOTES)? == NOTES)
}

/// Deletes these tasks, with what they depended on and what is done and depended on them.
async fn task_delete(tx: &mut OfficeConn, ids: &[TaskId]) -> DbResult<()> {
    let ids = json_text(ids)?;
    let statements = [
        tx.pick(
            "DELETE FROM task_dependencies WHERE office_id = $1 AND task_id IN (SELECT unhex(value, '-') FROM json_each($2))",
            "DELETE FROM task_dependencies
             WHERE office_id = $1 AND task_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
        ),
        tx.pick(
            "DELETE FROM task_dependencies
             WHERE office_id = $1 AND depends_on IN (SELECT unhex(value, '-') FROM json_each($2))",
            "DELETE FROM task_dependencies
             WHERE office_id = $1 AND depends_on = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
        ),
        tx.pick(
            "DELETE FROM tasks WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))",
            "DELETE FROM tasks WHERE office_id = $1 AND id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
        ),
    ];
    for sql in statements {
        exec!(tx, sql, &ids)?;
    }
    Ok(())
}
