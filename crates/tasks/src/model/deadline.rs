//! When a task moves on by itself, and what the time in which the platform was away is worth.

use std::time::Duration;

use chrono::TimeDelta;
use mi_kernel::Time;

use super::{State, Task};
use crate::sweep_clock::Moment;

/// How long an agent has to take a message up.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How long somebody has to verify work.
pub(crate) const VERIFY_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Whether a task's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    No,
    /// It is to be put off by so many microseconds in all.
    Later(i64),
    Yes,
}

impl Task {
    /// When it moves on by itself.
    pub(crate) fn deadline(&self) -> Option<Time> {
        Some(self.set_deadline()? + TimeDelta::microseconds(self.progress.postponed))
    }

    /// The same as it was set, before the platform was away.
    fn set_deadline(&self) -> Option<Time> {
        match self.state() {
            State::Running(lease) => Some(lease.expires_at),
            State::Verifying { until, .. } => Some(*until),
            State::Queued if self.spec.answers.is_some() => Some(self.progress.updated_at + ANSWER_LIMIT),
            _ => None,
        }
    }

    /// Whether its time is up. What the platform was away for since does not count, and whoever holds a lease has the whole
    /// of one to come back in; once, until it is renewed.
    pub(crate) fn due(&self, at: Moment) -> Due {
        let (Some(set), Some(deadline)) = (self.set_deadline(), self.deadline()) else { return Due::No };
        let missed = at.away - self.progress.away;
        let end = match (self.state(), at.back_at) {
            _ if deadline > at.now => return Due::No,
            _ if missed <= 0 => return Due::Yes,
            (State::Running(lease), Some(back_at)) if self.progress.postponed == 0 => {
                deadline.max(back_at + lease.length)
            }
            _ => deadline + TimeDelta::microseconds(missed),
        };
        match (end - set).num_microseconds() {
            Some(by) if end > at.now => Due::Later(by),
            _ => Due::Yes,
        }
    }
}
