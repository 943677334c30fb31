//! Agents that live in a cluster: a database belongs to one, and what has no row there is nobody's.

use std::sync::Arc;

use mi_kernel::AgentId;
use mi_runtime::{Place, Runtime, fake::FakeRuntime};
use mi_store::exec;
use mi_testkit::{Backend, OnBackend, on_both};

use super::harness::{Harness, place};
use crate::agents::Phase;

on_both! {
    a_database_belongs_to_one_cluster,
    what_has_no_row_is_removed,
    what_is_wrong_with_one_that_runs_is_told_as_long_as_it_is,
}

async fn harness(backend: Backend) -> Harness {
    let mut harness = Harness::on(backend).await;
    harness.runtime = Arc::new(FakeRuntime::elsewhere());
    harness.restart_with(harness.objects.clone()).await;
    harness
}

async fn a_database_belongs_to_one_cluster(backend: Backend) {
    let harness = harness(backend).await;
    let cluster = || harness.runtime.cluster().expect("one");
    for _ in 0..2 {
        harness.scheduler.join(cluster()).await.expect("the first, and the same again");
    }
    let id = cluster().id().await.expect("known");
    let mut tx = harness.scheduler.db.platform().begin().await.expect("begins");
    let moved = exec!(tx, "UPDATE cluster SET uid = 'another' WHERE uid = $1", &id).expect("written");
    assert_eq!(moved, 1);
    tx.commit().await.expect("commits");
    let refused = harness.scheduler.join(cluster()).await.expect_err("another cluster");
    assert_eq!(refused.reason, "OTHER_CLUSTER");
    assert!(refused.message.contains("another") && refused.message.contains(&id), "{}", refused.message);
}

async fn what_has_no_row_is_removed(backend: Backend) {
    let harness = harness(backend).await;
    let agent = harness.hire("analyst").await;
    let nobody = Place { office_id: agent.office_id, agent_id: AgentId::new() };
    for there in [place(&agent), nobody] {
        harness.runtime.fill(there, b"work");
    }
    let cluster = harness.runtime.cluster().expect("one");
    harness.scheduler.look_over_cluster(cluster, true).await.expect("looked");
    assert_eq!(harness.runtime.content(place(&agent)), Some(b"work".to_vec()));
    assert_eq!(harness.runtime.content(nobody), None);
    assert!(harness.scheduler.conditions(agent.office_id)[0].ok);
}

async fn what_is_wrong_with_one_that_runs_is_told_as_long_as_it_is(backend: Backend) {
    let harness = harness(backend).await;
    let agent = harness.running("analyst").await;
    for (flaw, message) in [(Some("its claim is too small"), "its claim is too small"), (None, "")] {
        harness.runtime.flaw(agent.id, flaw);
        harness.settle(agent.id).await;
        let now = harness.agent(agent.id).await;
        assert_eq!((now.phase(), now.message(), now.restarts), (Phase::Running, message, 0));
    }
}
