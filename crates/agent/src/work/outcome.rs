//! What comes of an attempt at a task.

use mi_kernel::receipt::{Artifact, Command};
use tonic::Status;

/// What came of the work.
pub(super) enum Outcome {
    Done(Done),
    Failed(Failed),
    /// Unfinished, for no fault of the task.
    Released,
    /// Reported already; what came of that.
    Reported(Ended),
}

/// How an attempt ended, for the log.
pub(super) struct Ended {
    pub(super) how: &'static str,
    /// May hold words of the task; empty: there is nothing to say.
    pub(super) why: String,
}

impl Ended {
    /// The task was completed.
    pub(super) fn done() -> Self {
        Self { how: "done", why: String::new() }
    }

    /// The task was completed after its lease was lost.
    pub(super) fn too_late(status: &Status) -> Self {
        Self { how: "the completion came too late", why: status.message().into() }
    }

    /// The line, of a private task without any words of it.
    pub(super) fn line(self, private: bool) -> String {
        match private || self.why.is_empty() {
            true => self.how.into(),
            false => format!("{}: {}", self.how, self.why),
        }
    }
}

/// Work that is done.
pub(super) struct Done {
    pub(super) result: String,
    pub(super) artifacts: Vec<Artifact>,
    pub(super) commands: Vec<Command>,
}

/// An attempt that failed.
pub(super) struct Failed {
    pub(super) error: String,
    pub(super) retryable: bool,
    pub(super) loop_detected: bool,
}

impl Failed {
    /// Another attempt may do better.
    pub(super) fn retryable(error: String) -> Self {
        Self { error, retryable: true, loop_detected: false }
    }
}
