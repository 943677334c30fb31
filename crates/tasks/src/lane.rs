//! One lane an office: whatever is asked of its queue at the same time shares one transaction (group commit), and whoever
//! waits for work is served in it as soon as there is some.
//!
//! An operation that is refused keeps none of the others from being done, and neither does one in which we are at fault:
//! see [`Group`]. A lane has a task of its own only while there is something to do.

mod group;
mod op;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use mi_base::{
    budget::{Budget, Share},
    caught, metrics,
};
use mi_kernel::{Error, ErrorKind, OfficeId, Result, TaskId, error::Fault};
use tokio::sync::oneshot::{self, error::RecvError};

use self::group::Group;
pub(super) use self::op::{Op, Patience};
use super::{
    Tasks,
    batch::{Batch, Roster},
    create::Cause,
    model::Task,
    reconcile::Reconcile,
    repo::Wanted,
    work::{Claim, Offer, not_working, wanted},
};

/// What one transaction takes in, unless its first operation is more: it holds up the office, and on SQLite everybody.
const MOST: usize = 8 << 20;
/// What may wait in the lanes of a process, of one office at most half of it: beyond it callers are told to come back.
const WAITING: usize = 512 << 20;
/// After a transaction that failed those who wait for work look again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a transaction is tried that lost a race with another process.
const TRIES: usize = 3;
/// The name of a lane's work in metrics.
const WORK: &str = "task-lane";

/// The tasks that an operation is about, as they are after it.
pub(super) type Answer = Result<Vec<Task>>;

/// What is answered when the process ends meanwhile.
fn ending() -> Error {
    Error::unavailable("the platform is shutting down; try again")
}

/// What is answered to an operation that has no answer although nothing ends: a fault of ours.
pub(super) fn unanswered() -> Error {
    metrics::fault(WORK);
    Error::internal("an operation of the queue has no answer")
}

/// An operation and whom to answer.
pub(super) struct Ticket {
    op: Op,
    roster: Option<Roster>,
    trace_id: String,
    answer: oneshot::Sender<Answer>,
    /// The room that it takes until it is answered, with those that were asked together with it.
    _share: Option<Arc<Share>>,
}

#[derive(Default)]
struct Lane {
    tickets: VecDeque<Ticket>,
    /// Claims that found nothing, in the order in which they came.
    waiting: Vec<Ticket>,
    /// Whether they are to look again: another process may have something for them.
    kicked: bool,
    /// Whether they will be kicked, since a transaction failed.
    retries: bool,
    running: bool,
}

impl Lane {
    /// Adds to what is to be done. What nobody waits for comes first: time has passed already.
    fn push(&mut self, ticket: Ticket) {
        match ticket.op {
            Op::Expire(_) => self.tickets.push_front(ticket),
            // One is enough.
            Op::Settle if self.tickets.iter().any(|ticket| matches!(ticket.op, Op::Settle)) => {}
            _ => self.tickets.push_back(ticket),
        }
    }

    /// Takes out what one transaction does.
    fn pop(&mut self) -> Vec<Ticket> {
        let mut cost = 0;
        let fits = |ticket: &&Ticket| {
            let is_first = cost == 0;
            cost += ticket.op.cost();
            is_first || cost <= MOST
        };
        let count = self.tickets.iter().take_while(fits).count();
        self.tickets.drain(..count).collect()
    }
}

/// The lanes of this process.
#[derive(Clone)]
pub(super) struct Lanes {
    lanes: Arc<Mutex<HashMap<OfficeId, Lane>>>,
    waiting: Budget,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { lanes: Arc::default(), waiting: Budget::new(WAITING) }
    }
}

