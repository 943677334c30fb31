//! Watching tasks: each that changes, in the order of the changes, from wherever a client stands.

use std::{time::Duration, vec};

use futures::{Stream, stream};
use mi_kernel::{Error, OfficeId, Result, TaskId, page};
use mi_proto::v1::{self, WatchTasksRequest, WatchTasksResponse};
use mi_rpc::Access;
use mi_store::OfficeConn;
use mi_tenancy::{offices::repo::office_get, retention::expired};
use prost::Message;

use super::{Tasks, repo, wire};

/// Changes that a watch reads at a time.
const BATCH: i64 = 16;
/// What it holds of them, in bytes; one task at least.
const HELD: usize = 1 << 20;
/// How often a watch looks without being told: in case a signal from another process was lost.
const SHARED_INTERVAL: Duration = Duration::from_secs(30);

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
        // Subscribed first, so that nothing falls between.
        let mut signal = self.signals.subscribe(office_id);
        let (newest, forgotten) = repo::queue_ends(&mut self.db.office(office_id).read().await?).await?;
        let mut cursor = match request.after_cursor {
            Some(cursor) if cursor < 0 => return Err(Error::invalid("after_cursor", "must not be negative")),
            Some(cursor) => cursor,
            None => newest,
        };
        // Whoever begins at the beginning misses nothing of what was deleted before.
        let missed = if cursor == 0 { forgotten } else { 0 };
        if only.is_none() && forgotten > cursor.max(missed) {
            return Err(gone());
        }
        let db = self.db.clone();
        let poll = db.is_shared().then_some(SHARED_INTERVAL);
        let (mut held, mut more) = (Vec::new().into_iter(), true);
        let next = async move || loop {
            if let Some((at, task)) = held.next() {
                cursor = at;
                return Ok::<_, Error>(WatchTasksResponse { task: Some(task), cursor });
            }
            if !more {
                signal.changed(poll).await;
            }
            let mut conn = db.office(office_id).read().await?;
            let found = changes(&mut conn, office_id, cursor, only, &access).await?;
            if only.is_none() && more_was_deleted(&mut conn, cursor.max(missed), &found.0).await? {
                return Err(gone());
            }
            (held, more) = found;
        };
        Ok(stream::try_unfold(next, |mut next| async move { Ok(Some((next().await?, next))) }))
    }
}

/// Whether a task was deleted whose last change comes after this place. Looked up after the changes were read, so that it is
/// rather told once too often than not at all; without changes there is nothing that it could be missing among.
async fn more_was_deleted(conn: &mut OfficeConn, cursor: i64, found: &vec::IntoIter<(i64, v1::Task)>) -> Result<bool> {
    Ok(found.len() > 0 && repo::queue_ends(conn).await?.1 > cursor)
}

fn gone() -> Error {
    expired(
        "tasks that changed after this cursor are deleted, as the office's finished_task_retention says; begin anew, \
             with cursor 0"
            .into(),
    )
}

/// The first changes after a place with their cursors, and whether there may be more; as long as there is an office.
async fn changes(
    conn: &mut OfficeConn,
    office_id: OfficeId,
    cursor: i64,
    only: Option<TaskId>,
    access: &Access,
) -> Result<(vec::IntoIter<(i64, v1::Task)>, bool)> {
    let rows = repo::task_changed(conn, cursor, only, BATCH).await?;
    if rows.is_empty() && office_get(conn).await?.is_none() {
        return Err(Error::not_found("office", office_id));
    }
    let full = i64::try_from(rows.len()) == Ok(BATCH);
    let mut shown: Vec<_> = rows.into_iter().map(|task| (task.cursor, wire::task(task, access))).collect();
    let (found, fit) = (shown.len(), page::fitting(&shown, HELD, |(_, task)| task.encoded_len()));
    shown.truncate(fit);
    // What was read of the rest is not held meanwhile.
    shown.shrink_to_fit();
    Ok((shown.into_iter(), full || fit < found))
}
