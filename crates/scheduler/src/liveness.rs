//! Who was heard of: signs of life are kept in memory and written in batches, and no row is read for one.
//!
//! Whether an agent is still wanted is read once and then vouched for, until its row or its office changes. A change in this
//! process ends that at once; one by another process shows when the next batch is written, in the answer of that statement.
//!
//! A process that was asleep, or without its database, heard nobody: since when it can be reached without a break counts as a
//! sign of life.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use mi_kernel::{AgentId, InstanceId, OfficeId, Result, Time};

use crate::{
    Scheduler,
    agents::{Agent, next_look},
    plan::OFFLINE_AFTER,
};

/// How often signs of life reach the database.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// A process that was not sure for so long that it can be reached was not.
const DEAF_AFTER: TimeDelta = TimeDelta::seconds(20);
/// Signs of life of one statement.
const PART: usize = 1000;

/// What was read of an agent: that it is wanted.
#[derive(Debug, Clone, Copy)]
struct Vouched {
    office_id: OfficeId,
    /// The revision of the row that vouches for it.
    revision: i64,
    /// Of the instance; none: it runs elsewhere.
    instance: Option<InstanceId>,
    heard_at: Time,
}

/// When this process can be reached.
#[derive(Debug, Clone, Copy)]
struct Reachable {
    since: Time,
    /// When it was last sure of that.
    until: Time,
}

impl Reachable {
    /// The same as of now.
    fn at(self, now: Time) -> Self {
        Self { since: if now - self.until <= DEAF_AFTER { self.since } else { now }, until: now }
    }
}

/// What an agent said of its work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    office_id: OfficeId,
    /// Since when it has had nothing to do.
    pub(crate) since: Time,
    /// When it said so.
    pub(crate) heard_at: Time,
}

#[derive(Debug, Default)]
struct State {
    /// None: nobody has said so yet.
    reachable: Option<Reachable>,
    /// Last signs of life that are not in the database yet.
    fresh: HashMap<AgentId, (OfficeId, Time)>,
    vouched: HashMap<AgentId, Vouched>,
    /// Those that an agent hired, and that have nothing to do.
    idle: HashMap<AgentId, Idle>,
    /// How often something changed: what was read before a change is not vouched for.
    changes: u64,
}

/// The signs of life of this process's agents.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<State>);

/// What was known before an agent's row was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before(u64);

impl Seen {
    // The maps are whole between any two statements: a panic elsewhere does not spoil them.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a sign of life.
    pub(crate) fn record(&self, office_id: OfficeId, agent: AgentId, now: Time) {
        self.state().fresh.insert(agent, (office_id, now));
    }

    /// Notes a sign of life of an agent that is vouched for; false: its row must be read.
    pub(crate) fn known(&self, office_id: OfficeId, agent: AgentId, instance: Option<InstanceId>, now: Time) -> bool {
        let mut state = self.state();
        let known = state.vouched.get_mut(&agent);
        let Some(known) = known.filter(|known| known.office_id == office_id && known.instance == instance) else {
            return false;
        };
        known.heard_at = now;
        state.fresh.insert(agent, (office_id, now));
        true
    }

    /// Notes since when an agent has had nothing to do, as it says now; none: it works.
    pub(crate) fn idle(&self, office_id: OfficeId, agent: AgentId, since: Option<Time>, heard_at: Time) {
        let mut state = self.state();
        match since {
            Some(since) => drop(state.idle.insert(agent, Idle { office_id, since, heard_at })),
            None => drop(state.idle.remove(&agent)),
        }
    }

    /// Those that said after a time that they have had nothing to do since before another, by office.
    pub(crate) fn idle_since(&self, before: Time, said_after: Time) -> BTreeMap<OfficeId, Vec<(AgentId, Idle)>> {
        let mut by_office: BTreeMap<OfficeId, Vec<(AgentId, Idle)>> = BTreeMap::new();
        for (agent, idle) in &self.state().idle {
            if idle.since <= before && idle.heard_at > said_after {
                by_office.entry(idle.office_id).or_default().push((*agent, *idle));
            }
        }
        by_office
    }

    /// To be asked for before a row is read that is to be vouched for.
    pub(crate) fn before(&self) -> Before {
        Before(self.state().changes)
    }

