//! What a task is created for.

use super::Task;

/// What a task is created for, and how far that is from an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// `task/ID` or `message/ID`; empty: an operator asked for it.
    pub text: String,
    /// How many causes lead back to an operator.
    pub depth: i32,
}

impl Cause {
    /// That of whatever is done for this task.
    pub(crate) fn of(task: &Task) -> Self {
        Self { text: format!("task/{}", task.id), depth: task.progress.depth + 1 }
    }
}
