//! Cycles: no task may wait for itself, by whatever way. A task waits for what it depends on, and for its subtasks.
//!
//! What a task depends on never changes, and nothing that is there depends on a new task: among stored tasks only a parent
//! comes to wait for more. So a new cycle leads from a stored parent to its new subtask, to what that depends on, and from
//! there among stored tasks back to the parent. Those ways are looked for once for all the tasks of a call: first among
//! what waits for the parents, which is mostly little; when that is too much, among what the dependencies wait for.

use std::collections::{BTreeMap, BTreeSet};

use mi_kernel::{Error, Result, TaskId};

use super::{
    batch::Batch,
    model::Task,
    repo::{self, Direction, MAX_REACHED, WIDE},
};

/// Who waits for whom.
type Ways = BTreeMap<TaskId, Vec<TaskId>>;

/// Tasks of one batch before they are in the working set: they get there together or not at all.
#[derive(Default)]
pub(super) struct Layout {
    pub(super) tasks: BTreeMap<TaskId, Task>,
    /// Subtasks among them, by parent.
    pub(super) subtasks: BTreeMap<TaskId, Vec<TaskId>>,
}

impl Layout {
    pub(super) fn add(&mut self, task: Task) {
        if let Some(parent) = task.spec.parent {
            self.subtasks.entry(parent).or_default().push(task.id);
        }
        self.tasks.insert(task.id, task);
    }
}

impl Batch<'_> {
    /// Refuses new tasks that close a cycle, or of which that cannot be told with bounded effort. What they depend on is
    /// looked at already.
    pub(super) async fn refuse_cycles(&mut self, laid: &Layout) -> Result<()> {
        let is_stored = |id: &TaskId| !laid.tasks.contains_key(id);
        let parents: BTreeSet<TaskId> = laid.subtasks.keys().copied().filter(is_stored).collect();
        let links = laid.tasks.values().flat_map(|task| &task.spec.depends_on).copied().filter(is_stored);
        let mut below: BTreeSet<TaskId> = links.collect();
        // What is done waits for nothing any more; what failed or was cancelled may be tried again.
        below.retain(|id| self.standing(*id).is_ok_and(|seen| seen.status != "done"));
        let mut ways = match parents.is_empty() || below.is_empty() {
            true => Ways::new(),
            false => self.ways(&parents, &below).await?,
        };
        for task in laid.tasks.values() {
            ways.entry(task.id).or_default().extend(&task.spec.depends_on);
        }
        for (parent, subtasks) in &laid.subtasks {
            ways.entry(*parent).or_default().extend(subtasks);
        }
        match cycle(&ways) {
            None => Ok(()),
            Some(ids) => {
                let known = ids.iter().find(|id| is_stored(id));
                let whom = known.map_or_else(|| "a task of the batch".to_owned(), |id| format!("task {id}"));
                let text = format!("closes a circle: {whom} would wait for its own subtask, and that for it");
                Err(Error::invalid("depends_on", text))
            }
        }
    }

    /// Who waits for whom among stored tasks, as far as some of `below` may wait for some of `parents`.
    async fn ways(&mut self, parents: &BTreeSet<TaskId>, below: &BTreeSet<TaskId>) -> Result<Ways> {
        // What was created in this transaction counts, too.
        self.write().await?;
        for (direction, from, to) in [(Direction::Up, parents, below), (Direction::Down, below, parents)] {
            let Some(reached) = repo::task_reached(self.way.tx()?, direction, from).await? else { continue };
            if reached.is_disjoint(to) {
                return Ok(Ways::new());
            }
            let mut ways = Ways::new();
            for (waits, awaited) in repo::task_ways(self.way.tx()?, direction, &reached).await? {
                ways.entry(waits).or_default().push(awaited);
            }
            return Ok(ways);
        }
        let text = format!(
            "is searched for circles among {MAX_REACHED} open tasks with at most {WIDE} links each: what it names waits for \
             more than that, and so much waits for the parent, too; name tasks that are nearer to their end, or no parent"
        );
        Err(Error::invalid("depends_on", text))
    }
}

/// The tasks of a cycle, if there is one.
fn cycle(ways: &Ways) -> Option<Vec<TaskId>> {
    let mut left: BTreeSet<TaskId> = BTreeSet::new();
    let mut entered: BTreeSet<TaskId> = BTreeSet::new();
    for start in ways.keys() {
        if !entered.insert(*start) {
            continue;
        }
        // Where the search stands: each task with what is still to be looked at of what it waits for.
        let mut path = vec![(*start, ways[start].iter())];
        while let Some((id, rest)) = path.last_mut() {
            match rest.next() {
                None => {
                    left.insert(*id);
                    path.pop();
                }
                Some(next) if entered.insert(*next) => {
                    path.push((*next, ways.get(next).map(Vec::as_slice).unwrap_or_default().iter()));
                }
                Some(next) if !left.contains(next) => {
                    let ids = path.iter().map(|(id, _)| *id);
                    return Some(ids.skip_while(|id| id != next).collect());
                }
                Some(_) => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_found_and_nothing_else() {
        let ids: Vec<TaskId> = (0..5).map(|_| TaskId::new()).collect();
        let ways = |pairs: &[(usize, usize)]| {
            let mut ways = Ways::new();
            pairs.iter().for_each(|(from, to)| ways.entry(ids[*from]).or_default().push(ids[*to]));
            ways
        };
        for none in [&[][..], &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)], &[(4, 3), (3, 1), (4, 1), (2, 1), (2, 4)]] {
            assert_eq!(cycle(&ways(none)), None);
        }
        assert_eq!(cycle(&ways(&[(0, 0)])), Some(vec![ids[0]]));
        assert_eq!(cycle(&ways(&[(0, 1), (1, 2), (2, 3), (3, 1), (0, 4)])), Some(vec![ids[1], ids[2], ids[3]]));
    }
}
