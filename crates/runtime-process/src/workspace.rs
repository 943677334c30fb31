//! Workspaces on disk: made, restored, removed.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
};

use mi_kernel::{Error, Result};

use super::make_private;

/// The agent's own directory.
pub(super) fn workspace(home: &Path) -> PathBuf {
    home.join("workspace")
}

/// Where the agent keeps its key.
pub(super) fn identity(home: &Path) -> PathBuf {
    home.join("identity")
}

/// What the agent may lose at each start; not in backups.
pub(super) fn temporary(home: &Path) -> PathBuf {
    home.join("tmp")
}

/// Makes the agent's directories ready for a start: there, empty where they should be, and its owner's.
pub(super) fn ready(home: &Path, (user, group): (u32, u32)) -> Result<()> {
    remove(&temporary(home))?;
    for directory in [temporary(home), identity(home), workspace(home)] {
        make_private(&directory)?;
        give(&directory, user, group).map_err(|error| {
            let text = format!("the directory {} could not be made the agent's", directory.display());
            Error::unavailable(text).caused_by(error)
        })?;
    }
    Ok(())
}

/// Gives a directory to its owner, itself last: one that is the owner's was given whole. Links are not followed.
fn give(directory: &Path, user: u32, group: u32) -> io::Result<()> {
    if fs::symlink_metadata(directory)?.uid() == user {
        return Ok(());
    }
    // A list and no recursion: how deep it goes is the agent's to say.
    let (mut directories, mut next) = (vec![directory.to_owned()], 0);
    while let Some(directory) = directories.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => directories.push(entry.path()),
                false => lchown(entry.path(), Some(user), Some(group))?,
            }
        }
    }
    directories.iter().rev().try_for_each(|directory| lchown(directory, Some(user), Some(group)))
}

/// Makes the workspace unless it is there; filled from the archive in a place of its own first, so that a crash never
/// leaves half of one.
pub(super) fn prepare(home: &Path, archive: Option<Box<dyn Read + Send>>) -> Result<()> {
    make_private(home)?;
    make_private(&identity(home))?;
    let target = workspace(home);
    if target.is_dir() {
        return Ok(());
    }
    let Some(archive) = archive else {
        return make_private(&target);
    };
    let draft = home.join("restoring");
    remove(&draft)?;
    make_private(&draft)?;
    let unpack = || -> io::Result<()> {
        mi_archive::unpack(archive, &draft)?;
        // The archive's root entry brings its own mode.
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o700))?;
        fs::rename(&draft, &target)
    };
    unpack().map_err(|error| Error::precondition("RESTORE_FAILED", "the backup could not be unpacked").caused_by(error))
}

/// Removes a directory and what is in it, also what its owner had made unwritable.
pub(super) fn remove(path: &Path) -> Result<()> {
    mi_archive::remove(path).map_err(|error| {
        let text = format!("the directory {} could not be removed", path.display());
        Error::unavailable(text).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// As a program makes it that always steps inside: far deeper than any path can name.
    fn dig(top: &Path, levels: usize) {
        use nix::{
            fcntl::{OFlag, openat},
            sys::stat::{Mode, mkdirat},
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut inside = nix::fcntl::open(top, flags, Mode::empty()).expect("opened");
        for _ in 0..levels {
            mkdirat(&inside, "d", Mode::S_IRWXU).expect("made");
            inside = openat(&inside, "d", flags, Mode::empty()).expect("opened");
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_backed_up_as_far_as_paths_go_and_removed_whole() {
        let root = tempfile::tempdir().expect("directory");
        let home = root.path().join("agent");
        prepare(&home, None).expect("made");
        fs::write(workspace(&home).join("kept"), "kept").expect("written");
        dig(&workspace(&home), 20_000);
        mi_archive::pack(&workspace(&home), Box::new(io::sink())).expect("archived");
        assert!(super::super::disk::used(&workspace(&home), 1 << 40) > 1 << 40, "what cannot be counted is too much");
        // The stack of a thread that blocks is small.
        let removing = home.clone();
        let small = std::thread::Builder::new().stack_size(128 << 10).spawn(move || remove(&removing));
        small.expect("a thread").join().expect("no overflow").expect("removed");
        assert_eq!(fs::read_dir(root.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_removal_that_was_interrupted_is_finished_by_the_next() {
        let root = tempfile::tempdir().expect("directory");
        let (home, rest) = (root.path().join("agent"), root.path().join("agent.removing"));
        fs::create_dir_all(rest.join("old/deep")).expect("made");
        fs::write(rest.join("old/deep/file"), "").expect("written");
        remove(&home).expect("removed");
        assert!(!rest.exists());
        fs::create_dir_all(rest.join("old")).expect("made");
        fs::create_dir_all(home.join("workspace")).expect("made");
        remove(&home).expect("removed");
        assert_eq!(fs::read_dir(root.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_broken_archive_leaves_no_workspace() {
        let root = tempfile::tempdir().expect("directory");
        let home = root.path().join("agent");
        let error = prepare(&home, Some(Box::new(io::Cursor::new(b"not zstd".to_vec())))).expect_err("broken");
        assert_eq!(error.reason, "RESTORE_FAILED");
        assert!(!workspace(&home).exists());
    }

    #[test]
    fn a_workspace_survives_archive_and_restore_and_links_do_not_escape() {
        let root = tempfile::tempdir().expect("directory");
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        prepare(&old, None).expect("made");
        let secret = root.path().join("secret");
        fs::write(&secret, "outside").expect("written");
        let files = workspace(&old);
        fs::create_dir(files.join("deep")).expect("made");
        fs::write(files.join("deep/ünï.txt"), "inside").expect("written");
        fs::set_permissions(files.join("deep/ünï.txt"), fs::Permissions::from_mode(0o640)).expect("set");
        let far = format!("deep/{}/{}", "d".repeat(120), "e".repeat(120));
        fs::create_dir_all(files.join(&far)).expect("made");
        fs::write(files.join(&far).join("far"), vec![7; 300_000]).expect("written");
        symlink("nowhere/at/all", files.join("dangling")).expect("linked");
        fs::create_dir(files.join("empty")).expect("made");
        symlink(&secret, files.join("link")).expect("linked");
        std::os::unix::net::UnixListener::bind(files.join("socket")).expect("bound");

        let archive = root.path().join("archive");
        mi_archive::pack(&files, Box::new(fs::File::create(&archive).expect("made"))).expect("packed");
        prepare(&new, Some(Box::new(fs::File::open(&archive).expect("opened")))).expect("restored");

        let restored = workspace(&new).join("deep/ünï.txt");
        assert_eq!(fs::read_to_string(&restored).expect("there"), "inside");
        assert_eq!(fs::metadata(&restored).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(workspace(&new).join("link")).expect("a link"), secret);
        assert!(!workspace(&new).join("socket").exists());
        assert_eq!(fs::read(workspace(&new).join(&far).join("far")).expect("there"), vec![7; 300_000]);
        assert_eq!(fs::read_link(workspace(&new).join("dangling")).expect("a link"), Path::new("nowhere/at/all"));
        assert!(workspace(&new).join("empty").is_dir());
        assert_eq!(fs::metadata(workspace(&new)).expect("there").permissions().mode() & 0o777, 0o700);

        fs::set_permissions(workspace(&new).join("deep"), fs::Permissions::from_mode(0o500)).expect("set");
        remove(&new).expect("removed");
        assert!(!new.exists() && secret.exists());
        remove(&new).expect("removed twice");
    }
}
