//! What every commit made of the rows, and what must hold of it: looked at when it is durable, before anybody else writes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::TimeDelta;
use futures::FutureExt;
use mi_kernel::{AgentId, Clock, EventId, LeaseId, OfficeId, Result, TaskId, Time, event::Event};
use mi_store::{Db, Json, OfficeConn, all, one, outbox};

use super::{clients::Clients, world::VirtualClock};
use crate::{
    model::{State, Task},
    repo,
    status_counts::StatusCounts,
};

/// What a commit made of a task.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Which commit.
    pub(super) commit: usize,
    pub(super) task: Task,
}

/// How a lease was taken from its holder without a reason that anybody knows.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) task: TaskId,
    pub(super) text: String,
}

/// The rows as they were after each commit, what clients were told, and the first thing that is wrong with it.
pub(super) struct Book {
    pub(super) office: OfficeId,
    pub(super) clock: VirtualClock,
    /// Without faults.
    pub(super) db: Db,
    pub(super) clients: Clients,
    /// The newest of each task.
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) history: BTreeMap<TaskId, Vec<Change>>,
    pub(super) commits: usize,
    pub(super) cursor: i64,
    position: i64,
    /// The order in which they were committed.
    pub(super) events: Vec<Event>,
    last_event: BTreeMap<TaskId, (String, String)>,
    /// The tasks that requests made, by title: each has a title of its own.
    titles: BTreeMap<String, TaskId>,
    /// Leases that nobody knows a reason to have taken.
    pub(super) taken: BTreeMap<LeaseId, Taken>,
    /// How many of the events the feed has, and which.
    pub(super) fed: usize,
    in_feed: HashSet<EventId>,
    /// What is wrong; the first finding is the one that counts.
    pub(super) wrong: Option<String>,
    /// What happened, for whoever reads about a failure.
    pub(super) story: Vec<String>,
}

/// What there is to read after a commit.
struct Seen {
    cursor: i64,
    counts: StatusCounts,
    changed: Vec<Task>,
    events: Vec<(i64, Event)>,
}

impl Book {
    pub(super) fn new(office: OfficeId, clock: VirtualClock, db: Db) -> Self {
        Self {
            office,
            clock,
            db,
            clients: Clients::default(),
            tasks: BTreeMap::new(),
            history: BTreeMap::new(),
            commits: 0,
            cursor: 0,
            position: 0,
            events: Vec::new(),
            last_event: BTreeMap::new(),
            titles: BTreeMap::new(),
            taken: BTreeMap::new(),
            fed: 0,
            in_feed: HashSet::new(),
            wrong: None,
            story: Vec::new(),
        }
    }

    /// Notes what happened.
    pub(super) fn tell(&mut self, what: &str) {
        let at = self.clock.now() - VirtualClock::beginning();
        self.story.push(format!("{:>7} ms  {what}", at.num_milliseconds()));
    }

    /// Notes that something is wrong.
    pub(super) fn fault(&mut self, text: String) {
        self.tell(&format!("WRONG: {text}"));
        self.wrong.get_or_insert(text);
    }

    /// What a task is called here.
    pub(super) fn name(&self, id: TaskId) -> String {
        self.tasks.get(&id).map_or_else(|| "a task that is not there".to_owned(), |task| task.spec.title.clone())
    }

    /// Somebody committed something.
    pub(super) fn look(&mut self) {
        self.commits += 1;
        let read = self.read().now_or_never().expect("a database without faults answers at once");
        match read {
            Ok(seen) => self.check(seen),
            Err(error) => self.fault(format!("the rows cannot be read: {}", error.chain())),
        }
    }

    async fn read(&self) -> Result<Seen> {
        let mut conn = self.db.office(self.office).read().await?;
        let sql = "SELECT cursor, counts, (SELECT coalesce(max(position), 0) FROM outbox) FROM task_queues
             WHERE office_id = $1";
        let (cursor, counts, newest): (i64, Json<StatusCounts>, i64) = one!(conn, sql)?;
        let mut changed = Vec::new();
        if cursor != self.cursor {
            changed = repo::task_changed(&mut conn, self.cursor, None, i64::MAX).await?;
        }
        let mut events = Vec::new();
        if newest > self.position {
            events = outbox(&mut conn, self.position).await?;
        }
        Ok(Seen { cursor, counts: counts.0, changed, events })
    }

