//! Lists of tasks. What a list goes by has an index of its own that ends with the id, so that a page reads about a page's
//! worth of rows, however many tasks the office has finished.

use std::cmp::Reverse;

use mi_kernel::{TaskId, Time, page::Page};
use mi_store::{DbResult, OfficeConn, all, json_text, one};

use crate::model::Task;

/// What a list is of; empty: everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) statuses: Vec<&'static str>,
    pub(crate) agent: String,
    pub(crate) parent: Option<TaskId>,
    pub(crate) context: String,
}

impl Filter {
    /// The task that began the conversation that is asked for, if its name is the id of one.
    fn begun_by(&self) -> Option<TaskId> {
        TaskId::parse(&self.context).ok()
    }
}

/// Newest first.
pub(crate) async fn task_list(conn: &mut OfficeConn, filter: &Filter, page: &Page<TaskId>) -> DbResult<Vec<Task>> {
    let before = page.after.unwrap_or(TaskId::MAX);
    if !filter.context.is_empty() {
        return of_context(conn, filter, before, page.fetch()).await;
    }
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

/// The task that began a conversation does not name it: it is there by its id.
async fn of_context(conn: &mut OfficeConn, filter: &Filter, before: TaskId, limit: i64) -> DbResult<Vec<Task>> {
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM (
             SELECT * FROM (SELECT * FROM tasks WHERE office_id = $1 AND context = $2 AND id < $3
                 AND ($4 = '[]' OR status IN (SELECT value FROM json_each($4))) AND ($5 = '' OR assigned_agent = $5)
                 AND ($6 IS NULL OR parent_id = $6) ORDER BY id DESC LIMIT $7)
             UNION ALL SELECT * FROM tasks WHERE office_id = $1 AND id = $8 AND context IS NULL AND id < $3
                 AND ($4 = '[]' OR status IN (SELECT value FROM json_each($4))) AND ($5 = '' OR assigned_agent = $5)
                 AND ($6 IS NULL OR parent_id = $6))
         ORDER BY id DESC LIMIT $7",
        "SELECT id, cursor, spec, progress FROM (
             (SELECT * FROM tasks WHERE office_id = $1 AND context = $2 AND id < $3
                 AND ($4 = '[]' OR status = ANY (ARRAY(SELECT json_array_elements_text($4::json))))
                 AND ($5 = '' OR assigned_agent = $5) AND ($6::uuid IS NULL OR parent_id = $6) ORDER BY id DESC LIMIT $7)
             UNION ALL SELECT * FROM tasks WHERE office_id = $1 AND id = $8 AND context IS NULL AND id < $3
                 AND ($4 = '[]' OR status = ANY (ARRAY(SELECT json_array_elements_text($4::json))))
                 AND ($5 = '' OR assigned_agent = $5) AND ($6::uuid IS NULL OR parent_id = $6)) AS t
         ORDER BY id DESC LIMIT $7",
    );
    let statuses = json_text(&filter.statuses)?;
    all!(conn, sql, &filter.context, before, statuses, &filter.agent, filter.parent, limit, filter.begun_by())
}

/// Changes that a page looks at: among more, those that are asked for may be few.
const LOOKED_AT: i64 = 1000;

/// Tasks in the order of their last changes.
#[derive(Debug)]
pub(crate) struct Late {
    /// Those that changed last first.
    pub(crate) tasks: Vec<Task>,
    /// Where the next page begins, when this one has looked at as many changes as it does; none: these are all.
    pub(crate) looked_until: Option<i64>,
}

/// Those first that changed last, of what changed since a time if one is given.
pub(crate) async fn task_list_late(
    conn: &mut OfficeConn,
    filter: &Filter,
    since: Option<Time>,
    page: &Page<i64>,
) -> DbResult<Late> {
    let before = page.after.unwrap_or(i64::MAX);
    let sql = "SELECT coalesce(min(cursor), 0), count(*) FROM
         (SELECT cursor FROM tasks WHERE office_id = $1 AND cursor < $2 ORDER BY cursor DESC LIMIT $3) AS late";
    let (least, count): (i64, i64) = one!(conn, sql, before, LOOKED_AT)?;
    let sql = conn.pick(
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND cursor BETWEEN $2 AND $3
         AND ($4 = '[]' OR status IN (SELECT value FROM json_each($4))) AND ($5 = '' OR assigned_agent = $5)
         AND ($6 IS NULL OR parent_id = $6) AND ($7 = '' OR context = $7 OR (context IS NULL AND id = $8))
         ORDER BY cursor DESC LIMIT $9",
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND cursor BETWEEN $2 AND $3
         AND ($4 = '[]' OR status = ANY (ARRAY(SELECT json_array_elements_text($4::json))))
         AND ($5 = '' OR assigned_agent = $5) AND ($6::uuid IS NULL OR parent_id = $6)
         AND ($7 = '' OR context = $7 OR (context IS NULL AND id = $8))
         ORDER BY cursor DESC LIMIT $9",
    );
    let statuses = json_text(&filter.statuses)?;
    let mut tasks: Vec<Task> = all!(
        conn,
        sql,
        least,
        before - 1,
        statuses,
        &filter.agent,
        filter.parent,
        &filter.context,
        filter.begun_by(),
        page.fetch()
    )?;
    let is_wanted = |task: &Task| since.is_none_or(|since| task.progress.updated_at >= since);
    // What changed before the last of them is older still.
    let goes_on = count == LOOKED_AT && tasks.last().is_none_or(is_wanted);
    tasks.retain(is_wanted);
    Ok(Late { tasks, looked_until: goes_on.then_some(least) })
}
