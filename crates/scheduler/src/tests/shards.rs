//! Several schedulers over one database and one cluster: each agent is one's, whoever joins, leaves, dies or stands still.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mi_kernel::{AgentId, Clock, Time};
use mi_runtime::{Runtime, fake::FakeRuntime};
use mi_testkit::{Backend, ManualClock, OnBackend, until};

use super::harness::{Harness, LONG, replica};
use crate::{
    Scheduler,
    agents::{Phase, next_look, repo},
    shards::{COUNT, LEASE, Shards, shard_of},
};

/// Longer than any lease.
const EXPIRED: Duration = Duration::from_secs(LEASE.as_secs() + 1);

/// A scheduler, and how long it thinks that it has run.
struct Replica {
    scheduler: Arc<Scheduler>,
    own_time: ManualClock,
}

impl Replica {
    async fn new(harness: &Harness, name: &str) -> Self {
        Self::on(harness, &harness.runtime, name).await
    }

    async fn on(harness: &Harness, runtime: &Arc<FakeRuntime>, name: &str) -> Self {
        let own_time = ManualClock::new();
        let clock = own_time.clone();
        let shards = Shards::shared(move || (clock.now() - Time::UNIX_EPOCH).to_std().expect("positive"));
        let Harness { database, clock, objects, treasury, .. } = harness;
        let scheduler = replica(database, clock, runtime, objects.clone(), treasury, shards, name).await;
        Self { scheduler, own_time }
    }

    async fn renew(&self) {
        self.scheduler.renew_shards().await.expect("renewed");
    }

    fn own(&self) -> BTreeSet<i32> {
        self.scheduler.shards.own().into_iter().collect()
    }

    /// What the reconciler does with all that is due: whom it works on.
    async fn work(&self) -> BTreeSet<AgentId> {
        let mut conn = self.scheduler.db.platform().read().await.expect("reads");
        let due = next_look::look_due(&mut conn, self.scheduler.clock.now(), &self.scheduler.shards.own(), 100).await;
        drop(conn);
        let mut worked = BTreeSet::new();
        for agent in due.expect("reads").agents {
            let work = self.scheduler.shards.begin(agent).expect("its own");
            self.scheduler.settle(agent).await;
            drop(work);
            worked.insert(agent);
        }
        worked
    }
}

/// The database of several, with a cluster.
async fn harness() -> Harness {
    let mut harness = Harness::on(Backend::Postgres).await;
    harness.runtime = Arc::new(FakeRuntime::elsewhere());
    harness.restart_with(harness.objects.clone()).await;
    harness
}

/// Time goes on for everybody.
fn pass(harness: &Harness, replicas: &[&Replica], time: Duration) {
    harness.clock.advance(time);
    replicas.iter().for_each(|replica| replica.own_time.advance(time));
}

/// All renew until nothing moves any more; every shard is one's.
async fn divided(replicas: &[&Replica]) -> Vec<usize> {
    for _ in 0..3 {
        for replica in replicas {
            replica.renew().await;
        }
    }
    let mut all = BTreeSet::new();
    let counts = replicas.iter().map(|replica| {
        let own = replica.own();
        assert!(all.is_disjoint(&own), "nothing is two's");
        all.extend(own.iter().copied());
        own.len()
    });
    let counts = counts.collect();
    assert_eq!(all, (0..COUNT).collect(), "nothing is nobody's");
    counts
}

#[tokio::test]
async fn shards_are_divided_evenly_whoever_joins_and_leaves() {
    let harness = harness().await;
    let [one, two, three] = [
        Replica::new(&harness, "one").await,
        Replica::new(&harness, "two").await,
        Replica::new(&harness, "three").await,
    ];
    assert_eq!(divided(&[&one]).await, [64]);
    assert_eq!(divided(&[&one, &two]).await, [32, 32]);
    let mut three_ways = divided(&[&one, &two, &three]).await;
    three_ways.sort_unstable();
    assert_eq!(three_ways, [21, 21, 22]);
    // Whoever leaves hands over at once.
    two.scheduler.leave_shards().await.expect("leaves");
    assert_eq!(two.own(), BTreeSet::new());
    assert_eq!(divided(&[&one, &three]).await, [32, 32]);
    // One that comes again under its name has what it had at once, although nobody heard of its end.
    let again = Replica::new(&harness, "three").await;
    again.renew().await;
    assert_eq!(again.own().len(), 32);
    assert_eq!(divided(&[&one, &again]).await, [32, 32]);
}