impl Lanes {
    // The map is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, HashMap<OfficeId, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for what somebody asks for together. What the platform has to do by itself needs none.
    ///
    /// # Errors
    /// `Exhausted` when too much waits already, of this office or of all.
    fn admit(&self, office_id: OfficeId, ops: &[Op]) -> Result<Option<Arc<Share>>> {
        let bytes: usize = ops.iter().filter(|op| op.is_asked()).map(Op::held).sum();
        if bytes == 0 {
            return Ok(None);
        }
        let share = self.waiting.take(office_id, bytes).ok_or_else(|| {
            let text = "too much is asked of the platform's queues at the moment";
            Error::exhausted("QUEUE_BUSY", text, Duration::from_millis(500))
        })?;
        Ok(Some(Arc::new(share)))
    }

    /// Offices where somebody waits for work.
    pub(super) fn waited_for(&self) -> Vec<OfficeId> {
        self.lock().iter().filter(|(_, lane)| !lane.waiting.is_empty()).map(|(id, _)| *id).collect()
    }

    /// Notes that those who wait are to look again; false: nobody waits. Who waits is not in the lane while a
    /// transaction is under way, which may not see what this is about.
    fn kick(&self, office_id: OfficeId) -> bool {
        let mut lanes = self.lock();
        let waited = lanes.get_mut(&office_id).filter(|lane| lane.running || !lane.waiting.is_empty());
        waited.map(|lane| lane.kicked = true).is_some()
    }
}

impl Tasks {
    /// Puts operations into the office's lane, next to each other.
    ///
    /// # Errors
    /// `Exhausted` when too many wait there.
    pub(super) fn enqueue(
        &self,
        office_id: OfficeId,
        ops: Vec<Op>,
        roster: Option<&Roster>,
        trace_id: &str,
    ) -> Result<Vec<oneshot::Receiver<Answer>>> {
        let share = self.lanes.admit(office_id, &ops)?;
        let mut answers = Vec::with_capacity(ops.len());
        {
            let mut lanes = self.lanes.lock();
            if self.background.shutdown().is_cancelled() {
                return Err(ending());
            }
            let lane = lanes.entry(office_id).or_default();
            for op in ops {
                let (answer, answered) = oneshot::channel();
                let (roster, trace_id) = (roster.cloned(), trace_id.to_owned());
                lane.push(Ticket { op, roster, trace_id, answer, _share: share.clone() });
                answers.push(answered);
            }
        }
        self.run(office_id);
        Ok(answers)
    }

    /// Puts operations into the office's lane and waits for their answers.
    pub(super) async fn submit(
        &self,
        office_id: OfficeId,
        ops: Vec<Op>,
        roster: Option<&Roster>,
        trace_id: &str,
    ) -> Result<Vec<Answer>> {
        let answers = self.enqueue(office_id, ops, roster, trace_id)?;
        Ok(join_all(answers).await.into_iter().map(|answer| self.heard(answer)).collect())
    }

    /// What came of an operation. One that was dropped was so because the process ends, or else by a fault of ours.
    pub(super) fn heard(&self, answer: Result<Answer, RecvError>) -> Answer {
        answer.unwrap_or_else(|_| match self.background.shutdown().is_cancelled() {
            true => Err(ending()),
            false => Err(unanswered()),
        })
    }

    /// When the process is to end, nobody is left waiting in it.
    pub(super) async fn end_lanes(&self) {
        self.background.shutdown().cancelled().await;
        self.lanes.lock().clear();
    }

    /// Has those who wait for work look again.
    pub(super) fn kick(&self, office_id: OfficeId) {
        if self.lanes.kick(office_id) {
            self.run(office_id);
        }
    }

    /// Has those who wait for work look again after a while: what they were to be told of may be lost.
    fn kick_later(&self, office_id: OfficeId) {
        let retries = self.lanes.lock().get_mut(&office_id).map(|lane| std::mem::replace(&mut lane.retries, true));
        if retries != Some(false) {
            return;
        }
        let tasks = self.clone();
        self.background.spawn("task-retry", async move {
            tokio::time::sleep(PAUSE).await;
            if let Some(lane) = tasks.lanes.lock().get_mut(&office_id) {
                lane.retries = false;
            }
            tasks.kick(office_id);
        });
    }

