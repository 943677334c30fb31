//! `idle`: what agents cost that have nothing to do: processor time of theirs and of the platform, calls, and what is
//! written to the database. Long enough that each agent's call for work ends unanswered and is made again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mi_proto::v1::{AgentPhase, GetOfficeStatusRequest};
use mi_testkit::{Backend, Platform, until};

use crate::{
    Result,
    customer::Customer,
    metrics::Metrics,
    proc,
    queue::name_of,
    report::{Goal, Table},
    writes::Writes,
};

const AGENTS: usize = 20;
/// Together longer than the four minutes for which an agent's call for work waits.
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(60);
/// How long agents may take to have nothing to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long Postgres may take to count what a connection wrote that has nothing to do since.
const COUNTED: Duration = Duration::from_secs(11);
/// Transactions a minute in which heartbeats are written: one in ten seconds, of however many agents.
const BATCHES: f64 = 6.0;
/// Labels and names of metrics: calls that ended, as the gateway counts them.
const GATEWAY: &str = r#"role="gateway""#;
const ENDED: &str = "mi_rpc_duration_seconds_count";

pub(crate) async fn run() -> Result<Table> {
    // Side by side: processor time and writes are counted, which takes no quiet machine.
    let mut sites = [Site::start(Backend::Sqlite).await?, Site::start(Backend::Postgres).await?];
    tokio::time::sleep(COUNTED).await;
    let empty = watch(&mut sites).await?;
    for site in &sites {
        site.hire().await?;
    }
    tokio::time::sleep(COUNTED).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(watch(&mut sites).await?);
    }
    let mut table = Table::new("idle");
    for (place, site) in sites.iter().enumerate() {
        let busy: Vec<&Sample> = rounds.iter().map(|round| &round[place]).collect();
        report(&mut table, site.backend, &empty[place], &busy);
    }
    Ok(table)
}

fn report(table: &mut Table, backend: Backend, empty: &Sample, rounds: &[&Sample]) {
    let name = name_of(backend);
    let all = |pick: &dyn Fn(&Sample) -> f64| rounds.iter().map(|round| pick(round)).collect::<Vec<f64>>();
    let mean = |round: &Sample| round.agents.iter().sum::<f64>() / round.agents.len() as f64;
    let largest = |round: &Sample| round.agents.iter().copied().fold(0.0, f64::max);
    table.goal(&format!("{name}: processor of an agent, mean"), "% of a core", &all(&mean), Goal::AtMost(0.1));
    table.row(&format!("{name}: processor of an agent, the largest"), "% of a core", &all(&largest));
    table.row(&format!("{name}: processor of the platform without agents"), "% of a core", &[empty.platform]);
    table.row(&format!("{name}: the same with {AGENTS}"), "% of a core", &all(&|round| round.platform));
    table.row(&format!("{name}: calls ended, of each agent"), "/min", &all(&|round| round.calls / AGENTS as f64));
    let added = all(&|round| round.transactions - empty.transactions);
    let unit = match backend {
        Backend::Sqlite => {
            table.row(&format!("{name}: transactions that write, without agents"), "/min", &[empty.transactions]);
            table.goal(&format!("{name}: the same, added by {AGENTS} agents"), "/min", &added, Goal::AtMost(BATCHES));
            "pages/min"
        }
        // Its own ones among them: they keep statistics of the tables.
        Backend::Postgres => {
            let without = &[empty.transactions];
            table.row(&format!("{name}: transactions of the whole server that write, without agents"), "/min", without);
            table.row(&format!("{name}: the same, added by {AGENTS} agents"), "/min", &added);
            "rows/min"
        }
    };
    for written in rounds.iter().flat_map(|round| round.tables.keys()).collect::<BTreeSet<_>>() {
        let count = |sample: &Sample| sample.tables.get(written).copied().unwrap_or_default();
        let without = count(empty);
        table.row(&format!("{name}: written to {written}; {without:.0} without agents"), unit, &all(&count));
    }
}

/// What one minute was like.
struct Sample {
    /// Of each agent, in % of a core.
    agents: Vec<f64>,
    platform: f64,
    calls: f64,
    transactions: f64,
    /// What was written, by table.
    tables: BTreeMap<String, f64>,
}

