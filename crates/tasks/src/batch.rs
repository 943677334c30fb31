//! One transaction over an office's queue: tasks are loaded, moved and written together, with their events.
//!
//! The queue's row is locked first, so that nobody else changes a task of the office meanwhile. What the operations see
//! of tasks is this working set over the database; nothing is written before [`Batch::write`].

mod way;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mi_kernel::{
    AgentId, Clock, Error, OfficeId, Result, TaskId, Time,
    event::{Category, Event},
};
use mi_proto::internal::v1::Member;
use mi_store::{Db, Json, OfficeConn};
use mi_tenancy::{Author, Office, quotas};
use moka::sync::Cache;
use serde_json::json;

use super::{
    consequences::Consequences,
    members::{Reconcile, RosterFreshness},
    memory::Memory,
    model::{Cause, State, Task, TaskTransition},
    repo::{self, Asked, Fence, Opened, Prefetched, Rest, Standing, Told, Writing},
    status_counts::StatusCounts,
    sweep_clock::{Moment, SweepClock},
};

use self::{way::moved, words::told};
pub(super) use self::{
    way::{NEEDS_LOCK, QUEUE_MOVED, Way, needs_lock},
    words::shortened,
};

/// The agents of an office.
pub(super) type Roster = Arc<Vec<Member>>;

/// The working set of one transaction.
pub(super) struct Batch<'a> {
    pub(super) way: Way<'a>,
    /// When the queue was locked: by the database's clock where processes share one, else by this process's.
    pub(super) now: Time,
    /// The queue's row before the transaction.
    pub(super) began: Opened,
    /// When the database last told the time.
    pub(super) told: Option<Told>,
    /// Whether that was in a transaction before.
    remembered: bool,
    pub(super) sweep_clock: SweepClock,
    pub(super) office: Office,
    /// The agents there are, as far as one of the operations knows.
    pub(super) roster: Option<Roster>,
    /// What follows from the task that an agent ended last, if that was lately.
    pub(super) ended: Option<Cache<AgentId, (Time, Cause)>>,
    /// How fresh the roster is: whether an agent that is missing on it is gone.
    pub(super) freshness: RosterFreshness,
    cursor: i64,
    /// How many tasks have each status, with the changes.
    pub(super) status_counts: StatusCounts,
    /// How many may be open.
    pub(super) open_quota: u32,
    /// Whether work is taken only while the office can pay for it.
    pub(super) metered: bool,
    /// Micro-credits that it may spend.
    pub(super) available: i64,
    /// Whether there was anything to write.
    pub(super) wrote: bool,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) fresh: BTreeSet<TaskId>,
    /// What was written, each with whether it was new.
    written: BTreeMap<TaskId, bool>,
    /// Where tasks stand on which others wait and that are not in the working set.
    pub(super) standings: BTreeMap<TaskId, Standing>,
    /// Subtasks that are known, by parent.
    pub(super) subtasks: BTreeMap<TaskId, BTreeSet<TaskId>>,
    /// Tasks of which all open subtasks are known.
    pub(super) subtasks_loaded: BTreeSet<TaskId>,
    /// Tasks of which all dependents are in the working set.
    pub(super) dependents_loaded: BTreeSet<TaskId>,
    /// What could be claimed before the first operation, and what was written since: as far as it still can be.
    claimable: Vec<TaskId>,
    /// Where the last one of those was, if there may be more.
    pub(super) truncated: Option<(i32, TaskId)>,
    /// What is to be written, and after how many other changes it changed last.
    changed: HashMap<TaskId, u64>,
    changes: u64,
    /// Finished, or no longer, or it hangs on something, or no longer: whose dependents and parents have to look.
    pub(super) moved: BTreeSet<TaskId>,
    /// With which task these were cancelled.
    pub(super) roots: BTreeMap<TaskId, TaskId>,
    /// What follows from that, as far as it is not done.
    pub(super) consequences: Consequences,
    /// Whose work is no longer to be verified.
    pub(super) judged: Vec<TaskId>,
    /// Who gave a verdict on it.
    pub(super) judges: HashMap<TaskId, Author>,
    events: Vec<Event>,
    /// Whether something may be claimed that could not before.
    pub(super) queued: bool,
    /// Agents that go in circles, and how that shows.
    pub(super) loops: Vec<(String, String)>,
    /// What other transactions are to do about agents that changed.
    pub(super) again: Vec<(Reconcile, Option<Roster>)>,
}

