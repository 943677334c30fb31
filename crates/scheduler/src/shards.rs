//! Which agents this process reconciles. Over Postgres agents are divided into shards by their ids, and processes hold shards
//! under leases: where instances are elsewhere each its part, where they are a process's own one process all of them.
//!
//! A process has one lease, for all its shards. It judges it by a clock of its own that nobody turns, and counts it as lost
//! some time before another one may take what it held: then it drops what it is doing and begins nothing. Whatever was on
//! its way all the same is refused by the database: each record of the reconciler is written in a transaction that keeps
//! its shard, in the epoch in which the work began.

mod repo;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mi_kernel::{AgentId, Clock, Error, ErrorKind, OfficeId, Result};
use mi_runtime::Runtime;
use mi_store::{OfficeConn, OfficeTx, Topic, lease};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Scheduler;

/// How many there are: as many as there may be processes with work.
pub(crate) const COUNT: i32 = 64;
/// How long a lease is good for in the database.
pub(crate) const LEASE: Duration = Duration::from_secs(9);
/// How long before that its holder counts it as lost: what it began has this time to end.
const MARGIN: Duration = Duration::from_secs(3);
/// How often it is renewed, and how long one try may take.
const RENEWAL: Duration = Duration::from_secs(2);
/// How long a process that ends waits for what it dropped.
const FAREWELL: Duration = Duration::from_secs(2);
/// Reason of the error of who has lost a shard.
const SHARD_LOST: &str = "SHARD_LOST";
/// Schedulers of before there were shards lead by this lease: while one does, nobody takes a shard.
const FORMER: &str = "reconciler";

/// The shard of an agent; the ends of ids are random.
pub(crate) fn shard_of(agent: AgentId) -> i32 {
    i32::from(agent.0.as_bytes()[15]) % COUNT
}

/// Changes of agents that another process has to look at.
pub(crate) fn topic() -> Topic {
    Topic::platform("agents")
}

/// What a record is written under.
#[derive(Debug, Clone, Copy)]
struct Fence {
    shard: i32,
    epoch: i64,
    run: Uuid,
}

/// A shard that this process holds.
#[derive(Debug)]
struct Hold {
    epoch: i64,
    /// To be given up once nothing is done in it.
    leaving: bool,
    /// Whether all of its agents have to be looked at: whoever had it before may have missed something.
    fresh: bool,
    lost: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    run: Option<Uuid>,
    /// By [`Shards::passed`], until when the lease counts.
    until: Duration,
    held: BTreeMap<i32, Hold>,
    /// Work under way, by shard.
    busy: BTreeMap<i32, usize>,
}

impl State {
    fn lose_all(&mut self) {
        std::mem::take(&mut self.held).into_values().for_each(|hold| hold.lost.cancel());
    }

    fn lose(&mut self, shards: &[i32]) {
        for shard in shards {
            if let Some(hold) = self.held.remove(shard) {
                hold.lost.cancel();
            }
        }
    }
}

/// How long a process has run, by a clock that nobody turns.
type Passed = Box<dyn Fn() -> Duration + Send + Sync>;

/// The shards of this process.
pub(crate) struct Shards {
    /// None: it has all agents, and nobody else is there to take them.
    passed: Option<Passed>,
    state: Mutex<State>,
    /// Wakes whoever waits for the end of work.
    ended: Notify,
    /// Wakes whoever looks after what was gained.
    pub(crate) gained: Notify,
    /// Nothing is done to agents any more, though nobody else may yet.
    pub(crate) resigned: CancellationToken,
}

/// Work on one agent.
pub(crate) struct Work {
    shards: Arc<Shards>,
    shard: i32,
    /// Ends it at once.
    pub(crate) lost: CancellationToken,
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = self.shards.state();
        let left = state.busy.get(&self.shard).map_or(0, |left| left - 1);
        match left {
            0 => drop(state.busy.remove(&self.shard)),
            left => drop(state.busy.insert(self.shard, left)),
        }
        self.shards.ended.notify_one();
    }
}

impl Shards {
    /// All shards, held by the only process there is.
    pub(crate) fn alone() -> Self {
        Self {
            passed: None,
            state: Mutex::default(),
            ended: Notify::new(),
            gained: Notify::new(),
            resigned: CancellationToken::new(),
        }
    }

