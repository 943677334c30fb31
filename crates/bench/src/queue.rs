//! The task queue over gRPC, through the gateway: from creation to claim, and claims with completions by eight workers, one task
//! a call and fifty, or over a stream; and what processor time the platform and its database take for a task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mi_client::Client;
use mi_proto::v1::{
    BatchCompleteTasksRequest, BatchCreateTasksRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest,
    Task, WorkTasksRequest, work_tasks_request::Message, work_tasks_response::Answer,
};
use mi_testkit::{Backend, Platform};
use sqlx::{Connection, PgConnection};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::{
    Result,
    customer::{self, Customer},
    latency::Latency,
    proc,
    report::{Goal, Table},
};

pub(crate) const WORKERS: usize = 8;
const ROUNDS: usize = 5;
const LATENCIES: usize = 300;
/// Tasks of one round: single ones, and in batches.
const SINGLE: usize = 4000;
const BATCHED: usize = 20_000;
const BATCH: usize = 50;
/// Time for a claim to get to where it waits.
const SETTLE: Duration = Duration::from_millis(3);

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("queue");
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let platform = Platform::builder().backend(backend).start().await;
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), 100).await?;
        let keys = tempfile::tempdir()?;
        let mut workers = Vec::new();
        for number in 0..WORKERS {
            let key_file = keys.path().join(number.to_string());
            let agent = customer.join(&format!("worker-{number}"), &key_file).await?;
            // Each has a connection of its own.
            workers.push(customer::connect(platform.endpoint(), agent, &key_file)?);
        }
        let server = Server::of(&platform).await?;
        measure(&mut table, backend, (&customer, &workers), &server).await?;
    }
    Ok(table)
}

/// What is measured of throughput: how workers ask, and the processor time that a task may take, in microseconds.
const WAYS: [(How, usize, &str, Option<f64>); 6] = [
    (How::Calls, 1, "claim + complete, 8 workers, one task a call", None),
    (How::Next, 1, "complete that claims the next, 8 workers, one task a call", Some(150.0)),
    (How::Stream, 1, "8 streams of work, one task at a time", None),
    (How::Calls, BATCH, "claim + complete, 8 workers, 50 a call", None),
    (How::Next, BATCH, "complete that claims the next, 8 workers, 50 a call", Some(40.0)),
    (How::Stream, BATCH, "8 streams of work, 50 tasks at a time", None),
];

async fn measure(
    table: &mut Table,
    backend: Backend,
    (customer, workers): (&Customer, &[Client]),
    server: &Server,
) -> Result {
    let name = name_of(backend);
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    let mut ways: [(Vec<f64>, Vec<f64>); WAYS.len()] = Default::default();
    for _ in 0..ROUNDS {
        let latency = latencies(customer, &workers[0]).await?;
        p50.push(latency.millis(0.5));
        p99.push(latency.millis(0.99));
        for ((how, batch, ..), (speeds, costs)) in WAYS.iter().zip(&mut ways) {
            let tasks = if *batch == 1 { SINGLE } else { BATCHED };
            fill(customer, tasks).await?;
            let before = server.cpu_seconds()?;
            speeds.push(tasks as f64 / drain(customer, workers, (*how, *batch), tasks).await?);
            costs.push((server.cpu_seconds()? - before) * 1e6 / tasks as f64);
        }
    }
    table.goal(&format!("{name}: create -> claimed by a waiting agent, p50"), "ms", &p50, Goal::AtMost(4.0));
    table.goal(&format!("{name}: the same, p99"), "ms", &p99, Goal::AtMost(15.0));
    for ((_, _, what, goal), (speeds, costs)) in WAYS.iter().zip(&ways) {
        table.row(&format!("{name}: {what}"), "/s", speeds);
        let what = format!("{name}: the same, processor time a task, database included");
        match goal {
            Some(goal) => table.goal(&what, "us", costs, Goal::AtMost(*goal)),
            None => table.row(&what, "us", costs),
        }
    }
    Ok(())
}

/// The platform, and the server of its database.
struct Server {
    platform: u32,
    /// Its child processes serve connections.
    postgres: Option<u32>,
}

impl Server {
    async fn of(platform: &Platform) -> Result<Self> {
        let mut postgres = None;
        if let Some(url) = platform.database_url() {
            let mut conn = PgConnection::connect(url).await?;
            let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await?;
            postgres = Some(proc::parent(u32::try_from(backend)?)?);
        }
        Ok(Self { platform: platform.pid(), postgres })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let postgres = self.postgres.map(proc::cpu_seconds_of_family).transpose()?;
        Ok(proc::cpu_seconds(self.platform)? + postgres.unwrap_or_default())
    }
}

/// As tables call it.
pub(crate) fn name_of(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "SQLite",
        Backend::Postgres => "Postgres",
    }
}

pub(crate) fn task(customer: &Customer) -> CreateTaskRequest {
    CreateTaskRequest { office_id: customer.office.clone(), title: "bench".into(), ..Default::default() }
}

