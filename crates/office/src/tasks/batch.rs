//! One transaction over an office's queue: tasks are loaded, moved and written together, with their events.
//!
//! The queue's row is locked first, so that nobody else changes a task of the office meanwhile. What the operations see
//! of tasks is this working set over the database; nothing is written before [`Batch::write`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mi_kernel::{
    Error, OfficeId, Result, TaskId, Time,
    event::{Category, Event},
};
use mi_proto::internal::v1::Member;
use mi_store::OfficeConn;
use serde_json::json;

use super::{
    model::{State, Step, Task},
    repo::{self, Wanted},
};
use crate::offices::Office;

/// The agents of an office.
pub(super) type Roster = Arc<Vec<Member>>;

/// See the module.
pub(super) struct Batch<'a> {
    pub(super) tx: &'a mut OfficeConn,
    pub(super) now: Time,
    pub(super) office: Office,
    /// The agents there are, as far as one of the operations knows.
    pub(super) roster: Option<Roster>,
    /// Whether they were asked for just now, so that who is not among them is gone.
    pub(super) certain: bool,
    cursor: i64,
    /// Whether there was anything to write.
    wrote: bool,
    tasks: BTreeMap<TaskId, Task>,
    fresh: BTreeSet<TaskId>,
    /// Whose subtasks are all in the working set.
    families: BTreeSet<TaskId>,
    /// Whose dependents are.
    followed: BTreeSet<TaskId>,
    /// What could be claimed before the first operation.
    claimable: Vec<TaskId>,
    /// Whether there may be more than that.
    pub(super) cut: bool,
    /// In the order of their last change.
    changed: Vec<TaskId>,
    /// Finished, or no longer: whose dependents and parents have to be looked at.
    moved: BTreeSet<TaskId>,
    /// Whose work is no longer to be verified.
    judged: Vec<TaskId>,
    events: Vec<Event>,
    /// Whether something may be claimed that could not before.
    pub(super) queued: bool,
    /// Agents that go in circles, and how that shows.
    pub(super) loops: Vec<(String, String)>,
}

impl<'a> Batch<'a> {
    /// Locks the queue.
    ///
    /// # Errors
    /// `NotFound` when there is no such office.
    pub(super) async fn open(tx: &'a mut OfficeConn, now: Time) -> Result<Self> {
        let office_id = tx.office_id();
        let opened = repo::queue_open(tx).await?;
        let (cursor, office) = opened.ok_or_else(|| Error::not_found("office", office_id))?;
        Ok(Self {
            tx,
            now,
            office,
            roster: None,
            certain: false,
            cursor,
            wrote: false,
            tasks: BTreeMap::new(),
            fresh: BTreeSet::new(),
            families: BTreeSet::new(),
            followed: BTreeSet::new(),
            claimable: Vec::new(),
            cut: false,
            changed: Vec::new(),
            moved: BTreeSet::new(),
            judged: Vec::new(),
            events: Vec::new(),
            queued: false,
            loops: Vec::new(),
        })
    }

    pub(super) fn office_id(&self) -> OfficeId {
        self.office.id
    }

    /// Takes tasks into the working set; those that do not exist are left out.
    pub(super) async fn load(&mut self, ids: Vec<TaskId>) -> Result<()> {
        let missing: Vec<_> = ids.into_iter().filter(|id| !self.tasks.contains_key(id)).collect();
        if !missing.is_empty() {
            let found = repo::task_get_all(self.tx, &missing).await?;
            self.adopt(found);
        }
        Ok(())
    }

    /// Takes rows into the working set, where it has not got them already; their ids.
    pub(super) fn adopt(&mut self, rows: Vec<Task>) -> Vec<TaskId> {
        let ids = rows.iter().map(|task| task.id).collect();
        for task in rows {
            self.tasks.entry(task.id).or_insert(task);
        }
        ids
    }

    /// A task of the working set.
    ///
    /// # Errors
    /// `NotFound` when the office has none of this id.
    pub(super) fn get(&self, id: TaskId) -> Result<&Task> {
        self.tasks.get(&id).ok_or_else(|| Error::not_found("task", id))
    }