    fn check(&mut self, seen: Seen) {
        let Seen { cursor, counts, changed, events } = seen;
        if cursor < self.cursor {
            self.fault(format!("the queue's cursor went back from {} to {cursor}", self.cursor));
        }
        if let Some(task) = changed.iter().find(|task| task.cursor > cursor) {
            self.fault(format!("{:?} changed at {}, and the queue is at {cursor}", task.spec.title, task.cursor));
        }
        self.cursor = cursor;
        let before: Vec<Option<Task>> = changed.iter().map(|task| self.tasks.insert(task.id, task.clone())).collect();
        let told = self.check_events(&changed, events);
        for (before, after) in before.iter().zip(&changed) {
            let change = Change { commit: self.commits, task: after.clone() };
            self.history.entry(after.id).or_default().push(change);
            self.check_change(before.as_ref(), after, &told);
        }
        let mut there: BTreeMap<&str, i64> = BTreeMap::new();
        self.tasks.values().for_each(|task| *there.entry(task.state().as_str()).or_default() += 1);
        let counted: BTreeMap<&str, i64> = counts.counts().collect();
        if counted != there {
            let text = format!("the queue counts {counted:?}, and the rows are {there:?}");
            self.fault(text);
        }
    }

    /// Takes events in; what they last said of each task.
    fn check_events(&mut self, changed: &[Task], events: Vec<(i64, Event)>) -> BTreeMap<TaskId, String> {
        let mut told = BTreeMap::new();
        for (position, event) in events {
            self.position = position;
            let about = event.metadata["task_id"].as_str().and_then(|id| TaskId::parse(id).ok());
            if let Some(id) = about {
                let key = (format!("{} {}", event.kind, event.metadata), event.summary.clone());
                if self.last_event.get(&id) == Some(&key) {
                    self.fault(format!("{:?} is told of twice: {} ({})", self.name(id), event.kind, event.summary));
                }
                if !changed.iter().any(|task| task.id == id) {
                    self.fault(format!("{} is told of {:?}, which did not change", event.kind, self.name(id)));
                }
                self.last_event.insert(id, key);
                told.insert(id, event.metadata["status"].as_str().unwrap_or_default().to_owned());
            }
            self.events.push(event);
        }
        told
    }

    fn check_change(&mut self, before: Option<&Task>, after: &Task, told: &BTreeMap<TaskId, String>) {
        let (id, title, now) = (after.id, &after.spec.title, after.state().as_str());
        let was = before.map(|before| before.state().as_str());
        let lease = before.and_then(lease_of);
        self.tell(&format!("    {title}: {} -> {now} (attempt {})", was.unwrap_or("new"), after.progress.attempt));
        if before.is_none() && after.spec.request.is_some() && self.titles.insert(title.clone(), id).is_some() {
            self.fault(format!("one request made two tasks {title:?}"));
        }
        match before.map(Task::state).filter(|state| *state != after.state()) {
            Some(State::Done { .. }) => self.fault(format!("{title:?} was done, and is {now}")),
            Some(State::Failed | State::Cancelled) if !self.clients.retried.contains(&id) => {
                self.fault(format!("{title:?} had ended, and is {now}: nobody had it tried again"));
            }
            _ => {}
        }
        if was != Some(now) || lease != lease_of(after) {
            match told.get(&id) {
                None => self.fault(format!("{title:?} is {now} (before: {was:?}), and no event says so")),
                Some(told) if told != now => self.fault(format!("{title:?} is {now}, and the last event says {told}")),
                Some(_) => {}
            }
        }
        if let (Some(before), Some(lease)) = (before, lease)
            && lease_of(after) != Some(lease)
        {
            self.check_end(before, lease, after);
        }
        if lease != lease_of(after) && matches!(after.state(), State::Running(_)) {
            self.check_claim(after);
        }
    }

    /// A lease is over: there has to be a reason, if its holder knows of it.
    fn check_end(&mut self, before: &Task, lease: LeaseId, after: &Task) {
        if self.is_over(before, lease, after) {
            return;
        }
        let text = format!(
            "the lease of {} on {:?}, good until {:?}, was taken: it is {} by {}",
            worker(before),
            before.spec.title,
            before.deadline().map(|end| (end - VirtualClock::beginning()).num_milliseconds()),
            after.state().as_str(),
            worker(after),
        );
        if self.clients.holds(lease) {
            self.fault(format!("two holders: {text}"));
        }
        self.taken.insert(lease, Taken { task: before.id, text });
    }

    /// Whether there is a reason for the end of a lease.
    fn is_over(&self, before: &Task, lease: LeaseId, after: &Task) -> bool {
        let agent = before.holder().and_then(|worker| worker.agent_id);
        before.deadline().is_some_and(|deadline| self.clock.now() >= deadline)
            || self.clients.reported.contains(&lease)
            || agent.is_some_and(|agent| self.clients.paused.contains(&agent))
            || (*after.state() == State::Cancelled && after.spec.verifies.is_some())
            || self.with_those_above(before.id).iter().any(|id| self.clients.decided.contains(id))
    }

