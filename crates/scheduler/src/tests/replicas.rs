//! Several schedulers over one Postgres, at the same work at the same moment.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use mi_base::Tasks;
use mi_kernel::{AgentId, OfficeId};
use mi_proto::{
    internal::v1::{
        RemoveOfficeRequest, WatchRevokedAgentKeysRequest, agent_registry_service_server::AgentRegistryService,
        office_replica_service_server::OfficeReplicaService,
    },
    v1::OfficeSettings,
};
use mi_store::on;
use mi_testkit::{Backend, OnBackend, until};
use tonic::Request;

use super::harness::{Harness, LONG, actor_of, free_hiring, instance_of, replica};
use crate::{
    Scheduler,
    agents::{Agent, Phase, next_look},
    offices::{self, Office, repo},
    registry,
    shards::Shards,
};

const KEY: [u8; 32] = [7; 32];

/// Another process over the same database.
async fn beside(harness: &Harness) -> Arc<Scheduler> {
    let Harness { database, clock, runtime, objects, treasury, .. } = harness;
    replica(database, clock, runtime, objects.clone(), treasury, Shards::alone(), "beside").await
}

/// An office that fires whoever was idle for a minute, and agents that another one hired, long ago.
async fn hired(harness: &Harness, names: &[&str]) -> Vec<Agent> {
    let root = harness.running("root").await;
    let mut agents = Vec::new();
    for name in names {
        let hired = harness.scheduler.hire(&harness.member(&root, "HireAgent"), harness.hiring(name)).await;
        let hired = hired.expect("hires");
        harness.settle(hired.id).await;
        agents.push(harness.ready(hired.id).await);
    }
    let idle_fire_after = Duration::from_secs(60).try_into().ok();
    harness.apply(harness.office, 2, true, OfficeSettings { idle_fire_after, ..free_hiring() }).await;
    harness.clock.advance(Duration::from_secs(700));
    agents
}

/// What an agent says to a process: that it is there, and for how long it has had nothing to do.
async fn says(process: &Scheduler, agent: &Agent, idle_for: Option<u64>) {
    process.heartbeat(&actor_of(agent), instance_of(agent)).await.expect("wanted");
    process.note_idle(&actor_of(agent), idle_for.map(Duration::from_secs));
}

