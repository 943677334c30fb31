//! What follows from a change of a task: whoever depends on it, and its parent, look again at what holds them up, and with
//! a task its open subtasks are cancelled.
//!
//! There may be any number of them, and what one transaction does has a bound. What is left is written down
//! (`task_consequences`) in the transaction of the change, and done in later ones, whoever opens them; nothing is decided by
//! the order. Meanwhile dependents wait on, and while subtasks are still to be cancelled nothing is handed out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mi_kernel::{Result, TaskId};
use uuid::Uuid;

use super::{
    Tasks,
    batch::Batch,
    group_commit::TaskCommand,
    model::{State, Task, TaskTransition},
    repo::{self, Follower, Relation, SCANNED},
};

/// Tasks whose followers are asked for together.
const TOGETHER: usize = 256;
/// Statements of one transaction are at most about six times as many.
const ROUNDS: u32 = 16;
/// Tasks that one transaction reads for this.
const MAX_TASKS: usize = 256;
/// Bytes of those tasks together.
const MAX_BYTES: i64 = 1 << 20;
/// How often offices are looked for in which something is left: a process may have ended, or failed, before it was done.
const INTERVAL: Duration = Duration::from_secs(2);

/// Before every task.
pub(super) const NOBODY: TaskId = TaskId(Uuid::nil());

/// What is left to be done about a change of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Consequence {
    /// With which task its open subtasks are still to be cancelled: itself, or one that it is a part of.
    pub(crate) root: Option<TaskId>,
    /// Its parent, and its dependents up to this id, have looked; none: nobody has.
    pub(crate) after: Option<TaskId>,
}

