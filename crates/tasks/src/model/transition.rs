//! What can happen to a task.

use mi_kernel::{TaskId, Time};
use mi_tenancy::Author;

use super::{Assignee, Ended, Lease, Work};

/// What happens to a task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TaskTransition {
    /// It has to wait.
    Block {
        reason: String,
        hangs_on: Option<TaskId>,
    },
    /// Nothing holds it up any more, or nothing that goes on by itself: why, then.
    Free {
        stalled: String,
    },
    Claim(Lease, Author),
    Renew(Lease),
    /// Its deadline is so many microseconds later than it was set: the platform was away meanwhile.
    Postpone(i64),
    /// Its worker gives it back, or is gone: the attempt does not count. It may be kept for an agent from now on.
    Release {
        ended: Option<Ended>,
        keep_for: Option<Assignee>,
        /// Whether the worker waits for subtasks, which counts.
        waits: bool,
    },
    /// Its time is up.
    Expire,
    Complete {
        work: Work,
        ended: Option<Ended>,
        /// Until when somebody has to verify it; none: nobody has to.
        verify_until: Option<Time>,
    },
    Fail {
        error: String,
        retryable: bool,
        ended: Option<Ended>,
    },
    Cancel(String),
    Retry {
        depth: i32,
    },
    Accept,
    Reject(String),
    /// The agent that it was kept for is gone.
    Unassign,
    /// It is to be kept for this agent from now on; none: for nobody in particular.
    Assign(Option<Assignee>),
}
