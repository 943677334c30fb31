//! The same calls against two servers, in alternating rounds: one stream for latency, many for throughput.

use std::time::{Duration, Instant};

use mi_client::{Client, Credential};
use mi_proto::v1::GetAgentRequest;
use tokio::task::JoinSet;
use tonic::Status;

use crate::{ROUNDS, Result, customer::Customer, latency::Latency};

/// Name of the agent that is read.
pub(crate) const AGENT: &str = "reader";
/// Calls of a round, one after the other.
const CALLS: usize = 2000;
const CONNECTIONS: usize = 8;
/// Calls open at once on each connection.
const STREAMS: usize = 32;
/// How long a round counts the calls of all streams.
const SPAN: Duration = Duration::from_secs(2);

/// One caller that reads one agent over and over.
#[derive(Clone)]
struct Reader {
    agents: mi_client::Agents,
    request: GetAgentRequest,
}

impl Reader {
    fn new(connection: &Client, customer: &Customer) -> Result<Self> {
        let client = connection.with_credential(Credential::ApiKey(customer.key.clone()))?;
        Ok(Self {
            agents: client.agents(),
            request: GetAgentRequest { office_id: customer.office.clone(), name: AGENT.into() },
        })
    }

    async fn call(&mut self) -> Result<(), Status> {
        self.agents.get_agent(self.request.clone()).await.map(drop)
    }
}

/// One server and its callers.
pub(crate) struct Side {
    single: Reader,
    many: Vec<Reader>,
}

impl Side {
    /// Callers of the server at this URL. The streams are dealt out to the customers, as each may call only so often.
    pub(crate) fn new(endpoint: &str, customers: &[Customer]) -> Result<Self> {
        let connect = || Client::connect(endpoint, Credential::None);
        let connections = (0..CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;
        let many = connections.iter().cycle().zip(customers.iter().cycle());
        let many = many.take(CONNECTIONS * STREAMS).map(|(connection, customer)| Reader::new(connection, customer));
        let first = customers.first().ok_or("nobody to call as")?;
        Ok(Self { single: Reader::new(&connect()?, first)?, many: many.collect::<Result<_>>()? })
    }

    async fn measure(&self) -> Result<Sample> {
        let mut single = self.single.clone();
        let latency = Latency::of(CALLS, async || Ok(single.call().await?)).await?;
        Ok(Sample { p50: latency.micros(0.5), p99: latency.micros(0.99), per_second: self.throughput().await? })
    }

    async fn throughput(&self) -> Result<f64> {
        let start = Instant::now();
        let mut streams = JoinSet::new();
        for mut reader in self.many.iter().cloned() {
            streams.spawn(async move {
                let mut calls = 0_u32;
                while start.elapsed() < SPAN {
                    reader.call().await?;
                    calls += 1;
                }
                Ok::<_, Status>(calls)
            });
        }
        let mut calls = 0;
        while let Some(stream) = streams.join_next().await {
            calls += stream??;
        }
        Ok(f64::from(calls) / start.elapsed().as_secs_f64())
    }
}

/// What one side measured in one round: microseconds, and calls a second.
#[derive(Debug, Clone, Copy)]
struct Sample {
    p50: f64,
    p99: f64,
    per_second: f64,
}

/// What both sides measured, round by round.
pub(crate) struct Comparison(Vec<(Sample, Sample)>);

impl Comparison {
    /// Measures both sides in turns; who goes first changes with each round.
    pub(crate) async fn run(ours: &Side, theirs: &Side) -> Result<Self> {
        // Warms connections and caches.
        ours.measure().await?;
        theirs.measure().await?;
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                let own = ours.measure().await?;
                rounds.push((own, theirs.measure().await?));
            } else {
                let other = theirs.measure().await?;
                rounds.push((ours.measure().await?, other));
            }
        }
        Ok(Self(rounds))
    }

    /// Median latencies of ours and theirs.
    pub(crate) fn p50(&self) -> (Vec<f64>, Vec<f64>) {
        self.0.iter().map(|(ours, theirs)| (ours.p50, theirs.p50)).unzip()
    }

    /// 99th percentiles of ours and theirs.
    pub(crate) fn p99(&self) -> (Vec<f64>, Vec<f64>) {
        self.0.iter().map(|(ours, theirs)| (ours.p99, theirs.p99)).unzip()
    }

    /// Calls a second of ours and theirs.
    pub(crate) fn per_second(&self) -> (Vec<f64>, Vec<f64>) {
        self.0.iter().map(|(ours, theirs)| (ours.per_second, theirs.per_second)).unzip()
    }
}

/// Each round's pair as one number.
pub(crate) fn paired((ours, theirs): &(Vec<f64>, Vec<f64>), join: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(own, other)| join(*own, *other)).collect()
}