    /// Tasks that are not written yet.
    pub(super) fn fresh(&self) -> impl Iterator<Item = &Task> {
        self.fresh.iter().filter_map(|id| self.tasks.get(id))
    }

    /// Adds a new task.
    pub(super) fn insert(&mut self, task: Task, trace_id: &str) {
        let (id, author) = (task.id, task.spec.created_by.clone());
        self.note(&task, "task.created", format!("Task {:?} created by {author}", task.spec.title), trace_id);
        self.queued |= *task.state() == State::Queued;
        self.tasks.insert(id, task);
        self.fresh.insert(id);
        self.touch(id);
    }

    /// Moves a task, with an event that says so.
    ///
    /// # Errors
    /// What the transition function answers; nothing is changed then.
    pub(super) fn step(&mut self, id: TaskId, step: Step, trace_id: &str) -> Result<&Task> {
        let mut task = self.get(id)?.clone();
        let told = told(&task, &step);
        task.step(step, self.now)?;
        if let Some((kind, verb)) = told {
            let outcome = match task.state() {
                State::Queued if kind == "task.attempt_failed" => format!(": {}; queued again", task.progress.error),
                State::Failed | State::Cancelled if !task.progress.error.is_empty() => {
                    format!(": {}", task.progress.error)
                }
                State::Blocked { reason } => format!(": {reason}"),
                _ => String::new(),
            };
            let kind = if *task.state() == State::Failed { "task.failed" } else { kind };
            let summary = format!("Task {:?} {verb}{}", task.spec.title, shortened(&outcome));
            self.note(&task, kind, summary, trace_id);
        }
        let was = self.get(id)?.state();
        let (was_verifying, was_final) = (matches!(was, State::Verifying { .. }), was.is_final());
        self.queued |= *task.state() == State::Queued;
        if was_verifying {
            self.judged.push(id);
        }
        // Only what is finished frees or blocks others, and only a retry takes that back.
        if was_final != task.state().is_final() {
            self.moved.insert(id);
        }
        self.tasks.insert(id, task);
        self.touch(id);
        self.get(id)
    }

    fn touch(&mut self, id: TaskId) {
        self.changed.retain(|other| *other != id);
        self.changed.push(id);
    }

    /// Adds an event about a task.
    pub(super) fn note(&mut self, task: &Task, kind: &str, summary: String, trace_id: &str) {
        let agent = task.progress.worker.as_ref().filter(|worker| worker.agent_id.is_some());
        let agent = agent.map_or(task.spec.creator.map_or("", |_| &task.spec.created_by), |worker| &worker.name);
        let event = Event::lifecycle(self.office.id, agent, kind, summary, self.now)
            .category(Category::Task)
            .with(json!({
                "task_id": task.id,
                "status": task.state().as_str(),
                "attempt": task.progress.attempt,
                "kind": task.spec.kind.as_str(),
            }))
            .traced(trace_id);
        self.events.push(event);
    }

    /// Adds an event that is about no task.
    pub(super) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Takes into the working set what the operations are about: tasks; for those about to end their subtasks and
    /// dependents, too; and what may be claimed.
    pub(super) async fn gather(&mut self, ids: &[TaskId], ended: &[TaskId], wanted: &Wanted) -> Result<()> {
        if ids.is_empty() && wanted.limit == 0 {
            return Ok(());
        }
        let (rows, claimable) = repo::task_gather(self.tx, ids, ended, wanted).await?;
        self.adopt(rows);
        self.families.extend(ended);
        self.followed.extend(ended);
        self.cut = i64::try_from(claimable.len()) == Ok(wanted.limit);
        self.adopt_claimable(claimable);
        Ok(())
    }

    /// Takes tasks that may be claimed into the working set.
    pub(super) fn adopt_claimable(&mut self, rows: Vec<Task>) {
        let ids = self.adopt(rows);
        self.claimable.extend(ids);
    }

