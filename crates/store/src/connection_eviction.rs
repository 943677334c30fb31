//! When the connections of a pool are not worth keeping any more.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::class::Class;

/// A server that takes no writes goes on to fail them: new connections are opened for those that fail, no more often.
const PAUSE: Duration = Duration::from_secs(1);

/// Since when connections are given up that were open then, shared by a pool and what is lent from it.
///
/// After a failover the old server answers on as a read-only one, and a proxy or a name leads new connections to the
/// new one. A connection that is kept would fail for as long as it lives, although it is sound.
#[derive(Debug, Clone, Default)]
pub struct ConnectionEviction(Arc<Mutex<Option<Instant>>>);

impl ConnectionEviction {
    /// Passes on what a statement answered, and gives the connections up when their server has to be looked for anew.
    ///
    /// # Errors
    /// Those of the statement.
    pub fn heed<T>(&self, answer: sqlx::Result<T>) -> sqlx::Result<T> {
        if let Err(error) = &answer
            && Class::of(error) == Class::Lost
        {
            self.give_up(Instant::now());
        }
        answer
    }

    /// Whether a connection that was opened so long ago is still to be used.
    pub(crate) fn keeps(&self, age: Duration) -> bool {
        self.since().is_none_or(|since| age < since.elapsed())
    }

    fn give_up(&self, now: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none_or(|since| now.saturating_duration_since(since) >= PAUSE) {
            *since = Some(now);
        }
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_open_is_given_up_and_no_more_often_than_once_a_second() {
        let (eviction, start) = (ConnectionEviction::default(), Instant::now());
        assert!(eviction.keeps(Duration::from_secs(3600)));
        let passed: sqlx::Result<u8> = eviction.heed(Err(sqlx::Error::RowNotFound));
        assert!(matches!(passed, Err(sqlx::Error::RowNotFound)));
        assert_eq!(eviction.since(), None, "says nothing of the server");
        eviction.give_up(start);
        eviction.give_up(start + PAUSE / 2);
        assert_eq!(eviction.since(), Some(start));
        assert!(!eviction.keeps(Duration::from_secs(3600)));
        assert!(eviction.keeps(Duration::ZERO), "opened since");
        eviction.give_up(start + PAUSE);
        assert_eq!(eviction.since(), Some(start + PAUSE));
    }
}
