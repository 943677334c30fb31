//! Supervised background tasks: named, joined at shutdown, and loud when one dies.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use mi_kernel::{Error, Result};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long that may take which ends before the process closes.
const FIRST: Duration = Duration::from_secs(6);
/// How long calls may take to end before the tasks end that they may need.
const CLOSING: Duration = Duration::from_secs(5);
/// How long something that a process needs may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Asks whether something answers that the process needs.
type Probe = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// The background tasks of a process.
///
/// A task runs until it returns or until shutdown cancels it at an await point. A task that panics takes the whole
/// process down in order: half a platform that looks alive is worse than one that restarts.
///
/// A process ends in steps, so that nobody who calls it notices: it is not ready any more, and those in front of it send new
/// callers elsewhere; what [ends first](Tasks::ends_first) does, while all callers are served; it is closing, which ends
/// connections and whoever waits, while calls under way are served; and it shuts down.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Those of them that serve callers.
    doors: TaskTracker,
    shutdown: CancellationToken,
    closing: CancellationToken,
    draining: CancellationToken,
    first: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
    needs: Arc<Mutex<Vec<(&'static str, Probe)>>>,
    failed: Arc<std::sync::OnceLock<&'static str>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("left", &self.tracker.len()).finish_non_exhaustive()
    }
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        let shutdown = CancellationToken::new();
        // Each of them has come when the next one has.
        let closing = shutdown.child_token();
        let draining = closing.child_token();
        Self {
            tracker: TaskTracker::new(),
            doors: TaskTracker::new(),
            shutdown,
            closing,
            draining,
            first: Arc::default(),
            needs: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// Starts a task that shutdown may drop at any await point.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.spawn_to_end(name, async move {
            tokio::select! {
                // After shutdown it goes no step further.
                biased;
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

    /// Starts a task that serves callers until [`Tasks::closing`], and for as long as their calls take.
    pub fn spawn_door(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let open = self.doors.token();
        self.spawn_to_end(name, async move {
            task.await;
            drop(open);
        });
    }

    /// Does this when the process is to end, before it closes: what it ends may still call the process, to take leave.
    pub fn ends_first(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).push(work.boxed());
    }

    /// The process is not ready while this does not answer `true`, or not soon.
    pub fn need<F>(&self, name: &'static str, probe: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let probe: Probe = Arc::new(move || probe().boxed());
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).push((name, probe));
    }

    /// Whether somebody new may call; else why not.
    pub async fn ready(&self) -> std::result::Result<(), &'static str> {
        if self.draining.is_cancelled() {
            return Err("stopping");
        }
        let needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, probe) in needs {
            if !tokio::time::timeout(ANSWER, probe()).await.unwrap_or(false) {
                return Err(name);
            }
        }
        Ok(())
    }

    /// From now on the process is not ready, and goes on.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Resolves once nobody may call any more; shutdown follows when those who have called are served.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Resolves once shutdown has begun.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Does what [ends first](Tasks::ends_first), has calls end, begins shutdown and waits for the tasks, at most this long in
    /// all. Returns the name of a task that had panicked.
    pub async fn stop(&self, limit: Duration) -> Option<&'static str> {
        let until = tokio::time::Instant::now() + limit;
        let first = std::mem::take(&mut *self.first.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = tokio::time::timeout(FIRST.min(limit), futures::future::join_all(first)).await;
        self.closing.cancel();
        self.doors.close();
        // Whoever takes longer may find what it needs gone.
        let _ = tokio::time::timeout(CLOSING.min(limit), self.doors.wait()).await;
        self.shutdown.cancel();
        self.tracker.close();
        if tokio::time::timeout_at(until, self.tracker.wait()).await.is_err() {
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
    async fn what_ends_first_ends_while_callers_are_served() {
        let tasks = Tasks::new();
        let (seen, process) = (Arc::new(Mutex::new(None)), tasks.clone());
        let noted = seen.clone();
        tasks.ends_first(async move {
            tokio::task::yield_now().await;
            *noted.lock().expect("sound") = Some(process.closing().is_cancelled());
        });
        tasks.stop(Duration::from_secs(5)).await;
        assert_eq!(*seen.lock().expect("sound"), Some(false));
        assert!(tasks.closing().is_cancelled() && tasks.shutdown().is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_begins_shutdown_and_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("endless", std::future::pending());
        tasks.spawn("doomed", async { panic!("as meant") });
        tasks.shutdown().cancelled().await;
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, Some("doomed"));
    }

    #[tokio::test]
    async fn whoever_is_being_served_finds_all_it_needs_while_the_process_closes() {
        let tasks = Tasks::new();
        let (door, closing, shutdown) = (tasks.clone(), tasks.closing(), tasks.shutdown());
        assert_eq!(tasks.ready().await, Ok(()));
        tasks.need("database", || async { true });
        assert_eq!(tasks.ready().await, Ok(()));
        tasks.drain();
        assert_eq!((tasks.ready().await, closing.is_cancelled()), (Err("stopping"), false));
        tasks.spawn_door("door", async move {
            closing.cancelled().await;
            assert!(!door.shutdown().is_cancelled(), "a call is under way");
        });
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, None);
        assert!(shutdown.is_cancelled());

        let tasks = Tasks::new();
        tasks.need("database", || async { false });
        assert_eq!(tasks.ready().await, Err("database"));
        tasks.need("never asked", std::future::pending);
        assert_eq!(tasks.ready().await, Err("database"));
        // A panic ends everything at once.
        tasks.spawn("doomed", async { panic!("as meant") });
        tasks.closing().cancelled().await;
        assert_eq!(tasks.ready().await, Err("stopping"));
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
