//! What moves on when nobody calls: reservations that nobody settled, and budgets that the scheduler does not know of.

use std::time::Duration;

use futures::{StreamExt, stream};
use mi_kernel::Result;

use super::{Credits, model::Op, repo};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(5);
/// What is looked at in one go.
const PAGE: i64 = 1000;
/// Offices that are worked on at the same time.
const CONCURRENCY: usize = 8;

impl Credits {
    /// Sweeps until it is dropped. Two processes at once do everything once: each operation looks again under the lock.
    pub async fn sweep_forever(self) {
        loop {
            for swept in [self.expire_due().await, self.push_all().await] {
                if let Err(error) = swept {
                    tracing::warn!(target: "mi::credits", error = %error.chain(), "the credits could not be swept; the next round tries again");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Settles what nobody settled in time, at what was set aside.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn expire_due(&self) -> Result<()> {
        loop {
            let now = self.clock.now();
            let due = repo::reservation_due(&mut self.db.platform().read().await?, now, PAGE).await?;
            let count = due.len();
            let expired = due.into_iter().map(|(office_id, call_id)| self.submit(office_id, Op::Expire(call_id)));
            // All of a page at once, so that they share transactions; the first failure is that of all, seen the next time.
            for outcome in futures::future::join_all(expired).await {
                outcome?;
            }
            if i64::try_from(count) != Ok(PAGE) {
                return Ok(());
            }
        }
    }

    /// Tells the scheduler of what it does not know, in all offices: one in trouble holds up no other.
    pub(super) async fn push_all(&self) -> Result<()> {
        let mut offices = repo::office_untold(&mut self.db.platform().read().await?, PAGE).await?;
        offices.dedup();
        let pushed = stream::iter(offices).map(|office_id| self.push_budgets(office_id)).buffer_unordered(CONCURRENCY);
        let failed = pushed.filter_map(async |outcome| outcome.err()).collect::<Vec<_>>().await;
        failed.into_iter().next().map_or(Ok(()), Err)
    }
}
