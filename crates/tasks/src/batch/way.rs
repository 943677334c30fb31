//! How a transaction goes: with the queue's row locked, or by what was seen of it before.

use mi_kernel::{Error, ErrorKind, Result};
use mi_store::{Db, OfficeConn};

use crate::repo::Fence;

/// What a transaction reads and writes through.
pub(crate) enum Way<'a> {
    /// A transaction of the database that has the queue's row locked.
    Locked(&'a mut OfficeConn),
    /// None: all it needs was seen with one look, or is remembered, and it writes once, if the queue is as it was then.
    Seen(&'a Db, Fence),
}

/// The reason of an error: what was asked takes more than a look.
pub(crate) const NEEDS_LOCK: &str = "NEEDS_LOCK";
/// The reason of an error: the queue is no longer as it was seen, or is remembered.
pub(crate) const QUEUE_MOVED: &str = "QUEUE_MOVED";

impl Way<'_> {
    /// The transaction with the lock.
    ///
    /// # Errors
    /// [`NEEDS_LOCK`] when there is none.
    pub(crate) fn tx(&mut self) -> Result<&mut OfficeConn> {
        match self {
            Self::Locked(tx) => Ok(tx),
            Self::Seen(..) => Err(needs_lock()),
        }
    }
}

pub(crate) fn needs_lock() -> Error {
    Error::new(ErrorKind::Aborted, NEEDS_LOCK, "the queue has to be locked for that").by_platform()
}

pub(super) fn moved() -> Error {
    Error::new(ErrorKind::Aborted, QUEUE_MOVED, "the queue is no longer as it was seen").by_platform()
}
