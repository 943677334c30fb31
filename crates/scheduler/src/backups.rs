//! Backups: archives of workspaces in object storage, checked by reading them back.

mod removal;
pub(crate) mod repo;
pub(crate) mod tries;

use std::{
    io::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use mi_base::{
    ObjectWriter,
    disk_reserve::{full, is_full},
};
use mi_kernel::{BackupId, Error, OfficeId, Result, Time, event::Event, page::Page};
use mi_rpc::Caller;
use mi_runtime::{Cluster, Progress, Saving};
use mi_store::{FromRow, OfficeConn, outbox};
use object_store::{ObjectStoreExt, path::Path};
use ring::digest;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{Scheduler, agents::Agent};

/// Pieces of an archive on the way to storage, each at most [`PIECE`] large.
const PIECES: usize = 8;
const PIECE: usize = 256 << 10;
/// Bytes of one write to storage, which has ten thousand of them for an object at most.
const PART_BYTES: usize = 10 << 20;
/// Such writes of one archive at once, while the next one comes.
const CONCURRENT_PARTS: usize = 2;
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
    /// The try that wrote it, by which its object is named; none: the object has its own name.
    pub(crate) upload: Option<BackupId>,
}

impl Backup {
    /// Where the object of this name is.
    pub(crate) fn path(office_id: OfficeId, name: BackupId) -> Path {
        Path::from(format!("backups/{office_id}/{name}.tar.zst"))
    }

    fn object(&self) -> Path {
        Self::path(self.office_id, self.upload.unwrap_or(self.id))
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
            return self.acting(agent.id)?.prepare(place, None).await;
        };
        let backup = find(&mut self.db.office(agent.office_id).read().await?, &id.to_string()).await?;
        // Checked whole before anything is unpacked: half a damaged workspace helps nobody.
        self.verify(&backup).await?;
        let stream = self.read(&backup).await?.map_err(io::Error::other);
        let archive = SyncIoBridge::new(StreamReader::new(stream));
        self.acting(agent.id)?.prepare(place, Some(Box::new(archive))).await
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
        let backup = self.backup_of(agent, id, size_bytes, sha256);
        self.verify(&backup).await?;
        let mut tx = self.fenced(agent.office_id, agent.id).await?;
        self.keep(&mut tx, &backup).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(Progress::Done)
    }

    /// Has somebody who has the workspace send an archive of it, and waits for that.
    async fn back_up_elsewhere(&self, cluster: &dyn Cluster, mut agent: Agent, id: BackupId) -> Result<Progress> {
        match cluster.saving(agent.place(), id) {
            Saving::UnderWay(_) => {}
            Saving::Failed(reason) => {
                cluster.discard(agent.place()).await?;
                return Err(Error::precondition("BACKUP_FAILED", reason));
            }
            Saving::Sent => {
                // It may have come since the table was looked at.
                if repo::backup_get(&mut self.db.office(agent.office_id).read().await?, id).await?.is_some() {
                    return Ok(Progress::Done);
                }
                cluster.discard(agent.place()).await?;
                return Err(Error::precondition("BACKUP_FAILED", "the archive was sent, and is not there"));
            }
            Saving::NotAsked => {
                let token = agent.expect_token(self.clock.now() + SAVING);
                // A crash before the next line leaves a token that nobody knows.
                if self.record(&mut agent, None).await? {
                    self.shards.may_act(agent.id)?;
                    cluster.save(agent.place(), id, &self.endpoint_env(), &token).await?;
                }
            }
        }
        Ok(Progress::UnderWay)
    }

    /// What was written of an agent's workspace, now.
    pub(crate) fn backup_of(&self, agent: &Agent, id: BackupId, size_bytes: i64, sha256: String) -> Backup {
        let (agent, office_id) = (agent.name.clone(), agent.office_id);
        Backup { id, office_id, agent, size_bytes, sha256, created_at: self.clock.now(), upload: None }
    }

    /// Records a backup that was verified, with its event.
    pub(crate) async fn keep(&self, tx: &mut OfficeConn, backup: &Backup) -> Result<()> {
        repo::backup_insert(tx, backup).await?;
        let summary = format!("Workspace of {:?} backed up, {} bytes", backup.agent, backup.size_bytes);
        let event = Event::lifecycle(backup.office_id, &backup.agent, "agent.backed_up", summary, backup.created_at)
            .with(json!({
                "backup_id": backup.id, "size_bytes": backup.size_bytes, "sha256": backup.sha256
            }));
        Ok(outbox::push(tx, &event).await?)
    }

    async fn upload(&self, agent: &Agent, id: BackupId) -> Result<(i64, String)> {
        let (pieces_in, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let mut upload = Upload::new(self, Backup::path(agent.office_id, id));
        let store = async move {
            while let Some(piece) = pieces.recv().await {
                upload.put(piece).await?;
            }
            Ok::<_, Error>(upload)
        };
        let archive = self.runtime.archive(agent.place(), Box::new(PieceWriter(pieces_in)));
        let (archived, stored) = tokio::join!(archive, store);
        let upload = stored?;
        if let Err(error) = archived {
            upload.abort().await;
            return Err(error);
        }
        upload.finish().await
    }

    pub(crate) async fn read(&self, backup: &Backup) -> Result<BoxStream<'static, object_store::Result<Bytes>>> {
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

/// An archive on its way to storage. Only one that is finished is there; of one that is dropped nothing stays.
pub(crate) struct Upload {
    object: ObjectWriter,
    hash: digest::Context,
    size: i64,
}

impl Upload {
    pub(crate) fn new(scheduler: &Scheduler, path: Path) -> Self {
        let object = ObjectWriter::new(scheduler.objects.clone(), path, PART_BYTES, CONCURRENT_PARTS);
        Self { object, hash: digest::Context::new(&digest::SHA256), size: 0 }
    }

    pub(crate) fn size(&self) -> i64 {
        self.size
    }

    pub(crate) async fn put(&mut self, piece: Bytes) -> Result<()> {
        self.hash.update(&piece);
        self.size += i64::try_from(piece.len()).unwrap_or_default();
        self.object.put(piece).await.map_err(unwritten)
    }

    /// Takes back what was written.
    pub(crate) async fn abort(self) {
        self.object.abort().await;
    }

    /// From now on the object is there: its size and its checksum.
    pub(crate) async fn finish(mut self) -> Result<(i64, String)> {
        self.object.finish().await.map_err(unwritten)?;
        Ok((self.size, hex::encode(self.hash.finish().as_ref())))
    }
}

fn unwritten(error: io::Error) -> Error {
    match is_full(&error) {
        true => full("there is no space left for the backup"),
        false => Error::unavailable("the backup could not be written to object storage"),
    }
    .caused_by(error)
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