pub(crate) fn claim(customer: &Customer, most: usize, wait: i64) -> ClaimTasksRequest {
    ClaimTasksRequest {
        office_id: customer.office.clone(),
        max_tasks: i32::try_from(most).ok(),
        wait: Some(prost_types::Duration { seconds: wait, nanos: 0 }),
        ..Default::default()
    }
}

pub(crate) fn completion(customer: &Customer, task: Task) -> CompleteTaskRequest {
    CompleteTaskRequest {
        office_id: customer.office.clone(),
        task_id: task.id,
        lease_id: task.lease_id,
        result: "done".into(),
        ..Default::default()
    }
}

/// From a creation's start to the answer of the claim that waited for it.
async fn latencies(customer: &Customer, worker: &Client) -> Result<Latency> {
    let mut taken = Latency::new()?;
    for _ in 0..LATENCIES {
        let (request, worker) = (claim(customer, 1, 20), worker.clone());
        let waiting = tokio::spawn(async move {
            let answer = worker.tasks().claim_tasks(request).await;
            (answer, Instant::now())
        });
        tokio::time::sleep(SETTLE).await;
        let start = Instant::now();
        customer.client.tasks().create_task(task(customer)).await?;
        let (answer, end) = waiting.await?;
        taken.record(end - start);
        for task in answer?.into_inner().tasks {
            customer.client.tasks().complete_task(completion(customer, task)).await?;
        }
    }
    Ok(taken)
}

pub(crate) async fn fill(customer: &Customer, count: usize) -> Result {
    for start in (0..count).step_by(500) {
        let requests = (start..count.min(start + 500)).map(|_| task(customer)).collect();
        let request = BatchCreateTasksRequest { office_id: customer.office.clone(), requests };
        customer.client.tasks().batch_create_tasks(request).await?;
    }
    Ok(())
}

/// How a worker gets its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It claims some, and completes them.
    Calls,
    /// Its completions claim the next ones.
    Next,
    /// Over a stream.
    Stream,
}

/// Seconds until nothing is left of so many tasks.
async fn drain(customer: &Customer, workers: &[Client], (how, batch): (How, usize), tasks: usize) -> Result<f64> {
    let start = Instant::now();
    let mut working: JoinSet<Result> = JoinSet::new();
    let left = Arc::new((AtomicUsize::new(tasks), CancellationToken::new()));
    for worker in workers {
        let (customer, worker) = (customer.clone(), worker.clone());
        match how {
            How::Stream => working.spawn(stream(customer, worker, batch, left.clone())),
            How::Calls | How::Next => working.spawn(work(customer, worker, batch, how == How::Next)),
        };
    }
    while let Some(done) = working.join_next().await {
        done??;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Works on what a stream sends until nothing is left of all tasks.
async fn stream(
    customer: Customer,
    worker: Client,
    window: usize,
    left: Arc<(AtomicUsize, CancellationToken)>,
) -> Result {
    let (send, messages) = mpsc::channel(window + 1);
    let start = ClaimTasksRequest { wait: None, ..claim(&customer, window, 0) };
    send.send(WorkTasksRequest { message: Some(Message::Start(start)) }).await?;
    let mut answers = worker.tasks().work_tasks(ReceiverStream::new(messages)).await?.into_inner();
    let (count, end) = (&left.0, &left.1);
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?.ok_or("a stream of work ended by itself")?,
            () = end.cancelled() => return Ok(()),
        };
        match answer.answer {
            Some(Answer::Claimed(claimed)) => {
                for task in claimed.tasks {
                    send.send(WorkTasksRequest { message: Some(Message::Complete(completion(&customer, task))) })
                        .await?;
                }
            }
            Some(Answer::Reported(outcome)) if !outcome.reason.is_empty() => return Err(outcome.message.into()),
            Some(Answer::Reported(_)) => {
                let before = count.fetch_sub(1, Relaxed);
                if before == 1 {
                    end.cancel();
                }
            }
            None => {}
        }
    }
}

async fn work(customer: Customer, worker: Client, batch: usize, next: bool) -> Result {
    let mut claimed = Vec::new();
    loop {
        if claimed.is_empty() {
            claimed = worker.tasks().claim_tasks(claim(&customer, batch, 0)).await?.into_inner().tasks;
        }
        if claimed.is_empty() {
            return Ok(());
        }
        let claim_next = next.then(|| ClaimTasksRequest { wait: None, ..claim(&customer, batch, 0) });
        let mut requests: Vec<_> =
            std::mem::take(&mut claimed).into_iter().map(|task| completion(&customer, task)).collect();
        claimed = match (requests.len(), requests.pop()) {
            (1, Some(request)) => {
                let request = CompleteTaskRequest { claim_next, ..request };
                worker.tasks().complete_task(request).await?.into_inner().claimed
            }
            (_, last) => {
                requests.extend(last);
                let request = BatchCompleteTasksRequest { claim_next, office_id: customer.office.clone(), requests };
                let answer = worker.tasks().batch_complete_tasks(request).await?.into_inner();
                if let Some(refused) = answer.results.iter().find(|result| result.task.is_none()) {
                    return Err(refused.message.clone().into());
                }
                answer.claimed
            }
        };
    }
}
