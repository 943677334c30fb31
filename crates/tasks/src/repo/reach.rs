//! Which tasks wait for which, by however many steps: one statement over ids, which ends at a limit.
//!
//! A task waits for what it depends on, and for its subtasks, until it is done.

use std::collections::BTreeSet;

use mi_kernel::TaskId;
use mi_store::{DbResult, FromRow, OfficeConn, all, json_text};

/// Most tasks that are reached.
pub(crate) const MAX_REACHED: usize = 1000;
/// Most links of a task that are followed: of those that it has in its dependencies, or that lead to it from others'.
pub(crate) const WIDE: i64 = 32;

/// Where a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From tasks to those that wait for them.
    Up,
    /// From tasks to what they wait for.
    Down,
}

#[derive(FromRow)]
struct Reached {
    id: TaskId,
    /// It may wait for others still.
    waits: bool,
    /// It has more links than are followed.
    wide: bool,
}

/// How many links a task has at this end; the count stops as soon as they are too many.
macro_rules! links {
    ($end:literal) => {
        concat!(
            "(SELECT count(*) FROM (SELECT 1 FROM task_dependencies AS w WHERE w.office_id = $1 AND w.",
            $end,
            " = t.id LIMIT $4 + 1) AS counted)"
        )
    };
}

/// These tasks and all that wait for them, or that they wait for, without those that are done; none: they are too many, or
/// too entangled.
pub(crate) async fn task_reached(
    conn: &mut OfficeConn,
    direction: Direction,
    from: &BTreeSet<TaskId>,
) -> DbResult<Option<BTreeSet<TaskId>>> {
    let from = json_text(from)?;
    let limit = i64::try_from(MAX_REACHED).unwrap_or(i64::MAX) + 1;
    // On SQLite a recursion ends by a limit of its own, on Postgres by what is read of it. A cross join keeps its order.
    let sql = match direction {
        Direction::Up => conn.pick(
            concat!(
                "WITH RECURSIVE reached (id) AS (
                     SELECT unhex(value, '-') FROM json_each($2)
                     UNION SELECT t.parent_id FROM reached CROSS JOIN tasks AS t
                         ON t.office_id = $1 AND t.id = reached.id AND t.status <> 'done' AND t.parent_id IS NOT NULL
                     UNION SELECT d.task_id FROM reached CROSS JOIN tasks AS t
                         ON t.office_id = $1 AND t.id = reached.id AND t.status <> 'done' AND ",
                links!("depends_on"),
                " <= $4 CROSS JOIN task_dependencies AS d ON d.office_id = $1 AND d.depends_on = t.id
                     LIMIT $3)
                 SELECT reached.id, t.status <> 'done' AS waits, ",
                links!("depends_on"),
                " > $4 AS wide FROM reached CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = reached.id"
            ),
            concat!(
                "WITH RECURSIVE reached (id) AS (
                     SELECT value::uuid FROM json_array_elements_text($2::json) AS asked (value)
                     UNION SELECT n.id FROM reached,
                         LATERAL (SELECT id, parent_id FROM tasks
                             WHERE office_id = $1 AND id = reached.id AND status <> 'done' OFFSET 0) AS t,
                         LATERAL (SELECT t.parent_id AS id WHERE t.parent_id IS NOT NULL
                             UNION ALL SELECT task_id FROM task_dependencies
                                 WHERE office_id = $1 AND depends_on = t.id AND ",
                links!("depends_on"),
                " <= $4) AS n)
                 SELECT t.id, t.status <> 'done' AS waits, ",
                links!("depends_on"),
                " > $4 AS wide FROM (SELECT id FROM reached LIMIT $3) AS reached,
                     LATERAL (SELECT id, status FROM tasks WHERE office_id = $1 AND id = reached.id OFFSET 0) AS t"
            ),
        ),
        Direction::Down => conn.pick(
            concat!(
                "WITH RECURSIVE reached (id) AS (
                     SELECT unhex(value, '-') FROM json_each($2)
                     UNION SELECT c.id FROM reached CROSS JOIN tasks AS t
                         ON t.office_id = $1 AND t.id = reached.id AND t.status <> 'done'
                         CROSS JOIN tasks AS c ON c.office_id = $1 AND c.parent_id = t.id AND c.status <> 'done'
                     UNION SELECT d.depends_on FROM reached CROSS JOIN tasks AS t
                         ON t.office_id = $1 AND t.id = reached.id AND t.status <> 'done' AND ",
                links!("task_id"),
                " <= $4 CROSS JOIN task_dependencies AS d ON d.office_id = $1 AND d.task_id = t.id
                     LIMIT $3)
                 SELECT reached.id, t.status <> 'done' AS waits, ",
                links!("task_id"),
                " > $4 AS wide FROM reached CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = reached.id"
            ),
            concat!(
                "WITH RECURSIVE reached (id) AS (
                     SELECT value::uuid FROM json_array_elements_text($2::json) AS asked (value)
                     UNION SELECT n.id FROM reached,
                         LATERAL (SELECT id FROM tasks
                             WHERE office_id = $1 AND id = reached.id AND status <> 'done' OFFSET 0) AS t,
                         LATERAL (SELECT id FROM tasks WHERE office_id = $1 AND parent_id = t.id AND status <> 'done'
                             UNION ALL SELECT depends_on FROM task_dependencies
                                 WHERE office_id = $1 AND task_id = t.id AND ",
                links!("task_id"),
                " <= $4) AS n)
                 SELECT t.id, t.status <> 'done' AS waits, ",
                links!("task_id"),
                " > $4 AS wide FROM (SELECT id FROM reached LIMIT $3) AS reached,
                     LATERAL (SELECT id, status FROM tasks WHERE office_id = $1 AND id = reached.id OFFSET 0) AS t"
            ),
        ),
    };
    let rows: Vec<Reached> = all!(conn, sql, from, limit, WIDE)?;
    let whole = rows.len() <= MAX_REACHED && !rows.iter().any(|row| row.waits && row.wide);
    Ok(whole.then(|| rows.into_iter().filter(|row| row.waits).map(|row| row.id).collect()))
}

