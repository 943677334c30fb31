//! The runtime before an API server. `cluster.rs` is the list of scenarios that any cluster can be asked for: here it is the
//! one in memory, or a real one by `cargo xtask k8s-test --kubeconfig FILE`. All else needs an API server that does as the
//! test says. The agents themselves are nobody here: their platform does not answer them.

mod cluster;
mod faults;
mod growth;
mod harness;
mod nodes;
mod rights;

use harness::{Harness, LIMIT};
use mi_kernel::{BackupId, secret::Secret};
use mi_kubesim::{Conduct, Matching, Pods, Request, Setup, Sim};
use mi_runtime::{Cluster, Runtime, Saving};
use mi_runtime_kubernetes::{Driver, agent_name};
use mi_testkit::until;
use serde_json::json;

/// What was asked for but lists and watches.
fn asked(requests: &[Request]) -> Vec<String> {
    let asked = requests.iter().filter(|request| !["list", "watch"].contains(&&*request.verb));
    asked.map(|request| format!("{} {}", request.verb, request.resource)).collect()
}

#[tokio::test]
async fn a_hire_takes_few_requests_and_rest_takes_none() {
    let harness = Harness::simulated().await;
    let first = harness.agent();
    harness.started(first).await;
    harness.up(first).await;
    harness.sim().forget_requests();
    let second = harness.agent();
    let instance = harness.started(second).await;
    let up = harness.up(second).await;
    assert!(up.id == instance && up.up_since.is_some());
    harness.runtime.started(second, instance).await.expect("cleared");
    let mut requests = asked(&harness.sim().requests());
    requests.sort();
    let applied = ["patch secrets", "patch secrets", "patch serviceaccounts", "patch statefulsets"];
    assert_eq!(requests, [&["deletecollection secrets"][..], &applied[..]].concat());

    // What is there already is asked for no more.
    harness.sim().forget_requests();
    harness.runtime.started(second, instance).await.expect("done already");
    harness.runtime.prepare(second, None).await.expect("there already");
    harness.sim().settled().await;
    assert_eq!(asked(&harness.sim().requests()), [""; 0]);
    let secrets: Vec<_> = harness.sim().list("secrets", &harness.namespace());
    let of_second =
        |secret: &&serde_json::Value| secret["metadata"]["labels"]["mi/agent-id"] == second.agent_id.to_string();
    assert_eq!(secrets.iter().filter(of_second).count(), 1, "its environment, and no token any more");
}

#[tokio::test]
async fn what_a_pod_waits_for_is_said_as_long_as_it_waits() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.started(place).await;
    harness.up(place).await;
    for (conduct, words) in [
        (Conduct::Unschedulable("0/1 nodes are available".into()), "no node takes its pod (Unschedulable: 0/1 nodes"),
        (Conduct::ImagePullBackOff("not found".into()), "cannot be had (ImagePullBackOff: not found)"),
        (Conduct::CrashLoop { exit_code: 3, restarts: 4 }, "keeps ending, last time with exit code 3"),
        (Conduct::OutOfMemory { restarts: 1 }, "OOMKilled: it used more memory than it may"),
        (Conduct::Create, "its container is being made"),
    ] {
        harness.sim().conduct(Pods::all(), conduct.clone());
        let pod = format!("{}-0", agent_name(place.agent_id));
        let _ = harness.sim().delete("pods", &harness.namespace(), &pod);
        harness.waits(place, words).await;
        harness.sim().conduct(Pods::all(), Conduct::Run);
        harness.up(place).await;
    }
}

