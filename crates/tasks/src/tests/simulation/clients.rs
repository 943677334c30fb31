//! What clients have asked and were told, and whether the rows say the same.

use std::collections::{BTreeMap, BTreeSet};

use mi_kernel::{AgentId, LeaseId, TaskId};
use mi_proto::v1;
use tonic::{Code, Status};

use super::{
    calls::{Ask, Call, OWNER},
    rows::{Book, lease_of},
};
use crate::model::{State, Task};

/// A lease that an agent was told of.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) task: TaskId,
    pub(super) lease: LeaseId,
    pub(super) agent: usize,
}

/// What clients know, and what they have sent: that may be done although nobody knows.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// The tasks that they were told of.
    pub(super) tasks: Vec<TaskId>,
    created: BTreeMap<String, TaskId>,
    /// Leases that they were told of, also such as are over by now.
    pub(super) held: Vec<Held>,
    /// Leases that their holders have asked to end.
    pub(super) reported: BTreeSet<LeaseId>,
    /// Tasks that were to be cancelled, tried again, verified, or ended by the owner.
    pub(super) decided: BTreeSet<TaskId>,
    pub(super) retried: BTreeSet<TaskId>,
    /// Agents that were paused at some time.
    pub(super) paused: BTreeSet<AgentId>,
    /// What is not known to be done.
    pub(super) unsure: Vec<Call>,
    /// How many of each thing were acknowledged, so that a simulation in which nothing happens is noticed.
    pub(super) acknowledged: BTreeMap<&'static str, usize>,
}

impl Clients {
    /// Whether its holder knows of a lease.
    pub(super) fn holds(&self, lease: LeaseId) -> bool {
        self.held.iter().any(|held| held.lease == lease)
    }

    /// Before a call is sent.
    pub(super) fn sends(&mut self, call: &Call) {
        match &call.ask {
            Ask::Release(_) | Ask::Complete(_) | Ask::Fail(_) => match call.ask.lease() {
                Some((_, lease)) => drop(self.reported.insert(lease)),
                None => self.decides(call),
            },
            Ask::Cancel(_) | Ask::Retry(_) | Ask::Verify(_) => self.decides(call),
            Ask::Create(_) | Ask::Claim(_) | Ask::Renew(_) | Ask::Assign(_) => {}
        }
    }

    fn decides(&mut self, call: &Call) {
        let (id, retries) = match &call.ask {
            Ask::Complete(ask) => (&ask.task_id, false),
            Ask::Fail(ask) => (&ask.task_id, false),
            Ask::Cancel(ask) => (&ask.task_id, false),
            Ask::Retry(ask) => (&ask.task_id, true),
            Ask::Verify(ask) => (&ask.task_id, false),
            _ => return,
        };
        let id = TaskId::parse(id).expect("an id that was told");
        self.decided.insert(id);
        if retries {
            self.retried.insert(id);
        }
    }
}

/// What a call is, in few words.
pub(super) fn named(ask: &Ask) -> &'static str {
    match ask {
        Ask::Create(_) => "create",
        Ask::Claim(_) => "claim",
        Ask::Renew(_) => "renew",
        Ask::Release(_) => "release",
        Ask::Complete(_) => "complete",
        Ask::Fail(_) => "fail",
        Ask::Cancel(_) => "cancel",
        Ask::Retry(_) => "retry",
        Ask::Verify(_) => "verify",
        Ask::Assign(_) => "assign",
    }
}

fn id_of(task: &v1::Task) -> TaskId {
    TaskId::parse(&task.id).expect("the platform's own id")
}

