//! Backups: archives of workspaces in object storage, checked by reading them back.

mod removal;
pub(crate) mod repo;

use std::{
    io::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use mi_base::disk_reserve::{full, is_full};
use mi_kernel::{BackupId, Error, OfficeId, Result, Time, event::Event, page::Page};
use mi_rpc::Caller;
use mi_runtime::{Cluster, Progress, Saving};
use mi_store::{FromRow, OfficeConn, outbox};
use object_store::{ObjectStoreExt, buffered::BufWriter, path::Path};
use ring::digest;
use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{Scheduler, agents::Agent};

/// Pieces of an archive on the way to storage, each at most [`PIECE`] large.
const PIECES: usize = 8;
const PIECE: usize = 256 << 10;
/// How long somebody else may take to send an archive.
const SAVING: Duration = Duration::from_secs(24 * 3600);

/// An archive of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Backup {
    pub(crate) id: BackupId,
    pub(crate) office_id: OfficeId,
    pub(crate) agent: String,
    pub(crate) size_bytes: i64,
    pub(crate) sha256: String,
    pub(crate) created_at: Time,
}

impl Backup {
    fn path(office_id: OfficeId, id: BackupId) -> Path {
        Path::from(format!("backups/{office_id}/{id}.tar.zst"))
    }

    fn object(&self) -> Path {
        Self::path(self.office_id, self.id)
    }
}

/// A backup of the office by the id in a request.
pub(crate) async fn find(conn: &mut OfficeConn, id: &str) -> Result<Backup> {
    let id = BackupId::parse(id)?;
    repo::backup_get(conn, id).await?.ok_or_else(|| Error::not_found("backup", id))
}

impl Scheduler {
    /// Makes the agent's workspace, from its backup when it has one.
    pub(crate) async fn prepare(&self, agent: &Agent) -> Result<()> {
        let place = agent.place();
        // In a cluster the instance fetches its archive itself.
        let here = self.runtime.cluster().is_none();
        let restore = agent.restore_from.filter(|_| here);
        let (Some(id), false) = (restore, self.runtime.prepared(place).await?) else {
            return self.runtime.prepare(place, None).await;
        };
        let backup = find(&mut self.db.office(agent.office_id).read().await?, &id.to_string()).await?;
        // Checked whole before anything is unpacked: half a damaged workspace helps nobody.
        self.verify(&backup).await?;
        let stream = self.read(&backup).await?.map_err(io::Error::other);
        let archive = SyncIoBridge::new(StreamReader::new(stream));
        self.runtime.prepare(place, Some(Box::new(archive))).await
    }

    /// Archives the workspace, reads the archive back, and records it. Done already: nothing happens.
    pub(crate) async fn back_up(&self, agent: &Agent, id: BackupId) -> Result<Progress> {
        let known = repo::backup_get(&mut self.db.office(agent.office_id).read().await?, id).await?;
        if known.is_some() || !self.runtime.prepared(agent.place()).await? {
            return Ok(Progress::Done);
        }
        if let Some(cluster) = self.runtime.cluster() {
            return self.back_up_elsewhere(cluster, agent.clone(), id).await;
        }
        let (size_bytes, sha256) = self.upload(agent, id).await?;
        let backup = Backup {
            id,
            office_id: agent.office_id,
            agent: agent.name.clone(),
            size_bytes,
            sha256,
            created_at: self.clock.now(),
        };
        self.verify(&backup).await?;
        let mut tx = self.db.office(agent.office_id).begin().await?;
        repo::backup_insert(&mut tx, &backup).await?;
        let summary = format!("Workspace of {:?} backed up, {size_bytes} bytes", agent.name);
        let event = Event::lifecycle(agent.office_id, &agent.name, "agent.backed_up", summary, backup.created_at)
            .with(json!({ "backup_id": id, "size_bytes": size_bytes, "sha256": backup.sha256 }));
        outbox::push(&mut tx, &event).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(Progress::Done)
    }

