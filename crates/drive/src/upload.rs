//! Uploads: an object is named, written, and becomes a file's content in one transaction.

use bytes::Bytes;
use futures::stream::BoxStream;
use mi_kernel::{Error, Result};
use mi_proto::v1;
use mi_rpc::{Access, Caller};
use mi_store::{OfficeConn, idempotency};
use mi_tenancy::Author;
use prost::Message;
use uuid::Uuid;

use super::{
    Drive,
    model::{Change, FileRow, Kind},
    repo::{self, objects},
    rules::{self, Room, Target},
    storage::{GRACE, Upload, Written},
};

/// What became of an upload in the end.
enum Outcome {
    /// The file that it wrote.
    Written(FileRow),
    /// The file that it wrote the first time it was sent.
    Replayed(FileRow),
}

fn scope(access: &Access) -> String {
    format!("{}/UploadFile", access.key())
}

impl Drive {
    /// Takes in a file.
    pub(super) async fn upload(
        &self,
        caller: &Caller,
        header: &v1::UploadHeader,
        content: BoxStream<'static, Result<Bytes>>,
    ) -> Result<FileRow> {
        let (mut upload, target, room) = self.begin(caller, header).await?;
        let object = upload.object();
        let written = upload.write(room, content).await?;
        match self.finish(caller, header, target, object, written).await? {
            Outcome::Written(file) => {
                upload.keep();
                Ok(file)
            }
            Outcome::Replayed(file) => Ok(file),
        }
    }

    /// Refuses what cannot succeed before its content is sent, and names the object that it will be.
    async fn begin(&self, caller: &Caller, header: &v1::UploadHeader) -> Result<(Upload, Target, Room)> {
        let (mut tx, access, office) = self.offices.lock(caller, &header.office_id).await?;
        let target = Target::parse(header)?;
        idempotency::Request::new(scope(&access), &header.request_id, &[])?;
        rules::writable(&office)?;
        self.storage.reserve.leave()?;
        let current = repo::file_get(&mut tx, &target.path).await?;
        // What was sent before finds its own file there: whether it is the same is known when its content is.
        let again =
            !header.request_id.is_empty() && idempotency::used(&mut tx, &scope(&access), &header.request_id).await?;
        if !again {
            admit(&mut tx, &target, current.as_ref()).await?;
        }
        let room = Room::new(self.limits, repo::usage_get(&mut tx).await?, current.as_ref());
        let object = Uuid::now_v7();
        // Before there is a row, so that none is left when the call is given up while that is committed.
        let upload = Upload::new(&self.storage, self.storage.slot(office.id)?, object);
        objects::upload_insert(&mut tx, object, self.clock.now()).await?;
        tx.commit().await?;
        Ok((upload, target, room))
    }

    /// Makes what was written the content of the file, if all is still as it must be.
    async fn finish(
        &self,
        caller: &Caller,
        header: &v1::UploadHeader,
        target: Target,
        object: Uuid,
        written: Written,
    ) -> Result<Outcome> {
        let (mut tx, access, office) = self.offices.lock(caller, &header.office_id).await?;
        rules::writable(&office)?;
        let said = [header.encode_to_vec().as_slice(), written.sha256.as_bytes()].concat();
        let replay = idempotency::Request::new(scope(&access), &header.request_id, &said)?;
        if let Some(replay) = &replay
            && let Some(known) = replay.replayed(&mut tx).await?
        {
            let file = repo::change_of_upload(&mut tx, known).await?;
            return Ok(Outcome::Replayed(file.ok_or_else(|| Error::not_found("file", target.path))?));
        }
        if !objects::upload_delete(&mut tx, object).await? {
            return Err(rules::expired());
        }
        let (now, old) = (self.clock.now(), repo::file_get(&mut tx, &target.path).await?);
        admit(&mut tx, &target, old.as_ref()).await?;
        Room::new(self.limits, repo::usage_get(&mut tx).await?, old.as_ref()).check(written.size)?;

        let kept = objects::blob_insert(&mut tx, &written.sha256, object).await?;
        if !kept {
            objects::trash_insert(&mut tx, object, written.size, now).await?;
        }
        let (old_size, added) = old.as_ref().map_or((0, 1), |old| (old.size, 0));
        let revision = repo::usage_change(&mut tx, written.size - old_size, added).await?;
        let file = FileRow {
            path: target.path,
            size: written.size,
            sha256: written.sha256,
            revision,
            content_type: target.content_type,
            modified_at: now,
            modified_by: Author::of(&access).name,
        };
        repo::file_put(&mut tx, &file).await?;
        if let Some(old) = old.as_ref().filter(|old| old.sha256 != file.sha256) {
            objects::blob_release(&mut tx, &old.sha256, old.size, now + GRACE).await?;
        }
        if let Some(replay) = &replay {
            replay.remember(&mut tx, object, now).await?;
        }
        let kind = if old.is_some() { Kind::Updated } else { Kind::Created };
        self.record(tx, &access, Change { kind, file: file.clone() }, Some(object)).await?;
        if !kept {
            // It is in the trash already, and to delete it takes as long as a part of writing it.
            let storage = self.storage.clone();
            #[expect(clippy::disallowed_methods, reason = "if it is lost, the sweep of the trash does its work")]
            tokio::spawn(async move { storage.later(office.id, storage.bury(office.id, object).await) });
        }
        Ok(Outcome::Written(file))
    }
}

/// Whether the target may be written over what is there.
async fn admit(conn: &mut OfficeConn, target: &Target, current: Option<&FileRow>) -> Result<()> {
    target.condition.check(current)?;
    if current.is_none()
        && let Some(existing) = repo::file_clash(conn, &target.path).await?
    {
        return Err(rules::clash(&target.path, &existing));
    }
    Ok(())
}
