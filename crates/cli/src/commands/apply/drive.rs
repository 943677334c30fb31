//! The files that a file puts into the colony's drive.

use std::fs;

use mi_client::{once, retry};
use mi_kernel::receipt::sha256_hex;
use mi_proto::v1::{File, StatFileRequest, UploadFileRequest, UploadHeader, upload_file_request::Part};
use tonic::Code;
use uuid::Uuid;

use super::{Action, Report, Work, file::DriveFile};
use crate::{commands::resource, failure::Failure};

/// How much goes in one message.
const CHUNK: usize = 256 << 10;

impl Work<'_> {
    /// Uploads what is missing or different.
    pub(super) async fn files(&self, office_id: Option<&str>, report: &mut Report) -> Result<(), Failure> {
        for wanted in &self.file.files {
            let content = self.content(wanted)?;
            let path = &wanted.path.value;
            let there = match office_id {
                Some(office_id) => self.stat(office_id, path).await?,
                None => None,
            };
            let action = match &there {
                Some(file) if file.sha256 == sha256_hex(&content) => Action::Unchanged,
                Some(_) => self.action(Action::ToUpdate, Action::Updated),
                None => self.action(Action::ToCreate, Action::Created),
            };
            let upload = office_id.filter(|_| !self.is_dry && action != Action::Unchanged);
            if let Some(office_id) = upload {
                // Over the revision that was looked at: what somebody wrote meanwhile is not lost.
                self.upload(office_id, path, there.map_or(0, |file| file.revision), content).await?;
            }
            report.add("file", path, action, "");
        }
        Ok(())
    }

    fn content(&self, wanted: &DriveFile) -> Result<Vec<u8>, Failure> {
        match (&wanted.content, &wanted.from) {
            (Some(content), _) => Ok(content.clone().into_bytes()),
            (None, from) => {
                let path = self.file.directory.join(from.as_deref().unwrap_or(std::path::Path::new("")));
                fs::read(&path).map_err(|error| Failure::io(format!("{} cannot be read", path.display()), &error))
            }
        }
    }

    async fn stat(&self, office_id: &str, path: &str) -> Result<Option<File>, Failure> {
        let request = StatFileRequest { office_id: office_id.to_owned(), path: path.to_owned() };
        match retry(async || self.context.client.drive().stat_file(request.clone()).await).await {
            Ok(answer) => Ok(answer.into_inner().file),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    async fn upload(&self, office_id: &str, path: &str, if_revision: i64, content: Vec<u8>) -> Result<File, Failure> {
        let header = UploadHeader {
            office_id: office_id.to_owned(),
            path: path.to_owned(),
            if_revision,
            request_id: Uuid::new_v4().to_string(),
            ..UploadHeader::default()
        };
        let chunks: Vec<Part> = content.chunks(CHUNK).map(|chunk| Part::Chunk(chunk.to_vec().into())).collect();
        let parts = [Part::Header(header)].into_iter().chain(chunks);
        let messages = tokio_stream::iter(parts.map(|part| UploadFileRequest { part: Some(part) }));
        resource(once(self.context.client.drive().upload_file(messages)).await?, |answer| answer.file)
    }
}
