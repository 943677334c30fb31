//! Watching tasks: each that changes, in the order of the changes, from wherever a client stands.

use futures::Stream;
use mi_kernel::{Error, OfficeId, Result, TaskId, page};
use mi_proto::v1::{WatchTasksRequest, WatchTasksResponse};
use mi_rpc::Access;
use mi_store::{Batch, OfficeConn, Topic};
use mi_tenancy::{offices::repo::office_get, retention::expired};
use prost::Message;

use super::{TOPIC, Tasks, model::Task, repo, wire};

/// Changes that a watch reads at a time.
const BATCH: i64 = 16;
/// What it holds of them, in bytes; one task at least.
const MAX_BATCH_BYTES: usize = 1 << 20;

impl Tasks {
    /// Tasks that change, from a place on, for ever. Holds a part of a batch at a time and reads on when that is handed on,
    /// so a slow reader costs no more than that.
    pub(super) async fn watch(
        &self,
        access: Access,
        request: &WatchTasksRequest,
    ) -> Result<impl Stream<Item = Result<WatchTasksResponse>> + Send + use<>> {
        let office_id = access.office_id();
        let only = match request.task_id.as_str() {
            "" => None,
            id => Some(self.get(&access, id).await?.id),
        };
        // Listened to first, so that nothing falls between.
        let queue = self.db.listen(Topic::of(office_id, TOPIC));
        let (newest, forgotten) = repo::queue_ends(&mut self.db.office(office_id).read().await?).await?;
        let mut cursor = match request.after_cursor {
            Some(cursor) if cursor < 0 => return Err(Error::invalid("after_cursor", "must not be negative")),
            Some(cursor) => page::not_ahead(cursor, newest).map(|()| cursor)?,
            None => newest,
        };
        // Whoever begins at the beginning misses nothing of what was deleted before.
        let missed = if cursor == 0 { forgotten } else { 0 };
        if only.is_none() && forgotten > cursor.max(missed) {
            return Err(gone());
        }
        let db = self.db.clone();
        Ok(queue.follow(async move || {
            let mut conn = db.office(office_id).read().await?;
            let batch = changes(&mut conn, office_id, cursor, only, &access).await?;
            if let Some(last) = batch.found.last() {
                // Looked up after the changes were read, so that a task that was deleted among them is rather told of
                // once too often than not at all; without changes there is nothing that it could be missing among.
                if only.is_none() && repo::queue_ends(&mut conn).await?.1 > cursor.max(missed) {
                    return Err(gone());
                }
                cursor = last.cursor;
            }
            Ok(batch)
        }))
    }
}

fn gone() -> Error {
    expired(
        "tasks that changed after this cursor are deleted, as the office's finished_task_retention says; begin anew, \
             with cursor 0"
            .into(),
    )
}

/// The first changes after a place, as long as there is an office.
async fn changes(
    conn: &mut OfficeConn,
    office_id: OfficeId,
    cursor: i64,
    only: Option<TaskId>,
    access: &Access,
) -> Result<Batch<WatchTasksResponse>> {
    let rows = repo::task_changed(conn, cursor, only, BATCH).await?;
    if rows.is_empty() {
        if office_get(conn).await?.is_none() {
            return Err(Error::not_found("office", office_id));
        }
        if let Some(id) = only
            && repo::task_get_all(conn, &[id]).await?.is_empty()
        {
            return Err(Error::not_found("task", id));
        }
    }
    let full = i64::try_from(rows.len()) == Ok(BATCH);
    let change = |task: Task| WatchTasksResponse { cursor: task.cursor, task: Some(wire::task(task, access)) };
    let mut found: Vec<_> = rows.into_iter().map(change).collect();
    let fit = page::fitting(&found, MAX_BATCH_BYTES, Message::encoded_len);
    let more = full || fit < found.len();
    found.truncate(fit);
    // What was read of the rest is not held meanwhile.
    found.shrink_to_fit();
    Ok(Batch { found, more })
}
