//! Tables `task_queues`, `tasks` and `task_dependencies`. Rows are written many at a time, as one JSON text a statement:
//! what takes long is the round trip, not the row.
//!
//! On Postgres rows are looked up by `LATERAL` and `OFFSET 0`, which keep the order: for each wanted id its row by the index.
//! A plan made while the tables are empty would rather read all of an office's tasks for it, and stays.

mod agents;
mod consequences;
mod list;
mod queue;
mod reach;
mod relations;
mod sweep_clock;
mod wakes;

use std::collections::BTreeSet;

use mi_kernel::{AgentId, OfficeId, TaskId, Time, event::Event};
use mi_store::{
    Db, DbResult, FromRow, OfficeConn, PlatformConn, all, delete_some, exec, json_text, outbox, outbox_insert,
    time_text,
};
use serde::Serialize;

pub(super) use self::{
    agents::{
        office_of_agent, office_page_by_agents, task_ancestors, task_counts_on, task_held_by, task_ids_held_by,
        task_in_need, task_kept_for, task_with_agents,
    },
    consequences::{
        Consequence, Follower, NOBODY, Relation, Rest, SCANNED, consequence_list, consequence_put,
        office_of_consequences, task_dependents_after, task_followers,
    },
    list::{Filter, task_list, task_list_late},
    queue::{queue_ends, queue_forget},
    reach::{Direction, MAX_REACHED, WIDE, task_reached, task_ways},
    relations::{Parent, Standing, task_parents, task_reviews, task_some_subtasks, task_standing},
    wakes::{wake_get, wake_put},
};
pub(crate) use self::{
    queue::{queue_insert, queue_open, queue_status_counts},
    sweep_clock::{Seen, sweep_clock_get, sweep_clock_put},
};
use super::{
    model::{Progress, Spec, Task},
    status_counts::StatusCounts,
};

/// A task as the writing statements take it. Both databases read ids and times from text.
#[derive(Serialize)]
struct Written<'a> {
    id: TaskId,
    cursor: i64,
    kind: &'static str,
    priority: i32,
    status: &'static str,
    assigned_agent: &'a str,
    assigned_id: Option<AgentId>,
    excluded_id: Option<AgentId>,
    parent_id: Option<TaskId>,
    hangs_on: Option<TaskId>,
    verifies_id: Option<TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    tools: &'a [String],
    worker_id: Option<AgentId>,
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a Spec>,
    progress: &'a Progress,
}

impl<'a> Written<'a> {
    fn new(task: &'a Task, whole: bool) -> Self {
        let (spec, progress) = (&task.spec, &task.progress);
        let assigned = progress.assigned.as_ref();
        Self {
            id: task.id,
            cursor: task.cursor,
            kind: spec.kind.as_str(),
            priority: spec.priority,
            status: progress.state.as_str(),
            assigned_agent: assigned.map_or("", |assigned| &assigned.name),
            assigned_id: assigned.map(|assigned| assigned.id),
            excluded_id: spec.excluded,
            parent_id: spec.parent,
            hangs_on: task.hangs_on(),
            verifies_id: spec.verifies,
            request: spec.request.as_ref().filter(|_| whole).map(|asked| asked.key.as_str()),
            context: spec.context.as_deref().filter(|_| whole),
            tools: &spec.required_tools,
            worker_id: task.holder().and_then(|worker| worker.agent_id),
            deadline: task.deadline().map(time_text),
            spec: whole.then_some(spec),
            progress,
        }
    }
}

