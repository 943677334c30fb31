//! How backups go: hidden first, then their objects are deleted, then their rows. A crash, or storage that refuses, leaves
//! a hidden row; the sweep finds it.

use futures::TryStreamExt;
use mi_base::sweep::{Due, PAGE, PutOff, Removals};
use mi_kernel::{BackupId, Error, OfficeId, Result, Time, event::Event};
use mi_rpc::Caller;
use mi_store::outbox;
use object_store::{ObjectStoreExt, path::Path};
use serde_json::json;

use super::{Backup, find, repo};
use crate::{Scheduler, agents::Agent};

impl Scheduler {
    /// Deletes a backup. From the commit on nobody sees it; what storage does not delete now the sweep tries again.
    pub(crate) async fn delete_backup(&self, caller: &Caller, office_id: &str, id: &str) -> Result<()> {
        let office_id = OfficeId::parse(office_id)?;
        let mut tx = self.db.office(office_id).begin().await?;
        self.enter(&mut tx, caller).await?;
        let backup = find(&mut tx, id).await?;
        repo::backup_hide(&mut tx, backup.id, self.clock.now()).await?;
        let summary = format!("Backup of {:?} deleted", backup.agent);
        let event = Event::lifecycle(office_id, &backup.agent, "backup.deleted", summary, self.clock.now())
            .with(json!({ "backup_id": backup.id }))
            .traced(&caller.trace_id);
        outbox::push(&mut tx, &event).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        if let Err(error) = self.remove(office_id, backup.id).await {
            tracing::warn!(
                target: "mi::scheduler", office = %office_id, backup = %backup.id, error = %error.chain(),
                "a backup waits for the sweep"
            );
        }
        Ok(())
    }

    /// Removes all backups of an office that goes, and archives that never became one.
    pub(crate) async fn delete_backups_of(&self, office_id: OfficeId) -> Result<()> {
        let now = self.clock.now();
        while repo::backup_hide_some(&self.db, office_id, now).await? {}
        let (mut after, mut failed) = (None, None);
        loop {
            let hidden = repo::backup_hidden(&mut self.db.office(office_id).read().await?, after, PAGE).await?;
            for id in &hidden {
                failed = self.remove(office_id, *id).await.err().or(failed);
            }
            match hidden.last() {
                Some(last) => after = Some(*last),
                None => break,
            }
        }
        // All that can go is gone, whatever is in the way of the rest.
        if let Some(error) = failed {
            return Err(error);
        }
        let left = self.objects.list(Some(&Path::from(format!("backups/{office_id}"))));
        let removed =
            left.try_for_each_concurrent(8, |object| async move { self.delete_object(&object.location).await });
        removed
            .await
            .map_err(|error| Error::unavailable("archives of the office could not be deleted").caused_by(error))
    }

    /// Removes what was uploaded of a backup that is given up, unless it became one after all.
    pub(crate) async fn discard_upload(&self, agent: &Agent, id: BackupId) -> Result<()> {
        if repo::backup_get(&mut self.db.office(agent.office_id).read().await?, id).await?.is_none()
            && let Err(error) = self.delete_object(&Backup::path(agent.office_id, id)).await
        {
            // The removal of the office finds it.
            tracing::warn!(target: "mi::scheduler", agent = %agent.id, %error, "an archive without a backup stays behind");
        }
        Ok(())
    }

    /// Deletes an object, if it is there.
    async fn delete_object(&self, path: &Path) -> object_store::Result<()> {
        match self.objects.delete(path).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }
}

/// The removal of backups that are hidden already.
impl Removals for Scheduler {
    type Id = BackupId;

    async fn due(&self, now: Time, limit: usize) -> Result<Vec<Due<BackupId>>> {
        Ok(repo::backup_due(&mut self.db.platform().read().await?, now, limit).await?)
    }

    async fn remove(&self, office_id: OfficeId, id: BackupId) -> Result<()> {
        let name = repo::backup_hidden_object(&mut self.db.office(office_id).read().await?, id).await?;
        let Some(name) = name else { return Ok(()) };
        self.delete_object(&Backup::path(office_id, name)).await.map_err(|error| {
            Error::unavailable(format!("backup {id} could not be deleted from object storage")).caused_by(error)
        })?;
        let forget = || async {
            let mut tx = self.db.office(office_id).begin().await?;
            repo::backup_delete(&mut tx, id).await?;
            Ok(tx.commit().await?)
        };
        self.reserve.freeing(forget).await
    }

    async fn put_off(&self, later: Vec<PutOff<BackupId>>) -> Result<()> {
        let mut tx = self.db.platform().begin().await?;
        repo::backup_put_off(&mut tx, &later).await?;
        Ok(tx.commit().await?)
    }
}