    /// The row says that the agent is wanted. Nothing, when anything changed since before it was read.
    pub(crate) fn vouch(&self, agent: &Agent, instance: Option<InstanceId>, before: Before, now: Time) {
        let mut state = self.state();
        if state.changes == before.0 {
            let Agent { office_id, revision, .. } = *agent;
            state.vouched.insert(agent.id, Vouched { office_id, revision, instance, heard_at: now });
        }
    }

    /// The agent's row has changed.
    pub(crate) fn doubt(&self, agent: AgentId) {
        let mut state = self.state();
        state.changes += 1;
        state.vouched.remove(&agent);
    }

    /// The office has changed.
    pub(crate) fn doubt_all_of(&self, office_id: OfficeId) {
        let mut state = self.state();
        state.changes += 1;
        state.vouched.retain(|_, vouched| vouched.office_id != office_id);
    }

    /// Notes that signs of life can arrive.
    pub(crate) fn reach(&self, now: Time) {
        let mut state = self.state();
        let known = state.reachable.unwrap_or(Reachable { since: now, until: now });
        state.reachable = Some(known.at(now));
    }

    /// The agent as the planner is to see it: an instance that could not be heard was not silent. Of an agent that runs
    /// elsewhere is told what is known.
    pub(crate) fn heard(&self, agent: &Agent, now: Time) -> Agent {
        let mut agent = agent.clone();
        if let Some(known) = self.state().reachable.filter(|_| !agent.external) {
            agent.last_seen_at = agent.last_seen_at.max(Some(known.at(now).since));
        }
        agent
    }

    /// The agent as of now.
    pub(crate) fn freshen(&self, mut agent: Agent) -> Agent {
        agent.last_seen_at = self.state().fresh.get(&agent.id).map(|(_, at)| *at).max(agent.last_seen_at);
        agent
    }

    fn take(&self) -> Vec<(AgentId, OfficeId, Time)> {
        let fresh = mem::take(&mut self.state().fresh);
        fresh.into_iter().map(|(agent, (office_id, at))| (agent, office_id, at)).collect()
    }

    /// Back into memory, unless something newer is there by now.
    fn give_back(&self, part: &[(AgentId, OfficeId, Time)]) {
        let mut state = self.state();
        for (agent, office_id, at) in part {
            state.fresh.entry(*agent).or_insert((*office_id, *at));
        }
    }

    /// Doubts those of a batch whose rows are others than they were, or are not there.
    fn compare(&self, part: &[(AgentId, OfficeId, Time)], found: &[(AgentId, i64)]) {
        let found: HashMap<AgentId, i64> = found.iter().copied().collect();
        let mut state = self.state();
        for (agent, _, _) in part {
            if state.vouched.get(agent).is_some_and(|vouched| found.get(agent) != Some(&vouched.revision)) {
                state.changes += 1;
                state.vouched.remove(agent);
            }
        }
    }

    /// Forgets those that were silent for so long that they are gone.
    fn forget_silent(&self, now: Time) {
        self.state().vouched.retain(|_, vouched| vouched.heard_at + OFFLINE_AFTER > now);
    }
}

/// Writes signs of life for ever.
pub(crate) async fn flush_forever(scheduler: Arc<Scheduler>) {
    loop {
        // Without the database none is taken that has to be read first.
        if scheduler.db.platform().read().await.is_ok() {
            scheduler.seen.reach(scheduler.clock.now());
        }
        tokio::time::sleep(FLUSH_INTERVAL).await;
        scheduler.flush().await;
    }
}

impl Scheduler {
    /// Writes the signs of life that came since the last time, part by part.
    pub(crate) async fn flush(&self) {
        self.seen.forget_silent(self.clock.now());
        let seen = self.seen.take();
        for part in seen.chunks(PART) {
            match self.flush_part(part).await {
                Ok(found) => self.seen.compare(part, &found),
                Err(error) => {
                    tracing::warn!(target: "mi::scheduler", error = %error.chain(), "signs of life could not be written");
                    self.seen.give_back(part);
                }
            }
        }
    }

    async fn flush_part(&self, part: &[(AgentId, OfficeId, Time)]) -> Result<Vec<(AgentId, i64)>> {
        let mut tx = self.db.platform().begin().await?;
        let found = next_look::look_seen(&mut tx, part).await?;
        tx.commit().await?;
        Ok(found)
    }
}
