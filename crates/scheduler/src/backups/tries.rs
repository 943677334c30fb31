//! Tries to write a backup that others may try to write at the same time: each has an object of its own name, and only the
//! one that is recorded counts.
//!
//! A try is noted before its object is there, as a hidden backup that is due once the try must have ended. Whoever records
//! the backup forgets the note in the same transaction; who fails removes its own object and the note; and what a crash
//! leaves between the two is found by the sweep of hidden backups.

use std::time::Duration;

use mi_base::sweep::Removals;
use mi_kernel::{BackupId, OfficeId, Result};
use mi_store::OfficeConn;

use super::repo;
use crate::{Scheduler, agents::Agent};

/// After this long a try has ended: longer than an archive may be on its way, and be read back.
pub(crate) const LIFE: Duration = Duration::from_secs(24 * 3600);

impl Scheduler {
    /// Begins a try; its name is that of its object.
    pub(crate) async fn begin_try(&self, agent: &Agent) -> Result<BackupId> {
        let (id, now) = (BackupId::new(), self.clock.now());
        let mut tx = self.db.office(agent.office_id).begin().await?;
        repo::try_insert(&mut tx, id, &agent.name, now, now + LIFE).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Forgets a try, in the transaction that records what it wrote; false: it took too long, and may be removed already.
    pub(crate) async fn end_try(&self, tx: &mut OfficeConn, id: BackupId) -> Result<bool> {
        Ok(repo::try_take(tx, id, self.clock.now()).await?)
    }

    /// Removes what a failed try left, unless it was recorded after all: the answer to a commit may have got lost.
    pub(crate) async fn give_up_try(&self, office_id: OfficeId, id: BackupId) {
        let removed = async {
            let mut tx = self.db.office(office_id).begin().await?;
            let given_up = repo::try_give_up(&mut tx, id).await?;
            tx.commit().await?;
            if given_up { self.remove(office_id, id).await } else { Ok(()) }
        };
        if let Err(error) = removed.await {
            tracing::warn!(
                target: "mi::scheduler", office = %office_id, backup = %id, error = %error.chain(),
                "what a try to write a backup left waits for the sweep"
            );
        }
    }
}
