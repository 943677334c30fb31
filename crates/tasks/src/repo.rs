//! Tables `task_queues`, `tasks` and `task_dependencies`. Rows are written many at a time, as one JSON text a statement:
//! what takes long is the round trip, not the row.
//!
//! On Postgres rows are looked up by `LATERAL` and `OFFSET 0`, which keep the order: for each wanted id its row by the index.
//! A plan made while the tables are empty would rather read all of an office's tasks for it, and stays.

mod agents;
mod change;
mod consequences;
mod front;
mod list;
mod look;
mod prefetch;
mod queue;
mod reach;
mod relations;
mod sweep_clock;
mod wakes;

use std::collections::BTreeSet;

use mi_kernel::{OfficeId, TaskId, Time};
use mi_store::{Db, DbResult, OfficeConn, PlatformConn, all, delete_some, exec, json_text};
use serde::Serialize;

pub(super) use self::{
    agents::{
        office_of_agent, office_page_by_agents, task_ancestors, task_counts_on, task_held_by, task_ids_held_by,
        task_in_need, task_kept_for, task_with_agents,
    },
    change::{Change, task_put},
    consequences::{
        Consequence, Follower, NOBODY, Relation, Rest, SCANNED, consequence_list, consequence_put,
        office_of_consequences, task_dependents_after, task_followers,
    },
    front::{QueueFront, task_front},
    list::{Filter, task_list, task_list_late},
    look::{Fence, Told, Writing, queue_look, queue_write},
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
use super::model::Task;

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
    // Whoever moves a task has the queue's lock first, and whoever remembers the queue sees that it is no longer the same.
    queue_open(&mut tx).await?;
    exec!(tx, "UPDATE task_queues SET cursor = cursor + 1 WHERE office_id = $1")?;
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
