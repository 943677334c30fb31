//! `mi.v1.DriveService`.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use mi_kernel::{
    Error, Result,
    page::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page, bounded},
};
use mi_proto::v1::{
    self, ChangeType, DownloadFileResponse, UploadFileRequest, UploadHeader, WatchChangesResponse,
    drive_service_server::DriveService, upload_file_request::Part,
};
use mi_rpc::{Reply, convert, handle, outgoing, status, status::from_status};
use tonic::{Request, Status, Streaming, codegen::BoxStream};

use super::{
    Drive,
    model::{Change, FileRow, Kind},
    rules,
    storage::{SILENCE, in_time},
};

/// Most bytes of one message of an upload.
const MAX_CHUNK: usize = 1 << 20;
/// Changes of a watch that wait for its client.
const BUFFER: usize = 16;

fn to_wire(file: FileRow) -> v1::File {
    v1::File {
        path: file.path,
        size: file.size,
        sha256: file.sha256,
        revision: file.revision,
        content_type: file.content_type,
        modified_at: Some(convert::timestamp(file.modified_at)),
        modified_by: file.modified_by,
    }
}

fn change_to_wire(change: Change) -> v1::Change {
    let kind = match change.kind {
        Kind::Created => ChangeType::Created,
        Kind::Updated => ChangeType::Updated,
        Kind::Deleted => ChangeType::Deleted,
    };
    v1::Change {
        r#type: kind.into(),
        path: change.file.path,
        revision: change.file.revision,
        time: Some(convert::timestamp(change.file.modified_at)),
        agent: change.file.modified_by,
        cursor: change.file.revision,
    }
}

/// The header that an upload begins with.
async fn header(stream: &mut Streaming<UploadFileRequest>) -> Result<UploadHeader> {
    let first = in_time(SILENCE, stream.message()).await?.map_err(|status| from_status(&status))?;
    match first.and_then(|message| message.part) {
        Some(Part::Header(header)) => Ok(header),
        _ => Err(Error::invalid("header", "must be in the first message of an upload")),
    }
}

/// What a later message of an upload adds to the content.
fn chunk(message: Result<UploadFileRequest, Status>) -> Result<Bytes> {
    match message.map_err(|status| from_status(&status))?.part {
        Some(Part::Chunk(chunk)) if chunk.len() <= MAX_CHUNK => Ok(chunk),
        Some(Part::Chunk(_)) => Err(Error::invalid("chunk", format!("must have at most {MAX_CHUNK} bytes"))),
        Some(Part::Header(_)) => Err(Error::invalid("header", "must be in the first message only")),
        None => Err(Error::invalid("chunk", "is missing: a message after the first has the next bytes")),
    }
}

#[tonic::async_trait]
impl DriveService for Drive {
    type DownloadFileStream = stream::BoxStream<'static, Result<DownloadFileResponse, Status>>;
    type WatchChangesStream = BoxStream<WatchChangesResponse>;

    async fn list_files(&self, request: Request<v1::ListFilesRequest>) -> Reply<v1::ListFilesResponse> {
        handle!(request, |caller, v1::ListFilesRequest { office_id, prefix, page_size, page_token }| {
            let page = Page::parse(page_size, &page_token)?;
            let (files, next_page_token) = self.list(&caller, &office_id, &prefix, &page).await?;
            v1::ListFilesResponse { files: files.into_iter().map(to_wire).collect(), next_page_token }
        })
    }

    async fn stat_file(&self, request: Request<v1::StatFileRequest>) -> Reply<v1::StatFileResponse> {
        handle!(request, |caller, v1::StatFileRequest { office_id, path }| {
            let file = self.stat(&caller, &office_id, &path).await?;
            v1::StatFileResponse { file: Some(to_wire(file)) }
        })
    }

    async fn upload_file(&self, request: Request<Streaming<UploadFileRequest>>) -> Reply<v1::UploadFileResponse> {
        handle!(request, |caller, mut stream| {
            let header = header(&mut stream).await?;
            let file = self.upload(&caller, &header, stream.map(chunk).boxed()).await?;
            v1::UploadFileResponse { file: Some(to_wire(file)) }
        })
    }

    async fn download_file(&self, request: Request<v1::DownloadFileRequest>) -> Reply<Self::DownloadFileStream> {
        handle!(request, |caller, body| {
            let (file, content) = self.download(&caller, &body).await?;
            let first = DownloadFileResponse { file: Some(to_wire(file)), chunk: Bytes::new() };
            let content = content.map(|piece| match piece {
                Ok(chunk) => Ok(DownloadFileResponse { file: None, chunk }),
                Err(error) => Err(status(error)),
            });
            stream::once(future::ready(Ok(first))).chain(content).boxed()
        })
    }

    async fn delete_file(&self, request: Request<v1::DeleteFileRequest>) -> Reply<v1::DeleteFileResponse> {
        handle!(request, |caller, body| {
            self.storage.reserve.freeing(|| self.delete(&caller, &body)).await?;
            v1::DeleteFileResponse {}
        })
    }

    async fn list_changes(&self, request: Request<v1::ListChangesRequest>) -> Reply<v1::ListChangesResponse> {
        handle!(request, |caller, v1::ListChangesRequest { office_id, cursor, page_size }| {
            let (_, office) = self.offices.get(&caller, &office_id).await?;
            rules::not_negative("cursor", cursor)?;
            let limit = bounded("page_size", page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)?;
            let (changes, kept_after) = self.changes(office.id, cursor, limit).await?;
            let changes: Vec<_> = changes.into_iter().map(change_to_wire).collect();
            let next_cursor = changes.last().map_or(cursor.max(kept_after), |change| change.cursor);
            v1::ListChangesResponse { changes, next_cursor, kept_after }
        })
    }

    async fn watch_changes(&self, request: Request<v1::WatchChangesRequest>) -> Reply<Self::WatchChangesStream> {
        handle!(request, |caller, body| {
            let message = |change| WatchChangesResponse { change: Some(change_to_wire(change)) };
            let changes = self.watch(&caller, &body).await?.map_ok(message);
            outgoing(&self.background, BUFFER, changes.map_err(status))
        })
    }
}
