//! `history`: the queues of an office with a million finished tasks and of one with a million queued ones, each against that of an
//! office with none, on one platform. They take their turns call by call, so that noise hits all.
//!
//! The million are copies, made in the database, of one task that was made over the API; the events that they would have
//! left in the feed are not made. Nothing is analysed by hand: what the planner knows of them, it knows by autovacuum.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use mi_client::Client;
use mi_kernel::{OfficeId, TaskId};
use mi_proto::v1::{GetOfficeStatusRequest, ListTasksRequest, Task, TaskStatus};
use mi_testkit::{Backend, Platform};
use sqlx::{
    ConnectOptions, Connection, PgConnection, SqliteConnection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};

use crate::{
    Result,
    compare::paired,
    customer::{self, Customer},
    latency::Latency,
    proc,
    queue::{claim, completion, fill, name_of, task},
    report::{Goal, Table},
};

const ROUNDS: usize = 5;
/// Turns of a round: one task each, created, claimed and completed.
const TURNS: usize = 300;
/// Reads of a round: nothing but looked at, they need fewer.
const READS: usize = 10;
const MANY: i64 = 1_000_000;
/// Copies of one transaction: SQLite has one writer, and the platform is another.
const COPIES: i64 = 20_000;
const QUEUED: usize = 10_000;
/// Where the office service has its tables: a file, or a schema.
const FILE: &str = "office.db";
const SCHEMA: &str = "mi_office";
/// How long SQLite may be another's.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies a task so many times. Ids are UUIDv7 of the milliseconds before the task's own, and so are in the order of
/// the cursors, which come after its own.
const COPY_SQLITE: &str = "WITH RECURSIVE copies (n) AS (SELECT $3 UNION ALL SELECT n + 1 FROM copies WHERE n + 1 < $4)
    INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, tools, spec, progress)
    SELECT office_id, unhex(printf('%012x7%03x8%015x', $5 + n, abs(random()) & 4095, abs(random()) >> 4)),
        cursor + 1 + n, kind, priority, status, assigned_agent, tools, spec, progress
    FROM copies CROSS JOIN tasks WHERE office_id = $1 AND id = $2";
const COPY_POSTGRES: &str = "INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, tools, spec, progress)
    SELECT office_id, (lpad(to_hex($5 + n), 12, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
        cursor + 1 + n, kind, priority, status, assigned_agent, tools, spec, progress
    FROM generate_series($3, $4 - 1) AS n CROSS JOIN tasks WHERE office_id = $1 AND id = $2";
/// The queue's position is that of its newest change, and it counts its tasks.
const ADVANCE_SQLITE: &str = "UPDATE task_queues SET cursor = (SELECT max(cursor) FROM tasks WHERE office_id = $1),
    counts = (SELECT json_group_object(status, tasks) FROM
        (SELECT status, count(*) AS tasks FROM tasks WHERE office_id = $1 GROUP BY status))
    WHERE office_id = $1";
const ADVANCE_POSTGRES: &str = "UPDATE task_queues SET cursor = (SELECT max(cursor) FROM tasks WHERE office_id = $1),
    counts = (SELECT json_object_agg(status, tasks) FROM
        (SELECT status, count(*) AS tasks FROM tasks WHERE office_id = $1 GROUP BY status) AS counted)
    WHERE office_id = $1";

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("history");
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let quota = format!("--max-open-tasks={}", 2 * MANY);
        let mut platform = Platform::builder().backend(backend).arg(quota).start().await;
        let keys = tempfile::tempdir()?;
        let fresh = Desk::open(&platform, &keys.path().join("fresh")).await?;
        let (old, full) = (
            Desk::open(&platform, &keys.path().join("old")).await?,
            Desk::open(&platform, &keys.path().join("full")).await?,
        );
        let mut store = Store::open(&platform).await?;
        let done = old.turn(&mut Times::new()?).await?;
        store.multiply(&old.customer.office, &done).await?;
        old.expect(TaskStatus::Done, MANY + 1).await?;
        let name = name_of(backend);
        measure(&mut table, name, &fresh, &old).await?;
        let before = proc::memory(platform.pid())?.rss;
        let queued = full.customer.client.tasks().create_task(task(&full.customer)).await?.into_inner().task;
        store.multiply(&full.customer.office, &queued.ok_or("an answer without its task")?).await?;
        full.expect(TaskStatus::Queued, MANY + 1).await?;
        let (without, with) = rounds(&fresh, &full).await?;
        compare(&mut table, name, "queued", (&without, &with));
        let grown = proc::memory(platform.pid())?.rss - before;
        table.goal(
            &format!("{name}: the platform grows by, with 1,000,000 queued tasks"),
            "MB",
            &[grown],
            Goal::AtMost(200.0),
        );
        platform.stop().await;
        let start = Instant::now();
        platform.start().await;
        let took = start.elapsed().as_secs_f64() * 1e3;
        table.goal(&format!("{name}: a start of the platform over all that"), "ms", &[took], Goal::AtMost(2000.0));
    }
    Ok(table)
}

