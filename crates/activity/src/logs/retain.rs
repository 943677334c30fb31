//! What ends the life of log lines: age, size, and the removal of their office.

use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt;
use mi_kernel::{AgentId, OfficeId, Result, Time};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use super::{Logs, repo};
use crate::packed::int;

/// Segments deleted at a time.
const BATCH: i64 = 100;
/// Logs whose sizes are looked up at a time.
const PAGE: i64 = 1000;
/// An object without an index row is left alone for this long: its row may be about to come.
pub(crate) const ORPHAN_AGE: Duration = Duration::from_secs(3600);
const ROOT: &str = "logs";

impl Logs {
    /// Deletes segments past the retention time, and the oldest of logs that take too much room. Index rows go before
    /// objects, so that a row always names something readable; objects left by a crash in between, or by storage that
    /// refuses, are swept. An office in which it fails is in the way of no other.
    pub(crate) async fn retain(&self, age: Duration, bytes: u64) -> Result<()> {
        self.retain_age(self.clock.now() - age).await?;
        self.retain_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).await
    }

    async fn retain_age(&self, oldest: Time) -> Result<()> {
        let mut after = None;
        loop {
            let mut conn = self.db.platform().read().await?;
            let old = repo::segment_list_before(&mut conn, after.as_ref(), oldest, BATCH).await?;
            drop(conn);
            let Some(last) = old.last().cloned() else {
                return Ok(());
            };
            after = Some(last);
            let mut by_office: BTreeMap<OfficeId, Vec<String>> = BTreeMap::new();
            for (_, office_id, path) in old {
                by_office.entry(office_id).or_default().push(path);
            }
            for (office_id, paths) in by_office {
                let deleted = self.delete_segments(office_id, &paths).await;
                note(office_id, deleted);
            }
        }
    }

    async fn retain_bytes(&self, bytes: i64) -> Result<()> {
        let mut after = None;
        loop {
            let logs = repo::segment_excess(&mut self.db.platform().read().await?, after, bytes, PAGE).await?;
            for (office_id, agent_id, _) in logs.iter().filter(|(_, _, excess)| *excess > 0) {
                let shortened = self.shorten(*office_id, *agent_id, bytes).await;
                note(*office_id, shortened);
            }
            match logs.last() {
                Some((_, last, _)) if i64::try_from(logs.len()) == Ok(PAGE) => after = Some(*last),
                _ => return Ok(()),
            }
        }
    }

    /// Deletes the oldest segments of a log until it has no more than so many bytes. How many those are is looked up each time:
    /// another process may be at it.
    async fn shorten(&self, office_id: OfficeId, agent_id: AgentId, bytes: i64) -> Result<()> {
        loop {
            let mut conn = self.db.office(office_id).read().await?;
            let paths = repo::segment_beyond(&mut conn, agent_id, bytes, BATCH).await?;
            drop(conn);
            if paths.is_empty() {
                return Ok(());
            }
            self.delete_segments(office_id, &paths).await?;
        }
    }

    async fn delete_segments(&self, office_id: OfficeId, paths: &[String]) -> Result<()> {
        let mut tx = self.db.office(office_id).begin().await?;
        repo::segment_delete(&mut tx, paths).await?;
        tx.commit().await?;
        // Nobody finds them any more: what stays is an orphan.
        note(office_id, self.delete_objects(paths).await);
        Ok(())
    }

    /// Deletes objects; those that are gone already are fine. One that cannot be deleted is in the way of no other.
    pub(crate) async fn delete_objects(&self, paths: &[String]) -> Result<()> {
        let mut failed = None;
        for path in paths {
            match self.objects.delete(&Path::from(path.as_str())).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => failed = failed.or_else(|| Some(super::storage(error))),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Deletes objects that no index row names, left by a crash between the two. One that cannot be deleted is left for
    /// the next time.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let before: Time = self.clock.now() - ORPHAN_AGE;
        let mut objects = self.objects.list(Some(&Path::from(ROOT)));
        while let Some(object) = objects.try_next().await.map_err(super::storage)? {
            if object.last_modified < before
                && !repo::segment_exists(&mut self.db.platform().read().await?, object.location.as_ref()).await?
            {
                match self.delete_objects(&[object.location.to_string()]).await {
                    Ok(()) => {
                        tracing::info!(target: "mi::logs", path = %object.location, "deleted an orphaned segment")
                    }
                    Err(error) => tracing::warn!(
                        target: "mi::logs", path = %object.location, error = %error.chain(), "an orphaned segment stays"
                    ),
                }
            }
        }
        Ok(())
    }

    /// Deletes logs of an office that was buried, at most `logs` of them and of other objects; true: nothing is left.
    pub(crate) async fn remove(&self, office_id: OfficeId, logs: i64) -> Result<bool> {
        self.db.notify_office(office_id);
        let agents = repo::stream_list(&mut self.db.office(office_id).read().await?, logs).await?;
        for agent_id in &agents {
            // Objects first: nobody reads them any more, and the rows are what is found again after a crash.
            loop {
                let paths = repo::segment_list(&mut self.db.office(office_id).read().await?, *agent_id, BATCH).await?;
                if paths.is_empty() {
                    break;
                }
                self.delete_objects(&paths).await?;
                let mut tx = self.db.office(office_id).begin().await?;
                repo::segment_delete(&mut tx, &paths).await?;
                tx.commit().await?;
            }
            let mut tx = self.db.office(office_id).begin().await?;
            repo::stream_delete(&mut tx, *agent_id).await?;
            tx.commit().await?;
        }
        if int(agents.len()) == logs {
            return Ok(false);
        }
        let mut left = self.objects.list(Some(&Path::from(format!("{ROOT}/{office_id}"))));
        for _ in 0..logs {
            match left.try_next().await.map_err(super::storage)? {
                Some(object) => self.delete_objects(&[object.location.to_string()]).await?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

fn note(office_id: OfficeId, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(target: "mi::logs", office = %office_id, error = %error.chain(), "old lines are not deleted yet");
    }
}
