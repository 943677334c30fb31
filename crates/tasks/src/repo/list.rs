//! Lists of tasks. What a list goes by has an index of its own that ends with the id, so that a page reads about a page's
//! worth of rows, however many tasks the office has finished.

use std::cmp::Reverse;

use mi_kernel::{TaskId, page::Page};
use mi_store::{DbResult, OfficeConn, all, json_text};

use crate::model::Task;

/// What a list is of; empty: everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) statuses: Vec<&'static str>,
    pub(crate) agent: String,
    pub(crate) parent: Option<TaskId>,
}

/// Newest first.
pub(crate) async fn task_list(conn: &mut OfficeConn, filter: &Filter, page: &Page<TaskId>) -> DbResult<Vec<Task>> {
    let before = page.after.unwrap_or(TaskId::MAX);
    match (filter.parent, filter.agent.as_str(), filter.statuses.as_slice()) {
        (Some(parent), ..) => of_parent(conn, parent, filter, before, page.fetch()).await,
        (None, "", []) => of_any(conn, before, page.fetch()).await,
        // Few tasks are open, whoever they are for; of what an agent has finished there may be any number.
        (None, agent, statuses) if agent.is_empty() || (!statuses.is_empty() && statuses.iter().all(is_open)) => {
            of_statuses(conn, statuses, agent, before, page.fetch()).await
        }
        (None, ..) => of_agent(conn, filter, before, page.fetch()).await,
    }
}

async fn of_any(conn: &mut OfficeConn, before: TaskId, limit: i64) -> DbResult<Vec<Task>> {
    let sql = "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    all!(conn, sql, before, limit)
}

fn is_open(status: &&str) -> bool {
    ["blocked", "queued", "running", "verifying"].contains(status)
}

/// The index gives the tasks of one status in order: each is read by itself, and the newest of all are taken.
async fn of_statuses(
    conn: &mut OfficeConn,
    statuses: &[&str],
    agent: &str,
    before: TaskId,
    limit: i64,
) -> DbResult<Vec<Task>> {
    let mut found: Vec<Task> = Vec::new();
    for (place, status) in statuses.iter().enumerate() {
        if statuses[..place].contains(status) {
            continue;
        }
        let sql = "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND status = $2 AND id < $3
             AND ($4 = '' OR assigned_agent = $4) ORDER BY id DESC LIMIT $5";
        let tasks: Vec<Task> = all!(conn, sql, *status, before, agent, limit)?;
        found.extend(tasks);
    }
    found.sort_unstable_by_key(|task| Reverse(task.id));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

async fn of_agent(conn: &mut OfficeConn, filter: &Filter, before: TaskId, limit: i64) -> DbResult<Vec<Task>> {
    // The index is of tasks with an agent, and taken when the query says that it is, too.
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND assigned_agent <> '' AND assigned_agent = $2 AND id < $3
         AND ($4 = '[]' OR status IN (SELECT value FROM json_each($4))) ORDER BY id DESC LIMIT $5",
        "SELECT id, cursor, spec, progress FROM tasks
         WHERE office_id = $1 AND assigned_agent <> '' AND assigned_agent = $2 AND id < $3
         AND ($4 = '[]' OR status = ANY (ARRAY(SELECT json_array_elements_text($4::json)))) ORDER BY id DESC LIMIT $5",
    );
    all!(conn, sql, &filter.agent, before, json_text(&filter.statuses)?, limit)
}

async fn of_parent(
    conn: &mut OfficeConn,
    parent: TaskId,
    filter: &Filter,
    before: TaskId,
    limit: i64,
) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND parent_id = $2 AND id < $3
         AND ($4 = '[]' OR status IN (SELECT value FROM json_each($4))) AND ($5 = '' OR assigned_agent = $5)
         ORDER BY id DESC LIMIT $6",
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND parent_id = $2 AND id < $3
         AND ($4 = '[]' OR status = ANY (ARRAY(SELECT json_array_elements_text($4::json))))
         AND ($5 = '' OR assigned_agent = $5) ORDER BY id DESC LIMIT $6",
    );
    all!(conn, sql, parent, before, json_text(&filter.statuses)?, &filter.agent, limit)
}
