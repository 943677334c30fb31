//! When the platform was away: asleep, stopped, without its database. Nobody could renew a lease then, so such time does not
//! count.
//!
//! One row says when deadlines were last looked at, by whichever process. A look that comes long after the one before adds
//! what was missed to that row, and a task whose time is up is asked what of its time it missed (`Task::due`). So the time
//! that counts is that in which the platform was there, and one that keeps crashing puts nothing off for ever.

use chrono::TimeDelta;
use mi_kernel::Time;
use mi_store::FromRow;

/// Looks that are further apart have missed what was between them. Several times what is between two of them: whoever holds a
/// lease bears what is shorter.
const LATE: TimeDelta = TimeDelta::seconds(2);
/// How far behind the row may be. It is written while there are deadlines, which is not to cost much.
const MARK: TimeDelta = TimeDelta::seconds(1);

/// What is known of looks at deadlines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub(crate) struct SweepClock {
    /// When anybody last looked, about.
    pub(crate) swept_at: Option<Time>,
    /// How long the platform was away in all, in microseconds.
    pub(crate) away: i64,
    /// When it was back the last time.
    pub(crate) back_at: Option<Time>,
}

/// A moment, and what was missed before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) now: Time,
    /// As in [`SweepClock`].
    pub(crate) away: i64,
    /// As in [`SweepClock`].
    pub(crate) back_at: Option<Time>,
}

/// A look at deadlines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) now: Time,
    /// When this process looked before; none: it has just started.
    pub(crate) last: Option<Time>,
    /// Whether other processes may have looked meanwhile.
    pub(crate) shared: bool,
    /// Whether there are any deadlines.
    pub(crate) waited_for: bool,
}

impl SweepClock {
    pub(crate) fn at(self, now: Time) -> Moment {
        Moment { now, away: self.away, back_at: self.back_at }
    }

    /// Whether nothing can have been missed of which the row does not tell.
    pub(crate) fn is_current(self, now: Time) -> bool {
        self.swept_at.is_some_and(|swept_at| now - swept_at <= LATE)
    }

    /// What is known after the look; none: nothing that has to be written.
    pub(crate) fn after(self, look: Look) -> Option<Self> {
        let Look { now, last, shared, waited_for } = look;
        // Not later than now: a clock may have been put back.
        let seen = self.swept_at.max(last).map(|seen| seen.min(now));
        // Who starts over a database of its own ends the time in which nobody was there, however short that was.
        let is_back = last.is_none() && !shared;
        let missed = seen.map_or(TimeDelta::zero(), |seen| now - seen);
        if is_back || seen.is_none() || missed > LATE {
            let missed = missed.num_microseconds().unwrap_or_default().max(1);
            return Some(Self { swept_at: Some(now), away: self.away + missed, back_at: Some(now) });
        }
        let is_behind = self.swept_at.is_none_or(|swept_at| (now - swept_at).abs() >= MARK);
        (is_behind && waited_for).then_some(Self { swept_at: Some(now), ..self })
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    #[test]
    fn what_was_missed_is_what_nobody_looked_at() {
        let start = SystemClock.now();
        let at = |milliseconds| start + TimeDelta::milliseconds(milliseconds);
        let known = SweepClock { swept_at: Some(at(0)), away: 7, back_at: None };
        let look = |now, last: Option<i64>, shared, waited_for| {
            let next = known.after(Look { now: at(now), last: last.map(at), shared, waited_for })?;
            assert_eq!(next.swept_at, Some(at(now)));
            assert_eq!(next.back_at, (next.away > known.away).then_some(at(now)));
            Some(next.away - known.away)
        };
        // In time. The row is written when it is behind, and only while that matters.
        assert_eq!(look(400, Some(0), false, true), None);
        assert_eq!(look(1200, Some(800), false, true), Some(0));
        assert_eq!(look(100000, Some(99600), false, false), None);
        assert_eq!(look(100000, Some(99600), false, true), Some(0));
        // Asleep, or without the database.
        assert_eq!(look(20000, Some(400), false, false), Some(19_600_000));
        assert_eq!(look(20000, Some(400), true, true), Some(19_600_000));
        // This process was, and another was not.
        assert_eq!(look(1900, Some(-30000), true, true), Some(0));
        // A start: over a database of its own nobody was there before, however short that was.
        assert_eq!(look(500, None, false, false), Some(500_000));
        assert_eq!(look(500, None, true, true), None);
        assert_eq!(look(8000, None, true, true), Some(8_000_000));
        // A clock that was put back.
        assert_eq!(look(-60000, Some(0), false, true), Some(0));
        // The first one ever.
        let first = SweepClock::default().after(Look { now: at(0), last: None, shared: true, waited_for: false });
        assert_eq!(first, Some(SweepClock { swept_at: Some(at(0)), away: 1, back_at: Some(at(0)) }));
    }
}
