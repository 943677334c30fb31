//! Time comes from outside, so that tests can turn it.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};

/// A moment, in whole microseconds: what both databases keep.
pub type Time = DateTime<Utc>;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now, in whole microseconds.
    fn now(&self) -> Time;

    /// Now, for processes that share a database and need not have the same time: what the database says. A clock that a
    /// test turns shows its own.
    fn agreed(&self, database: Time) -> Time {
        database
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The clock as services hold it.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = Utc::now();
        now.trunc_subsecs(6)
    }
}