    /// What may be claimed, as far as it is in the working set: the most urgent first.
    pub(super) fn claimable(&self) -> Vec<TaskId> {
        let mut ids: Vec<TaskId> = self.claimable.iter().chain(&self.changed).copied().collect();
        ids.retain(|id| self.tasks.get(id).is_some_and(|task| *task.state() == State::Queued));
        ids.sort_unstable_by_key(|id| (self.tasks.get(id).map(|task| task.spec.priority), *id));
        ids.dedup();
        ids
    }

    /// Takes the subtasks of these into the working set.
    pub(super) async fn load_children(&mut self, ids: Vec<TaskId>) -> Result<()> {
        let missing: Vec<_> = ids.into_iter().filter(|id| self.families.insert(*id)).collect();
        if !missing.is_empty() {
            let rows = repo::task_children(self.tx, &missing).await?;
            self.adopt(rows);
        }
        Ok(())
    }

    /// Subtasks that are not finished.
    pub(super) async fn open_children(&mut self, id: TaskId) -> Result<Vec<TaskId>> {
        self.load_children(vec![id]).await?;
        let open = |task: &&Task| task.spec.parent == Some(id) && !task.state().is_final();
        Ok(self.tasks.values().filter(open).map(|task| task.id).collect())
    }

    /// Why a task has to wait; none: it does not.
    pub(super) async fn obstacle(&mut self, task: &Task) -> Result<Option<String>> {
        self.load(task.spec.depends_on.clone()).await?;
        let mut open = Vec::new();
        for id in &task.spec.depends_on {
            let dependency = self.get(*id)?;
            match dependency.state() {
                State::Done { .. } => {}
                State::Failed | State::Cancelled => {
                    let (is, error) = (dependency.state().as_str(), &dependency.progress.error);
                    return Ok(Some(shortened(&format!("dependency {id} is {is}: {error}"))));
                }
                _ => open.push(id.to_string()),
            }
        }
        if let Some(first) = open.first() {
            let rest = if open.len() > 1 { format!(" and {} more", open.len() - 1) } else { String::new() };
            return Ok(Some(format!("waits for task {first}{rest}")));
        }
        if task.progress.worker.is_some() {
            let children = self.open_children(task.id).await?;
            if !children.is_empty() {
                return Ok(Some(format!("waits for {} of its subtasks", children.len())));
            }
        }
        Ok(self.lacks_tools(task).then(|| format!("no agent has the tools {}", task.spec.required_tools.join(", "))))
    }

    /// Whether no agent of the office can use all that the task needs.
    pub(super) fn lacks_tools(&self, task: &Task) -> bool {
        let has = |member: &Member| task.spec.required_tools.iter().all(|tool| member.tools.contains(tool));
        let roster = self.roster.as_deref();
        !task.spec.required_tools.is_empty() && roster.is_some_and(|members| !members.iter().any(has))
    }

    /// Blocks or frees a task that waits, as its obstacles are now.
    pub(super) async fn reconsider(&mut self, id: TaskId, trace_id: &str) -> Result<()> {
        let task = self.get(id)?.clone();
        if !matches!(task.state(), State::Blocked { .. } | State::Queued) {
            return Ok(());
        }
        match (self.obstacle(&task).await?, task.state()) {
            (Some(reason), State::Blocked { reason: known }) if reason == *known => {}
            (Some(reason), _) => drop(self.step(id, Step::Block(reason), trace_id)?),
            (None, State::Blocked { .. }) => drop(self.step(id, Step::Free, trace_id)?),
            (None, _) => {}
        }
        Ok(())
    }

