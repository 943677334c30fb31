//! The working half of the scheduler: asks [`plan`] for the next step of an agent, does it, records it, and asks again.
//!
//! It takes no hint about what changed. It wakes on signals, on ends of instances, and on what is due: each row says when the
//! planner wants to look at it next, at once after every change, so that a lost signal costs time and nothing else, and who
//! is well costs nothing. A full pass at the start, and a rare one, are for what the rows do not say. Every record is
//! conditional on the row being what the plan was made from.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mi_kernel::{AgentId, Error, InstanceId, OfficeId, Result, Time, backoff::Backoff, event::Event, secret::Secret};
use mi_runtime::{Cluster, Place, Progress, Saving};
use mi_store::{Topic, outbox};
use ring::digest;
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet, time::MissedTickBehavior};

use crate::{
    Scheduler,
    agents::{Agent, Desired, State, TOPIC, next_look, repo},
    launch::MODEL_ID,
    offices,
    plan::{self, PlannedAction, plan},
    shards::{self, shard_of},
};

/// Agents worked on at the same time.
const CONCURRENCY: usize = 32;
/// How often agents are gone over that nobody will look at otherwise.
const FULL_PASS: Duration = Duration::from_secs(300);
/// How often other processes' changes are looked for, and what is due once more that is worked on.
const PAUSE: Duration = Duration::from_secs(1);
/// How often what is due is looked for where every change gives a signal.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long after an error an agent is looked at again.
pub(crate) const RETRY: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
/// How often an agent is looked at while nothing was seen of the cluster.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long an enrolment token is good for.
const ENROLMENT: Duration = Duration::from_secs(300);
const PAGE: i64 = 1000;
/// Agents of one shard that are queued at a time: more than are worked on.
const PER_SHARD: i64 = 64;

/// Agents to look at, each once.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<(VecDeque<AgentId>, HashSet<AgentId>)>,
    wake: Notify,
}

impl Queue {
    pub(crate) fn push(&self, agent: AgentId) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.1.insert(agent) {
            waiting.0.push_back(agent);
            self.wake.notify_one();
        }
    }

    fn pop(&self) -> Option<AgentId> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = waiting.0.pop_front()?;
        waiting.1.remove(&agent);
        Some(agent)
    }
}

/// Reconciles this process's agents until it is dropped.
pub(crate) async fn run(scheduler: Arc<Scheduler>) {
    let mut jobs: JoinSet<(AgentId, Option<Time>)> = JoinSet::new();
    let mut active: HashSet<AgentId> = HashSet::new();
    let mut again: HashSet<AgentId> = HashSet::new();
    let mut look_at = scheduler.clock.now();
    // On SQLite whatever is under way may have lost its instance, with the process before.
    let mut begins = !scheduler.db.is_shared();
    let mut changes = scheduler.db.listen(shards::topic());
    let mut pass_tick = tokio::time::interval(FULL_PASS);
    pass_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while active.len() < CONCURRENCY {
            let Some(agent) = scheduler.queue.pop() else { break };
            if active.contains(&agent) {
                again.insert(agent);
                continue;
            }
            // Another process finds in the database what is due.
            let Some(work) = scheduler.shards.begin(agent) else { continue };
            active.insert(agent);
            let scheduler = scheduler.clone();
            jobs.spawn(async move {
                tokio::select! {
                    wait = scheduler.settle(agent) => (agent, wait),
                    // As if the process had died: what is half done is seen by who has the agent now.
                    () = work.lost.cancelled() => (agent, None),
                    () = scheduler.shards.resigned.cancelled() => (agent, None),
                }
            });
        }
        let pause = (look_at - scheduler.clock.now()).to_std().unwrap_or_default();
        tokio::select! {
            () = scheduler.queue.wake.notified() => {}
            agent = scheduler.runtime.ended() => scheduler.queue.push(agent),
            Some(done) = jobs.join_next(), if !jobs.is_empty() => match done {
                Ok((agent, wait)) => {
                    active.remove(&agent);
                    if again.remove(&agent) {
                        scheduler.queue.push(agent);
                    } else if let Some(time) = wait {
                        look_at = look_at.min(time);
                    }
                }
                // Cancellation happens only at shutdown; a panic must not leave its agent marked active for ever.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            // What is queued already comes first.
            () = tokio::time::sleep(pause), if active.len() < CONCURRENCY => {
                look_at = scheduler.enqueue_due(&active).await;
            }
            () = changes.changed(), if scheduler.db.is_shared() => look_at = scheduler.clock.now(),
            () = scheduler.shards.gained.notified() => {
                if !scheduler.shards.fresh().is_empty() {
                    pass_tick.reset_immediately();
                }
            }
            _ = pass_tick.tick() => match scheduler.look_over(begins).await {
                Ok(()) => {
                    begins = false;
                    look_at = scheduler.clock.now();
                }
                Err(error) => {
                    tracing::warn!(target: "mi::scheduler", error = %error.chain(), "the full pass failed and is repeated");
                    pass_tick.reset_after(PAUSE);
                }
            },
        }
    }
}

