//! Supervised background tasks: named, joined at shutdown, and loud when one dies.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use mi_kernel::{Error, Result};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The background tasks of a process.
///
/// A task runs until it returns or until shutdown cancels it at an await point. A task that panics takes the whole
/// process down in order: half a platform that looks alive is worse than one that restarts.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failed: Arc<std::sync::OnceLock<&'static str>>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that shutdown may drop at any await point.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.spawn_to_end(name, async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Starts a task that watches [`Tasks::shutdown`] itself and is waited for.
    pub fn spawn_to_end(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let set = self.clone();
        #[expect(clippy::disallowed_methods, reason = "here it is joined, and its panic heard")]
        let inner = tokio::spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = inner.await
                && error.is_panic()
            {
                tracing::error!(target: "mi::tasks", task = name, "a background task panicked; shutting down");
                let _ = set.failed.set(name);
                set.shutdown.cancel();
            }
        });
    }

    /// Resolves once shutdown has begun.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Begins shutdown and waits for the tasks, at most this long. Returns the name of a task that had panicked.
    pub async fn stop(&self, limit: Duration) -> Option<&'static str> {
        self.shutdown.cancel();
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::warn!(target: "mi::tasks", left = self.tracker.len(), "some tasks did not end in time");
        }
        self.failed.get().copied()
    }
}

/// Runs one try at work that several callers share, where a panic is a fault of ours like any other and is no reason to
/// end the process: asked again, the same request would end the next one, too. What the try holds must be sound when it is
/// dropped in the middle, as a transaction is, which rolls back.
///
/// # Errors
/// Those of the work, and `Internal` for a panic.
pub async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(Error::internal(told(panic.as_ref()))))
}

/// What a panic said.
fn told(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a word"))
}

#[cfg(test)]
mod tests {
    use mi_kernel::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn a_panic_begins_shutdown_and_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("endless", std::future::pending());
        tasks.spawn("doomed", async { panic!("as meant") });
        tasks.shutdown().cancelled().await;
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, Some("doomed"));
    }

    #[tokio::test]
    async fn a_panic_in_shared_work_is_a_fault_that_says_what_it_was() {
        let row = 7;
        let formatted = caught::<()>(async { panic!("row {row} is broken") }).await.expect_err("it panicked");
        let literal = caught::<()>(async { panic!("as meant") }).await.expect_err("it panicked");
        assert_eq!([formatted.kind, literal.kind], [ErrorKind::Internal; 2]);
        assert!(formatted.chain().ends_with(": it panicked: row 7 is broken"), "{}", formatted.chain());
        assert!(literal.chain().ends_with(": it panicked: as meant"), "{}", literal.chain());
        let refused = caught::<()>(async { Err(Error::denied("no")) }).await.expect_err("it was refused");
        assert_eq!(refused.kind, ErrorKind::PermissionDenied);
        assert_eq!(caught(async { Ok(1) }).await.ok(), Some(1));
    }
}
