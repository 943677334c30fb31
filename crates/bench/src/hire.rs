//! `hire`: from HireAgent to an agent that reports ready, one after the other and many at once, and what agents weigh.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::{TryStreamExt, future};
use mi_proto::v1::{AgentPhase, WatchAgentsRequest};
use mi_testkit::Platform;
use tokio::sync::mpsc;

use crate::{
    ROUNDS, Result,
    customer::Customer,
    latency::Latency,
    proc,
    report::{Goal, Table},
};

/// Hires of a round, one after the other.
const SEQUENTIAL: usize = 100;
/// Hires of a round at once, beside those.
const CROWD: usize = 200;
/// How long an agent may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the memory has had to settle when it is looked at.
const SETTLED: Duration = Duration::from_secs(2);

pub(crate) async fn run() -> Result<Table> {
    let (mut p50, mut p99, mut crowd) = (Vec::new(), Vec::new(), Vec::new());
    let mut rounds: Vec<Weight> = Vec::new();
    for _ in 0..ROUNDS {
        // A platform each: a round finds none of the agents and events of the one before.
        let mut platform = Platform::builder().start().await;
        let customer =
            Customer::open(platform.endpoint(), platform.admin_key(), i32::try_from(SEQUENTIAL + CROWD)?).await?;
        let mut running = Running::watch(&customer).await?;

        let mut hired = 0;
        let latency = Latency::of(SEQUENTIAL, async || {
            let name = format!("one-{hired}");
            hired += 1;
            customer.hire(&name).await?;
            running.wait(BTreeSet::from([name])).await
        })
        .await?;
        p50.push(latency.millis(0.5));
        p99.push(latency.millis(0.99));

        let names: BTreeSet<String> = (0..CROWD).map(|number| format!("many-{number}")).collect();
        let start = Instant::now();
        future::try_join_all(names.iter().map(|name| customer.hire(name))).await?;
        running.wait(names).await?;
        crowd.push(start.elapsed().as_secs_f64());

        tokio::time::sleep(SETTLED).await;
        rounds.push(Weight::of(platform.pid())?);
        drop((running, customer));
        platform.stop().await;
    }

    let weights = |pick: fn(&Weight) -> f64| rounds.iter().map(pick).collect::<Vec<_>>();
    let mut table = Table::new("hire");
    table.goal("HireAgent sent to Running seen, p50", "ms", &p50, Goal::AtMost(50.0));
    table.goal("HireAgent sent to Running seen, p99", "ms", &p99, Goal::AtMost(150.0));
    table.row(&format!("{CROWD} hired at once, all Running"), "s", &crowd);
    table.goal("VmRSS of an agent, the largest", "MB", &weights(|round| round.largest), Goal::AtMost(8.0));
    table.row("VmRSS of an agent, mean", "MB", &weights(|round| round.rss));
    table.row("RssAnon of an agent, mean", "MB", &weights(|round| round.anon));
    table.row("Pss of an agent, mean", "MB", &weights(|round| round.pss));
    table.row(
        &format!("VmRSS of the platform with {} agents", SEQUENTIAL + CROWD),
        "MB",
        &weights(|round| round.platform),
    );
    Ok(table)
}

/// Which agents were seen running.
struct Running(mpsc::UnboundedReceiver<String>);

impl Running {
    async fn watch(customer: &Customer) -> Result<Self> {
        let request = WatchAgentsRequest { office_id: customer.office.clone() };
        let mut changes = customer.client.agents().watch_agents(request).await?.into_inner();
        let (seen, names) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // Ends with the platform; whoever still waits for an agent hears of it by the closed channel.
            while let Ok(Some(change)) = changes.try_next().await {
                let agent = change.agent.unwrap_or_default();
                let phase = agent.status.map(|status| status.phase());
                if phase == Some(AgentPhase::Running) && seen.send(agent.name).is_err() {
                    return;
                }
            }
        });
        Ok(Self(names))
    }

    /// Waits until each of these was seen.
    async fn wait(&mut self, mut names: BTreeSet<String>) -> Result {
        while !names.is_empty() {
            let name = tokio::time::timeout(PATIENCE, self.0.recv()).await;
            let name = name.map_err(|_| format!("{} agents do not get to Running", names.len()))?;
            names.remove(&name.ok_or("WatchAgents ended")?);
        }
        Ok(())
    }
}

/// Memory of a platform and its agents, in MB.
struct Weight {
    platform: f64,
    largest: f64,
    rss: f64,
    anon: f64,
    pss: f64,
}

impl Weight {
    fn of(platform: u32) -> Result<Self> {
        let agents = proc::children(platform)?.into_iter().map(proc::memory_of_family).collect::<Result<Vec<_>>>()?;
        if agents.len() != SEQUENTIAL + CROWD {
            return Err(format!("{} processes of {} agents", agents.len(), SEQUENTIAL + CROWD).into());
        }
        let mean = |pick: fn(&proc::Memory) -> f64| agents.iter().map(pick).sum::<f64>() / agents.len() as f64;
        Ok(Self {
            platform: proc::memory(platform)?.rss,
            largest: agents.iter().map(|agent| agent.rss).fold(0.0, f64::max),
            rss: mean(|agent| agent.rss),
            anon: mean(|agent| agent.anon),
            pss: mean(|agent| agent.pss),
        })
    }
}
