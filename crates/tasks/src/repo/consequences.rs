//! Table `task_consequences`: changes of tasks that are still to be carried on to those who follow them.

use mi_kernel::{OfficeId, TaskId};
use mi_store::{DbResult, FromRow, OfficeConn, PlatformConn, all, exec, json_text, scalars};
use uuid::Uuid;

/// Offices that are answered at a time.
const OFFICES: i64 = 1000;
/// Most subtasks, and most dependents, that [`task_followers`] and [`task_dependents_after`] read; few in the
/// simulation, which has few.
pub(crate) const SCANNED: usize = if cfg!(test) { 4 } else { 1024 };

/// Before every task.
pub(crate) const NOBODY: TaskId = TaskId(Uuid::nil());

/// What is left to be done about a change of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Consequence {
    /// With which task its open subtasks are still to be cancelled: itself, or one that it is a part of.
    pub(crate) root: Option<TaskId>,
    /// Its parent, and its dependents up to this id, have looked; none: nobody has.
    pub(crate) after: Option<TaskId>,
}

/// What is left to be done in an office.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    None,
    Some,
    /// Subtasks are to be cancelled.
    Cancels,
}

impl From<i64> for Rest {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Some,
            _ => Self::Cancels,
        }
    }
}

/// How a task follows another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Parent,
    Subtask,
    Dependent,
}

impl From<i64> for Relation {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::Parent,
            1 => Self::Subtask,
            _ => Self::Dependent,
        }
    }
}

/// A task that has to look when another one changed.
#[derive(Debug, Clone, Copy, FromRow)]
pub(crate) struct Follower {
    pub(crate) id: TaskId,
    #[sqlx(try_from = "i64")]
    pub(crate) relation: Relation,
    /// Whether it is such that it matters.
    pub(crate) follows: bool,
    /// About how long it is, in bytes.
    pub(crate) length: i64,
}

/// Parents of these tasks, their open subtasks if those are to be cancelled, and their dependents: of the latter two at
/// most [`SCANNED`] of all together, in no certain order.
pub(crate) async fn task_followers(tx: &mut OfficeConn, of: &[(TaskId, Consequence)]) -> DbResult<Vec<Follower>> {
    let asked: Vec<_> = of
        .iter()
        .map(|(id, left)| (id, left.after.unwrap_or(NOBODY), left.root.is_some(), left.after.is_none()))
        .collect();
    let asked = json_text(&asked)?;
    // The length of a text is in the head of its row: SQLite reads no more for it.
    let sql = tx.pick(
        "SELECT p.id, 0 AS relation, p.status IN ('blocked', 'queued') AS follows,
             octet_length(p.spec) + octet_length(p.progress) AS length FROM json_each($2) AS e
             CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = unhex(e.value ->> 0, '-') AND e.value ->> 3
             CROSS JOIN tasks AS p ON p.office_id = $1 AND p.id = t.parent_id
         UNION ALL SELECT * FROM (
             SELECT p.id, 1, TRUE, octet_length(p.spec) + octet_length(p.progress) FROM json_each($2) AS e
             CROSS JOIN tasks AS p ON p.office_id = $1 AND p.parent_id = unhex(e.value ->> 0, '-') AND e.value ->> 2
                 AND p.status IN ('blocked', 'queued', 'running', 'verifying') LIMIT $3)
         UNION ALL SELECT t.id, 2, t.status IN ('blocked', 'queued'), octet_length(t.spec) + octet_length(t.progress)
             FROM (SELECT d.task_id FROM json_each($2) AS e CROSS JOIN task_dependencies AS d
                 ON d.office_id = $1 AND d.depends_on = unhex(e.value ->> 0, '-')
                 AND d.task_id > unhex(e.value ->> 1, '-') LIMIT $3) AS d
             CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = d.task_id",
        "WITH e AS (SELECT (value ->> 0)::uuid AS id, (value ->> 1)::uuid AS after, (value ->> 2)::boolean AS parts,
                 (value ->> 3)::boolean AS parent FROM json_array_elements($2::json))
         SELECT p.id, 0::bigint AS relation, p.status IN ('blocked', 'queued') AS follows,
             (octet_length(p.spec::text) + octet_length(p.progress::text))::bigint AS length FROM e,
             LATERAL (SELECT parent_id FROM tasks
                 WHERE office_id = $1 AND id = e.id AND e.parent AND parent_id IS NOT NULL OFFSET 0) AS t,
             LATERAL (SELECT id, status, spec, progress FROM tasks
                 WHERE office_id = $1 AND id = t.parent_id OFFSET 0) AS p
         UNION ALL (SELECT p.id, 1, TRUE, octet_length(p.spec::text) + octet_length(p.progress::text) FROM e,
             LATERAL (SELECT id, spec, progress FROM tasks WHERE office_id = $1 AND parent_id = e.id AND e.parts
                 AND status IN ('blocked', 'queued', 'running', 'verifying') OFFSET 0) AS p LIMIT $3)
         UNION ALL SELECT t.id, 2, t.status IN ('blocked', 'queued'),
             octet_length(t.spec::text) + octet_length(t.progress::text) FROM (
             SELECT d.task_id FROM e, LATERAL (SELECT task_id FROM task_dependencies
                 WHERE office_id = $1 AND depends_on = e.id AND task_id > e.after OFFSET 0) AS d LIMIT $3) AS d,
             LATERAL (SELECT id, status, spec, progress FROM tasks
                 WHERE office_id = $1 AND id = d.task_id OFFSET 0) AS t",
    );
    let limit = i64::try_from(SCANNED).unwrap_or(i64::MAX);
    all!(tx, sql, asked, limit)
}