    /// Drives the lane, unless somebody does.
    fn run(&self, office_id: OfficeId) {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(office_id).or_default();
        if std::mem::replace(&mut lane.running, true) {
            return;
        }
        drop(lanes);
        let tasks = self.clone();
        self.background.spawn("task-lane", async move { tasks.drive(office_id).await });
    }

    async fn drive(&self, office_id: OfficeId) {
        loop {
            let (tickets, waiting) = {
                let mut lanes = self.lanes.lock();
                let Some(lane) = lanes.get_mut(&office_id) else { return };
                lane.waiting.retain(|ticket| !ticket.answer.is_closed());
                let kicked = std::mem::take(&mut lane.kicked) && !lane.waiting.is_empty();
                if lane.tickets.is_empty() && !kicked {
                    lane.running = false;
                    if lane.waiting.is_empty() {
                        lanes.remove(&office_id);
                    }
                    return;
                }
                (lane.pop(), (std::mem::take(&mut lane.waiting), kicked))
            };
            let left = self.serve(office_id, tickets, waiting).await;
            if let Some(lane) = self.lanes.lock().get_mut(&office_id) {
                lane.waiting.extend(left);
            }
        }
    }

    /// Does what is asked, in one transaction unless one of us is at fault there. Returns the claims that go on waiting.
    async fn serve(&self, office_id: OfficeId, tickets: Vec<Ticket>, waiting: (Vec<Ticket>, bool)) -> Vec<Ticket> {
        let (waiting, kicked) = waiting;
        let mut groups = vec![Group { tickets, waiting, kicked }];
        let mut left = Vec::new();
        while let Some(group) = groups.pop() {
            match self.attempt_some(office_id, &group).await {
                Ok(served) => left.extend(self.answer(office_id, group, served).await),
                Err(error) if error.kind == ErrorKind::Internal && group.len() > 1 => groups.extend(group.halves()),
                Err(error) => left.extend(self.give_up(office_id, group, &error)),
            }
        }
        left
    }

    /// One transaction, and again when it lost a race.
    async fn attempt_some(&self, office_id: OfficeId, group: &Group) -> Result<Served> {
        let mut tries = 0;
        loop {
            tries += 1;
            match caught(self.attempt(office_id, &group.tickets, &group.waiting, group.kicked)).await {
                Err(error) if error.reason == "CONFLICT" && tries < TRIES => {}
                served => return served,
            }
        }
    }

    /// Answers for a transaction that failed. Whoever waits goes on, unless there is nothing to wait for any more, or it
    /// is its own claim that fails.
    fn give_up(&self, office_id: OfficeId, group: Group, error: &Error) -> Vec<Ticket> {
        let Group { tickets, waiting, .. } = group;
        match error.kind {
            ErrorKind::Internal => {
                metrics::fault(WORK);
                tracing::error!(target: "mi::tasks", office = %office_id, error = %error.chain(), "an operation of the queue failed by a fault of the platform");
            }
            _ => {
                tracing::warn!(target: "mi::tasks", office = %office_id, error = %error.chain(), "the queue's transaction failed");
                self.kick_later(office_id);
            }
        }
        let ends = matches!(error.kind, ErrorKind::NotFound | ErrorKind::Internal);
        let (told, left) = if ends { (waiting, Vec::new()) } else { (Vec::new(), waiting) };
        for ticket in told.into_iter().chain(tickets) {
            let _ = ticket.answer.send(Err(error.again()));
        }
        left
    }

