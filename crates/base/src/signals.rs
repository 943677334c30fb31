//! Wakes those who wait for something to be committed under a key. A signal carries nothing: whoever wakes reads the
//! database from where it stands, so a missed or doubled signal neither loses nor doubles anything.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

type Senders<K> = HashMap<K, watch::Sender<()>>;

/// Who waits for what.
#[derive(Debug)]
pub struct Signals<K>(Arc<Mutex<Senders<K>>>);

impl<K> Clone for Signals<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Signals<K> {
    /// Nobody waits yet.
    #[allow(clippy::new_without_default, reason = "a map of senders has nothing to default to that a reader expects")]
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Wakes everybody who waits under the key.
    pub fn wake(&self, key: &K) {
        if let Some(sender) = self.lock().get(key) {
            sender.send_replace(());
        }
    }

    /// Wakes everybody who waits under a key of which this holds.
    pub fn wake_all(&self, which: impl Fn(&K) -> bool) {
        for (_, sender) in self.lock().iter().filter(|(key, _)| which(key)) {
            sender.send_replace(());
        }
    }

    /// Everything committed after this call wakes the subscription.
    pub fn subscribe(&self, key: K) -> Subscription<K> {
        let receiver = self.lock().entry(key.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Subscription { receiver, key, signals: self.clone() }
    }

    // The map is whole between any two statements: a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Senders<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits.
#[derive(Debug)]
pub struct Subscription<K: Eq + Hash + Clone> {
    receiver: watch::Receiver<()>,
    key: K,
    signals: Signals<K>,
}

impl<K: Eq + Hash + Clone> Subscription<K> {
    /// Returns at the next signal since the last return, or after `poll`, for databases that other processes write to.
    pub async fn changed(&mut self, poll: Option<Duration>) {
        // The sender lives in the map as long as this subscription does, so `changed` does not fail.
        let changed = self.receiver.changed();
        match poll {
            Some(limit) => drop(tokio::time::timeout(limit, changed).await),
            None => drop(changed.await),
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Subscription<K> {
    fn drop(&mut self) {
        let mut senders = self.signals.lock();
        // Under the lock nobody else can subscribe: the last one takes the entry along.
        if senders.get(&self.key).is_some_and(|sender| sender.receiver_count() == 1) {
            senders.remove(&self.key);
        }
    }
}
