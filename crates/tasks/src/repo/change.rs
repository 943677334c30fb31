//! What a transaction of the queue writes.

use mi_kernel::{AgentId, OfficeId, TaskId, Time, event::Event};
use mi_store::{DbResult, OfficeConn, exec, json_text, on_postgres, outbox, outbox_insert, time_text};
use serde::{Serialize, Serializer};
use sqlx::{Arguments as _, Encode, PgConnection, Postgres, Type, postgres::PgArguments};

use crate::{
    model::{Progress, Spec, Task},
    status_counts::StatusCounts,
};

/// A task as the writing statements take it: on SQLite in a JSON text, of which the database reads ids and times as text.
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
    #[serde(serialize_with = "as_text")]
    deadline: Option<Time>,
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
            deadline: task.deadline(),
            spec: whole.then_some(spec),
            progress,
        }
    }
}

fn as_text<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(time_text).serialize(serializer)
}

/// What a transaction of the queue writes: tasks, new ones and such as changed, the queue's new position and counts, and events.
pub(crate) struct Change<'a> {
    tasks: Vec<Written<'a>>,
    cursor: i64,
    counts: String,
    events: String,
}

impl<'a> Change<'a> {
    /// Of the connection's office, whose events these are. Of each task, whether it is new.
    pub(crate) fn new(
        office_id: OfficeId,
        tasks: &[(&'a Task, bool)],
        cursor: i64,
        counts: &StatusCounts,
        events: &[Event],
    ) -> DbResult<Self> {
        let mut tasks: Vec<Written<'a>> = tasks.iter().map(|(task, fresh)| Written::new(task, *fresh)).collect();
        // New ones first: see [`Change::arguments`].
        tasks.sort_by_key(|task| task.spec.is_none());
        Ok(Self { tasks, cursor, counts: json_text(counts)?, events: outbox::text(office_id, events)? })
    }

    /// The first arguments of `queue_put` and `queue_write`: tasks are arrays, one a column. Those of what never changes are
    /// shorter, since they are of the new ones alone.
    pub(super) fn arguments(&self, office_id: OfficeId) -> DbResult<PgArguments> {
        let (mut arguments, tasks) = (Arguments::default(), &self.tasks);
        arguments.add(office_id)?;
        arguments.add(self.cursor)?;
        arguments.add(&self.counts)?;
        arguments.add(&self.events)?;
        arguments.column(tasks, |task| task.id)?;
        arguments.column(tasks, |task| task.cursor)?;
        arguments.column(tasks, |task| task.status)?;
        arguments.column(tasks, |task| task.assigned_agent)?;
        arguments.column(tasks, |task| task.assigned_id)?;
        arguments.column(tasks, |task| task.worker_id)?;
        arguments.column(tasks, |task| task.deadline)?;
        arguments.column(tasks, |task| task.hangs_on)?;
        let texts: Vec<String> = tasks.iter().map(|task| json_text(task.progress)).collect::<DbResult<_>>()?;
        arguments.add(texts)?;
        let new = &tasks[..tasks.partition_point(|task| task.spec.is_some())];
        arguments.column(new, |task| task.kind)?;
        arguments.column(new, |task| task.priority)?;
        arguments.column(new, |task| task.excluded_id)?;
        arguments.column(new, |task| task.parent_id)?;
        arguments.column(new, |task| task.verifies_id)?;
        arguments.column(new, |task| task.request)?;
        arguments.column(new, |task| task.context)?;
        let texts: Vec<String> = new.iter().map(|task| json_text(task.tools)).collect::<DbResult<_>>()?;
        arguments.add(texts)?;
        let texts: Vec<String> = new.iter().map(|task| json_text(&task.spec)).collect::<DbResult<_>>()?;
        arguments.add(texts)?;
        Ok(arguments.0)
    }
}

#[derive(Default)]
pub(super) struct Arguments(pub(super) PgArguments);

impl Arguments {
    pub(super) fn add<'v, T: Encode<'v, Postgres> + Type<Postgres>>(&mut self, value: T) -> DbResult<()> {
        Ok(self.0.add(value).map_err(sqlx::Error::Encode)?)
    }

    fn column<'t, T>(&mut self, tasks: &'t [Written<'_>], of: impl Fn(&'t Written<'_>) -> T) -> DbResult<()>
    where
        Vec<T>: Encode<'t, Postgres> + Type<Postgres>,
    {
        self.add(tasks.iter().map(of).collect::<Vec<T>>())
    }
}

/// Writes that, with the queue's row locked.
pub(crate) async fn task_put(tx: &mut OfficeConn, change: &Change<'_>) -> DbResult<()> {
    let office_id = tx.office_id();
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
        "SELECT queue_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
    );
    let run = async |conn: &mut PgConnection, arguments| sqlx::query_with(sql, arguments).execute(conn).await;
    match on_postgres!(tx, |c| run(c, change.arguments(office_id)?).await) {
        Some(done) => done.map(drop),
        None => exec!(tx, sql, &change.events, json_text(&change.tasks)?, change.cursor, &change.counts).map(drop),
    }
}
