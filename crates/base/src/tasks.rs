//! Supervised background tasks: named, joined at shutdown, and loud when one dies.

use std::{future::Future, sync::Arc, time::Duration};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_begins_shutdown_and_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("endless", std::future::pending());
        tasks.spawn("doomed", async { panic!("as meant") });
        tasks.shutdown().cancelled().await;
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, Some("doomed"));
    }
}
