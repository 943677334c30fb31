//! `list`: a page of an office with 10,000 agents, at the beginning and in the middle.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use mi_proto::v1::{AgentPhase, GetOfficeStatusRequest, ListAgentsRequest, SuspendOfficeRequest};
use mi_testkit::until;

use crate::{
    ROUNDS, Result,
    compose::Composition,
    customer::Customer,
    latency::Latency,
    report::{Goal, Table},
};

/// What an office may have at most.
const AGENTS: i32 = 10_000;
const PAGE: i32 = 50;
/// Hires open at once.
const CONCURRENT: usize = 16;
/// Pages of a round.
const CALLS: usize = 300;
/// How long suspending the office may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn run() -> Result<Table> {
    let platform = Composition::start().await?;
    let customer = Customer::open(&platform.endpoint, platform.admin_key.expose(), AGENTS).await?;
    let start = Instant::now();
    let hires = stream::iter(0..AGENTS).map(|number| {
        let customer = &customer;
        async move { customer.hire(&format!("agent-{number:05}")).await }
    });
    hires.buffer_unordered(CONCURRENT).try_collect::<()>().await?;
    let per_second = f64::from(AGENTS) / start.elapsed().as_secs_f64();
    suspend(&customer).await?;

    let mut middle = String::new();
    for _ in 0..AGENTS / PAGE / 2 {
        middle = page(&customer, &middle).await?;
    }
    let (mut first, mut later) = (Percentiles::default(), Percentiles::default());
    for _ in 0..ROUNDS {
        first.push(&Latency::of(CALLS, async || page(&customer, "").await.map(drop)).await?);
        later.push(&Latency::of(CALLS, async || page(&customer, &middle).await.map(drop)).await?);
    }
    drop(customer);
    platform.stop().await?;

    let mut table = Table::new("list");
    table.goal("first page, p50", "ms", &first.p50, Goal::AtMost(2.0));
    table.row("first page, p99", "ms", &first.p99);
    table.goal("page in the middle, p50", "ms", &later.p50, Goal::AtMost(2.0));
    table.row("page in the middle, p99", "ms", &later.p99);
    table.row("HireAgent, 16 at once, with a runtime in memory", "calls/s", &[per_second]);
    Ok(table)
}

/// Puts all agents to rest: the runtime in memory has no agents that report, so starts would be tried again and again.
async fn suspend(customer: &Customer) -> Result {
    let office_id = customer.office.clone();
    customer.client.offices().suspend_office(SuspendOfficeRequest { office_id }).await?;
    until("the agents are suspended", PATIENCE, async || {
        let office_id = customer.office.clone();
        let answer = customer.client.offices().get_office_status(GetOfficeStatusRequest { office_id }).await?;
        let counts = answer.into_inner().status.unwrap_or_default().agents;
        let all = counts.iter().any(|count| count.phase() == AgentPhase::Suspended && count.count == AGENTS);
        Ok::<_, tonic::Status>(all.then_some(()))
    })
    .await;
    Ok(())
}

/// Reads a page and returns the token of the next.
async fn page(customer: &Customer, token: &str) -> Result<String> {
    let request =
        ListAgentsRequest { office_id: customer.office.clone(), page_size: Some(PAGE), page_token: token.to_owned() };
    let page = customer.client.agents().list_agents(request).await?.into_inner();
    match i32::try_from(page.agents.len())? == PAGE {
        true => Ok(page.next_page_token),
        false => Err(format!("a page of {} agents", page.agents.len()).into()),
    }
}

/// Milliseconds, one of each a round.
#[derive(Default)]
struct Percentiles {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Percentiles {
    fn push(&mut self, latency: &Latency) {
        self.p50.push(latency.millis(0.5));
        self.p99.push(latency.millis(0.99));
    }
}