    /// Those of one process among others; `passed` says how long it has run.
    pub(crate) fn shared(passed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { passed: Some(Box::new(passed)), ..Self::alone() }
    }

    /// As it is for this database.
    pub(crate) fn new(shared: bool, clock: Arc<dyn Clock>) -> Self {
        if !shared {
            return Self::alone();
        }
        // Either clock may stand still while the machine sleeps, and the wall's may be put back: the further one counts.
        let (since, began) = (Instant::now(), clock.now());
        Self::shared(move || since.elapsed().max((clock.now() - began).to_std().unwrap_or_default()))
    }

    // Whole between any two statements.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the lease counts yet; none: for ever.
    fn left(&self) -> Option<Duration> {
        self.passed.as_ref().map(|passed| self.state().until.saturating_sub(passed()))
    }

    fn counts(&self) -> bool {
        self.left().is_none_or(|left| !left.is_zero())
    }

    /// Whether an agent is this process's to look after.
    pub(crate) fn holds(&self, agent: AgentId) -> bool {
        self.passed.is_none() || self.state().held.contains_key(&shard_of(agent))
    }

    /// The shards whose agents are taken on.
    pub(crate) fn own(&self) -> Vec<i32> {
        if self.passed.is_none() {
            return (0..COUNT).collect();
        }
        self.state().held.iter().filter(|(_, hold)| !hold.leaving).map(|(shard, _)| *shard).collect()
    }

    /// Begins work on an agent; none: it is another process's, or this one's no longer.
    pub(crate) fn begin(self: &Arc<Self>, agent: AgentId) -> Option<Work> {
        if self.resigned.is_cancelled() {
            return None;
        }
        let shard = shard_of(agent);
        let lost = match self.passed {
            None => CancellationToken::new(),
            Some(_) => {
                let own = self.counts();
                self.state().held.get(&shard).filter(|hold| own && !hold.leaving)?.lost.clone()
            }
        };
        *self.state().busy.entry(shard).or_default() += 1;
        Some(Work { shards: Arc::clone(self), shard, lost })
    }

    /// Shards whose agents are all to be looked at.
    pub(crate) fn fresh(&self) -> BTreeSet<i32> {
        let state = self.state();
        state.held.iter().filter(|(_, hold)| hold.fresh).map(|(shard, _)| *shard).collect()
    }

    /// They were looked at.
    pub(crate) fn looked_over(&self, fresh: &BTreeSet<i32>) {
        self.state()
            .held
            .iter_mut()
            .filter(|(shard, _)| fresh.contains(shard))
            .for_each(|(_, hold)| hold.fresh = false);
    }

    /// What a record about this agent is written under; none: nothing is needed.
    fn fence(&self, agent: AgentId) -> Result<Option<Fence>> {
        if self.passed.is_none() {
            return Ok(None);
        }
        let (state, shard) = (self.state(), shard_of(agent));
        let held = state.run.zip(state.held.get(&shard));
        let (run, hold) = held.ok_or_else(lost)?;
        Ok(Some(Fence { shard, epoch: hold.epoch, run }))
    }

    /// Whether something outside of the database may be done to this agent.
    ///
    /// # Errors
    /// `Aborted`: another process may have it before that is done.
    pub(crate) fn may_act(&self, agent: AgentId) -> Result<()> {
        if self.counts() && self.holds(agent) { Ok(()) } else { Err(lost()) }
    }

    /// Drops everything if the lease counts no more.
    fn expire(&self) {
        if !self.counts() {
            self.state().lose_all();
        }
    }