/// Writes tasks, new ones and such as changed, the queue's new position and counts, and events.
pub(super) async fn task_put(
    tx: &mut OfficeConn,
    tasks: &[(&Task, bool)],
    cursor: i64,
    counts: &StatusCounts,
    events: &[Event],
) -> DbResult<()> {
    let (events, counts) = (outbox::text(tx, events)?, json_text(counts)?);
    let tasks = json_text(&tasks.iter().map(|(task, fresh)| Written::new(task, *fresh)).collect::<Vec<_>>())?;
    // A known task conflicts, and keeps what never changes: SQLite would look for each of the rows, were this an UPDATE.
    let sql = tx.pick(
        concat!(
            // Materialised: `json_each` would write each row out once for every column that is read from it.
            "WITH v AS MATERIALIZED (SELECT value AS task FROM json_each($3))
             INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, assigned_id, excluded_id,
                 parent_id, verifies_id, request, context, tools, worker_id, deadline, hangs_on, spec, progress)
             SELECT $1, unhex(task ->> 'id', '-'), task ->> 'cursor', task ->> 'kind', task ->> 'priority',
                 task ->> 'status', task ->> 'assigned_agent', unhex(task ->> 'assigned_id', '-'),
                 unhex(task ->> 'excluded_id', '-'), unhex(task ->> 'parent_id', '-'),
                 unhex(task ->> 'verifies_id', '-'), task ->> 'request', task ->> 'context', task -> 'tools',
                 unhex(task ->> 'worker_id', '-'),
                 task ->> 'deadline', unhex(task ->> 'hangs_on', '-'), coalesce(task -> 'spec', ''), task -> 'progress' FROM v WHERE TRUE
             ON CONFLICT (office_id, id) DO UPDATE SET cursor = excluded.cursor, status = excluded.status,
                 assigned_agent = excluded.assigned_agent, assigned_id = excluded.assigned_id,
                 worker_id = excluded.worker_id, deadline = excluded.deadline, hangs_on = excluded.hangs_on,
                 progress = excluded.progress;
             UPDATE task_queues SET cursor = $4, counts = $5 WHERE office_id = $1; ",
            outbox_insert!(sqlite)
        ),
        concat!(
            "WITH put AS (
                 INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, assigned_id,
                     excluded_id, parent_id, verifies_id, request, context, tools, worker_id, deadline, hangs_on, spec,
                     progress)
                 SELECT $1, id, cursor, kind, priority, status, assigned_agent, assigned_id, excluded_id, parent_id,
                     verifies_id, request, context, tools, worker_id, deadline, hangs_on, coalesce(spec, '{}'), progress
                 FROM json_to_recordset($3::json) AS v (id uuid, cursor bigint, kind text, priority integer,
                     status text, assigned_agent text, assigned_id uuid, excluded_id uuid, parent_id uuid,
                     verifies_id uuid, request text, context text, tools jsonb, worker_id uuid, deadline timestamptz, hangs_on uuid,
                     spec json, progress json)
                 ON CONFLICT (office_id, id) DO UPDATE SET cursor = excluded.cursor, status = excluded.status,
                     assigned_agent = excluded.assigned_agent, assigned_id = excluded.assigned_id,
                     worker_id = excluded.worker_id, deadline = excluded.deadline, hangs_on = excluded.hangs_on,
                     progress = excluded.progress),
             advance AS (UPDATE task_queues SET cursor = $4, counts = $5::json WHERE office_id = $1) ",
            outbox_insert!(postgres)
        ),
    );
    exec!(tx, sql, events, tasks, cursor, counts).map(drop)
}

pub(super) async fn dependency_insert(tx: &mut OfficeConn, pairs: &[(TaskId, TaskId)]) -> DbResult<()> {
    let sql = tx.pick(
        "INSERT INTO task_dependencies (office_id, task_id, depends_on)
         SELECT $1, unhex(value ->> 0, '-'), unhex(value ->> 1, '-') FROM json_each($2)",
        "INSERT INTO task_dependencies (office_id, task_id, depends_on)
         SELECT $1, (value ->> 0)::uuid, (value ->> 1)::uuid FROM json_array_elements($2::json)",
    );
    exec!(tx, sql, json_text(pairs)?).map(drop)
}

async fn by_ids(conn: &mut OfficeConn, sql: &'static str, ids: &[impl Serialize]) -> DbResult<Vec<Task>> {
    all!(conn, sql, json_text(ids)?)
}

/// Those of these tasks that the office has.
pub(super) async fn task_get_all(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT t.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND id = wanted.id::uuid OFFSET 0) AS t",
    );
    by_ids(conn, sql, ids).await
}

/// Tasks that these calls created.
pub(super) async fn task_by_request(conn: &mut OfficeConn, keys: &[&str]) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND request IN (SELECT value FROM json_each($2))",
        "SELECT t.* FROM json_array_elements_text($2::json) AS asked (key),
             LATERAL (SELECT id, cursor, spec, progress FROM tasks
                 WHERE office_id = $1 AND request = asked.key OFFSET 0) AS t",
    );
    by_ids(conn, sql, keys).await
}

/// Tasks of one status, oldest first, at most so many.
pub(super) async fn task_in(conn: &mut OfficeConn, status: &str, limit: i64) -> DbResult<Vec<Task>> {
    let sql = "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND status = $2 ORDER BY id LIMIT $3";
    all!(conn, sql, status, limit)
}

/// What may be claimed; by default nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Names of kinds; empty: any.
    pub(super) kinds: Vec<&'static str>,
    /// Agents on whose behalf; empty: operators'.
    pub(super) agents: Vec<AgentId>,
    /// Whether it is for more than one: what is not for one of them is for another then.
    pub(super) shared: bool,
    /// What they can use; none: anything.
    pub(super) tools: Option<Vec<String>>,
    pub(super) limit: i64,
}

/// A task, and whether it is there because it may be claimed.
#[derive(FromRow)]
struct Found {
    #[sqlx(flatten)]
    task: Task,
    claimable: bool,
}

