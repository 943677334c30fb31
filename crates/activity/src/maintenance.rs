//! The slow jobs: compaction, retention, sweeping.

use std::{sync::Arc, time::Duration};

use mi_kernel::{Clock, Result};
use mi_store::lease::Lease;
use tokio::time::MissedTickBehavior;

use crate::{feed::Feed, logs::Logs};

/// How often tails are looked at.
const COMPACTION: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(600);
/// A sweep lists every segment there is.
const SWEEP: Duration = Duration::from_secs(24 * 3600);
/// How long after a failure a job is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// The lease saves work: of several replicas one does the jobs. Two at once would be slow, not wrong.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// Runs the slow jobs.
pub(crate) struct Maintenance {
    pub(crate) lease: Lease,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) feed: Feed,
    pub(crate) logs: Logs,
    pub(crate) retention_age: Duration,
    pub(crate) retention_bytes: u64,
}

impl Maintenance {
    /// For ever; ends only by cancellation. A job that fails is tried again soon, and is in the way of no other.
    pub(crate) async fn run(self) {
        let now = self.clock.now();
        let (mut retain_at, mut sweep_at) = (now, now);
        let mut tick = tokio::time::interval(COMPACTION);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = self.clock.now();
            match self.lease.held().await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    note("the lease", Err(error.into()));
                    continue;
                }
            }
            note("compaction", self.logs.compact().await);
            if now >= retain_at {
                let events = note("retention of events", self.feed.retain().await);
                let logs = note("retention of logs", self.logs.retain(self.retention_age, self.retention_bytes).await);
                retain_at = now + if events && logs { RETENTION } else { RETRY };
            }
            if now >= sweep_at {
                let swept = note("the sweep of logs", self.logs.sweep().await);
                sweep_at = now + if swept { SWEEP } else { RETRY };
            }
        }
    }
}

/// Whether a job came to its end.
fn note(what: &str, outcome: Result<()>) -> bool {
    if let Err(error) = &outcome {
        tracing::warn!(target: "mi::activity", what, error = %error.chain(), "maintenance is put off");
    }
    outcome.is_ok()
}
