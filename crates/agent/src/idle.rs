//! For how long the agent has had nothing to do, which its heartbeats tell.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Counts what is under way.
#[derive(Debug, Clone)]
pub(crate) struct Idle(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    busy: usize,
    /// When the last of it ended, or the agent began.
    since: Instant,
}

/// Something is under way for as long as this lives.
pub(crate) struct Busy(Idle);

impl Idle {
    /// An agent that begins now.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { busy: 0, since: Instant::now() })))
    }

    // Whole between any two statements.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins.
    pub(crate) fn busy(&self) -> Busy {
        self.state().busy += 1;
        Busy(self.clone())
    }

    /// None: something is under way.
    pub(crate) fn lasts(&self) -> Option<Duration> {
        let state = self.state();
        (state.busy == 0).then(|| state.since.elapsed())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_something_to_do_is_not_idle_until_all_of_it_ended() {
        let idle = Idle::new();
        assert!(idle.lasts().is_some());
        let (one, two) = (idle.busy(), idle.busy());
        drop(one);
        assert_eq!(idle.lasts(), None);
        let before = Instant::now();
        drop(two);
        assert!(idle.lasts().is_some_and(|lasts| lasts <= before.elapsed()), "counted from the end");
    }
}