    /// Tells everybody what came of a transaction. Returns the claims that go on waiting.
    async fn answer(&self, office_id: OfficeId, group: Group, served: Served) -> Vec<Ticket> {
        let Group { tickets, waiting, .. } = group;
        if served.changed {
            self.outbox.notify_one();
            self.changed(office_id);
        }
        for (agent, message) in served.loops {
            self.pause(office_id, agent, message);
        }
        let mut left = Vec::new();
        let mut unclaimed = Vec::new();
        for (ticket, answer) in waiting.into_iter().chain(tickets).zip(served.answers) {
            let waits = matches!(ticket.op, Op::Claim(_, Patience::Waits));
            if let (Op::Report(report), Ok(tasks)) = (&ticket.op, &answer)
                && let (Some(agent), Some(task)) = (report.ends_work(), tasks.first())
            {
                self.ended.insert(agent, (task.progress.updated_at, Cause::of(task))).await;
            }
            match answer {
                Ok(tasks) if tasks.is_empty() && waits => left.push(ticket),
                answer => {
                    // Whoever asked is gone: what was claimed for it goes back.
                    if let (Err(Ok(tasks)), Op::Claim(claim, _)) = (ticket.answer.send(answer), &ticket.op) {
                        unclaimed.extend(tasks.iter().filter_map(|task| super::work::give_back(task, &claim.by)));
                    }
                }
            }
        }
        let mut own: Vec<(Op, Option<Roster>)> =
            unclaimed.into_iter().map(|report| (Op::Report(report), None)).collect();
        // What got no further is tried again after a while: by [`Tasks::settle_forever`], or when those who wait look again.
        let goes_on = !served.stuck;
        own.extend((served.left && goes_on).then_some((Op::Settle, None)));
        own.extend(served.again.into_iter().map(|(next, roster)| (Op::Reconcile(next), roster)));
        if served.held && served.stuck {
            self.kick_later(office_id);
        }
        if !own.is_empty() || (served.held && goes_on) {
            let mut lanes = self.lanes.lock();
            let lane = lanes.entry(office_id).or_default();
            lane.kicked |= served.held && goes_on;
            for (op, roster) in own {
                let answer = oneshot::channel().0;
                lane.push(Ticket { op, roster, trace_id: String::new(), answer, _share: None });
            }
        }
        left
    }

