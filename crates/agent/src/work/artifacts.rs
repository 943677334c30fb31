//! What a task made, on its way into the drive.

use std::{fs, io, path::Path};

use mi_kernel::receipt::Artifact;
use mi_proto::v1::{Task, UploadHeader};

use super::{Shared, drive};

/// Most files that a task publishes; with usual names so many fit on a receipt.
const MAX_FILES: usize = 500;

/// Uploads all files below the directory to `tasks/TASK_ID/`, by path.
///
/// # Errors
/// A sentence that names the file.
pub(super) async fn publish(shared: &Shared, task: &Task, directory: &Path) -> Result<Vec<Artifact>, String> {
    let unreadable = |error: io::Error| format!("what the script put into $MI_ARTIFACTS cannot be read: {error}");
    let mut files = Vec::new();
    collect(directory, String::new(), &mut files).map_err(unreadable)?;
    if files.len() > MAX_FILES {
        return Err(format!("more than {MAX_FILES} files in $MI_ARTIFACTS: publish them as one archive"));
    }
    files.sort();
    let mut published = Vec::new();
    for name in files {
        let file = fs::File::open(directory.join(&name)).map_err(unreadable)?;
        let path = format!("tasks/{}/{name}", task.id);
        published.push(upload(shared, &path, "", &file).await?);
    }
    Ok(published)
}

/// The names of the files below a directory. Links are not followed, and nothing else is published.
fn collect(directory: &Path, prefix: String, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| io::Error::other(format!("the name {name:?} is not UTF-8")))?;
        let (path, kind) = (format!("{prefix}{name}"), entry.file_type()?);
        if kind.is_dir() {
            collect(&entry.path(), format!("{path}/"), files)?;
        } else if kind.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Ok(());
        }
    }
    Ok(())
}

/// Uploads one file, over whatever is there; what a receipt says of it.
///
/// # Errors
/// A sentence that names the path.
pub(super) async fn upload(
    shared: &Shared,
    path: &str,
    content_type: &str,
    file: &fs::File,
) -> Result<Artifact, String> {
    let header = UploadHeader {
        path: path.to_owned(),
        content_type: content_type.to_owned(),
        force: true,
        ..UploadHeader::default()
    };
    match drive::upload(shared, header, file).await {
        Ok(file) => Ok(Artifact { path: file.path, revision: file.revision, sha256: file.sha256 }),
        Err(status) => Err(format!("{path} could not be put into the drive: {}", status.message())),
    }
}
