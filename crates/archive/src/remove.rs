//! What belongs to an agent goes, however it was left.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Removes a directory and what is in it, also what its owner had made unwritable. One that is not there is no error.
///
/// Every directory is moved up before it is looked into: how deep it goes is the agent's to say, and must cost neither
/// stack nor descriptors nor a path that is too long. A crash leaves a rest that the next call takes with it.
/// # Errors
/// When the system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".removing");
    let top = path.with_file_name(name);
    let there = |path: &Path| match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    };
    if !there(path)? && !there(&top)? {
        return Ok(());
    }
    match fs::DirBuilder::new().mode(0o700).create(&top) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Told apart from what an earlier call left.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let (mut waiting, mut moved) = (Vec::new(), 0_u64);
    let mut lift = |from: &Path| -> io::Result<PathBuf> {
        // A directory that changes its parent has to be writable itself.
        fs::set_permissions(from, fs::Permissions::from_mode(0o700))?;
        moved += 1;
        let to = top.join(format!("{run}-{moved}"));
        fs::rename(from, &to).map(|()| to)
    };
    for entry in fs::read_dir(&top)? {
        waiting.push(entry?.path());
    }
    if there(path)? {
        waiting.push(lift(path)?);
    }
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            // Links are not followed: nothing outside is touched.
            match entry.file_type()?.is_dir() {
                true => waiting.push(lift(&entry.path())?),
                false => fs::remove_file(entry.path())?,
            }
        }
        fs::remove_dir(&directory)?;
    }
    fs::remove_dir(&top)
}