impl<'a> Batch<'a> {
    /// Locks the queue.
    ///
    /// # Errors
    /// `NotFound` when there is no such office.
    pub(super) async fn open(tx: &'a mut OfficeConn, clock: &dyn Clock) -> Result<Self> {
        let office_id = tx.office_id();
        let opened = repo::queue_open(tx).await?.ok_or_else(|| Error::not_found("office", office_id))?;
        let told = opened.told.map(Told::new);
        Ok(Self::new(Way::Locked(tx), opened, told, clock))
    }

    /// Looks at the queue, and takes what is asked for into the working set as [`Batch::prefetch`] does. Whether the office can
    /// pay matters only where work is `metered`.
    ///
    /// # Errors
    /// `NotFound` when there is no such office, [`NEEDS_LOCK`] when there is something left to be done about changes of tasks.
    pub(super) async fn look(
        db: &'a Db,
        office_id: OfficeId,
        asked: &Asked<'_>,
        metered: bool,
        clock: &dyn Clock,
    ) -> Result<Self> {
        let look = repo::queue_look(db, office_id, asked).await?;
        let (opened, found) = look.ok_or_else(|| Error::not_found("office", office_id))?;
        let told = opened.told.map(Told::new);
        Self::seen(db, (opened, told), (found, asked), metered, clock)
    }

