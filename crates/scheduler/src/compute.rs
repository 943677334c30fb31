//! Charges offices for the time for which their agents run here: once a minute, by one process.
//!
//! What was charged is known to the office role, agent by agent. The scheduler sends the monotonic time since its last complete
//! round as `at_most`: time that nobody saw, since no process led, a clock was put forward or the machine slept, is not charged.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use mi_kernel::{AgentId, OfficeId, Result};
use mi_proto::internal::v1::{ChargeComputeRequest, RunningAgent, Spender};
use mi_rpc::{convert::timestamp, status::from_status};
use mi_store::{DbResult, FromRow, PlatformConn, all, lease::Lease};
use tokio::time::Instant;

use crate::{Scheduler, agents::State};

/// How often is charged.
const INTERVAL: Duration = Duration::from_secs(60);
/// The longest that is made up for after charging failed.
const MOST: Duration = Duration::from_secs(300);
/// Of several schedulers over one database one charges. Two at once would charge nothing twice: the office role knows until
/// when each agent was charged for.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How often it is looked who charges.
const LOOK: Duration = Duration::from_secs(10);
/// Offices that are charged at the same time.
const CONCURRENCY: usize = 8;
/// Agents of one request, and of one read.
const PAGE: usize = 1000;

/// An agent that runs here.
#[derive(FromRow)]
struct Row {
    id: AgentId,
    office_id: OfficeId,
    name: String,
    #[sqlx(json)]
    lineage: Vec<AgentId>,
    #[sqlx(json)]
    state: State,
}

impl Row {
    fn to_wire(&self) -> Option<RunningAgent> {
        let State::Running { since, .. } = self.state else { return None };
        let spender = Spender {
            agent_id: self.id.to_string(),
            agent: self.name.clone(),
            lineage: self.lineage.iter().map(ToString::to_string).collect(),
        };
        Some(RunningAgent { spender: Some(spender), since: Some(timestamp(since)) })
    }
}

/// Agents that run here after this one, at most so many. Spans offices: one process charges all of them.
async fn running_after(
    conn: &mut PlatformConn,
    (office, agent): (OfficeId, AgentId),
    limit: i64,
) -> DbResult<Vec<Row>> {
    // As the index of them says it.
    let sql = conn.pick(
        "SELECT id, office_id, name, lineage, state FROM agents WHERE phase = 'running' AND external = 0
         AND (office_id, id) > ($1, $2) ORDER BY office_id, id LIMIT $3",
        "SELECT id, office_id, name, lineage, state FROM agents WHERE phase = 'running' AND NOT external
         AND (office_id, id) > ($1, $2) ORDER BY office_id, id LIMIT $3",
    );
    all!(conn, sql, office, agent, limit)
}

/// Charges until it is dropped.
pub(crate) async fn run(scheduler: Arc<Scheduler>, lease: Lease) {
    // Since when this process has charged for everything, and when it is to do so again.
    let (mut since, mut due) = (None::<Instant>, Instant::now());
    loop {
        let begun = Instant::now();
        match lease.held().await {
            Ok(true) if begun < due => {}
            Ok(true) => {
                due = begun + INTERVAL;
                match scheduler.charge_compute(since.map_or(Duration::ZERO, |since| begun - since)).await {
                    Ok(()) => since = Some(begun),
                    Err(error) => {
                        tracing::warn!(target: "mi::scheduler", error = %error.chain(), "compute is not charged yet; the next round makes up for it");
                    }
                }
            }
            // What it missed is another one's, and its first round is when it has the lease.
            Ok(false) => (since, due) = (None, begun),
            Err(error) => tracing::warn!(target: "mi::scheduler", %error, "who charges for compute could not be read"),
        }
        tokio::time::sleep_until(begun + LOOK).await;
    }
}

impl Scheduler {
    /// Charges every office for its agents that run here, for no more than so long.
    pub(crate) async fn charge_compute(&self, at_most: Duration) -> Result<()> {
        if at_most.is_zero() {
            return Ok(());
        }
        let (until, at_most) = (self.clock.now(), at_most.min(MOST));
        let at_most = prost_types::Duration::try_from(at_most).unwrap_or_default();
        let (mut after, mut failed) = ((OfficeId::MIN, AgentId::MIN), None);
        loop {
            let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
            let page = running_after(&mut self.db.platform().read().await?, after, limit).await?;
            let Some(last) = page.last() else { return failed.map_or(Ok(()), Err) };
            after = (last.office_id, last.id);
            let requests =
                page.chunk_by(|one, next| one.office_id == next.office_id).map(|agents| ChargeComputeRequest {
                    office_id: agents[0].office_id.to_string(),
                    until: Some(timestamp(until)),
                    at_most: Some(at_most),
                    agents: agents.iter().filter_map(Row::to_wire).collect(),
                });
            let requests: Vec<_> = requests.filter(|request| !request.agents.is_empty()).collect();
            let mut charged = stream::iter(requests)
                .map(|request| {
                    let mut metering = self.metering.clone();
                    async move { metering.charge_compute(request).await }
                })
                .buffer_unordered(CONCURRENCY);
            while let Some(outcome) = charged.next().await {
                match outcome {
                    // An office that is gone owes nothing any more.
                    Err(status) if status.code() != tonic::Code::NotFound => failed = Some(from_status(&status)),
                    _ => {}
                }
            }
        }
    }
}