impl Book {
    /// A call is answered; none: its client or its process is gone. `calm`: nothing went wrong that would excuse a failure.
    pub(super) fn heard(&mut self, call: Call, answer: Option<Result<Vec<v1::Task>, Status>>, calm: bool) {
        let who = if call.by == OWNER { "owner".to_owned() } else { format!("a{}", call.by) };
        let name = named(&call.ask);
        match answer {
            Some(Ok(tasks)) => {
                let titles: Vec<&str> = tasks.iter().map(|task| task.title.as_str()).collect();
                self.tell(&format!("{who}: {name} of p{} answered {titles:?}", call.process));
                if !tasks.is_empty() {
                    *self.clients.acknowledged.entry(name).or_default() += 1;
                }
                self.acknowledged(&call, &tasks);
            }
            Some(Err(status)) => {
                self.tell(&format!("{who}: {name} of p{} refused: {:?}", call.process, status.code()));
                self.refused(call, &status, calm);
            }
            None => {
                self.tell(&format!("{who}: {name} of p{} has no answer", call.process));
                self.unsure(call);
            }
        }
    }

    /// It may be done: somebody asks the same again. Who claims does not: nobody knows what for.
    fn unsure(&mut self, call: Call) {
        if !matches!(call.ask, Ask::Claim(_)) {
            self.clients.unsure.push(Call { again: true, ..call });
        }
    }

    fn acknowledged(&mut self, call: &Call, tasks: &[v1::Task]) {
        match &call.ask {
            Ask::Create(requests) => self.created(requests, tasks),
            Ask::Claim(request) => self.claimed_by(call.by, request, tasks),
            Ask::Renew(_) | Ask::Release(_) | Ask::Complete(_) | Ask::Fail(_) => {
                let (reported, claimed) = tasks.split_at(1.min(tasks.len()));
                self.reported(call, reported);
                match call.ask.claim_next() {
                    Some(request) => {
                        *self.clients.acknowledged.entry("claim next").or_default() += usize::from(!claimed.is_empty());
                        self.claimed_by(call.by, request, claimed);
                    }
                    None if claimed.is_empty() => {}
                    None => self.fault(format!("{} answers what nobody claimed", named(&call.ask))),
                }
            }
            Ask::Cancel(_) => {
                let is_cancelled = |task: &Task| *task.state() == State::Cancelled;
                self.was(tasks, "cancelled", is_cancelled);
            }
            Ask::Verify(_) | Ask::Retry(_) | Ask::Assign(_) => self.was(tasks, "there", |_| true),
        }
    }

    /// What was acknowledged is what the rows said at some time.
    fn was(&mut self, tasks: &[v1::Task], what: &str, is_so: impl Fn(&Task) -> bool) {
        for task in tasks {
            let changes = self.history.get(&id_of(task)).into_iter().flatten();
            if !changes.map(|change| &change.task).any(&is_so) {
                self.fault(format!("{:?} was acknowledged to be {what}, and the rows never said so", task.title));
            }
        }
    }

    fn created(&mut self, requests: &[v1::CreateTaskRequest], tasks: &[v1::Task]) {
        let asked: Vec<&str> = requests.iter().map(|request| request.title.as_str()).collect();
        let told: Vec<&str> = tasks.iter().map(|task| task.title.as_str()).collect();
        if asked != told {
            self.fault(format!("asked for {asked:?}, told of {told:?}"));
        }
        self.was(tasks, "created", |_| true);
        for task in tasks {
            let id = id_of(task);
            match self.clients.created.insert(task.title.clone(), id) {
                Some(known) if known != id => {
                    self.fault(format!("{:?} was created as another task before", task.title))
                }
                Some(_) => {}
                None => self.clients.tasks.push(id),
            }
        }
    }

    fn claimed_by(&mut self, agent: usize, request: &v1::ClaimTasksRequest, tasks: &[v1::Task]) {
        for task in tasks {
            let (id, lease) = (id_of(task), LeaseId::parse(&task.lease_id).expect("the platform's own id"));
            if self.clients.holds(lease) {
                self.fault(format!("the lease on {:?} was given twice", task.title));
            }
            if self.claimed(id, lease).is_none() {
                self.fault(format!("{:?} was handed to a{agent}, and the rows never said so", task.title));
            }
            if let Some(taken) = self.taken.get(&lease).cloned() {
                self.fault(format!("two holders: {} ({})", taken.text, self.name(taken.task)));
            }
            self.clients.held.push(Held { task: id, lease, agent });
            // Reviews are of the platform's making.
            if !self.clients.tasks.contains(&id) {
                self.clients.tasks.push(id);
            }
        }
        if request.wait.is_none() {
            self.left_behind(agent, request, tasks);
        }
    }

