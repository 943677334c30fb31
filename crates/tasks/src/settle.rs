//! What follows from a change of a task: whoever depends on it, and its parent, look again at what holds them up, and with
//! a task its open subtasks are cancelled.
//!
//! There may be any number of them, and what one transaction does has a bound. What is left is written down
//! (`task_consequences`) in the transaction of the change, and done in later ones, whoever opens them; nothing is decided by
//! the order. Meanwhile dependents wait on, and while subtasks are still to be cancelled nothing is handed out.

use std::collections::{BTreeMap, BTreeSet};

use mi_kernel::{Result, TaskId};

use super::{
    batch::Batch,
    consequences::TOGETHER,
    model::{State, Task, TaskTransition},
    repo::{self, Consequence, Follower, NOBODY, Relation, SCANNED},
};

impl Batch<'_> {
    /// Takes up what earlier transactions left to be done, besides what follows from this one.
    pub(super) async fn carry_on(&mut self) -> Result<()> {
        self.consequences.carries_on = true;
        if self.consequences.rest == repo::Rest::None {
            return Ok(());
        }
        let rows = repo::consequence_list(self.way.tx()?, self.consequences.before, TOGETHER).await?;
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

    /// Writes the rest: what changed, and the events. False: nothing had to be written.
    pub(super) async fn finish(&mut self) -> Result<bool> {
        self.settle().await?;
        let (over, left) = self.consequences.take(self.wrote || self.has_changes());
        if !over.is_empty() || !left.is_empty() {
            repo::consequence_put(self.way.tx()?, &over, &left).await?;
        }
        self.write_all().await?;
        Ok(self.wrote)
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
            false => repo::task_followers(self.way.tx()?, &asked).await?,
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
            dependents = repo::task_dependents_after(self.way.tx()?, id, left.after.unwrap_or(NOBODY)).await?;
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
        let rows = repo::task_reviews(self.way.tx()?, &judged).await?;
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