    /// Has somebody who has the workspace send an archive of it, and waits for that.
    async fn back_up_elsewhere(&self, cluster: &dyn Cluster, mut agent: Agent, id: BackupId) -> Result<Progress> {
        match cluster.saving(agent.place(), id) {
            Saving::UnderWay => {}
            Saving::Failed(reason) => return Err(Error::precondition("BACKUP_FAILED", reason)),
            Saving::NotAsked => {
                let token = agent.expect_token(self.clock.now() + SAVING);
                // A crash before the next line leaves a token that nobody knows.
                if self.record(&mut agent, None).await? {
                    cluster.save(agent.place(), id, &token).await?;
                }
            }
        }
        Ok(Progress::UnderWay)
    }

    async fn upload(&self, agent: &Agent, id: BackupId) -> Result<(i64, String)> {
        let (pieces_in, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let objects = self.objects.clone();
        let path = Backup::path(agent.office_id, id);
        let store = async move {
            let mut hash = digest::Context::new(&digest::SHA256);
            let mut size = 0;
            let mut object = BufWriter::new(objects, path);
            while let Some(piece) = pieces.recv().await {
                hash.update(&piece);
                size += i64::try_from(piece.len()).unwrap_or_default();
                object.write_all(&piece).await?;
            }
            Ok::<_, io::Error>((size, hash, object))
        };
        let archive = self.runtime.archive(agent.place(), Box::new(PieceWriter(pieces_in)));
        let (archived, stored) = tokio::join!(archive, store);
        let unstored = |error: io::Error| {
            match is_full(&error) {
                true => full("there is no space left for the backup"),
                false => Error::unavailable("the backup could not be written to object storage"),
            }
            .caused_by(error)
        };
        let (size, hash, mut object) = stored.map_err(unstored)?;
        if let Err(error) = archived {
            let _ = object.abort().await;
            return Err(error);
        }
        object.shutdown().await.map_err(unstored)?;
        Ok((size, hex::encode(hash.finish().as_ref())))
    }

    async fn read(&self, backup: &Backup) -> Result<BoxStream<'static, object_store::Result<Bytes>>> {
        let object = self.objects.get(&backup.object()).await;
        Ok(object.map_err(|error| unreadable(backup).caused_by(error))?.into_stream())
    }

    /// Reads the archive back and compares size and checksum.
    pub(crate) async fn verify(&self, backup: &Backup) -> Result<()> {
        let mut stream = self.read(backup).await?;
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut size = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| unreadable(backup).caused_by(error))?;
            hash.update(&piece);
            size += i64::try_from(piece.len()).unwrap_or_default();
        }
        if size != backup.size_bytes || hex::encode(hash.finish().as_ref()) != backup.sha256 {
            let text = format!("backup {} does not have the checksum it was written with", backup.id);
            return Err(Error::precondition("BACKUP_DAMAGED", text));
        }
        Ok(())
    }

    pub(crate) async fn list_backups(
        &self,
        caller: &Caller,
        office_id: &str,
        page: &Page<BackupId>,
    ) -> Result<(Vec<Backup>, String)> {
        let office_id = OfficeId::parse(office_id)?;
        let mut conn = self.db.office(office_id).read().await?;
        self.enter(&mut conn, caller).await?;
        let rows = repo::backup_list(&mut conn, page).await?;
        Ok(page.finish(rows, |backup| backup.id))
    }

    /// The backup and its bytes.
    pub(crate) async fn open_backup(
        &self,
        caller: &Caller,
        office_id: &str,
        id: &str,
    ) -> Result<(Backup, BoxStream<'static, object_store::Result<Bytes>>)> {
        let office_id = OfficeId::parse(office_id)?;
        let mut conn = self.db.office(office_id).read().await?;
        self.enter(&mut conn, caller).await?;
        let backup = find(&mut conn, id).await?;
        let stream = self.read(&backup).await?;
        Ok((backup, stream))
    }
}

fn unreadable(backup: &Backup) -> Error {
    Error::unavailable(format!("backup {} cannot be read from object storage", backup.id))
}

/// Hands what a blocking thread writes to the task that stores it, which slows the thread down to its own pace.
struct PieceWriter(mpsc::Sender<Bytes>);

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE)]);
        let written = piece.len();
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "object storage stopped taking the archive");
        self.0.blocking_send(piece).map_err(gone)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