/// Most tasks that [`task_prefetch`] answers because they wait for others.
pub(super) const MAX_DEPENDENTS: i64 = 64;

/// With one question: these tasks, for each of the `ended` one open subtask, and at most [`MAX_DEPENDENTS`] tasks that wait
/// for them; then the most urgent tasks that may be claimed, in no certain order.
pub(super) async fn task_prefetch(
    tx: &mut OfficeConn,
    ids: &[TaskId],
    ended: &[TaskId],
    wanted: &Wanted,
) -> DbResult<(Vec<Task>, Vec<Task>)> {
    let sql = tx.pick(
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
    let (agents, kinds) = (json_text(&wanted.agents)?, json_text(&wanted.kinds)?);
    let tools = wanted.tools.as_deref().map(json_text).transpose()?;
    let (ids, ended) = (json_text(ids)?, json_text(ended)?);
    let found: Vec<Found> =
        all!(tx, sql, agents, kinds, tools, wanted.limit, wanted.shared, ids, ended, MAX_DEPENDENTS)?;
    let (claimable, asked): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.claimable);
    let tasks = |found: Vec<Found>| found.into_iter().map(|found| found.task).collect();
    Ok((tasks(asked), tasks(claimable)))
}

/// Tasks that changed after a position, in the order of the changes.
pub(super) async fn task_changed(
    conn: &mut OfficeConn,
    after: i64,
    only: Option<TaskId>,
    limit: i64,
) -> DbResult<Vec<Task>> {
    if let Some(id) = only {
        // Without the changes of others, however many those are: the sum is no column of the index that has them.
        let sql = "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND id = $2 AND cursor + 0 > $3";
        return all!(conn, sql, id, after);
    }
    let sql =
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND cursor > $2 ORDER BY cursor LIMIT $3";
    all!(conn, sql, after, limit)
}

/// Tasks whose time is up, with their offices, `besides` these. Spans offices: one sweep looks after all of them.
pub(super) async fn task_due(
    conn: &mut PlatformConn,
    now: Time,
    besides: &BTreeSet<OfficeId>,
    limit: i64,
) -> DbResult<Vec<(OfficeId, TaskId)>> {
    let sql = conn.pick(
        "SELECT office_id, id FROM tasks WHERE deadline <= $1
         AND office_id NOT IN (SELECT unhex(value, '-') FROM json_each($3)) ORDER BY deadline LIMIT $2",
        "SELECT office_id, id FROM tasks WHERE deadline <= $1
         AND office_id <> ALL (ARRAY(SELECT json_array_elements_text($3::json)::uuid)) ORDER BY deadline LIMIT $2",
    );
    let besides = json_text(besides)?;
    all!(conn, sql, now, limit, besides)
}

/// Deletes some of what is in the queue of an office that goes, in a transaction of its own; true: there may be more.
pub(crate) async fn task_clear_some(db: &Db, office_id: OfficeId) -> DbResult<bool> {
    let mut tx = db.office(office_id).begin().await?;
    // Whoever moves a task has the queue's lock first.
    queue_open(&mut tx).await?;
    let statements = [
        "DELETE FROM task_consequences WHERE office_id = $1 AND task_id IN
         (SELECT task_id FROM task_consequences WHERE office_id = $1 ORDER BY task_id LIMIT $2)",
        "DELETE FROM task_notes WHERE office_id = $1 AND (task_id, id) IN
         (SELECT task_id, id FROM task_notes WHERE office_id = $1 ORDER BY task_id, id LIMIT $2)",
        "DELETE FROM task_dependencies WHERE office_id = $1 AND (task_id, depends_on) IN
         (SELECT task_id, depends_on FROM task_dependencies WHERE office_id = $1 ORDER BY task_id, depends_on LIMIT $2)",
        "DELETE FROM tasks WHERE office_id = $1 AND id IN
         (SELECT id FROM tasks WHERE office_id = $1 ORDER BY id LIMIT $2)",
    ];
    let more = delete_some(&mut tx, &statements).await?;
    tx.commit().await?;
    Ok(more)
}

/// Removes the office's queue, and what is left in it.
pub(crate) async fn task_clear(tx: &mut OfficeConn) -> DbResult<()> {
    // Whoever moves a task has the queue's lock first.
    queue_open(tx).await?;
    for sql in [
        "DELETE FROM wakes WHERE office_id = $1",
        "DELETE FROM task_consequences WHERE office_id = $1",
        "DELETE FROM task_notes WHERE office_id = $1",
        "DELETE FROM task_dependencies WHERE office_id = $1",
        "DELETE FROM tasks WHERE office_id = $1",
        "DELETE FROM task_queues WHERE office_id = $1",
    ] {
        exec!(tx, sql)?;
    }
    Ok(())
}