    /// Who claims gets the most urgent of what there was, and as much as there was.
    fn left_behind(&mut self, agent: usize, request: &v1::ClaimTasksRequest, tasks: &[v1::Task]) {
        let Some(first) = tasks.first() else { return };
        let lease = LeaseId::parse(&first.lease_id).expect("the platform's own id");
        let Some(commit) = self.claimed(id_of(first), lease).map(|change| change.commit) else { return };
        let got: BTreeSet<TaskId> = tasks.iter().map(id_of).collect();
        let last = got.iter().filter_map(|id| self.tasks.get(id)).map(Task::place).max();
        let is_full = usize::try_from(request.max_tasks()).is_ok_and(|most| tasks.len() >= most);
        let passed_over = |id: &TaskId| {
            // What changed in the same transaction may have done so after the claim was served.
            let change = self.as_of(*id, commit).filter(|change| change.commit < commit)?;
            let task = &change.task;
            let waits = *task.state() == State::Queued
                && task.progress.assigned.is_none()
                && task.spec.excluded.is_none()
                && task.spec.required_tools.is_empty()
                && (request.kinds.is_empty() || task.spec.kind.as_str() == "code");
            let comes_before = !is_full || last.is_some_and(|last| task.place() < last);
            (waits && comes_before).then(|| task.spec.title.clone())
        };
        if let Some(title) = self.tasks.keys().find_map(passed_over) {
            self.fault(format!("a{agent} got {:?} and not {title:?}, which waited and comes before", first.title));
        }
    }

    fn reported(&mut self, call: &Call, tasks: &[v1::Task]) {
        let Some((_, lease)) = call.ask.lease() else {
            return self.was(tasks, "ended", |task| task.state().is_final() || task.progress.attempt > 1);
        };
        match call.ask.digest() {
            None => self.was(tasks, "renewed", |task| lease_of(task) == Some(lease)),
            Some(digest) => self.was(tasks, named(&call.ask), |task| {
                task.progress.ended.as_ref().is_some_and(|ended| ended.lease_id == lease && ended.report == digest)
            }),
        }
    }

    fn refused(&mut self, call: Call, status: &Status, calm: bool) {
        match status.code() {
            Code::Internal | Code::Unknown => {
                self.fault(format!("{} is refused by a fault of the platform: {}", named(&call.ask), status.message()));
            }
            Code::Unavailable | Code::DeadlineExceeded if calm => {
                self.fault(format!("{} is refused although nothing went wrong: {status:?}", named(&call.ask)));
            }
            Code::Unavailable | Code::DeadlineExceeded => self.unsure(call),
            Code::Aborted if status.message().starts_with("the lease is no longer") => self.lease_refused(&call),
            Code::Aborted if calm => self.fault(format!("{} is refused: {}", named(&call.ask), status.message())),
            _ => {}
        }
    }

    /// Whoever holds a lease is not told that it does not; and whoever ended it is told so again.
    fn lease_refused(&mut self, call: &Call) {
        let Some((id, lease)) = call.ask.lease() else { return };
        let id = TaskId::parse(id).expect("an id that was told");
        let Some(task) = self.tasks.get(&id) else { return };
        let is_own = self.clients.held.iter().any(|held| held.lease == lease && held.agent == call.by);
        let title = task.spec.title.clone();
        if is_own && lease_of(task) == Some(lease) {
            self.fault(format!("a{} holds {title:?} and is told that it does not", call.by));
            return;
        }
        let is_done = |task: &Task| {
            let ended = task.progress.ended.as_ref();
            ended.is_some_and(|ended| ended.lease_id == lease && Some(&ended.report) == call.ask.digest().as_ref())
        };
        if is_own && is_done(task) {
            self.fault(format!("{} of {title:?} was done, and is refused when asked again", named(&call.ask)));
        }
    }
}