/// Who waits for whom among these tasks, which [`task_reached`] answered for this direction: the one that waits first.
pub(crate) async fn task_ways(
    conn: &mut OfficeConn,
    direction: Direction,
    among: &BTreeSet<TaskId>,
) -> DbResult<Vec<(TaskId, TaskId)>> {
    // By the end of the links at which each has few.
    let sql = match direction {
        Direction::Up => conn.pick(
            "SELECT t.parent_id, t.id FROM json_each($2) AS asked CROSS JOIN tasks AS t
                 ON t.office_id = $1 AND t.id = unhex(asked.value, '-') AND t.parent_id IS NOT NULL
             UNION ALL SELECT d.task_id, d.depends_on FROM json_each($2) AS asked
                 CROSS JOIN task_dependencies AS d ON d.office_id = $1 AND d.depends_on = unhex(asked.value, '-')",
            "SELECT t.parent_id, t.id FROM json_array_elements_text($2::json) AS asked (id),
                 LATERAL (SELECT id, parent_id FROM tasks
                     WHERE office_id = $1 AND id = asked.id::uuid AND parent_id IS NOT NULL OFFSET 0) AS t
             UNION ALL SELECT d.task_id, d.depends_on FROM json_array_elements_text($2::json) AS asked (id),
                 LATERAL (SELECT task_id, depends_on FROM task_dependencies
                     WHERE office_id = $1 AND depends_on = asked.id::uuid OFFSET 0) AS d",
        ),
        Direction::Down => conn.pick(
            "SELECT t.parent_id, t.id FROM json_each($2) AS asked CROSS JOIN tasks AS t
                 ON t.office_id = $1 AND t.id = unhex(asked.value, '-') AND t.parent_id IS NOT NULL
             UNION ALL SELECT d.task_id, d.depends_on FROM json_each($2) AS asked
                 CROSS JOIN task_dependencies AS d ON d.office_id = $1 AND d.task_id = unhex(asked.value, '-')",
            "SELECT t.parent_id, t.id FROM json_array_elements_text($2::json) AS asked (id),
                 LATERAL (SELECT id, parent_id FROM tasks
                     WHERE office_id = $1 AND id = asked.id::uuid AND parent_id IS NOT NULL OFFSET 0) AS t
             UNION ALL SELECT d.task_id, d.depends_on FROM json_array_elements_text($2::json) AS asked (id),
                 LATERAL (SELECT task_id, depends_on FROM task_dependencies
                     WHERE office_id = $1 AND task_id = asked.id::uuid OFFSET 0) AS d",
        ),
    };
    let ways: Vec<(TaskId, TaskId)> = all!(conn, sql, json_text(among)?)?;
    Ok(ways.into_iter().filter(|(waits, awaited)| among.contains(waits) && among.contains(awaited)).collect())
}
