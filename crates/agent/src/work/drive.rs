//! Files into the drive and out of it.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use mi_client::{jittered, reason};
use mi_proto::v1::{self, DownloadFileRequest, UploadFileRequest, UploadHeader, upload_file_request::Part};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use uuid::Uuid;

use super::shared::Shared;
use crate::{
    blocking::blocking,
    retry::{BACKOFF, passes},
};

const CHUNK: usize = 256 << 10;
/// Tries of one upload that the platform is there for.
const TRIES: u32 = 6;

/// Uploads a file; the header needs no office and no request id. Sent again while the platform is away, or has its hands
/// full of other uploads.
///
/// # Errors
/// The platform's last word.
pub(super) async fn upload(shared: &Shared, header: UploadHeader, file: &Arc<File>) -> Result<v1::File, Status> {
    let request_id = Uuid::new_v4().to_string();
    let header = UploadHeader { office_id: shared.office_id.clone(), request_id, ..header };
    let (mut failures, mut tries) = (0, 0);
    loop {
        let answer = attempt(shared, header.clone(), file).await;
        // Whoever waits for this ends it with the task, if that is lost meanwhile.
        tries += u32::from(!answer.as_ref().is_err_and(is_not_there));
        match answer {
            Err(status) if passes(status.code()) && tries < TRIES => {
                failures += 1;
                tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
            }
            answer => return answer,
        }
    }
}

/// Whether the platform is away, or has no room for this upload beside others: nothing that is wrong with this one.
fn is_not_there(status: &Status) -> bool {
    status.code() == Code::Unavailable || ["UPLOADS_BUSY", "TOO_MANY_UPLOADS"].contains(&&*reason(status))
}

async fn attempt(shared: &Shared, header: UploadHeader, file: &Arc<File>) -> Result<v1::File, Status> {
    let unreadable = |error: io::Error| Status::data_loss(format!("the file cannot be read: {error}"));
    let (send, parts) = mpsc::channel(2);
    // By itself, so that nobody who stops waiting for the answer makes the half of a file look like the whole.
    #[expect(clippy::disallowed_methods, reason = "it ends with the call that it feeds")]
    let feeder = tokio::spawn(feed(file.clone(), header, send));
    let answer = shared.client.drive().upload_file(ReceiverStream::new(parts)).await;
    if let Ok(Err(error)) = feeder.await {
        return Err(unreadable(error));
    }
    answer?.into_inner().file.ok_or_else(|| Status::internal("the answer names no file"))
}

/// Sends the file. An end is said to be the end only when it is: after an error comes a message that is never right, for
/// which the platform drops what it has.
async fn feed(file: Arc<File>, header: UploadHeader, send: mpsc::Sender<UploadFileRequest>) -> io::Result<()> {
    let part = |part| UploadFileRequest { part };
    let mut next = Some(Part::Header(header));
    let mut offset = 0;
    while let Some(sent) = next {
        // Nobody listens any more: the call has its answer.
        if send.send(part(Some(sent))).await.is_err() {
            return Ok(());
        }
        let file = file.clone();
        let read = blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let count = file.read_at(&mut chunk, offset)?;
            chunk.truncate(count);
            Ok::<_, io::Error>(chunk)
        });
        next = match read.await {
            Ok(chunk) if chunk.is_empty() => None,
            Ok(chunk) => {
                offset += chunk.len() as u64;
                Some(Part::Chunk(chunk.into()))
            }
            Err(error) => {
                let _ = send.send(part(None)).await;
                return Err(error);
            }
        };
    }
    Ok(())
}

/// A part of a file, and the file.
///
/// # Errors
/// What the platform answers.
pub(super) async fn download(
    shared: &Shared,
    path: &str,
    offset: i64,
    most: usize,
) -> Result<(v1::File, Vec<u8>), Status> {
    let length = i64::try_from(most).unwrap_or(i64::MAX);
    let request = DownloadFileRequest { office_id: shared.office_id.clone(), path: path.to_owned(), offset, length };
    let mut answers = shared.client.drive().download_file(request).await?.into_inner();
    let (mut file, mut content) = (None, Vec::new());
    while let Some(answer) = answers.message().await? {
        file = file.or(answer.file);
        content.extend_from_slice(&answer.chunk);
        content.truncate(most);
    }
    Ok((file.ok_or_else(|| Status::internal("the answer names no file"))?, content))
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn an_upload_that_only_has_to_wait_is_no_try() {
        let exhausted = |reason| {
            let details = ErrorDetails::with_error_info(reason, "mi", []);
            Status::with_error_details(Code::ResourceExhausted, "no room", details)
        };
        for reason in ["UPLOADS_BUSY", "TOO_MANY_UPLOADS"] {
            assert!(is_not_there(&exhausted(reason)), "{reason}");
        }
        assert!(is_not_there(&Status::unavailable("starting")));
        assert!(!is_not_there(&exhausted("STORAGE_FULL")));
        assert!(!is_not_there(&Status::internal("broken")));
    }
}
