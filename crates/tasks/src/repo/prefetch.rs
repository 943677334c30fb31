//! What an operation of the queue needs to know, with one question.

use mi_kernel::{AgentId, TaskId};
use mi_store::{DbResult, FromRow, OfficeConn, all, json_text};

use crate::model::Task;

/// Most tasks that [`task_prefetch`] answers because they wait for others.
pub(crate) const MAX_DEPENDENTS: i64 = 64;

/// What is asked for: these tasks, for each of the `ended` one open subtask, and at most [`MAX_DEPENDENTS`] tasks that wait for
/// them; and the most urgent tasks that may be claimed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) ids: &'a [TaskId],
    pub(crate) ended: &'a [TaskId],
    pub(crate) wanted: Wanted,
}

/// What may be claimed; by default nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Names of kinds; empty: any.
    pub(crate) kinds: Vec<&'static str>,
    /// Agents on whose behalf; empty: operators'.
    pub(crate) agents: Vec<AgentId>,
    /// Whether it is for more than one: what is not for one of them is for another then.
    pub(crate) shared: bool,
    /// What they can use; none: anything.
    pub(crate) tools: Option<Vec<String>>,
    pub(crate) limit: i64,
}

/// A task, and whether it is there because it may be claimed.
#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    task: Task,
    claimable: bool,
}

/// What was found, in no certain order.
#[derive(Debug, Default)]
pub(crate) struct Prefetched {
    /// Asked for, or about such tasks.
    pub(crate) tasks: Vec<Task>,
    /// May be claimed.
    pub(crate) claimable: Vec<Task>,
    /// Asked for, and nothing waits for them, and they have no open subtasks, as far as that is known.
    pub(crate) leaves: Vec<TaskId>,
}

impl Prefetched {
    /// Of tasks, each with whether it is there because it may be claimed.
    pub(super) fn of(found: impl IntoIterator<Item = (Task, bool)>) -> Self {
        let mut all = Self::default();
        for (task, claimable) in found {
            if claimable { &mut all.claimable } else { &mut all.tasks }.push(task);
        }
        all
    }
}

/// Asks that. On Postgres the same question stands in `queue_look`.
pub(crate) async fn task_prefetch(conn: &mut OfficeConn, asked: &Asked<'_>) -> DbResult<Prefetched> {
    let sql = conn.pick(
        // A cross join keeps this order: from the ids to the few that depend on them.
        "SELECT id, cursor, spec, progress, FALSE AS claimable FROM tasks
         WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($7))
         UNION ALL SELECT tasks.id, cursor, spec, progress, FALSE FROM json_each($8) AS ended
         CROSS JOIN tasks ON tasks.office_id = $1 AND tasks.id = (SELECT id FROM tasks AS part WHERE part.office_id = $1
             AND part.parent_id = unhex(ended.value, '-')
             AND part.status IN ('blocked', 'queued', 'running', 'verifying') LIMIT 1)
         UNION ALL SELECT * FROM (
             SELECT tasks.id, cursor, spec, progress, FALSE FROM json_each($8) AS ended
             CROSS JOIN task_dependencies AS d ON d.office_id = $1 AND d.depends_on = unhex(ended.value, '-')
             CROSS JOIN tasks ON tasks.office_id = $1 AND tasks.id = d.task_id AND status = 'blocked' LIMIT $9)
         UNION ALL SELECT * FROM (
             SELECT id, cursor, spec, progress, TRUE FROM tasks WHERE office_id = $1 AND status = 'queued'
             AND (assigned_id IS NULL OR assigned_id IN (SELECT unhex(value, '-') FROM json_each($2)))
             AND ($3 = '[]' OR kind IN (SELECT value FROM json_each($3)))
             AND ($4 IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(tasks.tools) AS need
                 WHERE need.value NOT IN (SELECT value FROM json_each($4))))
             AND (excluded_id IS NULL OR $6 OR excluded_id NOT IN (SELECT unhex(value, '-') FROM json_each($2)))
             ORDER BY priority, id LIMIT $5)",
        "SELECT t.*, FALSE AS claimable FROM json_array_elements_text($7::json) AS wanted (id),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t
         UNION ALL SELECT t.*, FALSE FROM json_array_elements_text($8::json) AS ended (id),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND parent_id = ended.id::uuid
                 AND status IN ('blocked', 'queued', 'running', 'verifying') LIMIT 1) AS t
         UNION ALL (SELECT t.*, FALSE FROM json_array_elements_text($8::json) AS ended (id),
             LATERAL (SELECT task_id FROM task_dependencies
                 WHERE office_id = $1 AND depends_on = ended.id::uuid OFFSET 0) AS d,
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND id = d.task_id AND status = 'blocked' OFFSET 0) AS t LIMIT $9)
         UNION ALL (
             SELECT id, cursor, spec, progress, TRUE FROM tasks WHERE office_id = $1 AND status = 'queued'
             AND (assigned_id IS NULL OR assigned_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid)))
             AND ($3 = '[]' OR kind = ANY (ARRAY(SELECT json_array_elements_text($3::json))))
             AND ($4::text IS NULL OR tools <@ $4::jsonb)
             AND (excluded_id IS NULL OR $6
                 OR NOT excluded_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid)))
             ORDER BY priority, id LIMIT $5)",
    );
    let (agents, kinds) = (json_text(&asked.wanted.agents)?, json_text(&asked.wanted.kinds)?);
    let tools = asked.wanted.tools.as_deref().map(json_text).transpose()?;
    let (ids, ended) = (json_text(asked.ids)?, json_text(asked.ended)?);
    let Wanted { limit, shared, .. } = asked.wanted;
    let found: Vec<Row> = all!(conn, sql, agents, kinds, tools, limit, shared, ids, ended, MAX_DEPENDENTS)?;
    Ok(Prefetched::of(found.into_iter().map(|row| (row.task, row.claimable))))
}
