//! The scenarios that any cluster can be asked for. Each leaves nothing behind.
//!
//! | scenario | what it asserts |
//! |---|---|
//! | `an_agent_lives_in_a_set`, `an_agent_lives_in_a_sandbox` | it runs; stopped, it keeps its claim; started, it is a new instance; removed, nothing of it is left, nor of its office |
//! | `a_namespace_that_is_not_ours_is_never_taken` | it is refused, told of, left alone, and taken up once it is gone |
//! | `what_somebody_changes_is_noticed_and_a_new_start_undoes_it` | an edited set is noticed and undone, a deleted pod comes back, a set that is scaled down or deleted is missed |
//! | `walls_that_are_opened_are_told_of_and_those_that_fall_are_mended` | a wider policy is named as the office's problem, a deleted one comes back |
//! | `what_is_in_the_way_of_a_pod_is_read_from_its_events` | a quota that is used up is named, and forgotten once there is room |
//!
//! The sandbox one needs agent-sandbox, which `MI_TEST_KUBERNETES_SANDBOX=0` says is not installed.

use mi_runtime::{Cluster, Runtime};
use mi_runtime_kubernetes::{Driver, agent_name};
use serde_json::json;

use crate::harness::Harness;

#[tokio::test]
async fn an_agent_lives_in_a_set() {
    lives(Driver::StatefulSet).await;
}

#[tokio::test]
async fn an_agent_lives_in_a_sandbox() {
    if std::env::var("MI_TEST_KUBERNETES_SANDBOX").as_deref() != Ok("0") {
        lives(Driver::Sandbox).await;
    }
}

async fn lives(driver: Driver) {
    let harness = Harness::start(driver).await;
    let place = harness.agent();
    assert!(!harness.runtime.prepared(place).await.expect("known"));
    let first = harness.started(place).await;
    let up = harness.up(place).await;
    assert!(up.id == first && up.up_since.is_some());
    assert!(harness.runtime.prepared(place).await.expect("known"));
    harness.runtime.started(place, first).await.expect("cleared");
    assert_eq!(harness.count("secrets").await, 1, "its environment, and no token any more");
    harness.stopped(place).await;
    assert_eq!(harness.runtime.observe(place.agent_id), None);
    assert_eq!((harness.count("pods").await, harness.count("persistentvolumeclaims").await), (0, 1));
    let again = harness.started(place).await;
    assert_eq!(harness.up(place).await.id, again);
    harness.stopped(place).await;
    harness.done("all of it is gone", async || harness.runtime.remove(place).await).await;
    for kind in ["pods", "statefulsets", "persistentvolumeclaims", "secrets", "serviceaccounts"] {
        assert_eq!(harness.count(kind).await, 0, "{kind}");
    }
    harness.clear().await;
    assert_eq!(harness.get("namespaces", &harness.namespace()).await, None);
}

#[tokio::test]
async fn a_namespace_that_is_not_ours_is_never_taken() {
    let harness = Harness::start(Driver::StatefulSet).await;
    let name = harness.namespace();
    harness
        .create(
            "namespaces",
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "x"}},
            }),
        )
        .await;
    let place = harness.agent();
    let error = harness.runtime.prepare(place, None).await.expect_err("refused");
    assert_eq!(error.reason, "NAMESPACE_TAKEN");
    assert_eq!(harness.runtime.problems(harness.office), [error.message]);
    let there = harness.get("namespaces", &name).await.expect("left alone");
    assert_eq!(
        (&there["metadata"]["labels"]["mi/installation"], &there["metadata"]["labels"]["team"]),
        (&json!(null), &json!("x"))
    );
    harness.delete("namespaces", &name).await;
    mi_testkit::until("it is taken up", crate::harness::LIMIT, async || {
        harness.runtime.prepare(place, None).await.map(Some).map_err(|error| error.chain())
    })
    .await;
    assert_eq!(harness.runtime.problems(harness.office), [""; 0]);
    harness.clear().await;
}

#[tokio::test]
async fn what_somebody_changes_is_noticed_and_a_new_start_undoes_it() {
    let harness = Harness::start(Driver::StatefulSet).await;
    let place = harness.agent();
    let name = agent_name(place.agent_id);
    harness.started(place).await;
    harness.up(place).await;
    harness.edit("statefulsets", &name, json!({"spec": {"replicas": 2}})).await;
    harness.seen(place, "it is noticed", |seen| seen.is_some_and(|seen| seen.altered)).await;
    harness.stopped(place).await;
    let again = harness.started(place).await;
    assert_eq!(harness.up(place).await.id, again);
    let set = harness.get("statefulsets", &name).await.expect("there");
    assert_eq!(set["spec"]["replicas"], 1);

    // What is added is nobody's business.
    harness.edit("statefulsets", &name, json!({"metadata": {"labels": {"team": "x"}}})).await;
    assert_eq!(harness.up(place).await.id, again);

    // A pod that is deleted is made anew, for the same instance.
    harness.delete("pods", &format!("{name}-0")).await;
    harness.seen(place, "it is ending or made anew", |seen| seen.is_some()).await;
    assert_eq!(harness.up(place).await.id, again);

    // What is scaled down or deleted is not there.
    harness.edit("statefulsets", &name, json!({"spec": {"replicas": 0}})).await;
    harness.seen(place, "it is gone", |seen| seen.is_none()).await;
    harness.started(place).await;
    harness.up(place).await;
    harness.delete("statefulsets", &name).await;
    harness.seen(place, "it is gone", |seen| seen.is_none()).await;
    harness.clear().await;
}

#[tokio::test]
async fn walls_that_are_opened_are_told_of_and_those_that_fall_are_mended() {
    let harness = Harness::start(Driver::StatefulSet).await;
    harness.runtime.prepare(harness.agent(), None).await.expect("prepared");
    let policy = |name: &str, spec| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec,
        })
    };
    harness
        .create(
            "networkpolicies",
            policy("let-all-out", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]})),
        )
        .await;
    harness
        .create("networkpolicies", policy("deny-more", json!({"podSelector": {}, "policyTypes": ["Ingress"]})))
        .await;
    harness.runtime.look_over(false).await.expect("looked");
    let problems = harness.runtime.problems(harness.office);
    assert!(problems.len() == 1 && problems[0].contains("\"let-all-out\""), "{problems:?}");
    for name in ["let-all-out", "mi-deny", "mi-allow"] {
        harness.delete("networkpolicies", name).await;
    }
    harness.runtime.look_over(true).await.expect("looked");
    assert_eq!(harness.runtime.problems(harness.office), [""; 0]);
    for wall in ["mi-deny", "mi-allow"] {
        assert!(harness.get("networkpolicies", wall).await.is_some(), "{wall}");
    }
    harness.clear().await;
}

#[tokio::test]
async fn what_is_in_the_way_of_a_pod_is_read_from_its_events() {
    let harness = Harness::start(Driver::StatefulSet).await;
    let place = harness.agent();
    harness.runtime.prepare(place, None).await.expect("prepared");
    harness.edit("resourcequotas", "mi-office", json!({"spec": {"hard": {"pods": "0"}}})).await;
    harness.started(place).await;
    harness.waits(place, "exceeded quota").await;
    harness.edit("resourcequotas", "mi-office", json!({"spec": {"hard": {"pods": "5"}}})).await;
    harness.up(place).await;
    harness.clear().await;
}
