//! The data directory: private, and used by one process at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use mi_base::files;
use mi_kernel::{Error, Result};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::kill,
    unistd::Pid,
};

/// How long a lock may outlive the process that took it: one that is killed while it starts an agent leaves a child that
/// has its open files until it sees that its parent is gone. `mi doctor` holds the lock for a moment, too.
const LEFTOVER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Whether the process that wrote this into the lock's file is there; one that is about to write is.
fn lives(holder: &str) -> bool {
    match holder.trim().parse() {
        Ok(id) => kill(Pid::from_raw(id), None) != Err(Errno::ESRCH),
        Err(_) => true,
    }
}

/// Holds the lock of a data directory; the kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    _lock: Flock<File>,
    /// Names this installation among those over one database; the same after a restart.
    pub(crate) node_id: String,
}

impl DataDir {
    /// Makes the directory if needed and locks it.
    ///
    /// # Errors
    /// `FailedPrecondition` when it cannot be used, or another platform uses it.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let unusable = |error: std::io::Error| {
            let text =
                format!("cannot use the data directory {}: {error}; choose another with --data-dir", path.display());
            Error::precondition("DATA_DIR", text).caused_by(error)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path.join("lock")).map_err(unusable)?;
        let patience = Instant::now() + LEFTOVER;
        let lock = loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((file, _)) => file,
            };
            let holder = fs::read_to_string(path.join("lock")).unwrap_or_default();
            if lives(&holder) || Instant::now() > patience {
                let text = format!(
                    "the data directory {} is in use by process {}; stop that one, or choose another with --data-dir",
                    path.display(),
                    if holder.is_empty() { "?" } else { holder.trim() },
                );
                return Err(Error::precondition("DATA_DIR_LOCKED", text));
            }
            tokio::time::sleep(PAUSE).await;
        };
        let mut file: &File = &lock;
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
        let node_file = path.join("node-id");
        let node_id = match fs::read_to_string(&node_file) {
            Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
            _ => {
                let id = uuid::Uuid::now_v7().to_string();
                files::write_private(&node_file, id.as_bytes()).map_err(unusable)?;
                id
            }
        };
        Ok(Self { _lock: lock, node_id })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn one_process_at_a_time_and_private() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("data");
        let first = DataDir::open(&path).await.expect("free");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        let error = DataDir::open(&path).await.expect_err("in use");
        assert_eq!(error.reason, "DATA_DIR_LOCKED");
        assert!(error.message.contains(&std::process::id().to_string()), "{error}");
        let id = first.node_id.clone();
        drop(first);
        assert_eq!(DataDir::open(&path).await.expect("free again").node_id, id);
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_waited_for() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("data");
        let left = DataDir::open(&path).await.expect("free");
        let mut dead = std::process::Command::new("true").spawn().expect("starts");
        dead.wait().expect("ends");
        fs::write(path.join("lock"), format!("{}\n", dead.id())).expect("written");
        let mut next = Box::pin(DataDir::open(&path));
        assert!(futures::poll!(&mut next).is_pending(), "its lock is still held");
        drop(left);
        next.await.expect("free again");
        assert_eq!(fs::read_to_string(path.join("lock")).expect("there"), format!("{}\n", std::process::id()));
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("data");
        fs::write(&path, "").expect("written");
        let error = DataDir::open(&path).await.expect_err("no directory");
        assert!(error.message.contains("--data-dir"), "{error}");
    }
}