    async fn attempt(
        &self,
        office_id: OfficeId,
        tickets: &[Ticket],
        waiting: &[Ticket],
        kicked: bool,
    ) -> Result<Served> {
        let mut tx = self.db.office(office_id).begin().await?;
        let mut batch = Batch::open(&mut tx, &*self.clock).await?;
        batch.ended = Some(self.ended.clone());
        batch.open_quota = self.quotas.open_tasks;
        batch.roster = roster(self.rosters.get(&office_id).await, tickets, waiting);
        let all: Vec<&Ticket> = waiting.iter().chain(tickets).collect();
        // Whoever waits found nothing there, unless another process has put something in since.
        let looks = |place: usize| place >= waiting.len() || kicked;
        let asking = all.iter().enumerate().filter_map(|(place, ticket)| ticket.claim().filter(|_| looks(place)));
        let spare = tickets.iter().filter(|ticket| ticket.op.takes()).count();
        let (wanted, nothing) = (wanted(&asking.collect::<Vec<_>>(), spare), Wanted::default());
        let ended: Vec<TaskId> = tickets.iter().filter_map(|ticket| ticket.op.ends()).collect();
        let subjects: Vec<TaskId> = tickets.iter().flat_map(|ticket| ticket.op.subjects()).collect();
        // What is to be cancelled is not handed out before: until then nobody is looked for something.
        let was_held = batch.consequences.cancel();
        batch.gather(&subjects, &ended, if was_held { &nothing } else { &wanted }).await?;
        let again = tickets.iter().filter(|ticket| ticket.op.reconsiders());
        batch.prepare(&again.flat_map(|ticket| ticket.op.subjects()).collect::<Vec<_>>()).await?;
        // Only where that is asked for: should it fail by a fault of ours, everything else goes on.
        if tickets.iter().any(|ticket| matches!(ticket.op, Op::Settle)) {
            batch.carry_on().await?;
        }
        let mut answers: Vec<Answer> = (0..waiting.len()).map(|_| Ok(Vec::new())).collect();
        for ticket in tickets {
            answers.push(apply(&mut batch, ticket).await?);
        }
        let works = batch.works();
        batch.settle().await?;
        // Who waits looks again when nothing is to be cancelled any more.
        let held = batch.consequences.cancel();
        if was_held && !held {
            batch.write().await?;
            batch.gather(&[], &[], &wanted).await?;
        }
        let mut offers = Vec::new();
        for (place, ticket) in all.iter().enumerate() {
            let Some(claim) = ticket.claim() else { continue };
            match &works {
                _ if batch.is_stopped(claim) => answers[place] = Err(not_working()),
                _ if held || (!looks(place) && !batch.queued) => {}
                Err(error) => answers[place] = Err(error.again()),
                Ok(()) => offers.push((place, Offer { claim, trace_id: &ticket.trace_id, looks: looks(place) })),
            }
        }
        let (places, offers): (Vec<usize>, Vec<Offer<'_>>) = offers.into_iter().unzip();
        for (place, tasks) in places.into_iter().zip(batch.offer(&offers).await?) {
            answers[place] = Ok(tasks);
        }
        let changed = batch.finish().await?;
        let (loops, again) = (std::mem::take(&mut batch.loops), std::mem::take(&mut batch.again));
        let (left, stuck) = (batch.consequences.are_left(), batch.consequences.stuck);
        let (operations, statements) = (all.len(), tx.statements());
        tx.commit().await?;
        tracing::debug!(target: "mi::tasks", office = %office_id, operations, statements, "a transaction of the queue");
        Ok(Served { answers, changed, loops, held, left, stuck, again })
    }
}

struct Served {
    /// Of those who waited, then of the tickets.
    answers: Vec<Result<Vec<Task>>>,
    changed: bool,
    loops: Vec<(String, String)>,
    /// Nothing was handed out, until tasks are cancelled that are to be.
    held: bool,
    /// There is something left to do about changes of tasks.
    left: bool,
    /// It was tried, in vain.
    stuck: bool,
    /// Agents are to be looked at further.
    again: Vec<(Reconcile, Option<Roster>)>,
}

impl Ticket {
    /// The claim, if it is one that somebody still waits for.
    fn claim(&self) -> Option<&Claim> {
        match &self.op {
            Op::Claim(claim, _) if !self.answer.is_closed() => Some(claim),
            _ => None,
        }
    }
}

/// The agents that a transaction goes by: those that are `known`, which nothing that is asked has newer ones than. What
/// waited may have older ones, such as the further pages of a look at the agents: whoever was hired since is not gone.
/// Where none are known any more, it is the last look's.
fn roster(known: Option<Roster>, tickets: &[Ticket], waiting: &[Ticket]) -> Option<Roster> {
    let looks = tickets.iter().rev().filter(|ticket| matches!(ticket.op, Op::Reconcile(_)));
    let asked = looks.chain(tickets.iter().rev()).chain(waiting.iter().rev());
    known.or_else(|| asked.filter_map(|ticket| ticket.roster.clone()).next())
}

/// Does one operation. The outer error is the database's and ends the transaction; the inner one is the caller's.
async fn apply(batch: &mut Batch<'_>, ticket: &Ticket) -> Result<Result<Vec<Task>>> {
    let trace_id = &ticket.trace_id;
    let done = match &ticket.op {
        Op::Create(news, by) => batch.create(news, by, trace_id).await,
        Op::Report(report) => batch.report(report, trace_id).await.map(|task| vec![task]),
        Op::Decide(decision) => batch.decide(decision, trace_id).await.map(|task| vec![task]),
        Op::Expire(ids) => batch.expire(ids).await.map(|()| Vec::new()),
        Op::Reconcile(asked) => batch.reconcile(asked).await.map(|next| {
            batch.again.extend(next.map(|next| (next, ticket.roster.clone())));
            Vec::new()
        }),
        // Served at the end, when everything that could be claimed is written.
        Op::Claim(..) | Op::Settle => Ok(Vec::new()),
    };
    match done {
        Err(error) if error.fault == Fault::Caller => Ok(Err(error)),
        Err(error) => Err(error),
        Ok(tasks) => Ok(Ok(tasks)),
    }
}

#[cfg(test)]
mod tests;
