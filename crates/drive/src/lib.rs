//! The drive: files that an office shares, their changes, and who may write them when.

mod grpc;
mod model;
mod part;
mod repo;
mod retention;
mod rules;
pub mod storage;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use mi_kernel::{
    Clock, Error, OfficeId, Result,
    event::{Category, Event},
    page::{MAX_PAGE_SIZE, Page, not_ahead},
    text::{MAX_DRIVE_PATH, drive_path},
};
use mi_proto::v1;
use mi_rpc::{Access, Caller};
use mi_store::{Batch, Db, OfficeTx, Topic, outbox};
use mi_tenancy::{Author, Offices, RoleContext, offices::repo::office_get};
use tokio::sync::Notify;
use uuid::Uuid;

pub use self::{model::FileRow, repo::file_get_all, retention::HISTORY};
use self::{
    model::{Change, Kind},
    repo::objects,
    rules::Condition,
    storage::{GRACE, Storage},
};

/// What the change bus tells of when a file changed.
const TOPIC: &str = "drive";

/// How much a drive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveLimits {
    /// Most bytes of one file.
    pub file_bytes: u64,
    /// Most bytes of an office's files together, each counted in full. What was replaced or deleted and is still in
    /// storage may be as much again.
    pub office_bytes: u64,
}

impl Default for DriveLimits {
    fn default() -> Self {
        Self { file_bytes: 1 << 30, office_bytes: 100 << 30 }
    }
}

/// The drives of all offices.
#[derive(Clone)]
pub struct Drive {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    storage: Storage,
    limits: DriveLimits,
    background: mi_base::Tasks,
}