/// Dependents of a task after this id, at most [`SCANNED`].
pub(crate) async fn task_dependents_after(tx: &mut OfficeConn, of: TaskId, after: TaskId) -> DbResult<Vec<Follower>> {
    let sql = tx.pick(
        "SELECT t.id, 2 AS relation, t.status IN ('blocked', 'queued') AS follows,
             octet_length(t.spec) + octet_length(t.progress) AS length
         FROM (SELECT task_id FROM task_dependencies WHERE office_id = $1 AND depends_on = $2 AND task_id > $3
             ORDER BY task_id LIMIT $4) AS d
         CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = d.task_id",
        "SELECT t.id, 2::bigint AS relation, t.status IN ('blocked', 'queued') AS follows,
             (octet_length(t.spec::text) + octet_length(t.progress::text))::bigint AS length
         FROM (SELECT task_id FROM task_dependencies WHERE office_id = $1 AND depends_on = $2 AND task_id > $3
             ORDER BY task_id LIMIT $4) AS d,
         LATERAL (SELECT id, status, spec, progress FROM tasks WHERE office_id = $1 AND id = d.task_id OFFSET 0) AS t",
    );
    let limit = i64::try_from(SCANNED).unwrap_or(i64::MAX);
    all!(tx, sql, of, after, limit)
}

/// What is left in the office of tasks before this one, of the newest first, at most so many.
pub(crate) async fn consequence_list(
    tx: &mut OfficeConn,
    before: TaskId,
    limit: usize,
) -> DbResult<Vec<(TaskId, Consequence)>> {
    let sql = "SELECT task_id, root_id, after_id FROM task_consequences WHERE office_id = $1 AND task_id < $2
         ORDER BY task_id DESC LIMIT $3";
    let rows: Vec<(TaskId, Option<TaskId>, Option<TaskId>)> =
        all!(tx, sql, before, i64::try_from(limit).unwrap_or(i64::MAX))?;
    Ok(rows.into_iter().map(|(id, root, after)| (id, Consequence { root, after })).collect())
}

/// Writes down what is left, and forgets what is over.
pub(crate) async fn consequence_put(
    tx: &mut OfficeConn,
    over: &[TaskId],
    left: &[(TaskId, Consequence)],
) -> DbResult<()> {
    if !over.is_empty() {
        let sql = tx.pick(
            "DELETE FROM task_consequences WHERE office_id = $1
             AND task_id IN (SELECT unhex(value, '-') FROM json_each($2))",
            "DELETE FROM task_consequences WHERE office_id = $1
             AND task_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
        );
        let over = json_text(over)?;
        exec!(tx, sql, over)?;
    }
    if !left.is_empty() {
        let rows: Vec<_> = left.iter().map(|(id, left)| (id, left.root, left.after)).collect();
        let sql = tx.pick(
            "INSERT INTO task_consequences (office_id, task_id, root_id, after_id)
             SELECT $1, unhex(value ->> 0, '-'), unhex(value ->> 1, '-'), unhex(value ->> 2, '-') FROM json_each($2)
             WHERE TRUE ON CONFLICT (office_id, task_id)
             DO UPDATE SET root_id = excluded.root_id, after_id = excluded.after_id",
            "INSERT INTO task_consequences (office_id, task_id, root_id, after_id)
             SELECT $1, (value ->> 0)::uuid, (value ->> 1)::uuid, (value ->> 2)::uuid
             FROM json_array_elements($2::json)
             ON CONFLICT (office_id, task_id)
             DO UPDATE SET root_id = excluded.root_id, after_id = excluded.after_id",
        );
        let rows = json_text(&rows)?;
        exec!(tx, sql, rows)?;
    }
    Ok(())
}

/// Offices in which something is left, some at a time. Spans offices: it finds what a process left behind that ended.
pub(crate) async fn office_of_consequences(conn: &mut PlatformConn) -> DbResult<Vec<OfficeId>> {
    scalars!(conn, "SELECT DISTINCT office_id FROM task_consequences ORDER BY office_id LIMIT $1", OFFICES)
}
