//! `offices`: the load of eight workers on the queue of one office, and spread over those of a thousand, on one platform in turns.

use std::time::{Duration, Instant};

use mi_client::Client;
use mi_testkit::{Backend, Platform};
use tokio::task::JoinSet;

use crate::{
    Result,
    compare::paired,
    customer::{self, Customer},
    queue::{WORKERS, claim, completion, fill, name_of},
    report::{Goal, Table},
};

/// Offices of each worker: a thousand in all.
const OFFICES: usize = 125;
/// Tasks of one round in each of the offices, and as many in all in the one.
const TASKS: usize = 4;
const ROUNDS: usize = 5;
/// Between two agents that join: who has no key yet may do that 50 times a second.
const APART: Duration = Duration::from_millis(25);

/// An office, and an agent at work in it.
#[derive(Clone)]
struct Desk {
    customer: Customer,
    worker: Client,
}

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("offices");
    for backend in [Backend::Sqlite, Backend::Postgres] {
        // Each office of an account gets credits of its own.
        let platform = Platform::builder().backend(backend).arg("--account-credits=100000").start().await;
        let keys = tempfile::tempdir()?;
        let mut number = 0;
        let mut open = async |customer: &Customer, connection: Option<&Client>| {
            number += 1;
            tokio::time::sleep(APART).await;
            let key_file = keys.path().join(number.to_string());
            let agent = customer.join(&format!("worker-{number}"), &key_file).await?;
            let worker = match connection {
                None => customer::connect(platform.endpoint(), agent, &key_file)?,
                Some(connection) => customer::on(connection, agent, &key_file)?,
            };
            Ok::<_, crate::Error>(Desk { customer: customer.clone(), worker })
        };
        let only = Customer::open(platform.endpoint(), platform.admin_key(), 100).await?;
        let (mut one, mut spread) = (Vec::new(), Vec::new());
        for _ in 0..WORKERS {
            one.push(vec![open(&only, None).await?]);
            // An account, a connection and offices of its own.
            let first = Customer::open(platform.endpoint(), platform.admin_key(), 10).await?;
            let mut desks = vec![open(&first, None).await?];
            while desks.len() < OFFICES {
                let another = first.another_office(10).await?;
                desks.push(open(&another, Some(&desks[0].worker)).await?);
            }
            spread.push(desks);
        }
        let (mut speeds_of_one, mut speeds_of_spread) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            fill(&only, WORKERS * OFFICES * TASKS).await?;
            speeds_of_one.push(drain(&one, OFFICES * TASKS).await?);
            for desk in spread.iter().flatten() {
                fill(&desk.customer, TASKS).await?;
            }
            speeds_of_spread.push(drain(&spread, OFFICES * TASKS).await?);
        }
        let name = name_of(backend);
        table.row(&format!("{name}: claim + complete, 8 workers, one office"), "/s", &speeds_of_one);
        table.row(&format!("{name}: the same, spread over 1,000 offices"), "/s", &speeds_of_spread);
        let ratio = paired(&(speeds_of_spread, speeds_of_one), |spread, one| spread / one);
        table.goal(&format!("{name}: of one office"), "x", &ratio, Goal::AtLeast(0.8));
    }
    Ok(table)
}

/// Tasks a second, of workers that each do so many, one after the other, in their offices in turns.
async fn drain(workers: &[Vec<Desk>], tasks: usize) -> Result<f64> {
    let start = Instant::now();
    let mut working: JoinSet<Result> = JoinSet::new();
    for desks in workers {
        let desks = desks.clone();
        working.spawn(async move {
            for Desk { customer, worker } in desks.iter().cycle().take(tasks) {
                let claimed = worker.tasks().claim_tasks(claim(customer, 1, 0)).await?.into_inner().tasks;
                let task = claimed.into_iter().next().ok_or("a claim found nothing in a queue with tasks")?;
                worker.tasks().complete_task(completion(customer, task)).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = working.join_next().await {
        done??;
    }
    Ok((workers.len() * tasks) as f64 / start.elapsed().as_secs_f64())
}