#[tokio::test]
async fn an_installation_in_another_cluster_changes_nothing_and_keeps_nobody_from_anything() {
    let harness = harness().await;
    let one = Replica::new(&harness, "one").await;
    one.scheduler.join(harness.runtime.cluster().expect("one")).await.expect("the first");
    let stranger = Arc::new(FakeRuntime::in_cluster("another"));
    let other = Replica::on(&harness, &stranger, "other").await;
    assert_eq!(divided(&[&one]).await, [64]);
    let agent = harness.hire("analyst").await;
    assert_eq!(one.work().await, BTreeSet::from([agent.id]));
    let before = (harness.agent(agent.id).await, installed(&harness).await);
    for _ in 0..3 {
        let refused = other.scheduler.join(stranger.cluster().expect("one")).await.expect_err("another cluster");
        assert_eq!(refused.reason, "OTHER_CLUSTER");
        other.renew().await;
        one.renew().await;
        assert_eq!((one.own().len(), other.own().len()), (64, 0));
        assert_eq!(other.work().await, BTreeSet::new());
    }
    assert_eq!((harness.agent(agent.id).await, installed(&harness).await), before);
    assert_eq!((stranger.launches(), harness.rows("schedulers").await), (vec![], 1));
    // It has them while nobody else is there, to say what is wrong, and only then.
    one.scheduler.leave_shards().await.expect("leaves");
    other.renew().await;
    assert_eq!(other.own().len(), 64);
    other.scheduler.settle(agent.id).await;
    assert_eq!(harness.agent(agent.id).await.trouble, "the cluster was not reached yet");
    one.renew().await;
    other.renew().await;
    one.renew().await;
    assert_eq!((one.own().len(), other.own().len()), (64, 0));
    assert_eq!(stranger.launches(), []);
}

/// What the database says of the cluster that its agents live in.
async fn installed(harness: &Harness) -> (uuid::Uuid, Option<String>) {
    let mut conn = harness.scheduler.db.platform().read().await.expect("reads");
    mi_store::optional!(conn, "SELECT installation, uid FROM cluster WHERE id = 1").expect("reads").expect("there")
}

#[tokio::test]
async fn work_under_way_keeps_its_shard_until_it_ends() {
    let harness = harness().await;
    let [one, two] = [Replica::new(&harness, "one").await, Replica::new(&harness, "two").await];
    divided(&[&one]).await;
    // Whoever was there keeps the first half: it is the other one that is given up.
    let mut agent = harness.hire("analyst-0").await.id;
    for number in 1.. {
        if shard_of(agent) >= 32 {
            break;
        }
        agent = harness.hire(&format!("analyst-{number}")).await.id;
    }
    let work = one.scheduler.shards.begin(agent).expect("its own");
    for _ in 0..3 {
        two.renew().await;
        one.renew().await;
    }
    assert!(!two.own().contains(&shard_of(agent)), "it is being worked on");
    assert!(!work.lost.is_cancelled());
    drop(work);
    assert_eq!(divided(&[&one, &two]).await, [32, 32]);
}

#[tokio::test]
async fn whoever_is_killed_is_replaced_in_time_and_nothing_is_done_twice() {
    let harness = harness().await;
    let [one, two, three] = [
        Replica::new(&harness, "one").await,
        Replica::new(&harness, "two").await,
        Replica::new(&harness, "three").await,
    ];
    divided(&[&one, &two, &three]).await;
    let mut agents = BTreeMap::new();
    for number in 0..24 {
        let agent = harness.hire(&format!("agent-{number}")).await.id;
        agents.insert(agent, shard_of(agent));
    }
    let of = |own: &BTreeSet<i32>| -> BTreeSet<AgentId> {
        agents.iter().filter(|(_, shard)| own.contains(shard)).map(|(agent, _)| *agent).collect()
    };
    let orphans = of(&two.own());
    assert_eq!(one.work().await, of(&one.own()));
    assert_eq!(three.work().await, of(&three.own()));
    drop(two);
    let before = pass_until_taken(&harness, &[&one, &three]).await;
    assert!(before <= Duration::from_secs(12), "{before:?}");
    let taken: BTreeSet<AgentId> = one.work().await.into_iter().chain(three.work().await).collect();
    assert_eq!(taken.intersection(&orphans).count(), orphans.len());
    let launched: Vec<AgentId> = harness.runtime.launches().into_iter().map(|(agent, _)| agent).collect();
    assert_eq!(launched.len(), agents.len(), "each was started once");
    assert_eq!(launched.into_iter().collect::<BTreeSet<_>>(), agents.keys().copied().collect());
}

/// How long it takes until these have everything, renewing as they do.
async fn pass_until_taken(harness: &Harness, replicas: &[&Replica]) -> Duration {
    let (step, mut passed) = (Duration::from_secs(2), Duration::ZERO);
    while replicas.iter().map(|replica| replica.own().len()).sum::<usize>() < 64 {
        assert!(passed < LONG, "nobody takes them");
        pass(harness, replicas, step);
        passed += step;
        for replica in replicas {
            replica.renew().await;
        }
    }
    passed
}

