//! The task queue over gRPC, through the gateway: from creation to claim, and claims with completions by eight workers,
//! one task a call and fifty.

use std::time::{Duration, Instant};

use mi_client::Client;
use mi_proto::v1::{
    BatchCompleteTasksRequest, BatchCreateTasksRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, Task,
};
use mi_testkit::{Backend, Platform};
use tokio::task::JoinSet;

use crate::{
    Result,
    customer::{self, Customer},
    latency::Latency,
    report::{Goal, Table},
};

const WORKERS: usize = 8;
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
        measure(&mut table, backend, &customer, &workers).await?;
    }
    Ok(table)
}

async fn measure(table: &mut Table, backend: Backend, customer: &Customer, workers: &[Client]) -> Result {
    let name = name_of(backend);
    let (mut p50, mut p99, mut single, mut batched) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut next, mut next_batched) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let latency = latencies(customer, &workers[0]).await?;
        p50.push(latency.millis(0.5));
        p99.push(latency.millis(0.99));
        fill(customer, SINGLE).await?;
        single.push(SINGLE as f64 / drain(customer, workers, 1, false).await?);
        fill(customer, SINGLE).await?;
        next.push(SINGLE as f64 / drain(customer, workers, 1, true).await?);
        fill(customer, BATCHED).await?;
        batched.push(BATCHED as f64 / drain(customer, workers, BATCH, false).await?);
        fill(customer, BATCHED).await?;
        next_batched.push(BATCHED as f64 / drain(customer, workers, BATCH, true).await?);
    }
    table.goal(&format!("{name}: create -> claimed by a waiting agent, p50"), "ms", &p50, Goal::AtMost(4.0));
    table.goal(&format!("{name}: the same, p99"), "ms", &p99, Goal::AtMost(15.0));
    table.row(&format!("{name}: claim + complete, 8 workers, one task a call"), "/s", &single);
    table.row(&format!("{name}: complete that claims the next, 8 workers, one task a call"), "/s", &next);
    table.row(&format!("{name}: claim + complete, 8 workers, 50 a call"), "/s", &batched);
    table.row(&format!("{name}: complete that claims the next, 8 workers, 50 a call"), "/s", &next_batched);
    Ok(())
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

/// Seconds until nothing is left. `next`: each report claims what comes next.
async fn drain(customer: &Customer, workers: &[Client], batch: usize, next: bool) -> Result<f64> {
    let start = Instant::now();
    let mut working: JoinSet<Result> = JoinSet::new();
    for worker in workers {
        working.spawn(work(customer.clone(), worker.clone(), batch, next));
    }
    while let Some(done) = working.join_next().await {
        done??;
    }
    Ok(start.elapsed().as_secs_f64())
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