async fn watch(sites: &mut [Site]) -> Result<Vec<Sample>> {
    let mut before = Vec::new();
    for site in &mut *sites {
        before.push(site.mark().await?);
    }
    tokio::time::sleep(SPAN).await;
    let mut samples = Vec::new();
    for (site, before) in sites.iter_mut().zip(before) {
        samples.push(site.since(before).await?);
    }
    Ok(samples)
}

/// What is counted, at one time.
struct Mark {
    time: Instant,
    /// Seconds of each agent's first process.
    agents: BTreeMap<u32, f64>,
    platform: f64,
    calls: f64,
}

/// A platform with agents.
struct Site {
    backend: Backend,
    platform: Platform,
    customer: Customer,
    writes: Writes,
}

impl Site {
    async fn start(backend: Backend) -> Result<Self> {
        let platform = Platform::builder().backend(backend).start().await;
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), i32::try_from(AGENTS)?).await?;
        let writes = Writes::open(&platform).await?;
        Ok(Self { backend, platform, customer, writes })
    }

    /// Hires all agents and waits until they have nothing to do.
    async fn hire(&self) -> Result {
        for number in 0..AGENTS {
            self.customer.hire(&format!("idle-{number}")).await?;
        }
        let office_id = &self.customer.office;
        until("all agents are running", PATIENCE, async || {
            let request = GetOfficeStatusRequest { office_id: office_id.clone() };
            let answer = self.customer.client.offices().get_office_status(request).await?.into_inner();
            let counts = answer.status.unwrap_or_default().agents;
            let running = counts.iter().find(|count| count.phase() == AgentPhase::Running);
            let all = running.is_some_and(|running| usize::try_from(running.count) == Ok(AGENTS));
            Ok::<_, tonic::Status>(all.then_some(()))
        })
        .await;
        // An agent calls for work as it says its last line; the stream that carries the line ends five seconds later.
        until("all agents wait for work", PATIENCE, async || {
            let metrics = Metrics::read(self.platform.metrics_endpoint()).await?;
            let sessions =
                metrics.sum("mi_rpc_open_streams", &[GATEWAY, r#"method="/mi.v1.AgentService/ConnectAgent""#]);
            let lines = &[GATEWAY, r#"method="/mi.v1.LogService/AppendLogs""#];
            let (open, ended) = (metrics.sum("mi_rpc_open_streams", lines), metrics.sum(ENDED, lines));
            let waiting = sessions >= AGENTS as f64 && open < 1.0 && ended >= AGENTS as f64;
            Ok::<_, crate::Error>(waiting.then_some(()))
        })
        .await;
        Ok(())
    }

    async fn mark(&mut self) -> Result<Mark> {
        self.writes.begin().await?;
        self.counted().await
    }

    async fn counted(&self) -> Result<Mark> {
        let agents = proc::children(self.platform.pid())?;
        Ok(Mark {
            time: Instant::now(),
            agents: agents
                .into_iter()
                .map(|pid| Ok((pid, proc::cpu_seconds_of_family(pid)?)))
                .collect::<Result<_>>()?,
            platform: proc::cpu_seconds(self.platform.pid())?,
            calls: Metrics::read(self.platform.metrics_endpoint()).await?.sum(ENDED, &[GATEWAY]),
        })
    }

    async fn since(&mut self, before: Mark) -> Result<Sample> {
        let after = self.counted().await?;
        let written = self.writes.since().await?;
        let took = (after.time - before.time).as_secs_f64();
        if !after.agents.keys().eq(before.agents.keys()) {
            return Err("an agent was started again meanwhile".into());
        }
        let share = |after: f64, before: f64| 100.0 * (after - before) / took;
        let a_minute = |count: f64| count * 60.0 / took;
        Ok(Sample {
            agents: after.agents.values().zip(before.agents.values()).map(|(a, b)| share(*a, *b)).collect(),
            platform: share(after.platform, before.platform),
            calls: a_minute(after.calls - before.calls),
            transactions: a_minute(written.transactions as f64),
            tables: written.tables.into_iter().map(|(table, count)| (table, a_minute(count as f64))).collect(),
        })
    }
}
