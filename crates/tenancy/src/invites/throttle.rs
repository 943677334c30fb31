//! The throttle on wrong invite codes: they are counted in each minute, by where they come from and together.
//!
//! There are 32^6 = 2^30 codes. At [`MAX_WRONG`] wrong ones a minute, 144,000 a day, somebody who throttle without pause from
//! many addresses finds a given invite within its day with a chance of 1 in 7,400, and from one address, at [`MAX_WRONG_BY_SOURCE`],
//! of 1 in 74,000. The price is that such a guesser can keep others from joining meanwhile.
//!
//! Each process counts for itself: with several office roles the limits are so many times as high.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{Error, Result, Time};

/// How long wrong codes are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Wrong codes in a window from one source.
const MAX_WRONG_BY_SOURCE: u32 = 10;
/// Wrong codes in a window from all sources.
const MAX_WRONG: u32 = 100;

/// The wrong codes of the current window. There are never more sources in it than [`MAX_WRONG`].
#[derive(Default)]
pub(super) struct InviteThrottle(Mutex<Window>);

#[derive(Default)]
struct Window {
    since: Option<Time>,
    total: u32,
    by_source: HashMap<String, u32>,
}

/// A code that is being tried. It counts as wrong unless it is said that it was not: also while it is looked at, so that
/// many at once are no way around, and when the call is cut off.
#[must_use]
pub(super) struct Attempt<'a> {
    throttle: &'a InviteThrottle,
    source: &'a str,
    since: Option<Time>,
}

impl InviteThrottle {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a code be tried.
    pub(super) fn admit<'a>(&'a self, source: &'a str, now: Time) -> Result<Attempt<'a>> {
        let mut window = self.window();
        // Also when the clock was set back.
        if window.since.is_none_or(|since| now < since || now >= since + WINDOW) {
            *window = Window { since: Some(now), ..Window::default() };
        }
        let each = window.by_source.get(source).copied().unwrap_or_default();
        if each >= MAX_WRONG_BY_SOURCE || window.total >= MAX_WRONG {
            let end = window.since.unwrap_or(now) + WINDOW;
            let wait = (end - now).to_std().unwrap_or(WINDOW);
            let text = "too many wrong invite codes; wait a minute, or ask for a new invite";
            return Err(Error::exhausted("TOO_MANY_GUESSES", text, wait));
        }
        window.total += 1;
        *window.by_source.entry(source.to_owned()).or_default() += 1;
        Ok(Attempt { throttle: self, source, since: window.since })
    }
}

impl Attempt<'_> {
    /// The code was good.
    pub(super) fn succeeded(self) {
        let mut window = self.throttle.window();
        if window.since != self.since {
            return;
        }
        window.total -= 1;
        if let Some(each) = window.by_source.get_mut(self.source) {
            *each -= 1;
            if *each == 0 {
                window.by_source.remove(self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    fn wrong(throttle: &InviteThrottle, source: &str, now: Time) -> Result<(), (&'static str, Option<Duration>)> {
        throttle.admit(source, now).map(drop).map_err(|error| (error.reason, error.retry_after))
    }

    #[test]
    fn a_source_has_ten_wrong_ones_a_minute_and_good_ones_do_not_count() {
        let (throttle, now) = (InviteThrottle::default(), SystemClock.now());
        for _ in 0..200 {
            throttle.admit("a", now).expect("none was wrong").succeeded();
        }
        assert!(throttle.window().by_source.is_empty());
        for _ in 0..MAX_WRONG_BY_SOURCE {
            assert_eq!(wrong(&throttle, "a", now), Ok(()));
        }
        let later = now + Duration::from_secs(59);
        assert_eq!(wrong(&throttle, "a", later), Err(("TOO_MANY_GUESSES", Some(Duration::from_secs(1)))));
        assert_eq!(wrong(&throttle, "b", later), Ok(()));
        assert_eq!(wrong(&throttle, "a", now + WINDOW), Ok(()));
        // A clock that was set back starts afresh as well.
        for _ in 0..MAX_WRONG_BY_SOURCE {
            let _ = wrong(&throttle, "a", now + WINDOW);
        }
        assert_eq!(wrong(&throttle, "a", now), Ok(()));
    }

    #[test]
    fn all_together_have_a_hundred_and_codes_being_tried_count() {
        let (throttle, now) = (InviteThrottle::default(), SystemClock.now());
        let sources: Vec<String> = (0..MAX_WRONG).map(|number| number.to_string()).collect();
        let trying: Vec<Attempt<'_>> =
            sources.iter().map(|source| throttle.admit(source, now).expect("room")).collect();
        assert_eq!(wrong(&throttle, "late", now), Err(("TOO_MANY_GUESSES", Some(WINDOW))));
        trying.into_iter().for_each(Attempt::succeeded);
        assert_eq!(wrong(&throttle, "late", now), Ok(()));
        // One of a window that is over takes nothing from the next.
        let old = throttle.admit("late", now).expect("room");
        assert_eq!(wrong(&throttle, "late", now + WINDOW), Ok(()));
        old.succeeded();
        assert_eq!(throttle.window().total, 1);
    }
}
