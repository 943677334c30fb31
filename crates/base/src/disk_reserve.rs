//! Room that is kept for deletions: each of them writes before it frees anything, so that on a full disk nothing could be
//! deleted. A file of allocated blocks is given up for it, and taken back when there is room again.

use std::{
    error::Error as StdError,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mi_kernel::{Error, Result};
use nix::{fcntl::posix_fallocate, sys::statvfs::statvfs};
use tokio::sync::{Notify, watch};

/// Bytes of the reserve: what the logs of all roles' databases need for some deletions.
const SIZE: u32 = 8 << 20;
/// It is taken back when so many bytes would be free besides.
const SPARE: u64 = 8 << 20;
const INTERVAL: Duration = Duration::from_secs(5);
/// Name under which `grpc.health.v1` says whether the platform's disk has room for more than deletions.
pub const HEALTH: &str = "mi.disk";
/// Reason of the error of whoever finds no room.
const STORAGE_FULL: &str = "STORAGE_FULL";

/// The reserve of a data directory. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DiskReserve(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    gone: watch::Sender<bool>,
    /// Wakes whoever can free something early.
    wanted: Notify,
}

impl Inner {
    /// Bytes that are free on the disk.
    fn free(&self) -> Option<u64> {
        let disk = statvfs(self.file.parent()?).ok()?;
        Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }

    /// Allocates the file, when there is room for more than that.
    fn take(&self) -> bool {
        let allocate = || {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&self.file)?;
            posix_fallocate(&file, 0, SIZE.into()).map_err(io::Error::from)?;
            file.sync_all()
        };
        let there = fs::metadata(&self.file).map_or(0, |file| file.len());
        if there < u64::from(SIZE) && self.free().is_some_and(|free| free < SPARE + u64::from(SIZE)) {
            return false;
        }
        let taken = allocate();
        if let Err(error) = &taken {
            tracing::debug!(target: "mi::disk", %error, "the reserve could not be taken");
            let _ = fs::remove_file(&self.file);
        }
        taken.is_ok()
    }
}

impl DiskReserve {
    /// Takes the reserve in this directory, whose disk has to be there already. A disk that is full already has none.
    pub fn open(directory: &Path) -> Self {
        let inner = Inner { file: directory.join("reserve"), gone: watch::Sender::new(false), wanted: Notify::new() };
        let gone = !inner.take();
        if gone {
            tracing::warn!(target: "mi::disk", directory = %directory.display(), "the disk has no room for the reserve");
        }
        inner.gone.send_replace(gone);
        Self(Some(Arc::new(inner)))
    }

