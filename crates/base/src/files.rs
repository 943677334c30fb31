//! Files that only this user reads.

use std::{
    fs::{self, File, OpenOptions},
    io::{Result, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Writes a file that only this user reads, whole or not at all, and for good: the name is on the disk too when this
/// returns.
///
/// # Errors
/// What the system says; the file is as it was then.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
