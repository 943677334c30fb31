//! What is cleared away in the background. Nothing here waits for anything else here.

use std::{sync::Arc, time::Duration};

use mi_base::sweep::{self, Removals};
use mi_kernel::{Result, Time};
use mi_store::{idempotency, lease::Lease};

use crate::{
    Scheduler,
    agents::{invite_redemptions::redemption_sweep, roster_changes},
};

/// How often hidden backups are looked for: one look at an index.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often what is old is forgotten: request ids, redemptions of invites, changes of agents.
const FORGETTING: Duration = Duration::from_secs(3600);
/// Of several schedulers over one database one clears away. Two at once would be slow, not wrong.
pub(crate) const LEASE: Duration = Duration::from_secs(150);

/// Sweeps until it is dropped.
pub(crate) async fn run(scheduler: Arc<Scheduler>, lease: Lease) {
    let mut forgotten = None;
    loop {
        let now = scheduler.clock.now();
        note("backups", scheduler.sweep_backups(&lease).await);
        if forgotten.is_none_or(|last| now >= last + FORGETTING) {
            note("what is old", scheduler.forget_old(&lease, now).await);
            forgotten = Some(now);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn note(what: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(target: "mi::scheduler", what, error = %error.chain(), "not cleared away; the next round tries again");
    }
}

impl Scheduler {
    /// Finishes the removal of hidden backups.
    pub(crate) async fn sweep_backups(&self, lease: &Lease) -> Result<()> {
        let now = self.clock.now();
        if self.due(now, 1).await?.is_empty() || !lease.held().await? {
            return Ok(());
        }
        sweep::sweep("backups", self, now).await
    }

    /// Forgets old request ids, old redemptions of invites, and whose agents changed long ago.
    async fn forget_old(&self, lease: &Lease, now: Time) -> Result<()> {
        if lease.held().await? {
            idempotency::sweep(&self.db, now).await?;
            redemption_sweep(&self.db, now).await?;
            roster_changes::forget_old(&self.db).await?;
        }
        Ok(())
    }
}