#[tokio::test]
async fn a_claim_without_a_volume_says_why() {
    let sim = Sim::start_with(Setup { default_storage_class: false, ..Setup::default() }).await;
    let harness = Harness::start_on(sim, Driver::StatefulSet).await;
    let place = harness.agent();
    harness.started(place).await;
    harness.waits(place, "the cluster has no default storage class").await;
    let class = json!({
        "metadata": {"name": "late", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "sim.example.com/disk",
    });
    harness.sim().create("storageclasses", "", class).expect("made");
    harness.up(place).await;
}

#[tokio::test]
async fn what_a_container_printed_before_it_ended_is_read_once() {
    let mut harness = Harness::simulated().await;
    let place = harness.agent();
    let instance = harness.started(place).await;
    harness.up(place).await;
    let pod = format!("{}-0", agent_name(place.agent_id));
    harness.sim().set_log(&harness.namespace(), &pod, "agent", "", "one\nthe last word\n");
    harness.sim().conduct(Pods::all(), Conduct::CrashLoop { exit_code: 1, restarts: 2 });
    let mut read = Vec::new();
    while read.len() < 2 {
        let line = tokio::time::timeout(LIMIT, harness.lines.recv()).await.expect("in time").expect("a line");
        assert_eq!((line.place, line.instance, &*line.name, line.run), (place, instance, "analyst", 1));
        read.push(line.text);
    }
    assert_eq!(read, ["one", "the last word"]);
}

#[tokio::test]
async fn a_backup_is_a_job_on_the_claim_of_an_agent_that_is_stopped() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.started(place).await;
    harness.up(place).await;
    harness.stopped(place).await;
    let backup = BackupId::new();
    assert_eq!(harness.runtime.saving(place, backup), Saving::NotAsked);
    harness.sim().conduct(Pods::all(), Conduct::Unschedulable("no room".into()));
    harness.runtime.save(place, backup, &crate::harness::endpoint(), &Secret::new("token")).await.expect("asked for");
    let saving = async |what: &str, is: fn(&Saving) -> bool| {
        until(what, LIMIT, async || {
            let saving = harness.runtime.saving(place, backup);
            if is(&saving) { Ok(Some(saving)) } else { Err(format!("{saving:?}")) }
        })
        .await
    };
    saving("it says what it waits for", |it| matches!(it, Saving::UnderWay(Some(words)) if words.contains("no room")))
        .await;
    assert_eq!(harness.runtime.observe(place.agent_id), None, "a job is no instance");
    let job = &harness.sim().list("jobs", &harness.namespace())[0];
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["args"], json!(["agent", "save"]));
    let told = json!({"name": "MI_ENDPOINT", "value": "http://gateway"});
    assert!(pod["containers"][0]["env"].as_array().expect("variables").contains(&told));
    let claim = format!("work-{}-0", agent_name(place.agent_id));
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], claim);
    harness.sim().conduct(Pods::all(), Conduct::Finish(1));
    saving("it failed", |it| matches!(it, Saving::Failed(_))).await;
    harness.runtime.discard(place).await.expect("discarded");
    saving("it can be asked for again", |it| *it == Saving::NotAsked).await;
    harness.sim().conduct(Pods::all(), Conduct::Finish(0));
    harness.runtime.save(place, backup, &crate::harness::endpoint(), &Secret::new("another")).await.expect("asked for");
    saving("it was sent", |it| *it == Saving::Sent).await;
    assert!(
        harness.sim().requests_of(&Matching::all().verb("get").resource("secrets")).is_empty(),
        "no secret is read"
    );
}

#[tokio::test]
async fn objects_of_another_installation_are_not_seen() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.started(place).await;
    harness.up(place).await;
    let (namespace, name) = (harness.namespace(), agent_name(place.agent_id));
    harness
        .sim()
        .edit("statefulsets", &namespace, &name, |set| {
            set["metadata"]["labels"]["mi/installation"] = "another".into();
        })
        .expect("edited");
    until("it is not seen", LIMIT, async || {
        let (places, _) = harness.runtime.places();
        // Its claim is still this one's.
        if places == [place] { Ok(Some(())) } else { Err(format!("{places:?}")) }
    })
    .await;
    harness.seen(place, "its set is not its own", |seen| seen.is_none_or(|seen| seen.waiting.is_some())).await;
}
