//! What requests, controllers and the test share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch::{Receiver, Sender};

use crate::{controllers, faults::Faults, record::Request, store::World, watch::Watches};

/// The one state of a cluster, behind locks that are never held for long.
pub(crate) struct Core {
    world: Mutex<World>,
    changed: Sender<u64>,
    faults: Mutex<Faults>,
    requests: Mutex<BTreeMap<u64, Request>>,
    watches: Mutex<Watches>,
    stale: Mutex<Option<u64>>,
    next: AtomicU64,
    /// The pause between two bookmarks.
    pub(crate) bookmarks: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// One over these objects.
    pub(crate) fn new(world: World, bookmarks: Duration) -> Self {
        Self {
            changed: Sender::new(world.version()),
            world: Mutex::new(world),
            faults: Mutex::default(),
            requests: Mutex::default(),
            watches: Mutex::default(),
            stale: Mutex::default(),
            next: AtomicU64::new(1),
            bookmarks,
        }
    }

    /// The objects, to be read.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Changes objects, and wakes whoever waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let (before, was_due) = (world.version(), world.due.is_due());
        let result = change(&mut world);
        let (version, is_due) = (world.version(), world.due.is_due());
        drop(world);
        // That nothing is due any more is news as well.
        if version != before || is_due || was_due {
            self.changed.send_replace(version);
        }
        result
    }

    /// Tells of changes.
    pub(crate) fn changes(&self) -> Receiver<u64> {
        self.changed.subscribe()
    }

    /// The faults.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    /// The watches that are open.
    pub(crate) fn watches(&self) -> MutexGuard<'_, Watches> {
        lock(&self.watches)
    }

    /// The version that lists of any version show.
    pub(crate) fn stale(&self) -> Option<u64> {
        *lock(&self.stale)
    }

    /// Says which version lists of any version show; the newest, when it is none.
    pub(crate) fn set_stale(&self, version: Option<u64>) {
        *lock(&self.stale) = version;
    }

    /// What was asked, by number.
    pub(crate) fn requests(&self) -> MutexGuard<'_, BTreeMap<u64, Request>> {
        lock(&self.requests)
    }

    /// Remembers a request.
    pub(crate) fn remember(&self, request: Request) -> u64 {
        let id = self.next();
        lock(&self.requests).insert(id, request);
        id
    }

    /// Notes what a request was answered.
    pub(crate) fn answered(&self, id: u64, status: u16) {
        if let Some(request) = lock(&self.requests).get_mut(&id) {
            request.status = status;
        }
    }

    /// A number that nobody else has.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Has the controllers look at what is due, for ever.
pub(crate) async fn control(core: Arc<Core>) {
    let mut changes = core.changes();
    loop {
        changes.borrow_and_update();
        while core.change(controllers::step) {
            // Requests come between any two steps.
            tokio::task::yield_now().await;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