    /// Takes it back for ever, as soon as there is room.
    pub async fn keep(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.take_back();
        }
    }

    fn take_back(&self) {
        let Some(inner) = self.0.as_ref().filter(|_| self.is_gone()) else { return };
        if inner.take() {
            tracing::info!(target: "mi::disk", "there is room again, and the reserve is back");
            inner.gone.send_replace(false);
        }
    }

    /// Whether it was given up, and is not back.
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| *inner.gone.borrow())
    }

    /// Follows [`DiskReserve::is_gone`].
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.as_ref().map_or_else(|| watch::Sender::new(false).subscribe(), |inner| inner.gone.subscribe())
    }

    /// Whether what can be freed early should be: there is no reserve, or hardly more than that.
    pub fn is_tight(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        *inner.gone.borrow() || inner.free().is_some_and(|free| free < SPARE)
    }

    /// Has whoever can free something early look whether it should.
    pub fn want(&self) {
        if let Some(inner) = &self.0 {
            inner.wanted.notify_one();
        }
    }

    /// Returns when something should be freed early. One waits at a time.
    pub async fn wanted(&self) {
        match &self.0 {
            Some(inner) => inner.wanted.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Gives it up; false: there is none, or it is gone already.
    fn release(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        let released = !*inner.gone.borrow() && fs::remove_file(&inner.file).is_ok();
        if released {
            tracing::warn!(target: "mi::disk", "the disk is full: the reserve is given up for deletions");
            inner.gone.send_replace(true);
        }
        released
    }

    /// Does what frees room in the end, once more with the reserve when there was no room for it.
    ///
    /// # Errors
    /// As the work.
    pub async fn freeing<T, F: Future<Output = Result<T>>>(&self, work: impl Fn() -> F) -> Result<T> {
        let was_gone = self.is_gone();
        let done = match work().await {
            // Also when another one has released it meanwhile.
            Err(error) if is_full(&error) && (self.release() || (!was_gone && self.is_gone())) => work().await,
            outcome => outcome,
        };
        if self.is_tight() {
            self.want();
        }
        done
    }

    /// Refuses what would use up the reserve while it is given up for deletions.
    ///
    /// # Errors
    /// `Exhausted` with [`STORAGE_FULL`].
    pub fn leave(&self) -> Result<()> {
        if self.is_gone() { Err(full("the platform's disk is full; nothing was written")) } else { Ok(()) }
    }
}

/// The error of whoever finds no room: what happened, and what helps.
pub fn full(what: &str) -> Error {
    let text = format!("{what}. Deleting files, backups or agents makes room, and so does a larger disk");
    Error::exhausted(STORAGE_FULL, text, Duration::from_secs(30)).by_platform()
}

/// Whether a failure is that of a full disk, or comes from one.
pub fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let is_full = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
            || error.downcast_ref::<Error>().is_some_and(|error| error.reason == STORAGE_FULL);
        if is_full {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn size(directory: &Path) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(directory.join("reserve")).ok().map(|file| file.blocks() * 512)
    }

    #[tokio::test]
    async fn it_is_given_up_once_for_what_frees_and_taken_back() {
        let directory = tempfile::tempdir().expect("directory");
        let reserve = DiskReserve::open(directory.path());
        assert!(size(directory.path()).expect("there") >= u64::from(SIZE), "its blocks are allocated");
        assert!(!reserve.is_gone() && reserve.leave().is_ok());

        let tries = AtomicUsize::new(0);
        let work = || async {
            let there = size(directory.path()).is_some();
            tries.fetch_add(1, Ordering::Relaxed);
            if there { Err(full("as told")) } else { Ok(7) }
        };
        assert_eq!(reserve.freeing(work).await.expect("the second time"), 7);
        assert_eq!((tries.load(Ordering::Relaxed), reserve.is_gone(), reserve.is_tight()), (2, true, true));
        assert_eq!(reserve.leave().expect_err("only deletions").reason, STORAGE_FULL);
        reserve.wanted().await;
        // There is nothing left to give up, and other failures are none of its business.
        let again = reserve.freeing(|| async { Err::<(), _>(full("as told")) }).await;
        assert_eq!(again.expect_err("no room").reason, STORAGE_FULL);

        reserve.take_back();
        assert!(!reserve.is_gone() && !*reserve.watch().borrow());
        assert!(size(directory.path()).expect("there") >= u64::from(SIZE));
        let other = reserve.freeing(|| async { Err::<(), _>(Error::unavailable("other")) }).await;
        assert_eq!((other.expect_err("fails").reason, reserve.is_gone()), ("UNAVAILABLE", false));
    }

    #[tokio::test]
    async fn it_serves_all_that_free_at_the_same_time() {
        let directory = tempfile::tempdir().expect("directory");
        let reserve = DiskReserve::open(directory.path());
        let (both_began, tries) = (tokio::sync::Barrier::new(2), AtomicUsize::new(0));
        let work = || async {
            tries.fetch_add(1, Ordering::Relaxed);
            if size(directory.path()).is_some() {
                both_began.wait().await;
                return Err(full("as told"));
            }
            Ok(())
        };
        let (one, other) = tokio::join!(reserve.freeing(work), reserve.freeing(work));
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        assert_eq!(tries.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_full_disk_is_found_below_other_errors() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(is_full(&Error::unavailable("cannot write").caused_by(full)));
        assert!(!is_full(&Error::unavailable("cannot write").caused_by(io::Error::other("broken"))));
    }
}
