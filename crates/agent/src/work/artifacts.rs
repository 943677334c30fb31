//! What a task made, on its way into the drive.

mod gather;

use std::{fs::File, path::Path, sync::Arc};

use mi_kernel::receipt::Artifact;
use mi_proto::v1::{Task, UploadHeader};
use tonic::{Code, Status};

use self::gather::{Gathered, Roots, gather};
use super::{drive, shared::Shared};
use crate::blocking::blocking;

/// What a task published.
pub(super) struct Published {
    pub(super) artifacts: Vec<Artifact>,
    /// What was left out and why, a line each; empty: nothing.
    pub(super) left_out: String,
}

/// Uploads all files below the directory to `tasks/TASK_ID/`, by path. A link counts as what it leads to in the workspace.
/// What the drive cannot have, such as a pipe or a name that is no text, is left out and named.
///
/// # Errors
/// Sentences that name what was meant to be published and cannot be.
pub(super) async fn publish(shared: &Shared, task: &Task, directory: &Path) -> Result<Published, String> {
    let (workspace, directory) = (shared.config.workspace.clone(), directory.to_owned());
    let looked = blocking(move || {
        let roots =
            Roots::open(&workspace, &directory).map_err(|error| format!("$MI_ARTIFACTS cannot be read: {error}"))?;
        Ok::<_, String>((gather(&roots, &directory)?, Arc::new(roots)))
    });
    let (gathered, roots) = looked.await?;
    let Gathered { files, mut left_out, mut wrong, .. } = gathered;
    let mut artifacts = Vec::new();
    // Nothing is published by halves when that is known before.
    if wrong.is_empty() {
        for (name, place) in files {
            let roots = roots.clone();
            let file = match blocking(move || roots.file(&place)).await {
                Ok(file) => Arc::new(file),
                Err(error) => {
                    wrong.add(name, error);
                    break;
                }
            };
            let path = format!("tasks/{}/{name}", task.id);
            match upload(shared, &path, "", &file).await {
                Ok(artifact) => artifacts.push(artifact),
                // The drive takes no such path, or no other file beside what is there.
                Err(status) if matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists) => {
                    left_out.add(name, status.message());
                }
                Err(status) => return Err(refused(&path, &status)),
            }
        }
    }
    let left_out = left_out.text();
    if wrong.is_empty() {
        return Ok(Published { artifacts, left_out });
    }
    let others = if left_out.is_empty() { String::new() } else { format!("\nleft out besides:\n{left_out}") };
    Err(format!("not all of $MI_ARTIFACTS can be published:\n{}{others}", wrong.text()))
}

/// Uploads one file, over whatever is there; what a receipt says of it.
///
/// # Errors
/// The platform's last word.
pub(super) async fn upload(
    shared: &Shared,
    path: &str,
    content_type: &str,
    file: &Arc<File>,
) -> Result<Artifact, Status> {
    let header = UploadHeader {
        path: path.to_owned(),
        content_type: content_type.to_owned(),
        force: true,
        ..UploadHeader::default()
    };
    let file = drive::upload(shared, header, file).await?;
    Ok(Artifact { path: file.path, revision: file.revision, sha256: file.sha256 })
}

/// Says of a file that it could not be uploaded.
pub(super) fn refused(path: &str, status: &Status) -> String {
    format!("{path} could not be put into the drive: {}", status.message())
}
