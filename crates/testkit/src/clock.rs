//! Clocks for tests: one that moves only when a test moves it, and one that is wrong.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, TimeDelta};
use mi_kernel::{Clock, SystemClock, Time};

/// A clock in the hand of a test. Clones show the same time: keep one, give the other away.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Time>>);

impl ManualClock {
    /// Stands at a fixed time that stands out in a failed assertion: 2033-05-18 03:33:20.
    pub fn new() -> Self {
        Self::at(DateTime::from_timestamp(2_000_000_000, 0).expect("a constant within range"))
    }

    /// Stands at this time.
    pub fn at(time: Time) -> Self {
        Self(Arc::new(Mutex::new(time.trunc_subsecs(6))))
    }

    /// The clock as services hold it.
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    /// Puts the clock to this time, earlier ones too: machines do that.
    pub fn set(&self, time: Time) {
        self.turn(|now| *now = time);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.turn(|now| *now += by);
    }

    fn turn(&self, change: impl FnOnce(&mut Time)) {
        // A poisoned lock means that another thread of the test panicked; a time is whole nevertheless.
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        *now = now.trunc_subsecs(6);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agreed(&self, _: Time) -> Time {
        self.now()
    }
}

/// The machine's clock, put wrong.
#[derive(Debug, Clone, Copy)]
pub struct SkewedClock(TimeDelta);

impl SkewedClock {
    /// So much ahead of the time; behind it, when that is negative.
    pub fn new(ahead: TimeDelta) -> Self {
        Self(ahead)
    }

    /// The clock as services hold it.
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(*self)
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Time {
        SystemClock.now() + self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still_until_moved_and_clones_move_along() {
        let clock = ManualClock::default();
        let given_away = clock.shared();
        let start = given_away.now();
        assert_eq!(given_away.now(), start);

        clock.advance(Duration::from_millis(1500));
        assert_eq!(given_away.now().to_rfc3339(), "2033-05-18T03:33:21.500+00:00");

        clock.set(start);
        assert_eq!(given_away.now(), start);
    }

    #[test]
    fn shows_whole_microseconds_as_databases_keep_them() {
        let clock = ManualClock::default();
        clock.advance(Duration::from_nanos(1_999));
        assert_eq!(clock.now().timestamp_subsec_nanos(), 1_000);
    }
}