impl Drive {
    /// Drives of these offices, whose content is in this storage; `background` carries watches.
    pub fn new(
        context: RoleContext,
        offices: Offices,
        storage: Storage,
        limits: DriveLimits,
        background: mi_base::Tasks,
    ) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox, offices, storage, limits, background }
    }

    async fn list(
        &self,
        caller: &Caller,
        office: &str,
        prefix: &str,
        page: &Page<String>,
    ) -> Result<(Vec<FileRow>, String)> {
        let (_, office) = self.offices.get(caller, office).await?;
        if prefix.len() > MAX_DRIVE_PATH || prefix.contains('\0') {
            return Err(Error::invalid("prefix", format!("must have at most {MAX_DRIVE_PATH} bytes, without NUL")));
        }
        let rows = repo::file_list(&mut self.db.office(office.id).read().await?, prefix, page).await?;
        Ok(page.finish(rows, |file| file.path.clone()))
    }

    async fn stat(&self, caller: &Caller, office: &str, path: &str) -> Result<FileRow> {
        let (_, office) = self.offices.get(caller, office).await?;
        let path = drive_path("path", path)?;
        let found = repo::file_get(&mut self.db.office(office.id).read().await?, path).await?;
        found.ok_or_else(|| Error::not_found("file", path))
    }

    /// The file, and its content from an offset on; of this very revision, whatever becomes of the file meanwhile.
    async fn download(
        &self,
        caller: &Caller,
        request: &v1::DownloadFileRequest,
    ) -> Result<(FileRow, BoxStream<'static, Result<Bytes>>)> {
        let (_, office) = self.offices.get(caller, &request.office_id).await?;
        let path = drive_path("path", &request.path)?;
        let offset = rules::not_negative("offset", request.offset)?;
        let length = rules::not_negative("length", request.length)?;
        let found = repo::file_open(&mut self.db.office(office.id).read().await?, path).await?;
        let (file, object) = found.ok_or_else(|| Error::not_found("file", path))?;
        let size = file.size.unsigned_abs();
        if offset > size {
            return Err(Error::invalid("offset", format!("is behind the end: the file has {size} bytes")));
        }
        let end = if length == 0 { size } else { offset.saturating_add(length).min(size) };
        let content = self.storage.read((office.id, object), size, offset..end).await?;
        Ok((file, content))
    }

    async fn delete(&self, caller: &Caller, request: &v1::DeleteFileRequest) -> Result<()> {
        let (mut tx, access, office) = self.offices.lock(caller, &request.office_id).await?;
        let path = drive_path("path", &request.path)?;
        let condition = Condition::parse(request.if_revision, request.force)?;
        rules::writable(&office)?;
        let file = repo::file_get(&mut tx, path).await?.ok_or_else(|| Error::not_found("file", path))?;
        condition.check(Some(&file))?;
        repo::file_delete(&mut tx, path).await?;
        objects::blob_release(&mut tx, &file.sha256, file.size, self.clock.now() + GRACE).await?;
        let revision = repo::usage_change(&mut tx, -file.size, -1).await?;
        let file = FileRow { revision, modified_at: self.clock.now(), modified_by: Author::of(&access).name, ..file };
        self.record(tx, &access, Change { kind: Kind::Deleted, file }, None).await
    }

    /// Commits a change with its event.
    async fn record(&self, mut tx: OfficeTx, access: &Access, change: Change, upload: Option<Uuid>) -> Result<()> {
        repo::change_insert(&mut tx, &change, upload).await?;
        let event = event(access, &change);
        outbox::push(&mut tx, &event).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        self.db.notify(Topic::of(access.office_id(), TOPIC));
        Ok(())
    }

    /// Changes after a cursor, for ever; none: those after this call. Ends with `NotFound` when the office is gone.
    async fn watch(
        &self,
        caller: &Caller,
        request: &v1::WatchChangesRequest,
    ) -> Result<impl Stream<Item = Result<Change>> + Send + use<>> {
        let (_, office) = self.offices.get(caller, &request.office_id).await?;
        // Before the end is looked up, so that nothing falls between.
        let changes = self.db.listen(Topic::of(office.id, TOPIC));
        let newest = repo::usage_get(&mut self.db.office(office.id).read().await?).await?.revision;
        let mut after = match request.after_cursor {
            Some(after) => {
                rules::not_negative("after_cursor", after)?;
                not_ahead(after, newest).map(|()| after)?
            }
            None => newest,
        };
        let db = self.db.clone();
        Ok(changes.follow(async move || {
            let mut conn = db.office(office.id).read().await?;
            let found = repo::change_list(&mut conn, after, MAX_PAGE_SIZE.into()).await?;
            if found.is_empty() && office_get(&mut conn).await?.is_none() {
                return Err(Error::not_found("office", office.id));
            }
            retention::refuse_gap(after, &found)?;
            after = found.last().map_or(after, |last| last.file.revision);
            let more = i32::try_from(found.len()) == Ok(MAX_PAGE_SIZE);
            Ok(Batch { found, more })
        }))
    }

    /// Changes after a cursor, oldest first, and the cursor after which they are kept, as far as that is later. From the
    /// beginning means: all that are kept.
    async fn changes(&self, office: OfficeId, after: i64, limit: i32) -> Result<(Vec<Change>, i64)> {
        let mut conn = self.db.office(office).read().await?;
        // In this order: a change that is written in between is on the list.
        let end = repo::usage_get(&mut conn).await?.revision;
        let changes = repo::change_list(&mut conn, after, limit.into()).await?;
        let kept_after = changes.first().map_or(end, |first| first.file.revision - 1);
        match kept_after > after {
            true if after > 0 => Err(retention::gone(kept_after)),
            true => Ok((changes, kept_after)),
            false => Ok((changes, 0)),
        }
    }
}

fn event(access: &Access, change: &Change) -> Event {
    let Change { kind, file } = change;
    let agent = access.agent().map_or("", |agent| &agent.name);
    let (kind, verb) = match kind {
        Kind::Created => ("file.created", "created"),
        Kind::Updated => ("file.updated", "replaced"),
        Kind::Deleted => ("file.deleted", "deleted"),
    };
    let summary = format!("File {:?} {verb}, {} bytes", file.path, file.size);
    Event::lifecycle(access.office_id(), agent, kind, summary, file.modified_at)
        .category(Category::File)
        .with(serde_json::json!({
            "path": file.path, "size": file.size, "sha256": file.sha256, "revision": file.revision,
        }))
        .traced(access.trace_id())
}