#[tokio::test]
async fn an_agent_that_went_to_another_process_is_not_fired_by_the_one_before() {
    let harness = Harness::on(Backend::Postgres).await;
    let two = beside(&harness).await;
    let one = &harness.scheduler;
    let [moved, silent] = &hired(&harness, &["moved", "silent"]).await[..] else { panic!("two") };
    for agent in [moved, silent] {
        says(one, agent, Some(650)).await;
    }
    // Its way to the first process broke without a word; it works, and says so to the second.
    harness.clock.advance(Duration::from_secs(10));
    says(&two, moved, None).await;
    two.flush().await;
    one.flush().await;
    one.fire_idle().await;
    assert_eq!(harness.phase(moved.id).await, Some(Phase::Running));
    // Nobody else was heard of the other one by: what it said a moment ago counts.
    assert_eq!(harness.phase(silent.id).await, Some(Phase::Terminating));

    // A process that stood still knows nothing of what was said meanwhile, also of an agent that is at a third one.
    says(&two, moved, Some(650)).await;
    harness.clock.advance(Duration::from_secs(30));
    two.fire_idle().await;
    assert_eq!(harness.phase(moved.id).await, Some(Phase::Running));
    says(&two, moved, Some(690)).await;
    two.fire_idle().await;
    assert_eq!(harness.phase(moved.id).await, Some(Phase::Terminating));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_idle_is_fired_once_by_whichever_comes_first() {
    let harness = Harness::on(Backend::Postgres).await;
    let (one, two) = (harness.scheduler.clone(), beside(&harness).await);
    let agents = hired(&harness, &["a", "b", "c", "d", "e", "f"]).await;
    for agent in &agents {
        says(&one, agent, Some(650)).await;
        says(&two, agent, Some(650)).await;
    }
    let both = [one, two].map(|process| tokio::spawn(async move { process.fire_idle().await }));
    for process in both {
        process.await.expect("no panic");
    }
    for agent in &agents {
        assert_eq!(harness.phase(agent.id).await, Some(Phase::Terminating));
    }
    for kind in ["agent.fire_requested", "access.revoked"] {
        let mut told: Vec<String> =
            harness.events().await.into_iter().filter(|event| event.kind == kind).map(|event| event.agent).collect();
        told.sort();
        assert_eq!(told, ["a", "b", "c", "d", "e", "f"], "{kind}");
    }
}

/// External agents beat at whichever process: two write the signs of life of the same agents at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_of_life_of_the_same_agents_do_not_wait_for_each_other_in_a_circle() {
    let harness = Harness::on(Backend::Postgres).await;
    let two = beside(&harness).await;
    let mut agents = Vec::new();
    for number in 0..60 {
        agents.push(harness.hire(&format!("agent-{number}")).await.id);
    }
    let now = harness.now();
    let write = |process: Arc<Scheduler>, agents: Vec<AgentId>, first: u64| {
        let office = harness.office;
        tokio::spawn(async move {
            for round in 0..40 {
                let at = now + Duration::from_millis(2 * round + first);
                let seen: Vec<_> = agents.iter().map(|agent| (*agent, office, at)).collect();
                let mut tx = process.db.platform().begin().await.expect("begins");
                next_look::look_seen(&mut tx, &seen).await.expect("no deadlock");
                tx.commit().await.expect("commits");
            }
        })
    };
    let forwards = write(harness.scheduler.clone(), agents.clone(), 1);
    agents.reverse();
    let backwards = write(two, agents.clone(), 2);
    forwards.await.expect("no panic");
    backwards.await.expect("no panic");
    for id in agents {
        assert_eq!(harness.agent(id).await.last_seen_at, Some(now + Duration::from_millis(80)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_one_revokes_is_told_by_another_within_a_second() {
    let harness = Harness::on(Backend::Postgres).await;
    let (one, two, tasks) = (harness.scheduler.clone(), beside(&harness).await, Tasks::new());
    for process in [&one, &two] {
        tasks.spawn("changes", process.db.clone().exchange_changes());
    }
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let agent = harness.agent(agent.id).await;
    harness.enrol(harness.office, &harness.token(&agent), KEY).await.expect("enrols");
    let request = Request::new(WatchRevokedAgentKeysRequest { since: None });
    let mut told =
        registry::Handler::new(two.clone()).watch_revoked_agent_keys(request).await.expect("opens").into_inner();
    assert!(told.next().await.expect("goes on").expect("good").keys.is_empty());
    let revoked = Instant::now();
    harness.fire("analyst", true).await;
    let message = tokio::time::timeout(LONG, told.next()).await.expect("told").expect("goes on").expect("good");
    assert_eq!(message.keys.into_iter().map(|key| key.agent_id).collect::<Vec<_>>(), [agent.id.to_string()]);
    assert!(revoked.elapsed() < Duration::from_millis(900), "told after {:?}", revoked.elapsed());
    assert_eq!(tasks.stop(LONG).await, None);
}

/// An office is pushed for the first time by one process while another one, which has read that it is to go, removes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_waits_for_the_first_push_and_nothing_comes_back() {
    let harness = Harness::on(Backend::Postgres).await;
    let (two, office_id) = (beside(&harness).await, OfficeId::new());
    let office = Office {
        id: office_id,
        account_id: harness.account,
        version: 1,
        active: true,
        removing: false,
        settings: free_hiring().into(),
    };
    let mut push = harness.scheduler.db.office(office_id).begin().await.expect("begins");
    assert_eq!(repo::office_lock_or_wait(&mut push).await.expect("looks"), None);
    assert!(repo::office_apply(&mut push, &office).await.expect("writes"));
    let removing = tokio::spawn(async move {
        let request = || Request::new(RemoveOfficeRequest { office_id: office_id.to_string() });
        let handler = offices::grpc::Handler::new(two);
        while !handler.remove_office(request()).await.expect("answers").into_inner().done {}
    });
    until("the removal waits", LONG, async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let mut conn = harness.scheduler.db.platform().read().await.expect("connects");
        let waits: i64 = on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("reads");
        Ok::<_, String>((waits == 1).then_some(()))
    })
    .await;
    push.commit().await.expect("commits");
    removing.await.expect("no panic");
    harness.apply(office_id, 2, true, free_hiring()).await;
    let found = repo::office_get(&mut harness.scheduler.db.office(office_id).read().await.expect("connects")).await;
    assert_eq!(found.expect("reads"), None);
}