    /// Carries changes on to whatever waits for them: dependents, parents, and tasks that judged the work.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while !self.moved.is_empty() || !self.judged.is_empty() {
            let moved = std::mem::take(&mut self.moved);
            let mut waiting: BTreeSet<TaskId> = BTreeSet::new();
            let stored: Vec<TaskId> =
                moved.iter().copied().filter(|id| !self.fresh.contains(id) && !self.followed.contains(id)).collect();
            if !stored.is_empty() {
                let rows = repo::task_dependents(self.tx, &stored).await?;
                waiting.extend(self.adopt(rows));
            }
            let depends = |task: &&Task| task.spec.depends_on.iter().any(|id| moved.contains(id));
            waiting.extend(self.tasks.values().filter(depends).map(|task| task.id));
            let parents: Vec<TaskId> = moved.iter().filter_map(|id| self.tasks.get(id)?.spec.parent).collect();
            self.load(parents.clone()).await?;
            waiting.extend(parents);
            for id in waiting {
                self.reconsider(id, "").await?;
            }
            self.recall_reviews().await?;
        }
        Ok(())
    }

    /// Whoever was to judge work that is no longer to be judged need not.
    async fn recall_reviews(&mut self) -> Result<()> {
        let judged = std::mem::take(&mut self.judged);
        if judged.is_empty() {
            return Ok(());
        }
        let rows = repo::task_reviews(self.tx, &judged).await?;
        for id in self.adopt(rows) {
            if matches!(self.get(id)?.state(), State::Blocked { .. } | State::Queued) {
                self.step(id, Step::Cancel("the work was judged otherwise".into()), "")?;
            }
        }
        Ok(())
    }

    /// Writes what changed since the last time, with the events.
    pub(super) async fn write(&mut self) -> Result<()> {
        let changed = std::mem::take(&mut self.changed);
        let events = std::mem::take(&mut self.events);
        if changed.is_empty() && events.is_empty() {
            return Ok(());
        }
        self.wrote = true;
        let mut fresh = BTreeSet::new();
        for id in &changed {
            self.cursor += 1;
            if let Some(task) = self.tasks.get_mut(id) {
                task.cursor = self.cursor;
            }
            if self.fresh.remove(id) {
                fresh.insert(*id);
            }
        }
        let tasks: Vec<(&Task, bool)> =
            changed.iter().filter_map(|id| Some((self.tasks.get(id)?, fresh.contains(id)))).collect();
        repo::task_put(self.tx, &tasks, self.cursor, &events).await?;
        let new = tasks.iter().filter(|(_, fresh)| *fresh);
        let pairs: Vec<_> =
            new.flat_map(|(task, _)| task.spec.depends_on.iter().map(|other| (task.id, *other))).collect();
        if !pairs.is_empty() {
            repo::dependency_insert(self.tx, &pairs).await?;
        }
        Ok(())
    }

    /// Writes the rest: what changed, and the events. False: nothing had to be written.
    pub(super) async fn finish(&mut self) -> Result<bool> {
        self.settle().await?;
        self.write().await?;
        Ok(self.wrote)
    }
}

/// What the feed says of a step; none: nothing.
fn told(task: &Task, step: &Step) -> Option<(&'static str, String)> {
    let worker = || task.progress.worker.as_ref().map_or("nobody", |worker| &worker.name);
    Some(match step {
        Step::Renew(..) => return None,
        Step::Block(_) => ("task.blocked", "has to wait".into()),
        Step::Free => ("task.queued", "waits no longer".into()),
        Step::Claim(_, worker) => ("task.claimed", format!("claimed by {}", worker.name)),
        Step::Release { .. } => ("task.released", format!("given back by {}", worker())),
        Step::Expire => ("task.attempt_failed", format!("was not finished in time by {}", worker())),
        Step::Complete { verify_until: Some(_), .. } => {
            ("task.submitted", format!("waits to be verified; worker {}", worker()))
        }
        Step::Complete { .. } => ("task.completed", "completed".into()),
        Step::Fail { .. } => ("task.attempt_failed", "failed".into()),
        Step::Cancel(_) => ("task.cancelled", "cancelled".into()),
        Step::Retry { .. } => ("task.retried", "is to be tried again".into()),
        Step::Accept => ("task.completed", "accepted".into()),
        Step::Reject(_) => ("task.rejected", "rejected".into()),
        Step::Unassign => ("task.unassigned", "is kept for nobody any more".into()),
    })
}

/// The start of a text that may be long, for a sentence.
fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