    /// Until nothing is done any more.
    async fn idle(&self) {
        while !self.state().busy.is_empty() {
            self.ended.notified().await;
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Aborted, SHARD_LOST, "another process looks after this agent now")
}

/// Whether work ended since another process has the agent.
pub(crate) fn is_lost(error: &Error) -> bool {
    error.reason == SHARD_LOST
}

/// How many shards are one member's, by its place among all.
fn share(members: &[Uuid], own: Uuid) -> usize {
    let (all, place) =
        (members.len().max(1), members.iter().position(|member| *member == own).unwrap_or(members.len()));
    let count = usize::try_from(COUNT).unwrap_or_default();
    count / all + usize::from(place < count % all)
}

/// Holds this process's shards until shutdown, ends what is its own, and hands over.
pub(crate) async fn keep(scheduler: Arc<Scheduler>, shutdown: CancellationToken) {
    let renew = async {
        while scheduler.shards.passed.is_some() {
            let limit = scheduler.shards.left().unwrap_or_default().clamp(RENEWAL / 4, RENEWAL);
            match timeout(limit, scheduler.renew_shards()).await {
                Ok(Ok(())) => sleep(RENEWAL).await,
                Ok(Err(error)) => {
                    tracing::warn!(target: "mi::scheduler", error = %error.chain(), "the lease on agents could not be renewed");
                    sleep(RENEWAL / 4).await;
                }
                Err(_) => tracing::warn!(target: "mi::scheduler", "the lease on agents could not be renewed in time"),
            }
            scheduler.shards.expire();
        }
        std::future::pending::<()>().await;
    };
    let end = async {
        shutdown.cancelled().await;
        // Whoever comes next must not find an instance of this process.
        scheduler.runtime.shut_down().await;
    };
    tokio::select! {
        () = renew => {}
        () = end => {}
    }
    if let Err(error) = scheduler.leave_shards().await {
        tracing::warn!(target: "mi::scheduler", error = %error.chain(), "agents are handed over once the lease has run out");
    }
}

impl Scheduler {
    /// Where an action on this agent is done, if it is this process's.
    ///
    /// # Errors
    /// As [`Shards::may_act`].
    pub(crate) fn acting(&self, agent: AgentId) -> Result<&dyn Runtime> {
        self.shards.may_act(agent)?;
        Ok(&*self.runtime)
    }

    /// A transaction of the reconciler about this agent.
    ///
    /// # Errors
    /// `Aborted`: another process has the agent.
    pub(crate) async fn fenced(&self, office_id: OfficeId, agent: AgentId) -> Result<OfficeTx> {
        let mut tx = self.db.office(office_id).begin().await?;
        self.keeps(&mut tx, agent).await?;
        Ok(tx)
    }

    /// Sees to it that this process keeps the agent until the transaction ends.
    ///
    /// # Errors
    /// As [`Scheduler::fenced`].
    pub(crate) async fn keeps(&self, tx: &mut OfficeConn, agent: AgentId) -> Result<()> {
        match self.shards.fence(agent)? {
            Some(fence) if !repo::stands(tx, fence).await? => Err(lost()),
            _ => Ok(()),
        }
    }

    /// Renews the lease, and takes and gives shards until this process has its share.
    pub(crate) async fn renew_shards(&self) -> Result<()> {
        let Some(passed) = &self.shards.passed else { return Ok(()) };
        let former = lease::hold(&self.db, FORMER, FORMER, &*self.clock, LEASE).await?;
        // Before the database sets the time: it ends the lease no earlier than this process.
        let asked = passed();
        let mut tx = self.db.platform().begin().await?;
        let now = self.clock.agreed(repo::told(&mut tx).await?);
        let known = self.shards.state().run;
        if self.is_blind() && repo::members(&mut tx).await?.iter().any(|member| Some(*member) != known) {
            drop(tx);
            return self.leave_shards().await;
        }
        let run = match known {
            Some(run) if repo::renew(&mut tx, run, now + LEASE).await? => run,
            _ => {
                self.shards.state().lose_all();
                let run = Uuid::now_v7();
                repo::join(&mut tx, run, &self.holder, now + LEASE).await?;
                run
            }
        };
        repo::bury(&mut tx, now).await?;
        let members = repo::members(&mut tx).await?;
        let (mut own, others) = repo::held(&mut tx, run).await?;
        let share = match self.runtime.cluster() {
            // Instances are a process's own: all of them, or none.
            None if others => 0,
            None => usize::try_from(COUNT).unwrap_or_default(),
            Some(_) => share(&members, run),
        };
        let (given, busy) = self.shards.surplus(&own, share);
        if !given.is_empty() {
            repo::give(&mut tx, run, &given).await?;
            own.retain(|(shard, _)| !given.contains(shard));
        }
        let missing = share.saturating_sub(own.len());
        if former && missing > 0 {
            let taken = repo::take(&mut tx, run, &busy, i64::try_from(missing).unwrap_or_default()).await?;
            if self.runtime.cluster().is_none() && taken.len() < missing {
                let part: Vec<i32> = taken.iter().map(|(shard, _)| *shard).collect();
                repo::give(&mut tx, run, &part).await?;
            } else {
                own.extend(taken);
            }
        }
        tx.commit().await?;
        self.shards.hold(run, asked + LEASE - MARGIN, &own);
        if !given.is_empty() {
            self.db.notify(topic());
        }
        Ok(())
    }

