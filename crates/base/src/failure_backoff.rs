//! Who failed lately, and until when each is left alone: later and later, while others go on.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mi_kernel::{Time, backoff::Backoff};

/// Failures in a row of each, and when it may be tried again.
type Failed<K> = HashMap<K, (u32, Time)>;

/// See the module.
#[derive(Debug)]
pub struct FailureBackoff<K> {
    backoff: Backoff,
    failed: Mutex<Failed<K>>,
}

impl<K: Eq + Hash> FailureBackoff<K> {
    /// Nobody failed yet.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, failed: Mutex::default() }
    }

    /// Notes a failure; answers when it may be tried again.
    pub fn add(&self, key: K, now: Time) -> Time {
        let mut failed = self.lock();
        let (failures, until) = failed.entry(key).or_insert((0, now));
        *failures = failures.saturating_add(1);
        *until = now + self.backoff.after(*failures);
        *until
    }

    /// Notes a success.
    pub fn clear(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Whether it is to be left alone yet.
    pub fn waits(&self, key: &K, now: Time) -> bool {
        self.lock().get(key).is_some_and(|(_, until)| *until > now)
    }

    /// Forgets those that could have been tried long ago: nobody is interested in them any more.
    pub fn forget(&self, now: Time) {
        let most = self.backoff.most;
        self.lock().retain(|_, (_, until)| *until + most > now);
    }

    // The map is whole between any two statements: a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Failed<K>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mi_kernel::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_failure_waits_longer_each_time_until_a_success() {
        let failure_backoff =
            FailureBackoff::new(Backoff { first: Duration::from_secs(1), most: Duration::from_secs(4) });
        let start = SystemClock.now();
        let mut now = start;
        for _ in 0..4 {
            let until = failure_backoff.add("one", now);
            assert!(
                failure_backoff.waits(&"one", now)
                    && !failure_backoff.waits(&"one", until)
                    && !failure_backoff.waits(&"other", now)
            );
            now = until;
        }
        assert_eq!((now - start).num_seconds(), 1 + 2 + 4 + 4);
        failure_backoff.clear(&"one");
        assert_eq!((failure_backoff.add("one", now) - now).num_seconds(), 1);
        failure_backoff.forget(now + Duration::from_secs(4));
        assert_eq!((failure_backoff.add("one", now) - now).num_seconds(), 2, "it may be tried any moment");
        failure_backoff.forget(now + Duration::from_secs(6));
        assert_eq!((failure_backoff.add("one", now) - now).num_seconds(), 1, "nobody asked for it");
    }
}