    /// Goes by what is remembered of the queue.
    ///
    /// # Errors
    /// As those of [`Batch::look`].
    pub(super) fn remembered(
        db: &'a Db,
        memory: &Memory,
        (found, asked): (Prefetched, &Asked<'_>),
        metered: bool,
        clock: &dyn Clock,
    ) -> Result<Self> {
        Ok(Self { remembered: true, ..Self::seen(db, memory.opened(), (found, asked), metered, clock)? })
    }

    fn seen(
        db: &'a Db,
        (opened, told): (Opened, Option<Told>),
        (found, asked): (Prefetched, &Asked<'_>),
        metered: bool,
        clock: &dyn Clock,
    ) -> Result<Self> {
        let fence = Fence::new(&opened, metered)?.ok_or_else(needs_lock)?;
        let mut batch = Self::new(Way::Seen(db, fence), opened, told, clock);
        batch.take(found, asked);
        Ok(batch)
    }

    fn new(way: Way<'a>, opened: Opened, told: Option<Told>, clock: &dyn Clock) -> Self {
        Self {
            way,
            now: opened.told.map_or_else(|| clock.now(), |told| clock.agreed(told)),
            began: opened.clone(),
            told,
            remembered: false,
            sweep_clock: opened.sweep_clock,
            office: opened.office,
            roster: None,
            ended: None,
            freshness: RosterFreshness::default(),
            cursor: opened.cursor,
            status_counts: opened.counts.0,
            open_quota: u32::MAX,
            metered: false,
            available: opened.available,
            wrote: false,
            tasks: BTreeMap::new(),
            fresh: BTreeSet::new(),
            written: BTreeMap::new(),
            standings: BTreeMap::new(),
            subtasks: BTreeMap::new(),
            subtasks_loaded: BTreeSet::new(),
            dependents_loaded: BTreeSet::new(),
            claimable: Vec::new(),
            truncated: None,
            changed: HashMap::new(),
            changes: 0,
            moved: BTreeSet::new(),
            roots: BTreeMap::new(),
            consequences: Consequences::new(opened.rest),
            judged: Vec::new(),
            judges: HashMap::new(),
            events: Vec::new(),
            queued: false,
            loops: Vec::new(),
            again: Vec::new(),
        }
    }

    pub(super) fn office_id(&self) -> OfficeId {
        self.office.id
    }

    /// The queue's row as the transaction leaves it, where nothing is left to be carried on.
    pub(super) fn left(&self) -> Opened {
        let counts = Json(self.status_counts.clone());
        Opened { cursor: self.cursor, counts, rest: Rest::None, ..self.began.clone() }
    }

    /// Tasks that the transaction wrote, each with whether it was new, out of the working set.
    pub(super) fn take_written(&mut self) -> Vec<(Task, bool)> {
        let written = std::mem::take(&mut self.written);
        written.into_iter().filter_map(|(id, fresh)| Some((self.tasks.remove(&id)?, fresh))).collect()
    }

    /// When it is, and what the platform has missed.
    pub(super) fn moment(&self) -> Moment {
        self.sweep_clock.at(self.now)
    }

    /// Takes tasks into the working set; those that do not exist are left out.
    pub(super) async fn load(&mut self, ids: Vec<TaskId>) -> Result<()> {
        let missing: Vec<_> = ids.into_iter().filter(|id| !self.tasks.contains_key(id)).collect();
        if !missing.is_empty() {
            let found = repo::task_get_all(self.way.tx()?, &missing).await?;
            self.insert_loaded(found);
        }
        Ok(())
    }

    /// Takes rows into the working set, where it has not got them already; their ids.
    pub(super) fn insert_loaded(&mut self, rows: Vec<Task>) -> Vec<TaskId> {
        let ids = rows.iter().map(|task| task.id).collect();
        for task in rows {
            if !self.tasks.contains_key(&task.id) {
                self.put(task);
            }
        }
        ids
    }

    fn put(&mut self, task: Task) {
        if let Some(parent) = task.spec.parent {
            self.subtasks.entry(parent).or_default().insert(task.id);
        }
        self.tasks.insert(task.id, task);
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

    /// Whether so many more tasks may be open.
    pub(super) fn room_for(&self, more: usize) -> Result<()> {
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        if more > 0 && self.status_counts.open().saturating_add(more) > i64::from(self.open_quota) {
            let hint = "finish or cancel some of its open tasks first";
            return Err(quotas::exceeded("the office", "open_tasks", self.open_quota, hint));
        }
        Ok(())
    }

    /// Adds a new task.
    pub(super) fn insert(&mut self, task: Task, trace_id: &str) {
        let (id, author) = (task.id, task.spec.created_by.clone());
        self.note(&task, "task.created", format!("Task {:?} created by {author}", task.spec.title), trace_id);
        self.queued |= *task.state() == State::Queued;
        self.status_counts.add(task.state().as_str(), 1);
        self.put(task);
        self.fresh.insert(id);
        self.touch(id);
    }

    /// Moves a task, with an event that says so.
    ///
    /// # Errors
    /// What the transition function answers; nothing is changed then.
    pub(super) fn transition(&mut self, id: TaskId, step: TaskTransition, trace_id: &str) -> Result<&Task> {
        let was = self.get(id)?;
        let told = told(was, &step);
        let mut task = was.clone();
        task.transition(step, self.moment())?;
        let (was_named, was_verifying) = (was.state().as_str(), matches!(was.state(), State::Verifying { .. }));
        // Only what is finished frees or blocks others, and only a retry takes that back; and what hangs on something.
        let moves = was.state().is_final() != task.state().is_final() || was.hangs_on() != task.hangs_on();
        if let Some((kind, verb)) = told {
            let outcome = match task.state() {
                // Everybody reads the feed.
                _ if task.is_private() => String::new(),
                State::Queued if kind == "task.attempt_failed" => format!(": {}; queued again", task.progress.error),
                State::Queued if kind == "task.stalled" => format!(": {}", task.progress.stalled),
                State::Failed | State::Cancelled if !task.progress.error.is_empty() => {
                    format!(": {}", task.progress.error)
                }
                State::Blocked { reason, .. } => format!(": {reason}"),
                _ => String::new(),
            };
            let kind = if *task.state() == State::Failed { "task.failed" } else { kind };
            let summary = format!("Task {:?} {verb}{}", task.spec.title, shortened(&outcome));
            self.note(&task, kind, summary, trace_id);
        }
        self.status_counts.add(was_named, -1);
        self.status_counts.add(task.state().as_str(), 1);
        self.queued |= *task.state() == State::Queued;
        if was_verifying {
            self.judged.push(id);
        }
        if moves {
            self.moved.insert(id);
        }
        if *task.state() == State::Cancelled {
            self.roots.entry(id).or_insert(id);
        }
        self.tasks.insert(id, task);
        self.touch(id);
        self.get(id)
    }

    fn touch(&mut self, id: TaskId) {
        self.changes += 1;
        self.changed.insert(id, self.changes);
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

    /// Takes into the working set what the operations are about: tasks; for those about to end an open subtask, and what
    /// waits for them; and what may be claimed.
    pub(super) async fn prefetch(&mut self, asked: &Asked<'_>) -> Result<()> {
        if asked.ids.is_empty() && asked.wanted.limit == 0 {
            return Ok(());
        }
        let found = repo::task_prefetch(self.way.tx()?, asked).await?;
        self.take(found, asked);
        Ok(())
    }

    fn take(&mut self, found: Prefetched, asked: &Asked<'_>) {
        let waiting = found.tasks.iter().filter(|task| matches!(task.state(), State::Blocked { .. })).count();
        self.insert_loaded(found.tasks);
        self.subtasks_loaded.extend(asked.ended.iter().filter(|id| !self.subtasks.contains_key(id)));
        if i64::try_from(waiting).is_ok_and(|waiting| waiting < repo::MAX_DEPENDENTS) {
            self.dependents_loaded.extend(asked.ended);
        }
        self.subtasks_loaded.extend(&found.leaves);
        self.dependents_loaded.extend(&found.leaves);
        let is_full = i64::try_from(found.claimable.len()) == Ok(asked.wanted.limit);
        let last = found.claimable.iter().map(Task::place).max();
        self.truncated = last.filter(|_| is_full);
        self.insert_claimable(found.claimable);
    }

    /// Takes tasks that may be claimed into the working set.
    pub(super) fn insert_claimable(&mut self, rows: Vec<Task>) {
        let ids = self.insert_loaded(rows);
        self.claimable.extend(ids);
    }

    /// What may be claimed, as far as it is in the working set: the most urgent first.
    pub(super) fn claimable(&self) -> Vec<TaskId> {
        let mut ids: Vec<TaskId> = self.claimable.iter().chain(self.changed.keys()).copied().collect();
        ids.retain(|id| self.tasks.get(id).is_some_and(|task| *task.state() == State::Queued));
        ids.sort_unstable_by_key(|id| self.tasks.get(id).map(Task::place));
        ids.dedup();
        ids
    }

    /// Whether something is to be written.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.events.is_empty()
    }

    /// Writes what changed since the last time, with the events.
    ///
    /// # Errors
    /// [`NEEDS_LOCK`] after a look, where only the end of a transaction writes.
    pub(super) async fn write(&mut self) -> Result<()> {
        if self.has_changes() {
            self.way.tx()?;
            self.write_all().await?;
        }
        Ok(())
    }

    /// The same for the last time.
    ///
    /// # Errors
    /// [`QUEUE_MOVED`], [`NEEDS_LOCK`], besides failures of the database.
    pub(super) async fn write_all(&mut self) -> Result<()> {
        if !self.has_changes() {
            return Ok(());
        }
        self.wrote = true;
        let changed = std::mem::take(&mut self.changed);
        let events = std::mem::take(&mut self.events);
        let mut changed: Vec<(TaskId, u64)> = changed.into_iter().collect();
        changed.sort_unstable_by_key(|(_, change)| *change);
        // Operations in the middle of a transaction write, and claims are served at its end.
        self.claimable.extend(changed.iter().map(|(id, _)| *id));
        let mut fresh = BTreeSet::new();
        for (id, _) in &changed {
            self.cursor += 1;
            if let Some(task) = self.tasks.get_mut(id) {
                task.cursor = self.cursor;
            }
            let is_fresh = self.fresh.remove(id);
            *self.written.entry(*id).or_default() |= is_fresh;
            if is_fresh {
                fresh.insert(*id);
            }
        }
        let tasks: Vec<(&Task, bool)> =
            changed.iter().filter_map(|(id, _)| Some((self.tasks.get(id)?, fresh.contains(id)))).collect();
        let new = tasks.iter().filter(|(_, fresh)| *fresh);
        let pairs: Vec<_> =
            new.flat_map(|(task, _)| task.spec.depends_on.iter().map(|other| (task.id, *other))).collect();
        let change = repo::Change::new(self.office.id, &tasks, self.cursor, &self.status_counts, &events)?;
        match &mut self.way {
            Way::Locked(tx) => {
                repo::task_put(tx, &change).await?;
                if !pairs.is_empty() {
                    repo::dependency_insert(tx, &pairs).await?;
                }
            }
            Way::Seen(..) if !pairs.is_empty() => return Err(needs_lock()),
            Way::Seen(db, fence) => {
                let time = (self.remembered, self.told);
                match repo::queue_write(db, self.office.id, fence, &change, time).await? {
                    Writing::Moved => return Err(moved()),
                    Writing::Done(told) => self.told = told,
                }
            }
        }
        Ok(())
    }
}