/// What a transaction may still do about consequences, and what is left of them.
pub(super) struct Consequences {
    pub(super) left: BTreeMap<TaskId, Consequence>,
    /// Of which the database tells, too, and how it does.
    stored: BTreeMap<TaskId, Consequence>,
    /// Whether this transaction took up what was left and got no further with it: the next one would not either.
    pub(super) stuck: bool,
    /// What the database has besides, of tasks before this one.
    rest: repo::Rest,
    before: TaskId,
    /// Whether that is taken up, too.
    carries_on: bool,
    /// Of how many tasks the followers are asked for together, since those of more were too many.
    together: usize,
    rounds: u32,
    tasks: usize,
    bytes: i64,
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
    fn afford(&mut self, length: i64) -> bool {
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

impl Batch<'_> {
    /// Takes up what earlier transactions left to be done, besides what follows from this one.
    pub(super) async fn carry_on(&mut self) -> Result<()> {
        self.consequences.carries_on = true;
        if self.consequences.rest == repo::Rest::None {
            return Ok(());
        }
        let rows = repo::consequence_list(self.tx, self.consequences.before, TOGETHER).await?;
        let consequences = &mut self.consequences;
        match rows.last() {
            Some((last, _)) if rows.len() == TOGETHER => consequences.before = *last,
            _ => consequences.rest = repo::Rest::None,
        }
        for (id, left) in rows {
            consequences.stored.insert(id, left);
            consequences.left.entry(id).or_insert(left);
        }
        Ok(())
    }

    /// Carries changes on to whatever waits for them, as far as one transaction goes: dependents, parents, subtasks, and tasks
    /// that judged the work.
    pub(super) async fn settle(&mut self) -> Result<()> {
        loop {
            self.recall_reviews().await?;
            for id in std::mem::take(&mut self.moved) {
                let root = self.roots.remove(&id);
                let known = self.consequences.left.insert(id, Consequence { root, after: None });
                if let (Some(known), Some(left)) = (known, self.consequences.left.get_mut(&id)) {
                    left.root = left.root.or(known.root);
                }
            }
            if self.consequences.left.is_empty() && self.consequences.carries_on {
                self.carry_on().await?;
            }
            let consequences = &mut self.consequences;
            if consequences.left.is_empty() || consequences.rounds == 0 || consequences.tasks == 0 {
                return Ok(());
            }
            consequences.rounds -= 1;
            self.follow().await?;
        }
    }

    /// Looks after the followers of some tasks.
    async fn follow(&mut self) -> Result<()> {
        let (set, mut found, fits) = self.some().await?;
        let done = match set.as_slice() {
            [(id, left)] if !fits => self.follow_one(*id, *left, &mut found).await?,
            _ => {
                self.consequences.tasks -= found.rows.len().min(self.consequences.tasks);
                self.consequences.bytes -= found.rows.iter().map(|row| row.length).sum::<i64>();
                set.iter().map(|(id, _)| (*id, None)).collect()
            }
        };
        let roots: BTreeMap<TaskId, TaskId> = set.iter().filter_map(|(id, left)| Some((*id, left.root?))).collect();
        for (id, left) in done {
            match left {
                Some(left) => drop(self.consequences.left.insert(id, left)),
                None => drop(self.consequences.left.remove(&id)),
            }
        }
        self.load(found.rows.iter().map(|row| row.id).collect()).await?;
        let ids: BTreeSet<TaskId> = set.iter().map(|(id, _)| *id).collect();
        let known = |task: &&Task| {
            let waits = matches!(task.state(), State::Blocked { .. } | State::Queued);
            waits && task.spec.depends_on.iter().any(|id| ids.contains(id))
        };
        let mut waiting: BTreeSet<TaskId> = self.tasks.values().filter(known).map(|task| task.id).collect();
        let parents: Vec<TaskId> = ids.iter().filter_map(|id| self.tasks.get(id)?.spec.parent).collect();
        waiting.extend(parents.into_iter().filter(|id| self.tasks.contains_key(id)));
        waiting.extend(found.rows.iter().filter(|row| row.relation != Relation::Subtask).map(|row| row.id));

        let mut subtasks: Vec<(TaskId, TaskId)> = Vec::new();
        for (id, root) in &roots {
            let known = self.known_subtasks(*id).filter(|subtask| self.tasks.contains_key(subtask));
            subtasks.extend(known.map(|subtask| (subtask, *root)));
        }
        for (subtask, root) in subtasks {
            if self.get(subtask)?.state().is_final() {
                continue;
            }
            self.roots.insert(subtask, root);
            self.transition(
                subtask,
                TaskTransition::Cancel(format!("a part of task {root}, which was cancelled")),
                "",
            )?;
        }
        let waiting: Vec<TaskId> = waiting.into_iter().collect();
        self.prepare(&waiting).await?;
        for id in waiting {
            self.judge(id, "")?;
        }
        Ok(())
    }

    /// Some tasks with their followers, as many as these can be looked at all in this transaction, or one of which they cannot.
    async fn some(&mut self) -> Result<(Vec<(TaskId, Consequence)>, Found, bool)> {
        loop {
            let together = self.consequences.together;
            // The newest first: what is below a task comes before the next ones beside it, so that little is left at a time.
            let newest = self.consequences.left.iter().rev().take(together);
            let set: Vec<(TaskId, Consequence)> = newest.map(|(id, left)| (*id, *left)).collect();
            let found = self.followers(&set).await?;
            let length: i64 = found.rows.iter().map(|row| row.length).sum();
            let consequences = &mut self.consequences;
            let fits = !found.is_truncated() && found.rows.len() <= consequences.tasks && length <= consequences.bytes;
            consequences.together = if fits { TOGETHER.min(2 * together) } else { (together / 8).max(1) };
            if fits || set.len() == 1 {
                return Ok((set, found, fits));
            }
        }
    }

    /// Who follows these that is not in the working set. Of what is new, or was gathered with its dependents, all are.
    async fn followers(&mut self, set: &[(TaskId, Consequence)]) -> Result<Found> {
        let is_known = |id: &TaskId| {
            let parent = self.tasks.get(id).and_then(|task| task.spec.parent);
            let gathered = self.fresh.contains(id) || self.dependents_loaded.contains(id);
            gathered && parent.is_none_or(|parent| self.tasks.contains_key(&parent))
        };
        let asked: Vec<_> = set.iter().filter(|(id, left)| left.root.is_some() || !is_known(id)).copied().collect();
        let mut rows = match asked.is_empty() {
            true => Vec::new(),
            false => repo::task_followers(self.tx, &asked).await?,
        };
        let is_truncated = |relation| rows.iter().filter(|row| row.relation == relation).count() == SCANNED;
        let (subtasks_truncated, dependents_truncated) =
            (is_truncated(Relation::Subtask), is_truncated(Relation::Dependent));
        // One may follow many of them.
        let mut ids = BTreeSet::new();
        rows.retain(|row| row.follows && !self.tasks.contains_key(&row.id) && ids.insert(row.id));
        Ok(Found { rows, subtasks_truncated, dependents_truncated })
    }

    /// Of the followers of one task, those that may be looked at in this transaction; what is left for the next one.
    async fn follow_one(
        &mut self,
        id: TaskId,
        mut left: Consequence,
        found: &mut Found,
    ) -> Result<Vec<(TaskId, Option<Consequence>)>> {
        let (mut dependents, mut rows): (Vec<_>, Vec<_>) =
            std::mem::take(&mut found.rows).into_iter().partition(|row| row.relation == Relation::Dependent);
        let asked = rows.len();
        // Subtasks first: one that is looked at is cancelled and does not come again, but the parent comes again with the rest.
        rows.sort_by_key(|row| row.relation == Relation::Parent);
        rows.retain(|row| self.consequences.afford(row.length));
        let is_whole = rows.len() == asked && !found.subtasks_truncated;
        found.rows = rows;
        if !is_whole {
            // Those that were not read come again, since they are still as they were.
            return Ok(vec![(id, Some(left))]);
        }
        left = Consequence { root: None, after: Some(left.after.unwrap_or(NOBODY)) };
        if found.dependents_truncated {
            dependents = repo::task_dependents_after(self.tx, id, left.after.unwrap_or(NOBODY)).await?;
        }
        let more = dependents.len() == SCANNED;
        dependents.sort_unstable_by_key(|row| row.id);
        for row in dependents {
            if row.follows && !self.tasks.contains_key(&row.id) {
                if !self.consequences.afford(row.length) {
                    return Ok(vec![(id, Some(left))]);
                }
                found.rows.push(row);
            }
            left.after = Some(row.id);
        }
        Ok(vec![(id, more.then_some(left))])
    }

    /// Whoever was to judge work that is no longer to be judged need not, and does not judge what comes after it. Who gave
    /// the verdict goes on, to say so.
    async fn recall_reviews(&mut self) -> Result<()> {
        let judged = std::mem::take(&mut self.judged);
        if judged.is_empty() {
            return Ok(());
        }
        let rows = repo::task_reviews(self.tx, &judged).await?;
        for id in self.insert_loaded(rows) {
            let task = self.get(id)?;
            let judge = task.spec.verifies.and_then(|subject| self.judges.get(&subject));
            let is_open = match task.state() {
                State::Running(_) => task.holder() != judge,
                state => matches!(state, State::Blocked { .. } | State::Queued),
            };
            if is_open {
                self.transition(id, TaskTransition::Cancel("the work was judged otherwise".into()), "")?;
            }
        }
        Ok(())
    }
}

/// Followers that are to be read.
struct Found {
    rows: Vec<Follower>,
    /// There may be more subtasks.
    subtasks_truncated: bool,
    /// There may be more dependents.
    dependents_truncated: bool,
}

impl Found {
    fn is_truncated(&self) -> bool {
        self.subtasks_truncated || self.dependents_truncated
    }
}

impl Tasks {
    /// Has consequences carried on that are left somewhere, for ever.
    pub(super) async fn settle_forever(&self) {
        loop {
            let offices = async { repo::office_of_consequences(&mut self.db.platform().read().await?).await };
            match offices.await {
                Ok(offices) => {
                    for office_id in offices {
                        // An office that cannot take it in now is asked again.
                        drop(self.enqueue(office_id, vec![TaskCommand::Settle], None, ""));
                    }
                }
                Err(error) => {
                    tracing::warn!(target: "mi::tasks", %error, "what is left to do about tasks could not be looked for");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
