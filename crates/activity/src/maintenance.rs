//! The slow jobs: compaction, retention, sweeping.

use std::{sync::Arc, time::Duration};

use mi_kernel::{Clock, Result, Time};
use mi_store::{Db, lease};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::{feed::Feed, logs::Logs};

/// How often tails are looked at.
const COMPACTION: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(600);
/// A sweep lists every segment there is.
const SWEEP: Duration = Duration::from_secs(24 * 3600);
/// The lease saves work: of several replicas one does the jobs. Two at once would be slow, not wrong.
const LEASE: Duration = Duration::from_secs(60);
/// How long a lease is relied on: nothing is written for it in each round of an idle platform.
const RENEWAL: Duration = Duration::from_secs(30);

/// Runs the slow jobs.
pub(crate) struct Maintenance {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) feed: Feed,
    pub(crate) logs: Logs,
    pub(crate) retention_age: Duration,
    pub(crate) retention_bytes: u64,
}

impl Maintenance {
    /// For ever; ends only by cancellation. A round that fails is repeated at the next tick.
    pub(crate) async fn run(self) {
        let holder = Uuid::now_v7().to_string();
        let (mut held, mut retained, mut swept) = (None, None, None);
        let mut tick = tokio::time::interval(COMPACTION);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.round(&holder, &mut held, &mut retained, &mut swept).await {
                tracing::warn!(target: "mi::activity", error = %error.chain(), "maintenance is put off");
            }
        }
    }

    async fn round(
        &self,
        holder: &str,
        held: &mut Option<Time>,
        retained: &mut Option<Time>,
        swept: &mut Option<Time>,
    ) -> Result<()> {
        let now = self.clock.now();
        let due = |last: &Option<Time>, every: Duration| last.is_none_or(|last| now >= last + every);
        // A database of this process alone needs no lease.
        if self.db.is_shared() && due(held, RENEWAL) {
            *held = None;
            if !lease::hold(&self.db, "maintenance", holder, now, LEASE).await? {
                return Ok(());
            }
            *held = Some(now);
        }
        self.logs.compact().await?;
        if due(retained, RETENTION) {
            self.feed.retain().await?;
            self.logs.retain(self.retention_age, self.retention_bytes).await?;
            *retained = Some(now);
        }
        if due(swept, SWEEP) {
            self.logs.sweep().await?;
            *swept = Some(now);
        }
        Ok(())
    }
}
