//! What is cleared away in the background. Nothing here waits for anything else here.

use std::{sync::Arc, time::Duration};

use mi_base::sweep::{self, Removals};
use mi_kernel::Result;
use mi_store::{idempotency, lease};

use crate::{Scheduler, agents::invite_redemptions::redemption_sweep};

/// How often hidden backups are looked for: one look at an index.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often old request ids and old redemptions of invites are forgotten.
const FORGETTING: Duration = Duration::from_secs(3600);
/// Of several schedulers over one database one deletes objects. Two at once would be slow, not wrong.
const LEASE: Duration = Duration::from_secs(300);

/// Sweeps until it is dropped.
pub(crate) async fn run(scheduler: Arc<Scheduler>) {
    let mut forgotten = None;
    loop {
        let now = scheduler.clock.now();
        note("backups", scheduler.sweep_backups().await);
        if forgotten.is_none_or(|last| now >= last + FORGETTING) {
            note("old request ids", idempotency::sweep(&scheduler.db, now).await.map_err(Into::into));
            note("old redemptions of invites", redemption_sweep(&scheduler.db, now).await.map_err(Into::into));
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
    pub(crate) async fn sweep_backups(&self) -> Result<()> {
        let now = self.clock.now();
        if self.due(now, 1).await?.is_empty()
            || !lease::hold(&self.db, "backup-sweep", &self.holder, now, LEASE).await?
        {
            return Ok(());
        }
        sweep::sweep("backups", self, now).await
    }
}