#[tokio::test]
async fn a_process_that_stood_still_acts_no_more_and_what_it_records_is_refused() {
    let harness = harness().await;
    let [one, two] = [Replica::new(&harness, "one").await, Replica::new(&harness, "two").await];
    divided(&[&one]).await;
    let agent = harness.hire("analyst").await.id;
    harness.runtime.stall(true);
    let work = one.scheduler.shards.begin(agent).expect("its own");
    let scheduler = one.scheduler.clone();
    let step = tokio::spawn(async move { scheduler.step(agent).await });
    until("a step is half done", LONG, async || harness.runtime.is_waited_for().then_some(Some(())).ok_or("not yet"))
        .await;
    // It stands still, its own clock as well, while its lease runs out.
    pass(&harness, &[&two], EXPIRED);
    two.renew().await;
    assert_eq!(two.own().len(), 64);
    harness.runtime.stall(false);
    assert_eq!(two.work().await, BTreeSet::from([agent]));
    let refused = step.await.expect("joined").expect_err("it is two's");
    assert_eq!(refused.reason, "SHARD_LOST");
    assert_eq!(harness.runtime.launches().len(), 1, "two's alone");
    assert_eq!(harness.phase(agent).await, Some(Phase::Pending));

    // Nothing else of it reaches the row: neither a record, nor a look, nor its end.
    let mut stale = harness.agent(agent).await;
    assert_eq!(one.scheduler.record(&mut stale, None).await.expect_err("refused").reason, "SHARD_LOST");
    assert_eq!(harness.agent(agent).await.revision, stale.revision);
    assert!(one.scheduler.shards.holds(agent), "it does not know yet");
    one.renew().await;
    assert!(work.lost.is_cancelled() && !one.scheduler.shards.holds(agent));
    // It gets nothing back in which its old work has not ended.
    two.scheduler.leave_shards().await.expect("leaves");
    one.renew().await;
    assert!(!one.own().contains(&shard_of(agent)));
    drop(work);
    one.renew().await;
    assert_eq!(one.own().len(), 64);
}

#[tokio::test]
async fn a_process_without_its_database_stops_before_another_one_begins() {
    let harness = harness().await;
    let [one, two] = [Replica::new(&harness, "one").await, Replica::new(&harness, "two").await];
    divided(&[&one]).await;
    let agent = harness.hire("analyst").await.id;
    assert!(one.scheduler.acting(agent).is_ok());
    // Six seconds after its last renewal it acts no more; nobody has anything of it before nine have passed.
    pass(&harness, &[&one, &two], Duration::from_secs(6));
    two.renew().await;
    assert_eq!(two.own(), BTreeSet::new());
    assert_eq!(one.scheduler.acting(agent).err().expect("too late").reason, "SHARD_LOST");
    assert!(one.scheduler.shards.begin(agent).is_none());
    // The database is back before anybody was there: all goes on, but for the half that is the other's share from now on.
    one.renew().await;
    assert_eq!(one.own().len(), 32);
    assert_eq!(one.scheduler.acting(agent).is_ok(), one.own().contains(&shard_of(agent)));
}

#[tokio::test]
async fn where_instances_are_its_own_one_process_has_all_agents() {
    let mut harness = harness().await;
    harness.runtime = Arc::new(FakeRuntime::default());
    let [one, two] = [Replica::new(&harness, "one").await, Replica::new(&harness, "two").await];
    for _ in 0..3 {
        one.renew().await;
        two.renew().await;
    }
    assert_eq!((one.own().len(), two.own().len()), (64, 0));
    one.scheduler.leave_shards().await.expect("leaves");
    two.renew().await;
    assert_eq!(two.own().len(), 64);
}

#[tokio::test]
async fn nobody_takes_a_shard_while_a_scheduler_of_before_leads() {
    let harness = harness().await;
    let one = Replica::new(&harness, "one").await;
    let lead = async |name: &str| {
        mi_store::lease::hold(&one.scheduler.db, "reconciler", name, &harness.clock, LEASE).await.expect("asked")
    };
    assert!(lead("former").await);
    one.renew().await;
    assert_eq!(one.own(), BTreeSet::new());
    pass(&harness, &[&one], EXPIRED);
    one.renew().await;
    assert_eq!(one.own().len(), 64);
    assert!(!lead("former").await, "it leads no more");
}

#[tokio::test]
async fn an_agent_heard_of_by_one_is_not_silent_for_another() {
    let harness = harness().await;
    let [one, two] = [Replica::new(&harness, "one").await, Replica::new(&harness, "two").await];
    let agent = harness.hire("analyst").await;
    divided(&[&one]).await;
    one.work().await;
    let running = harness.ready(agent.id).await;
    one.work().await;
    // Its session is at the other process, which writes what it hears every ten seconds.
    let (actor, instance) = (super::harness::actor_of(&running), super::harness::instance_of(&running));
    for _ in 0..12 {
        pass(&harness, &[&one, &two], Duration::from_secs(5));
        one.renew().await;
        one.scheduler.seen.reach(harness.now());
        two.scheduler.heartbeat(&actor, instance).await.expect("wanted");
        two.scheduler.flush().await;
        one.work().await;
    }
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Running));
    assert_eq!(harness.runtime.launches().len(), 1);
    let mut conn = one.scheduler.db.platform().read().await.expect("reads");
    let row = repo::agent_find(&mut conn, agent.id).await.expect("reads").expect("there");
    assert_eq!(row.last_seen_at, Some(harness.now()));
}