impl Scheduler {
    /// Queues the agents that are due, but those that are worked on; answers when to look again.
    async fn enqueue_due(&self, active: &HashSet<AgentId>) -> Time {
        let now = self.clock.now();
        let own = self.shards.own();
        let most = if self.db.is_shared() { PER_SHARD } else { PAGE };
        let due = async { next_look::look_due(&mut self.db.platform().read().await?, now, &own, most).await };
        let due = match due.await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(target: "mi::scheduler", %error, "what is due could not be read");
                return now + PAUSE;
            }
        };
        let mut found: HashMap<i32, i64> = HashMap::new();
        for agent in &due.agents {
            *found.entry(if self.db.is_shared() { shard_of(*agent) } else { 0 }).or_default() += 1;
        }
        let full = found.values().any(|found| *found == most);
        let (busy, idle): (Vec<AgentId>, Vec<AgentId>) = due.agents.into_iter().partition(|id| active.contains(id));
        idle.into_iter().for_each(|id| self.queue.push(id));
        let latest = match (full, busy.is_empty()) {
            (true, _) => now,
            (false, false) => now + PAUSE,
            // Another process gives no signal here.
            (false, true) => now + if self.db.is_shared() { PAUSE } else { LONGEST_PAUSE },
        };
        due.next.map_or(latest, |next| next.min(latest))
    }

    /// Goes over this process's agents, page by page, and makes those due that are not at rest: all of them, and all of shards
    /// that it has just got, or only those that nobody will look at otherwise.
    pub(crate) async fn look_over(&self, all: bool) -> Result<()> {
        let (mut after, fresh) = (None, self.shards.fresh());
        loop {
            let page = next_look::look_over(&mut self.db.platform().read().await?, after, PAGE).await?;
            let due: Vec<AgentId> = page
                .iter()
                .filter(|found| found.unsettled && self.shards.holds(found.id))
                .filter(|found| all || !found.expected || fresh.contains(&shard_of(found.id)))
                .map(|found| found.id)
                .collect();
            if !due.is_empty() {
                let mut tx = self.db.platform().begin().await?;
                next_look::look_at(&mut tx, &due).await?;
                tx.commit().await?;
            }
            match page.last() {
                Some(last) if i64::try_from(page.len()) == Ok(PAGE) => after = Some(last.id),
                _ => {
                    self.shards.looked_over(&fresh);
                    return Ok(());
                }
            }
        }
    }

    /// Works on one agent until it rests; answers when to look again.
    pub(crate) async fn settle(&self, id: AgentId) -> Option<Time> {
        loop {
            let rests = match self.step(id).await {
                Ok(Some(PlannedAction::Wait(time) | PlannedAction::Listen(time))) => Some(time),
                Ok(Some(PlannedAction::Rest) | None) => None,
                Ok(Some(_)) => continue,
                Err(error) if shards::is_lost(&error) => None,
                Err(error) => return Some(self.leave_alone(id, &error).await),
            };
            self.failure_backoff.clear(&id);
            return rests;
        }
    }

    /// Leaves an agent alone for a while of which a step failed.
    async fn leave_alone(&self, id: AgentId, error: &Error) -> Time {
        let at = self.failure_backoff.add(id, self.clock.now());
        tracing::warn!(target: "mi::scheduler", agent = %id, error = %error.chain(), "a step failed; it is tried again");
        let written = async {
            let mut tx = self.db.platform().begin().await?;
            self.keeps(tx.within(OfficeId::MIN), id).await?;
            let office_id = next_look::look_put_off(&mut tx, id, at, &error.message).await?;
            tx.commit().await?;
            Ok::<_, Error>(office_id)
        };
        match written.await {
            Ok(office_id) => office_id.into_iter().for_each(|office_id| self.db.notify(Topic::of(office_id, TOPIC))),
            // It stays due, and is looked at when the database is back.
            Err(error) => {
                tracing::debug!(target: "mi::scheduler", agent = %id, error = %error.chain(), "an agent could not be put off");
            }
        }
        at
    }

    /// Records what the planner concluded from a row, and what is in the agent's way.
    async fn looked(&self, agent: &Agent, at: Option<Time>, listening: bool, trouble: &str) -> Result<()> {
        let mut tx = self.fenced(agent.office_id, agent.id).await?;
        next_look::look_set(&mut tx, (agent.id, agent.revision), at, listening, trouble).await?;
        tx.commit().await?;
        if agent.trouble != trouble {
            self.db.notify(Topic::of(agent.office_id, TOPIC));
        }
        Ok(())
    }

    /// Plans and does one step; none: the agent is gone.
    pub(crate) async fn step(&self, id: AgentId) -> Result<Option<PlannedAction>> {
        let mut conn = self.db.platform().read().await?;
        let Some(agent) = repo::agent_find(&mut conn, id).await? else {
            return Ok(None);
        };
        let office = offices::repo::office_get(conn.within(agent.office_id)).await?;
        drop(conn);
        let agent = self.seen.freshen(agent);
        let active = office.as_ref().is_some_and(|office| office.active);
        let removing = office.is_none_or(|office| office.removing);
        let now = self.clock.now();
        let hosted = self.runtime.cluster().filter(|_| !agent.external);
        if let Some(Err(unseen)) = hosted.map(Cluster::seen) {
            let at = now + UNSEEN;
            self.looked(&agent, Some(at), false, &unseen).await?;
            return Ok(Some(PlannedAction::Wait(at)));
        }
        let seen = self.runtime.observe(id);
        let trouble =
            seen.as_ref().and_then(|seen| seen.waiting.clone().or_else(|| seen.flaw.clone())).unwrap_or_default();
        let step = plan(&self.seen.heard(&agent, now), active, seen.as_ref(), now);
        let progress = match &step {
            PlannedAction::Rest => self.looked(&agent, None, false, "").await.map(|()| Progress::Done)?,
            PlannedAction::Wait(at) => {
                self.looked(&agent, Some(*at), false, &trouble).await.map(|()| Progress::Done)?
            }
            PlannedAction::Listen(at) => self.listen(&agent, *at, &trouble).await?,
            PlannedAction::Launch { lost } => self.launch(agent.clone(), *lost).await?,
            PlannedAction::Halt(state) => self.halt(agent.clone(), state.clone()).await?,
            PlannedAction::GiveUp { reason, ended } => self.give_up(agent.clone(), reason, *ended).await?,
            PlannedAction::Enrol => self.enrol(agent.clone()).await.map(|()| Progress::Done)?,
            PlannedAction::Release => self.reserve.freeing(|| self.release(agent.clone(), removing)).await?,
            PlannedAction::Observe(state) => {
                self.observe(agent.clone(), state.clone()).await.map(|()| Progress::Done)?
            }
            PlannedAction::Dismiss => self.forget(&agent, None).await.map(|()| Progress::Done)?,
        };
        match progress {
            Progress::Done => Ok(Some(step)),
            Progress::UnderWay => {
                let at = now + plan::PATIENCE / 2;
                let trouble = match (hosted, agent.desired) {
                    (Some(cluster), Desired::Fire { backup_id, .. }) if trouble.is_empty() => {
                        match cluster.saving(agent.place(), backup_id) {
                            Saving::UnderWay(waits_for) => waits_for.unwrap_or_default(),
                            _ => trouble,
                        }
                    }
                    _ => trouble,
                };
                self.looked(&agent, Some(at), false, &trouble).await?;
                Ok(Some(PlannedAction::Wait(at)))
            }
        }
    }

    /// Leaves an agent alone for as long as it is heard of.
    async fn listen(&self, agent: &Agent, at: Time, trouble: &str) -> Result<Progress> {
        if let (Some(cluster), State::Running { instance, .. }, Some(_)) =
            (self.runtime.cluster(), &agent.state, &agent.public_key)
        {
            self.shards.may_act(agent.id)?;
            cluster.started(agent.place(), *instance).await?;
        }
        self.looked(agent, Some(at), true, trouble).await.map(|()| Progress::Done)
    }

    /// Records what became of an agent, if its row is still the one that was planned with; false: it is not.
    pub(crate) async fn record(&self, agent: &mut Agent, event: Option<Event>) -> Result<bool> {
        let mut tx = self.fenced(agent.office_id, agent.id).await?;
        if !repo::agent_update(&mut tx, agent).await? {
            return Ok(false);
        }
        if let Some(event) = &event {
            outbox::push(&mut tx, event).await?;
        }
        tx.commit().await?;
        self.seen.doubt(agent.id);
        self.execs.keep(agent);
        self.outbox.notify_one();
        self.db.notify(Topic::of(agent.office_id, TOPIC));
        Ok(true)
    }

    pub(crate) fn event(&self, agent: &Agent, kind: &str, summary: String) -> Event {
        Event::lifecycle(agent.office_id, &agent.name, kind, summary, self.clock.now())
    }

    async fn launch(&self, mut agent: Agent, lost: Option<&'static str>) -> Result<Progress> {
        // Before anything is ended: it may have to be tried again.
        let taken = self.environment_of(&agent).await?;
        if self.acting(agent.id)?.stop(agent.place()).await? == Progress::UnderWay {
            return Ok(Progress::UnderWay);
        }
        // What a cluster refuses, or cannot be asked for, is no failure of the agent: it is tried again for as long as it takes.
        let elsewhere = self.runtime.cluster().is_some();
        match self.prepare(&agent).await {
            Err(error) if elsewhere => return Err(error),
            Err(error) => return self.give_up(agent, &error.chain(), true).await,
            Ok(()) => {}
        }
        let (instance, now) = (InstanceId::new(), self.clock.now());
        agent.state = State::Starting { instance, generation: agent.generation, since: now };
        agent.has_model = taken.contains_key(MODEL_ID);
        let token = agent.expect_enrolment(now);
        let event = lost.map(|reason| {
            agent.restarts += 1;
            let summary = format!("Agent {:?} starts again: {reason}", agent.name);
            self.event(&agent, "agent.restarted", summary).with(json!({ "reason": reason }))
        });
        if !self.record(&mut agent, event).await? {
            return Ok(Progress::Done);
        }
        let launch = self.launch_of(&agent, instance, &token, taken);
        match self.acting(agent.id)?.start(launch).await {
            Ok(()) => Ok(Progress::Done),
            Err(error) if elsewhere => {
                agent.state = State::Pending;
                self.record(&mut agent, None).await?;
                Err(error)
            }
            Err(error) => self.give_up(agent, &error.chain(), true).await,
        }
    }

    /// Lets an instance whose key was revoked go on with a new one.
    async fn enrol(&self, mut agent: Agent) -> Result<()> {
        let token = agent.expect_enrolment(self.clock.now());
        // A crash before the next line leaves an instance that is silent, and replaced for that.
        if self.record(&mut agent, None).await? {
            self.acting(agent.id)?.hand_over(agent.place(), &token).await?;
        }
        Ok(())
    }

    async fn halt(&self, mut agent: Agent, state: State) -> Result<Progress> {
        if self.acting(agent.id)?.stop(agent.place()).await? == Progress::UnderWay {
            return Ok(Progress::UnderWay);
        }
        let event = self.arrival(&agent, &state);
        // A failed agent has not reached its generation, it only has nothing running.
        if !matches!(state, State::Failed { .. }) {
            agent.observed_generation = agent.generation;
        }
        agent.state = state;
        agent.enrol_sha256 = None;
        self.record(&mut agent, event).await?;
        Ok(Progress::Done)
    }

    /// Records what is seen of an agent that runs elsewhere. What it is made of it reads for itself.
    async fn observe(&self, mut agent: Agent, state: State) -> Result<()> {
        let event = (agent.state != state).then(|| self.arrival(&agent, &state)).flatten();
        agent.observed_generation = agent.generation;
        agent.state = state;
        self.record(&mut agent, event).await?;
        Ok(())
    }

    /// What is told of an agent that comes into a state in which it may stay.
    fn arrival(&self, agent: &Agent, state: &State) -> Option<Event> {
        let (kind, what) = match state {
            State::Stopped => ("agent.stopped", "stopped"),
            State::Suspended => ("agent.suspended", "suspended with its office"),
            State::Online => ("agent.online", "is online"),
            State::Offline => ("agent.offline", "is offline: no heartbeat for two minutes"),
            _ => return None,
        };
        Some(self.event(agent, kind, format!("Agent {:?} {what}", agent.name)))
    }

    async fn give_up(&self, mut agent: Agent, reason: &str, ended: bool) -> Result<Progress> {
        if self.acting(agent.id)?.stop(agent.place()).await? == Progress::UnderWay {
            return Ok(Progress::UnderWay);
        }
        let (state, failures) = plan::after_failure(&agent, reason, ended, self.clock.now());
        let (kind, outcome) = match state {
            State::Failed { .. } => ("agent.failed", "is given up"),
            _ => ("agent.crashed", "ended unasked"),
        };
        agent.state = state;
        agent.failures = failures;
        agent.restarts += 1;
        agent.enrol_sha256 = None;
        let summary = format!("Agent {:?} {outcome}: {reason}", agent.name);
        let event = self.event(&agent, kind, summary).with(json!({ "reason": reason, "failures": failures }));
        self.record(&mut agent, Some(event)).await?;
        Ok(Progress::Done)
    }
}

impl Agent {
    /// A fresh enrolment token; the one before is worth nothing any more.
    fn expect_enrolment(&mut self, now: Time) -> Secret {
        self.expect_token(now + ENROLMENT)
    }

    /// A fresh token that is good until then, for whatever comes next: the enrolment of an instance, or the archive of the
    /// workspace of an agent that is fired.
    pub(crate) fn expect_token(&mut self, until: Time) -> Secret {
        let token = Secret::random("");
        self.enrol_sha256 = Some(digest::digest(&digest::SHA256, token.expose().as_bytes()).as_ref().to_vec());
        self.enrol_expires_at = Some(until);
        token
    }

    /// Where it runs.
    pub(crate) fn place(&self) -> Place {
        Place { office_id: self.office_id, agent_id: self.id }
    }
}
