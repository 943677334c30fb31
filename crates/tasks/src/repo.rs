//! Tables `task_queues`, `tasks` and `task_dependencies`. Rows are written many at a time, as one JSON text a statement:
//! what takes long is the round trip, not the row.
//!
//! On Postgres rows are looked up by `LATERAL` and `OFFSET 0`, which keep the order: for each wanted id its row by the index.
//! A plan made while the tables are empty would rather read all of an office's tasks for it, and stays.

mod agents;
mod consequences;
mod list;
mod look;
mod prefetch;
mod queue;
mod reach;
mod relations;
mod sweep_clock;
mod wakes;

use std::collections::BTreeSet;

use mi_kernel::{AgentId, OfficeId, TaskId, Time, event::Event};
use mi_store::{
    Db, DbResult, OfficeConn, PlatformConn, all, delete_some, exec, json_text, outbox, outbox_insert, time_text,
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
    look::{Fence, queue_look, queue_write},
    prefetch::{Asked, MAX_DEPENDENTS, Prefetched, Wanted, task_prefetch},
    queue::{Opened, queue_ends, queue_forget},
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

/// What a transaction of the queue writes: tasks, new ones and such as changed, the queue's new position and counts, and events.
pub(super) struct Change {
    tasks: String,
    cursor: i64,
    counts: String,
    events: String,
}

impl Change {
    /// Of the connection's office, whose events these are. Of each task, whether it is new.
    pub(super) fn new(
        office_id: OfficeId,
        tasks: &[(&Task, bool)],
        cursor: i64,
        counts: &StatusCounts,
        events: &[Event],
    ) -> DbResult<Self> {
        let tasks = json_text(&tasks.iter().map(|(task, fresh)| Written::new(task, *fresh)).collect::<Vec<_>>())?;
        Ok(Self { tasks, cursor, counts: json_text(counts)?, events: outbox::text(office_id, events)? })
    }
}

/// Writes that, with the queue's row locked.
pub(super) async fn task_put(tx: &mut OfficeConn, change: &Change) -> DbResult<()> {
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
        "SELECT queue_put($1, $3::json, $4, $5::json, $2::json)",
    );
    exec!(tx, sql, &change.events, &change.tasks, change.cursor, &change.counts).map(drop)
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