async fn measure(table: &mut Table, name: &str, fresh: &Desk, old: &Desk) -> Result {
    let (without, with) = rounds(fresh, old).await?;
    compare(table, name, "finished", (&without, &with));
    for desk in [fresh, old] {
        fill(&desk.customer, QUEUED).await?;
    }
    let (without, with) = rounds(fresh, old).await?;
    table.row(&format!("{name}: claim, 10,000 queued tasks, p50"), "ms", &claims(&without));
    table.row(&format!("{name}: claim, 10,000 queued and 1,000,000 finished tasks, p50"), "ms", &claims(&with));
    Ok(())
}

/// What calls take in an office with a million such tasks, and without.
fn compare(table: &mut Table, name: &str, tasks: &str, (without, with): (&[Times], &[Times])) {
    let ratio = paired(&(claims(without), claims(with)), |without, with| with / without);
    table.row(&format!("{name}: claim in an office beside it, p50"), "ms", &claims(without));
    table.row(&format!("{name}: claim, 1,000,000 {tasks} tasks, p50"), "ms", &claims(with));
    table.goal(&format!("{name}: claim, with / without, p50"), "x", &ratio, Goal::AtMost(1.2));
    for (what, pick) in [
        ("CreateTask", (|times: &Times| &times.create) as fn(&Times) -> &Latency),
        ("ListTasks, first page", |times| &times.list),
        ("ListTasks of queued ones, first page", |times| &times.list_queued),
    ] {
        table.row(&format!("{name}: {what}, without, p50"), "ms", &column(without, pick));
        table.row(&format!("{name}: {what}, 1,000,000 {tasks} tasks, p50"), "ms", &column(with, pick));
    }
    let what = format!("{name}: GetOfficeStatus, 1,000,000 {tasks} tasks, p50");
    table.goal(&what, "ms", &column(with, |times| &times.status), Goal::AtMost(2.0));
}

async fn rounds(fresh: &Desk, old: &Desk) -> Result<(Vec<Times>, Vec<Times>)> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // The first round warms connections, caches and plans.
    for round in 0..=ROUNDS {
        let (mut of_fresh, mut of_old) = (Times::new()?, Times::new()?);
        for turn in 0..TURNS {
            // Who goes first changes with each turn.
            if turn % 2 == 0 {
                fresh.turn(&mut of_fresh).await?;
                old.turn(&mut of_old).await?;
            } else {
                old.turn(&mut of_old).await?;
                fresh.turn(&mut of_fresh).await?;
            }
        }
        for _ in 0..READS {
            fresh.look(&mut of_fresh).await?;
            old.look(&mut of_old).await?;
        }
        if round > 0 {
            without.push(of_fresh);
            with.push(of_old);
        }
    }
    Ok((without, with))
}

/// Milliseconds that half of each round's calls stayed within.
fn column(rounds: &[Times], pick: fn(&Times) -> &Latency) -> Vec<f64> {
    rounds.iter().map(|times| pick(times).millis(0.5)).collect()
}

fn claims(rounds: &[Times]) -> Vec<f64> {
    column(rounds, |times| &times.claim)
}

/// How long the calls of one round took.
struct Times {
    create: Latency,
    claim: Latency,
    list: Latency,
    list_queued: Latency,
    status: Latency,
}

impl Times {
    fn new() -> Result<Self> {
        Ok(Self {
            create: Latency::new()?,
            claim: Latency::new()?,
            list: Latency::new()?,
            list_queued: Latency::new()?,
            status: Latency::new()?,
        })
    }
}

/// An office, and the one who works there, from outside.
struct Desk {
    customer: Customer,
    worker: Client,
}

