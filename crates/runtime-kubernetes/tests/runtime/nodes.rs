//! What becomes of agents whose node goes, is drained or has nothing for them, and of pods that somebody deletes.

use std::time::Duration;

use mi_kernel::{Clock, SystemClock};
use mi_kubesim::{Conduct, Matching, Pods, Setup, Sim};
use mi_runtime::{Progress, Runtime};
use mi_runtime_kubernetes::{Driver, agent_name};
use mi_testkit::ManualClock;
use serde_json::{Value, json};

use crate::harness::Harness;

#[tokio::test]
async fn a_node_that_never_comes_back_is_named_and_nothing_is_done_twice() {
    let clock = ManualClock::at(SystemClock.now());
    let sim = Sim::start_with(Setup { nodes: 3, ..Setup::default() }).await;
    let harness = Harness::start_at(sim, Driver::StatefulSet, clock.shared()).await;
    let place = harness.agent();
    let pod = format!("{}-0", agent_name(place.agent_id));
    for end in ["it returns", "it is removed", "the pod is deleted by force"] {
        clock.set(SystemClock.now());
        let instance = harness.started(place).await;
        harness.up(place).await;
        let node = harness.get("pods", &pod).await.expect("there")["spec"]["nodeName"].clone();
        let node = node.as_str().expect("a node");
        harness.sim().lose_node(node);
        // Its pods are deleted after a while, and nobody says that they ended.
        harness.sim().evict_from(node);
        harness.waits(place, "its pod is being ended").await;
        clock.advance(Duration::from_secs(600));
        let words = format!("its pod should have ended, and its node {node:?} does not say so");
        harness.waits(place, &words).await;
        assert_eq!(harness.runtime.observe(place.agent_id).expect("known").id, instance);

        // However often it is asked to end, it is told so once, and nothing begins beside it.
        harness.sim().forget_requests();
        for _ in 0..5 {
            assert_eq!(harness.runtime.stop(place).await.expect("asked for"), Progress::UnderWay, "{end}");
            harness.sim().settled().await;
        }
        harness.waits(place, &words).await;
        let writes = harness.sim().requests_of(&Matching::all().writes());
        let writes: Vec<String> = writes.iter().map(|it| format!("{} {}", it.verb, it.resource)).collect();
        assert_eq!(writes, ["patch statefulsets"], "{end}");
        assert_eq!((harness.count("pods").await, harness.count("persistentvolumeclaims").await), (1, 1));

        match end {
            "it returns" => harness.sim().return_node(node),
            "it is removed" => harness.sim().delete("nodes", "", node).expect("removed"),
            _ => harness.delete_by_force(&pod).await,
        }
        harness.stopped(place).await;
        assert_eq!((harness.count("pods").await, harness.count("persistentvolumeclaims").await), (0, 1), "{end}");
    }
    let instance = harness.started(place).await;
    assert_eq!(harness.up(place).await.id, instance);
}

#[tokio::test]
async fn what_is_drained_off_a_node_comes_back() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    let pod = format!("{}-0", agent_name(place.agent_id));
    let instance = harness.started(place).await;
    harness.up(place).await;
    let cordon = |closed: bool| {
        let close = |node: &mut Value| node["spec"]["unschedulable"] = closed.into();
        harness.sim().edit("nodes", "", "node-1", close).expect("edited");
    };
    cordon(true);
    harness.sim().forget_requests();
    harness.evict(&pod).await;
    let waiting = "no node takes its pod (Unschedulable: 0/1 nodes are available: 1 node(s) were unschedulable";
    harness.waits(place, waiting).await;
    cordon(false);
    assert_eq!(harness.up(place).await.id, instance);
    let writes = harness.sim().requests_of(&Matching::all().writes());
    let writes: Vec<String> = writes.iter().map(|it| format!("{} {}", it.verb, it.rbac_resource())).collect();
    assert_eq!(writes, ["create pods/eviction"], "the platform has nothing to do with it");
}

#[tokio::test]
async fn whoever_refuses_a_pod_is_named_until_it_no_longer_does() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    let pods = Matching::all().resource("pods").verb("create");
    let webhook = harness.sim().refuse(pods, "policy.example", "no images from there");
    let instance = harness.started(place).await;
    harness.waits(place, "Kubernetes cannot make its pod: ").await;
    harness.waits(place, "\"policy.example\" denied the request: no images from there").await;
    harness.sim().heal(webhook);
    assert_eq!(harness.up(place).await.id, instance);
}

#[tokio::test]
async fn a_first_revision_that_never_got_ready_is_corrected() {
    let mut harness = Harness::simulated().await;
    let place = harness.agent();
    harness.sim().conduct(Pods::all().image("mi:1"), Conduct::ImagePullBackOff("not found".into()));
    harness.started(place).await;
    harness.waits(place, "the image \"mi:1\" cannot be had (ImagePullBackOff: not found)").await;
    // Somebody names another image. Nobody ends what never began.
    harness.restart_with("mi:2").await;
    let instance = harness.started(place).await;
    assert_eq!(harness.up(place).await.id, instance);
    let pods = harness.sim().list("pods", &harness.namespace());
    let images: Vec<&Value> = pods.iter().map(|pod| &pod["spec"]["containers"][0]["image"]).collect();
    assert_eq!(images, [&json!("mi:2")]);
}

#[tokio::test]
async fn a_pod_that_is_deleted_by_hand_while_one_instance_follows_another_disturbs_nothing() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    let name = agent_name(place.agent_id);
    let delete = || drop(harness.sim().delete("pods", &harness.namespace(), &format!("{name}-0")));
    harness.started(place).await;
    harness.up(place).await;
    let claim = format!("work-{name}-0");
    let of_claim = harness.get("persistentvolumeclaims", &claim).await.expect("there")["metadata"]["uid"].clone();
    for moment in ["before it is asked to end", "while it ends", "before the next one runs", "once the next one runs"] {
        if moment == "before it is asked to end" {
            delete();
        }
        if moment == "while it ends" {
            harness.sim().conduct(Pods::all(), Conduct::Linger);
            let _ = harness.runtime.stop(place).await.expect("asked for");
            delete();
            harness.waits(place, "its pod is being ended").await;
            harness.sim().conduct(Pods::all(), Conduct::Run);
        }
        harness.stopped(place).await;
        harness.sim().conduct(Pods::all(), Conduct::Create);
        let next = harness.started(place).await;
        if moment == "before the next one runs" {
            harness.waits(place, "its container is being made").await;
            delete();
        }
        harness.sim().conduct(Pods::all(), Conduct::Run);
        assert_eq!(harness.up(place).await.id, next, "{moment}");
        if moment == "once the next one runs" {
            delete();
            harness.seen(place, "it is ending or made anew", |seen| seen.is_some()).await;
            assert_eq!(harness.up(place).await.id, next, "{moment}");
        }
        let left = ["pods", "statefulsets", "persistentvolumeclaims"].map(|kind| harness.sim().list(kind, "").len());
        assert_eq!(left, [1; 3], "{moment}");
        let now = harness.get("persistentvolumeclaims", &claim).await.expect("there")["metadata"]["uid"].clone();
        assert_eq!(now, of_claim, "{moment}");
    }
}
