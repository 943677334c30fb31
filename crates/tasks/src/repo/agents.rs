//! Tasks by the agents that they count on.

use mi_kernel::{AgentId, OfficeId, TaskId};
use mi_store::{DbResult, Json, OfficeConn, PlatformConn, all, json_text, scalars};

use crate::model::Task;

/// Offices of a page.
const OFFICES: i64 = 500;

/// Everything that an agent works on.
pub(crate) async fn task_held_by(conn: &mut OfficeConn, agent: AgentId) -> DbResult<Vec<Task>> {
    all!(conn, "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND worker_id = $2", agent)
}

/// What an agent works on, by id.
pub(crate) async fn task_ids_held_by(conn: &mut OfficeConn, agent: AgentId) -> DbResult<Vec<TaskId>> {
    scalars!(conn, "SELECT id FROM tasks WHERE office_id = $1 AND worker_id = $2", agent)
}

/// A task and those above it, each with its parent, or with the one that it reviews if it has none.
pub(crate) async fn task_ancestors(conn: &mut OfficeConn, id: TaskId) -> DbResult<Vec<(TaskId, Option<TaskId>)>> {
    let sql = conn.pick(
        "WITH RECURSIVE up (id, parent_id) AS (
             SELECT id, coalesce(parent_id, verifies_id) FROM tasks WHERE office_id = $1 AND id = $2
             UNION SELECT t.id, coalesce(t.parent_id, t.verifies_id) FROM up CROSS JOIN tasks AS t ON t.office_id = $1 AND t.id = up.parent_id)
         SELECT id, parent_id FROM up",
        "WITH RECURSIVE up (id, parent_id) AS (
             SELECT id, coalesce(parent_id, verifies_id) FROM tasks WHERE office_id = $1 AND id = $2
             UNION SELECT t.id, coalesce(t.parent_id, t.verifies_id) FROM up,
                 LATERAL (SELECT id, parent_id, verifies_id FROM tasks WHERE office_id = $1 AND id = up.parent_id OFFSET 0) AS t)
         SELECT id, parent_id FROM up",
    );
    all!(conn, sql, id)
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
    let sql = "WITH RECURSIVE leap (id) AS (
             SELECT (SELECT worker_id FROM tasks WHERE office_id = $1 AND worker_id IS NOT NULL
                 ORDER BY worker_id LIMIT 1)
             UNION ALL SELECT (SELECT worker_id FROM tasks WHERE office_id = $1 AND worker_id > leap.id
                 ORDER BY worker_id LIMIT 1) FROM leap WHERE leap.id IS NOT NULL)
         SELECT id FROM leap WHERE id IS NOT NULL";
    let workers = scalars!(conn, sql)?;
    let sql = "WITH RECURSIVE leap (id) AS (
             SELECT (SELECT assigned_id FROM tasks WHERE office_id = $1 AND assigned_id IS NOT NULL
                 AND status IN ('blocked', 'queued') ORDER BY assigned_id LIMIT 1)
             UNION ALL SELECT (SELECT assigned_id FROM tasks WHERE office_id = $1 AND assigned_id > leap.id
                 AND status IN ('blocked', 'queued') ORDER BY assigned_id LIMIT 1) FROM leap WHERE leap.id IS NOT NULL)
         SELECT id FROM leap WHERE id IS NOT NULL";
    let assigned = scalars!(conn, sql)?;
    let sql = "WITH RECURSIVE leap (tools) AS (
             SELECT (SELECT tools FROM tasks WHERE office_id = $1 AND tools <> '[]'
                 AND status IN ('blocked', 'queued') ORDER BY tools LIMIT 1)
             UNION ALL SELECT (SELECT tools FROM tasks WHERE office_id = $1 AND tools <> '[]' AND tools > leap.tools
                 AND status IN ('blocked', 'queued') ORDER BY tools LIMIT 1) FROM leap WHERE leap.tools IS NOT NULL)
         SELECT tools FROM leap WHERE tools IS NOT NULL";
    let tools: Vec<Json<Vec<String>>> = scalars!(conn, sql)?;
    Ok(CountedOn { workers, assigned, tools: tools.into_iter().map(|tools| tools.0).collect() })
}

/// Tasks that these agents hold, or that are kept for them, at most so many.
pub(crate) async fn task_with_agents(
    conn: &mut OfficeConn,
    workers: &[AgentId],
    assigned: &[AgentId],
    limit: i64,
) -> DbResult<Vec<Task>> {
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
    all!(conn, sql, workers, assigned, limit)
}

/// Tasks of this status that need just these tools, after this one, by id, at most so many.
pub(crate) async fn task_in_need(
    conn: &mut OfficeConn,
    tools: &[String],
    status: &str,
    after: TaskId,
    limit: i64,
) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND tools <> '[]' AND tools = $2
         AND status IN ('blocked', 'queued') AND status = $3 AND id > $4 ORDER BY id LIMIT $5",
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND tools <> '[]' AND tools = $2::jsonb
         AND status IN ('blocked', 'queued') AND status = $3 AND id > $4 ORDER BY id LIMIT $5",
    );
    let tools = json_text(tools)?;
    all!(conn, sql, tools, status, after, limit)
}

/// What waits for an agent.
pub(crate) async fn task_kept_for(conn: &mut OfficeConn, agent: AgentId) -> DbResult<Vec<Task>> {
    let sql = "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND assigned_id = $2 AND status IN ('blocked', 'queued') ORDER BY id";
    all!(conn, sql, agent)
}

/// Offices in which open tasks are held by, or kept for, this agent. Spans offices: it finds where an agent that is gone is
/// still counted on.
pub(crate) async fn office_of_agent(conn: &mut PlatformConn, agent: AgentId) -> DbResult<Vec<OfficeId>> {
    let sql = "SELECT office_id FROM tasks WHERE worker_id = $1
         UNION SELECT office_id FROM tasks WHERE assigned_id = $1 AND status IN ('blocked', 'queued')";
    scalars!(conn, sql, agent)
}

/// Offices after this one, a page of them, and whether open tasks of each count on agents: held by one, kept for one, or in
/// need of tools. Spans offices: it finds where agents that are gone are still counted on.
pub(crate) async fn office_page_by_agents(
    conn: &mut PlatformConn,
    after: Option<OfficeId>,
) -> DbResult<Vec<(OfficeId, bool)>> {
    // The offset keeps each a question for one office, and the order has it answered by the first row of an index: Postgres
    // would else read the tasks of all offices that some agent holds.
    let sql = "SELECT id, EXISTS (SELECT 1 FROM tasks WHERE office_id = o.id AND worker_id IS NOT NULL
                 ORDER BY worker_id LIMIT 1 OFFSET 0)
             OR EXISTS (SELECT 1 FROM tasks WHERE office_id = o.id AND assigned_id IS NOT NULL
                 AND status IN ('blocked', 'queued') ORDER BY assigned_id LIMIT 1 OFFSET 0)
             OR EXISTS (SELECT 1 FROM tasks WHERE office_id = o.id AND tools <> '[]'
                 AND status IN ('blocked', 'queued') ORDER BY tools LIMIT 1 OFFSET 0) AS counts
         FROM (SELECT id FROM offices WHERE id > $1 ORDER BY id LIMIT $2) AS o";
    all!(conn, sql, after.unwrap_or(OfficeId::MIN), OFFICES)
}
