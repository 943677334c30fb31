//! The files that a file puts into the colony's drive.

use std::path::PathBuf;

use mi_kernel::receipt::sha256_hex;
use mi_proto::v1::{File, UploadHeader};
use uuid::Uuid;

use super::{Action, Report, Work, file::DriveFile};
use crate::{commands::files, failure::Failure, wait::bytes_bar};

impl Work<'_> {
    /// Uploads what is missing or different.
    pub(super) async fn files(&self, office_id: Option<&str>, report: &mut Report) -> Result<(), Failure> {
        for wanted in &self.file.files {
            let sha256 = self.sha256(wanted)?;
            let path = &wanted.path.value;
            let there = match office_id {
                Some(office_id) => files::find(self.context, office_id, path).await?,
                None => None,
            };
            let action = match &there {
                Some(file) if file.sha256 == sha256 => Action::Unchanged,
                Some(_) => self.action(Action::ToUpdate, Action::Updated),
                None => self.action(Action::ToCreate, Action::Created),
            };
            let changes = !self.is_dry && action != Action::Unchanged;
            if let Some(office_id) = office_id.filter(|_| changes) {
                // Over the revision that was looked at: what somebody wrote meanwhile is not lost.
                let header = UploadHeader {
                    office_id: office_id.to_owned(),
                    path: path.clone(),
                    if_revision: there.map_or(0, |file| file.revision),
                    request_id: Uuid::new_v4().to_string(),
                    ..UploadHeader::default()
                };
                self.upload(header, wanted).await?;
            }
            report.add("file", path, action, "");
        }
        Ok(())
    }

    async fn upload(&self, header: UploadHeader, wanted: &DriveFile) -> Result<File, Failure> {
        match &wanted.content {
            Some(content) => files::upload_bytes(self.context, header, content.as_bytes()).await,
            None => files::upload_file(self.context, header, &self.local(wanted), bytes_bar).await,
        }
    }

    fn sha256(&self, wanted: &DriveFile) -> Result<String, Failure> {
        if let Some(content) = &wanted.content {
            return Ok(sha256_hex(content.as_bytes()));
        }
        files::sha256_of(&self.local(wanted))
    }

    /// Where the content is that lies in a file here.
    fn local(&self, wanted: &DriveFile) -> PathBuf {
        self.file.directory.join(wanted.from.as_deref().unwrap_or(&PathBuf::new()))
    }
}
