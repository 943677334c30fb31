//! Files of the drive.

use std::{io::Write as _, sync::Arc};

use mi_proto::v1::{ListFilesRequest, UploadHeader};

use super::{Answer, MAX_ANSWER, Shared, files::part, refused};
use crate::{blocking::blocking, work::drive};

/// Most that is read at once; the answer also names the revision and where to go on.
const MAX_READ: usize = MAX_ANSWER - 256;

tool!(List, "drive_list", "List files of the drive, which the whole office shares.", {
    #[serde(default)] prefix: String = "string?", "Only paths that start with it.";
});

tool!(Read, "drive_read", "Read a text file of the drive. You also get its revision.", {
    path: String = "string", "Path in the drive.";
    #[serde(default)] offset: u64 = "integer?", "First byte; 0 by default.";
});

tool!(Write, "drive_write", "Write a file of the drive.", {
    path: String = "string", "Path in the drive.";
    content: String = "string", "The whole content.";
    #[serde(default)]
    revision: i64 = "integer?", "The revision that you read, to replace a file; without it the file must be new.";
});

pub(super) async fn list(shared: &Shared, asked: List) -> Answer {
    let request = ListFilesRequest {
        office_id: shared.office_id.clone(),
        prefix: asked.prefix,
        page_size: Some(200),
        page_token: String::new(),
    };
    let page = shared.client.drive().list_files(request).await.map_err(refused)?.into_inner();
    let mut lines: Vec<_> = page
        .files
        .iter()
        .map(|file| format!("{} ({} bytes, revision {})", file.path, file.size, file.revision))
        .collect();
    if !page.next_page_token.is_empty() {
        lines.push("and more: ask for a longer prefix".into());
    }
    Ok(if lines.is_empty() { "(none)".into() } else { lines.join("\n") })
}

pub(super) async fn read(shared: &Shared, asked: Read) -> Answer {
    let offset = i64::try_from(asked.offset).map_err(|_| "the offset is out of range")?;
    let (file, content) = drive::download(shared, &asked.path, offset, MAX_READ).await.map_err(refused)?;
    let size = u64::try_from(file.size).unwrap_or(0);
    Ok(format!("revision {}\n{}", file.revision, part(&content, asked.offset, size)))
}

pub(super) async fn write(shared: &Shared, asked: Write) -> Answer {
    let lost = |error: std::io::Error| format!("it could not be stored on the way: {error}");
    let (temporary, content) = (shared.config.temporary.clone(), asked.content);
    let stored = blocking(move || {
        let mut file = tempfile::tempfile_in(temporary)?;
        file.write_all(content.as_bytes()).map(|()| Arc::new(file))
    });
    let file = stored.await.map_err(lost)?;
    let header = UploadHeader {
        path: asked.path,
        content_type: "text/plain".into(),
        if_revision: asked.revision,
        ..UploadHeader::default()
    };
    let file = drive::upload(shared, header, &file).await.map_err(refused)?;
    Ok(format!("wrote {} ({} bytes, revision {})", file.path, file.size, file.revision))
}
