//! What is deleted of the drive: uploads that were given up, the trash when it is due or when the disk is full, and all of an
//! office that is being deleted.

use std::time::Duration;

use mi_base::sweep::{Due, PutOff, Removals, sweep};
use mi_kernel::{Error, OfficeId, Result, Time};
use mi_store::lease::Lease;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{EXPIRY, GRACE, Storage};
use crate::repo::objects;

/// How often the trash is looked at.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a process is the only one that sweeps, unless it goes on.
pub const LEASE: Duration = Duration::from_secs(150);
/// Objects of an office that are read from the trash at a time.
const BATCH: i64 = 100;

impl Storage {
    /// Empties the trash for ever, in one process at a time. Ends only by cancellation.
    pub async fn sweep_forever(self, lease: Lease) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.reserve.wanted() => {}
            }
            if self.reserve.is_tight()
                && let Err(error) = self.sweep_early().await
            {
                tracing::warn!(target: "mi::office", error = %error.chain(), "the drive's trash could not be emptied early");
            }
            let swept = async {
                let now = self.clock.now();
                let due = objects::anything_due(&mut self.db.platform().read().await?, now - EXPIRY, now).await?;
                if due && lease.held().await? {
                    self.sweep().await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = swept.await {
                tracing::warn!(target: "mi::office", error = %error.chain(), "the drive's trash is not empty yet");
            }
        }
    }

    /// Gives up uploads of processes that died, and deletes what is due. One object in the way does not hold up others.
    ///
    /// # Errors
    /// That of an object that could not be deleted, once all others were.
    pub async fn sweep(&self) -> Result<()> {
        let now = self.clock.now();
        while self.expire_some(now).await? {}
        sweep("drive objects", self, now).await
    }

    /// Gives up some uploads that began [`EXPIRY`] ago, of whatever office; true: there may be more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn expire_some(&self, now: Time) -> Result<bool> {
        Ok(objects::upload_expire_some(&self.db, now - EXPIRY, now).await?)
    }

    /// Deletes what is in the trash, due or not.
    ///
    /// # Errors
    /// As [`Storage::sweep`].
    pub async fn sweep_early(&self) -> Result<()> {
        sweep("drive objects", &Early(self), self.clock.now()).await
    }

    /// Removes some of the drive of an office that is being deleted; true: there may be more. When no row is left, its
    /// objects are deleted. Safe to run again.
    pub(crate) async fn clear_some(&self, office: OfficeId) -> Result<bool> {
        let now = self.clock.now();
        if objects::drive_clear_some(&self.db, office, now).await? {
            return Ok(true);
        }
        let mut tx = self.db.office(office).begin().await?;
        objects::drive_clear(&mut tx, now + EXPIRY).await?;
        tx.commit().await?;
        let (mut after, mut failed) = (Uuid::nil(), None);
        loop {
            let trash = objects::trash_list(&mut self.db.office(office).read().await?, after, BATCH).await?;
            for object in &trash {
                failed = self.bury(office, *object).await.err().or(failed);
            }
            match trash.last() {
                Some(last) => after = *last,
                // All that can go is gone, whatever is in the way of the rest.
                None => return failed.map_or(Ok(false), Err),
            }
        }
    }
}

/// The trash.
impl Removals for Storage {
    type Id = Uuid;

    async fn due(&self, now: Time, limit: usize) -> Result<Vec<Due<Uuid>>> {
        Ok(objects::trash_due(&mut self.db.platform().read().await?, now, limit).await?)
    }

    async fn remove(&self, office_id: OfficeId, object: Uuid) -> Result<()> {
        self.bury(office_id, object).await
    }

    async fn put_off(&self, later: Vec<PutOff<Uuid>>) -> Result<()> {
        // Also those that were left alone were due: that is what their tries say.
        let later: Vec<_> = later.into_iter().map(|later| PutOff { tries: later.tries.max(1), ..later }).collect();
        let mut tx = self.db.platform().begin().await?;
        objects::trash_put_off(&mut tx, &later).await?;
        Ok(tx.commit().await?)
    }
}

/// The trash before its time: on a full disk nobody is waited for who may be reading what was deleted. On a local disk
/// they read to the end all the same. What failed, and what uploads left that may be written yet, keeps its time.
struct Early<'a>(&'a Storage);

impl Removals for Early<'_> {
    type Id = Uuid;

    async fn due(&self, _now: Time, limit: usize) -> Result<Vec<Due<Uuid>>> {
        Ok(objects::trash_early(&mut self.0.db.platform().read().await?, limit).await?)
    }

    async fn remove(&self, office_id: OfficeId, object: Uuid) -> Result<()> {
        self.0.bury_before(office_id, object, self.0.clock.now() + GRACE).await
    }

    async fn put_off(&self, later: Vec<PutOff<Uuid>>) -> Result<()> {
        self.0.put_off(later.into_iter().map(|later| PutOff { tries: later.tries.max(1), ..later }).collect()).await
    }
}
