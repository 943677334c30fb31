//! What a transaction may do about what follows from changes of tasks, and what is left of that.

use std::collections::BTreeMap;

use mi_kernel::TaskId;
use uuid::Uuid;

use super::repo::{self, Consequence};

/// Tasks whose followers are asked for together. This and what follows is less in the simulation, which has few tasks.
pub(super) const TOGETHER: usize = if cfg!(test) { 2 } else { 256 };
/// Statements of one transaction are at most about six times as many.
const ROUNDS: u32 = if cfg!(test) { 3 } else { 16 };
/// Tasks that one transaction reads for this.
const MAX_TASKS: usize = if cfg!(test) { 3 } else { 256 };
/// Bytes of those tasks together.
const MAX_BYTES: i64 = 1 << 20;

/// What a transaction may still do about consequences, and what is left of them.
pub(super) struct Consequences {
    pub(super) left: BTreeMap<TaskId, Consequence>,
    /// Of which the database tells, too, and how it does.
    pub(super) stored: BTreeMap<TaskId, Consequence>,
    /// Whether this transaction took up what was left and got no further with it: the next one would not either.
    pub(super) stuck: bool,
    /// What the database has besides, of tasks before this one.
    pub(super) rest: repo::Rest,
    pub(super) before: TaskId,
    /// Whether that is taken up, too.
    pub(super) carries_on: bool,
    /// Of how many tasks the followers are asked for together, since those of more were too many.
    pub(super) together: usize,
    pub(super) rounds: u32,
    pub(super) tasks: usize,
    pub(super) bytes: i64,
}

impl Consequences {
    pub(super) fn new(rest: repo::Rest) -> Self {
        let (left, stored) = Default::default();
        let (rounds, tasks, bytes) = (ROUNDS, MAX_TASKS, MAX_BYTES);
        let (before, carries_on, stuck, together) = (TaskId(Uuid::max()), false, false, TOGETHER);
        Self { left, stored, stuck, rest, before, carries_on, together, rounds, tasks, bytes }
    }

    /// Whether there is something for another transaction.
    pub(super) fn are_left(&self) -> bool {
        self.rest != repo::Rest::None || !self.left.is_empty()
    }

    /// Whether open subtasks of cancelled tasks are still to be cancelled.
    pub(super) fn cancel(&self) -> bool {
        self.rest == repo::Rest::Cancels || self.left.values().any(|left| left.root.is_some())
    }

    /// Whether open subtasks of this task are, or may be, still to be cancelled.
    pub(super) fn cancels(&self, id: TaskId) -> bool {
        let known = self.left.get(&id).map(|left| left.root.is_some());
        known.unwrap_or(self.rest == repo::Rest::Cancels)
    }

    /// Takes what it costs to read a task of this length; false: that is no longer possible. The first one always is.
    pub(super) fn afford(&mut self, length: i64) -> bool {
        let fits = self.tasks > 0 && (self.bytes >= length || self.tasks == MAX_TASKS);
        // What is used up is used up: the next one may be shorter, and would come before its turn.
        self.tasks = if fits { self.tasks - 1 } else { 0 };
        self.bytes -= length;
        fits
    }

    /// What there is to write: what is over, and what is left and was not yet, or otherwise. `changed`: whether tasks did.
    pub(super) fn take(&mut self, changed: bool) -> (Vec<TaskId>, Vec<(TaskId, Consequence)>) {
        let stored = std::mem::take(&mut self.stored);
        let over: Vec<TaskId> = stored.keys().filter(|id| !self.left.contains_key(id)).copied().collect();
        let left = self.left.iter().filter(|(id, left)| stored.get(id) != Some(left));
        let left: Vec<(TaskId, Consequence)> = left.map(|(id, left)| (*id, *left)).collect();
        self.stuck = self.carries_on && !changed && over.is_empty() && left.is_empty();
        (over, left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::NOBODY;

    #[test]
    fn what_gets_no_further_is_noticed_and_not_written_again() {
        let (id, other) = (TaskId::new(), TaskId::new());
        let left = Consequence { root: Some(id), after: None };
        let further = Consequence { root: None, after: Some(NOBODY) };
        let taken = |carries_on, changed, now: &[(TaskId, Consequence)]| {
            let mut consequences = Consequences::new(repo::Rest::None);
            consequences.carries_on = carries_on;
            consequences.stored.insert(id, left);
            consequences.left.extend(now.iter().copied());
            let written = consequences.take(changed);
            (written, consequences.stuck)
        };
        assert_eq!(taken(true, false, &[(id, left)]), ((vec![], vec![]), true));
        assert_eq!(taken(true, true, &[(id, left)]), ((vec![], vec![]), false), "some of its followers changed");
        assert_eq!(taken(false, false, &[(id, left)]), ((vec![], vec![]), false), "nobody tried");
        assert_eq!(taken(true, false, &[(id, further)]), ((vec![], vec![(id, further)]), false));
        assert_eq!(taken(true, false, &[]), ((vec![id], vec![]), false));
        assert_eq!(taken(true, false, &[(id, left), (other, left)]), ((vec![], vec![(other, left)]), false));
    }
}