    fn with_those_above(&self, id: TaskId) -> BTreeSet<TaskId> {
        let mut found = BTreeSet::new();
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| found.insert(*id)) {
            next = self.tasks.get(&id).and_then(|task| task.spec.parent.or(task.spec.verifies));
        }
        found
    }

    /// Only what may be claimed is handed out, and only to who may have it.
    fn check_claim(&mut self, task: &Task) {
        let is_done = |id: &TaskId| matches!(self.tasks.get(id).map(Task::state), Some(State::Done { .. }));
        let who = task.holder().and_then(|worker| worker.agent_id);
        let title = &task.spec.title;
        let fault = if let Some(other) = task.spec.depends_on.iter().find(|id| !is_done(id)) {
            format!("{title:?} is handed out and depends on {:?}, which is not done", self.name(*other))
        } else if task.progress.assigned.as_ref().is_some_and(|assigned| Some(assigned.id) != who) {
            format!("{title:?} is kept for another than {}", worker(task))
        } else if task.spec.excluded.is_some() && task.spec.excluded == who {
            format!("{title:?} judges work of {} and is handed to it", worker(task))
        } else {
            return;
        };
        self.fault(fault);
    }

    /// The feed takes events in: what it has already, it drops.
    pub(super) fn feed(&mut self, events: Vec<Event>) {
        for event in events {
            if !self.in_feed.insert(event.id) {
                continue;
            }
            match self.events.get(self.fed) {
                Some(next) if next.id == event.id => self.fed += 1,
                next => {
                    let expected = next.map(|next| next.summary.clone());
                    self.fault(format!("the feed gets {:?} where {expected:?} comes next", event.summary));
                }
            }
        }
    }

    /// What waits for longer than it may, whatever goes wrong: its deadline was so long ago.
    pub(super) fn overdue(&mut self, margin: TimeDelta) {
        let now = self.clock.now();
        let late = |task: &&Task| task.deadline().is_some_and(|deadline| deadline + margin < now);
        if let Some(task) = self.tasks.values().find(late) {
            let text =
                format!("{:?} is {} since its deadline: {:?}", task.spec.title, task.state().as_str(), task.deadline());
            self.fault(text);
        }
    }

    /// All rows, of which each is as it was when it last changed: nobody changes one without its cursor.
    pub(super) fn check_whole(&mut self) {
        let read = async {
            let mut conn = self.db.office(self.office).read().await?;
            let sql = "SELECT id, status, deadline, worker_id, hangs_on FROM tasks WHERE office_id = $1";
            let columns: Vec<Columns> = all!(conn, sql)?;
            Ok::<_, mi_kernel::Error>((repo::task_changed(&mut conn, 0, None, i64::MAX).await?, columns))
        };
        let (rows, columns) = match read.now_or_never().expect("a database without faults answers at once") {
            Ok(read) => read,
            Err(error) => return self.fault(format!("the rows cannot be read: {}", error.chain())),
        };
        let there: BTreeMap<TaskId, Task> = rows.into_iter().map(|task| (task.id, task)).collect();
        if let Some((_, task)) = there.iter().find(|(id, task)| self.tasks.get(*id) != Some(*task)) {
            self.fault(format!("{:?} changed without its cursor", task.spec.title));
        }
        if let Some(id) = self.tasks.keys().find(|id| !there.contains_key(*id)) {
            self.fault(format!("{:?} is gone", self.name(*id)));
        }
        for (id, status, deadline, worker, hangs_on) in columns {
            let Some(task) = there.get(&id) else { continue };
            let expected: Columns = (
                id,
                task.state().as_str().to_owned(),
                task.deadline(),
                task.holder().and_then(|worker| worker.agent_id),
                task.hangs_on(),
            );
            let found = (id, status, deadline, worker, hangs_on);
            if found != expected {
                self.fault(format!("the columns of {:?} are {found:?} instead of {expected:?}", task.spec.title));
            }
        }
    }

    /// A task after a commit, and with which it last changed; none: it was not there.
    pub(super) fn as_of(&self, id: TaskId, commit: usize) -> Option<&Change> {
        self.history.get(&id)?.iter().rev().find(|change| change.commit <= commit)
    }

    /// The change by which a task came to be held under this lease.
    pub(super) fn claimed(&self, id: TaskId, lease: LeaseId) -> Option<&Change> {
        self.history.get(&id)?.iter().find(|change| lease_of(&change.task) == Some(lease))
    }
}

type Columns = (TaskId, String, Option<Time>, Option<AgentId>, Option<TaskId>);

pub(super) fn lease_of(task: &Task) -> Option<LeaseId> {
    match task.state() {
        State::Running(lease) => Some(lease.id),
        _ => None,
    }
}

fn worker(task: &Task) -> &str {
    task.progress.worker.as_ref().map_or("nobody", |worker| &worker.name)
}

async fn outbox(conn: &mut OfficeConn, after: i64) -> Result<Vec<(i64, Event)>> {
    let sql = "SELECT position, event FROM outbox WHERE office_id = $1 AND position > $2 ORDER BY position";
    let rows: Vec<(i64, String)> = all!(conn, sql, after)?;
    let mut found = Vec::new();
    for (position, row) in rows {
        found.extend(outbox::events(&row)?.into_iter().map(|(event, _)| (position, event)));
    }
    Ok(found)
}