    /// Whether nothing can be done here for anybody's agents: the cluster was not reached yet, or is not the one that they
    /// live in. They are left to others, as long as there are any.
    fn is_blind(&self) -> bool {
        self.runtime.cluster().is_some_and(|cluster| cluster.seen().is_err())
    }

    /// Gives everything up, once nothing is done any more.
    pub(crate) async fn leave_shards(&self) -> Result<()> {
        let left = {
            let mut state = self.shards.state();
            state.lose_all();
            state.run.take()
        };
        let Some(run) = left else { return Ok(()) };
        if timeout(FAREWELL, self.shards.idle()).await.is_err() {
            return Err(Error::unavailable("something is still being done to an agent"));
        }
        let mut tx = self.db.platform().begin().await?;
        repo::leave(&mut tx, run).await?;
        Ok(tx.commit().await?)
    }
}

impl Shards {
    /// Marks those beyond this process's share as leaving, the last ones first, and takes out those of them in which nothing
    /// is done: they are to be given up. Besides, the shards that must not be taken while work in them has not ended.
    fn surplus(&self, own: &[(i32, i64)], share: usize) -> (Vec<i32>, Vec<i32>) {
        let mut state = self.state();
        let mut shards: Vec<i32> = own.iter().map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        let (kept, beyond) = shards.split_at(share.min(shards.len()));
        for (shard, hold) in &mut state.held {
            hold.leaving = !kept.contains(shard);
        }
        let given: Vec<i32> = beyond.iter().copied().filter(|shard| !state.busy.contains_key(shard)).collect();
        // From now on nothing begins in them, whatever becomes of the transaction.
        state.lose(&given);
        (given, state.busy.keys().copied().filter(|shard| !state.held.contains_key(shard)).collect())
    }

    /// What the database has of this process, until that time.
    fn hold(&self, run: Uuid, until: Duration, own: &[(i32, i64)]) {
        let mut state = self.state();
        let epochs: BTreeMap<i32, i64> = own.iter().copied().collect();
        let gone: Vec<i32> = state
            .held
            .iter()
            .filter(|(shard, hold)| epochs.get(shard) != Some(&hold.epoch))
            .map(|(shard, _)| *shard)
            .collect();
        state.lose(&gone);
        (state.run, state.until) = (Some(run), until);
        let before = state.held.len();
        for (shard, epoch) in epochs {
            // Work of an earlier time that has not ended yet is not to be mixed up with that of this one.
            if !state.busy.contains_key(&shard) || state.held.contains_key(&shard) {
                let hold = || Hold { epoch, leaving: false, fresh: true, lost: CancellationToken::new() };
                state.held.entry(shard).or_insert_with(hold);
            }
        }
        if state.held.len() != before {
            tracing::info!(target: "mi::scheduler", shards = state.held.len(), before, "agents are divided anew");
        }
        drop(state);
        self.gained.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_resigned_begins_nothing() {
        let (shards, agent) = (Arc::new(Shards::alone()), AgentId::new());
        assert!(shards.begin(agent).is_some());
        shards.resigned.cancel();
        assert!(shards.begin(agent).is_none() && shards.holds(agent), "nor does anybody else, yet");
    }

    #[test]
    fn shares_are_fair_and_add_up() {
        let mut members: Vec<Uuid> = (0..100).map(|_| Uuid::new_v4()).collect();
        members.sort_unstable();
        for count in 1..=members.len() {
            let shares: Vec<usize> = members[..count].iter().map(|own| share(&members[..count], *own)).collect();
            assert_eq!(shares.iter().sum::<usize>(), 64, "{count}");
            assert!(
                shares.iter().max().zip(shares.iter().min()).is_some_and(|(most, least)| most - least <= 1),
                "{count}"
            );
        }
    }
}
