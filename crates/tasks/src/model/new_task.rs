//! A task before it is created.

use mi_kernel::{Result, TaskId};

use super::{Asked, Assignee, Kind};

/// Longest title, in characters.
pub(crate) const MAX_TITLE: usize = 200;

/// A task by id, or by its place in the same batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    Id(TaskId),
    Place(usize),
}

/// A task that is to be created.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) kind: Kind,
    pub(crate) priority: i32,
    /// Whom it is kept for, or why there is nobody of that name: no matter when it was created before.
    pub(crate) assigned: Result<Option<Assignee>>,
    pub(crate) parent: Option<Reference>,
    pub(crate) depends_on: Vec<Reference>,
    pub(crate) required_tools: Vec<String>,
    pub(crate) max_attempts: i32,
    pub(crate) verification_required: bool,
    pub(crate) request: Option<Asked>,
    /// Conversation that it goes on with; none: it begins one.
    pub(crate) context: Option<String>,
}