impl Desk {
    async fn open(platform: &Platform, key_file: &Path) -> Result<Self> {
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), 10).await?;
        let agent = customer.join("worker", key_file).await?;
        let worker = customer::connect(platform.endpoint(), agent, key_file)?;
        Ok(Self { customer, worker })
    }

    /// Creates a task, claims one, and completes it.
    async fn turn(&self, times: &mut Times) -> Result<Task> {
        let (mut create, mut take) = (self.customer.client.tasks(), self.worker.tasks());
        times.create.time(async || create.create_task(task(&self.customer)).await).await?;
        let claimed = times.claim.time(async || take.claim_tasks(claim(&self.customer, 1, 0)).await).await?;
        let claimed = claimed.into_inner().tasks.pop().ok_or("a claim found nothing in a queue with a task")?;
        let done = self.worker.tasks().complete_task(completion(&self.customer, claimed)).await?.into_inner().task;
        Ok(done.ok_or("an answer without its task")?)
    }

    /// Reads what an operator looks at.
    async fn look(&self, times: &mut Times) -> Result {
        let mut tasks = self.customer.client.tasks();
        let all = ListTasksRequest { office_id: self.customer.office.clone(), ..Default::default() };
        times.list.time(async || tasks.list_tasks(all.clone()).await).await?;
        let queued = ListTasksRequest { statuses: vec![TaskStatus::Queued.into()], ..all };
        times.list_queued.time(async || tasks.list_tasks(queued.clone()).await).await?;
        let mut offices = self.customer.client.offices();
        let office_id = &self.customer.office;
        let status = async || offices.get_office_status(GetOfficeStatusRequest { office_id: office_id.clone() }).await;
        times.status.time(status).await?;
        Ok(())
    }

    /// As the platform tells.
    async fn expect(&self, status: TaskStatus, count: i64) -> Result {
        let office_id = self.customer.office.clone();
        let answer = self.customer.client.offices().get_office_status(GetOfficeStatusRequest { office_id }).await?;
        let tasks = answer.into_inner().status.unwrap_or_default().tasks;
        match tasks.as_slice() {
            [only] if only.status() == status && i64::from(only.count) == count => Ok(()),
            other => Err(format!("{count} tasks that are {status:?} were to be there: {other:?}").into()),
        }
    }
}

/// The platform's own tables.
enum Store {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Store {
    async fn open(platform: &Platform) -> Result<Self> {
        Ok(match platform.database_url() {
            None => {
                let options = SqliteConnectOptions::new().filename(platform.data_dir().join(FILE));
                Self::Sqlite(
                    SqliteConnection::connect_with(&options.busy_timeout(PATIENCE).disable_statement_logging()).await?,
                )
            }
            Some(url) => {
                let options: PgConnectOptions = url.parse()?;
                let options = options.options([("search_path", SCHEMA), ("mi.scope", "platform")]);
                // That copies are slow is no news.
                Self::Postgres(PgConnection::connect_with(&options.disable_statement_logging()).await?)
            }
        })
    }

    /// Gives the office copies of a task that it has.
    async fn multiply(&mut self, office: &str, task: &Task) -> Result {
        let (office, id) = (OfficeId::parse(office)?.0, TaskId::parse(&task.id)?.0);
        // What a UUIDv7 begins with: the milliseconds at which it was made.
        let start = i64::try_from(id.as_u128() >> 80)? - MANY;
        for from in (0..MANY).step_by(usize::try_from(COPIES)?) {
            let to = MANY.min(from + COPIES);
            let copied = match self {
                Self::Sqlite(db) => {
                    let copy = sqlx::query(COPY_SQLITE).bind(office).bind(id).bind(from).bind(to).bind(start);
                    copy.execute(db).await?.rows_affected()
                }
                Self::Postgres(db) => {
                    let copy = sqlx::query(COPY_POSTGRES).bind(office).bind(id).bind(from).bind(to).bind(start);
                    copy.execute(db).await?.rows_affected()
                }
            };
            if i64::try_from(copied)? != to - from {
                return Err(format!("{copied} copies were made of {}", to - from).into());
            }
        }
        let advanced = match self {
            Self::Sqlite(db) => sqlx::query(ADVANCE_SQLITE).bind(office).execute(db).await?.rows_affected(),
            Self::Postgres(db) => sqlx::query(ADVANCE_POSTGRES).bind(office).execute(db).await?.rows_affected(),
        };
        if advanced == 1 { Ok(()) } else { Err("the office has no queue".into()) }
    }
}
