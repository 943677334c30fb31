//! Deleting: finalizers, preconditions, dependents.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Preconditions},
    runtime::{
        controller::Action,
        finalizer::{Event, finalizer},
    },
};
use mi_kubesim::{Conduct, Pods, Sim};
use serde_json::{Value, json};

use crate::{api, cluster, config, create, is_ready, names, refusal, set};

/// Deletion of a map that waits for this finalizer.
fn held(name: &str) -> Value {
    let mut map = config(name, "1");
    map["metadata"]["finalizers"] = json!(["mi.example.com/hold"]);
    map
}

fn release(sim: &Sim, name: &str) {
    let edit = |map: &mut Value| map["metadata"]["finalizers"] = json!([]);
    sim.edit("configmaps", "office", name, edit).expect("released");
}

/// A reference to an object, that blocks its deletion in the foreground.
fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "name": object.meta().name,
        "uid": object.meta().uid,
        "blockOwnerDeletion": true,
    })
}

fn owned(name: &str, owners: &[Value]) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": owners}})
}

#[tokio::test]
async fn an_object_without_finalizers_is_gone_at_once() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let made = create(&maps, config("a", "1")).await;
    let deleted = maps.delete("a", &DeleteParams::default()).await.expect("deleted").right().expect("a status");
    let details = deleted.details.expect("details");
    let uid = made.metadata.uid.expect("a uid");
    assert_eq!((details.name.as_str(), details.kind.as_str(), details.uid), ("a", "configmaps", uid));
    assert_eq!(sim.get("configmaps", "office", "a"), None);
    let again = maps.delete("a", &DeleteParams::default()).await;
    assert_eq!(refusal(again), (404, "NotFound".to_owned(), "configmaps \"a\" not found".to_owned()));
}

#[tokio::test]
async fn a_finalizer_holds_an_object() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    create(&maps, held("a")).await;
    let going = maps.delete("a", &DeleteParams::default()).await.expect("marked").left().expect("it is there");
    assert!(going.metadata.deletion_timestamp.is_some());
    let version = sim.version();
    maps.delete("a", &DeleteParams::default()).await.expect("marked before").left().expect("it is there");
    assert_eq!(sim.version(), version);
    let more = sim.edit("configmaps", "office", "a", |map| {
        map["metadata"]["finalizers"] = json!(["mi.example.com/hold", "mi.example.com/more"]);
    });
    let message = "ConfigMap \"a\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the \
        object is being deleted, found new finalizers []string{\"mi.example.com/more\"}";
    assert_eq!(more.expect_err("refused")["message"], message);
    release(&sim, "a");
    assert_eq!(sim.get("configmaps", "office", "a"), None);
}

#[tokio::test]
async fn the_finalizer_helper_of_kube_works() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    create(&maps, config("a", "1")).await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let run = async || {
        let map = Arc::new(maps.get("a").await.expect("it is there"));
        let seen = seen.clone();
        let reconcile = move |event| async move {
            let word = match event {
                Event::Apply(_) => "apply",
                Event::Cleanup(_) => "cleanup",
            };
            seen.lock().expect("no panic").push(word);
            Ok::<_, std::io::Error>(Action::await_change())
        };
        finalizer(&maps, "mi.example.com/hold", map, reconcile).await.expect("reconciled");
    };
    run().await;
    run().await;
    maps.delete("a", &DeleteParams::default()).await.expect("marked").left().expect("it is there");
    run().await;
    assert_eq!(*seen.lock().expect("no panic"), ["apply", "cleanup"]);
    assert_eq!(sim.get("configmaps", "office", "a"), None);
}

#[tokio::test]
async fn preconditions_name_the_object_that_is_meant() {
    let (_sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let made = create(&maps, config("a", "1")).await;
    let of = |uid: Option<&str>, version: Option<&str>| {
        let preconditions = Preconditions { uid: uid.map(str::to_owned), resource_version: version.map(str::to_owned) };
        DeleteParams::default().preconditions(preconditions)
    };
    let (code, _, message) = refusal(maps.delete("a", &of(Some("other"), None)).await);
    let uid = made.metadata.uid.clone().expect("a uid");
    let expected = format!(
        "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: other, UID in \
            object meta: {uid}"
    );
    assert_eq!((code, message), (409, expected));
    assert_eq!(refusal(maps.delete("a", &of(None, Some("1"))).await).0, 409);
    let version = made.metadata.resource_version;
    maps.delete("a", &of(Some(&uid), version.as_deref())).await.expect("it is the one");
}

#[tokio::test]
async fn dependents_go_after_their_owner() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let (first, second) = (create(&maps, config("first", "1")).await, create(&maps, config("second", "1")).await);
    let secrets = api::<Secret>(&client);
    create(&secrets, owned("of-one", &[owner(&first)])).await;
    create(&secrets, owned("of-both", &[owner(&first), owner(&second)])).await;
    maps.delete("first", &DeleteParams::background()).await.expect("deleted");
    sim.settled().await;
    assert_eq!(names(&sim.list("secrets", "office")), ["of-both"]);
    let left = sim.get("secrets", "office", "of-both").expect("it has an owner");
    assert_eq!(left["metadata"]["ownerReferences"], json!([owner(&second)]));
    // An owner that never was is one that is gone.
    let nobody = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "nobody"});
    create(&secrets, owned("lost", &[nobody])).await;
    sim.settled().await;
    assert_eq!(names(&sim.list("secrets", "office")), ["of-both"]);
}

#[tokio::test]
async fn of_an_owner_of_an_unknown_kind_nobody_can_say_that_it_is_gone() {
    let (sim, client) = cluster().await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "somewhere"});
    create(&api::<Secret>(&client), owned("kept", &[widget])).await;
    sim.settled().await;
    assert_eq!(names(&sim.list("secrets", "office")), ["kept"]);
}

#[tokio::test]
async fn an_owner_in_another_namespace_is_none() {
    let (sim, client) = cluster().await;
    let far = sim.create("configmaps", "default", config("far", "1")).expect("created");
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "far", "uid": far["metadata"]["uid"]});
    create(&api::<Secret>(&client), owned("lost", &[owner])).await;
    sim.settled().await;
    assert_eq!(sim.get("secrets", "office", "lost"), None);
}

#[tokio::test]
async fn orphans_stay_and_lose_their_reference() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let map = create(&maps, config("a", "1")).await;
    create(&api::<Secret>(&client), owned("orphan", &[owner(&map)])).await;
    maps.delete("a", &DeleteParams::orphan()).await.expect("deleted");
    sim.settled().await;
    assert_eq!(sim.get("configmaps", "office", "a"), None);
    let orphan = sim.get("secrets", "office", "orphan").expect("it stays");
    assert_eq!(orphan["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn in_the_foreground_an_owner_waits_for_its_dependents() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let map = create(&maps, config("a", "1")).await;
    let mut dependent = held("dependent");
    dependent["metadata"]["ownerReferences"] = json!([owner(&map)]);
    create(&maps, dependent).await;
    let going = maps.delete("a", &DeleteParams::foreground()).await.expect("marked").left().expect("it is there");
    assert_eq!(going.metadata.finalizers.as_deref(), Some(&["foregroundDeletion".to_owned()][..]));
    sim.settled().await;
    assert!(sim.get("configmaps", "office", "a").is_some(), "its dependent is held");
    let dependent = sim.get("configmaps", "office", "dependent").expect("it is held");
    assert_ne!(dependent["metadata"]["deletionTimestamp"], Value::Null);
    release(&sim, "dependent");
    sim.settled().await;
    assert_eq!(names(&sim.list("configmaps", "office")), ["kube-root-ca.crt"]);
}

#[tokio::test]
async fn a_set_deleted_in_the_foreground_outlives_its_pods() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, set("a", "i:1")).await;
    let pod = |sim: &Sim| sim.get("pods", "office", "a-0");
    sim.until("it runs", |sim| pod(sim).filter(is_ready)).await;
    sim.conduct(Pods::all(), Conduct::Linger);
    sets.delete("a", &DeleteParams::foreground()).await.expect("marked");
    sim.settled().await;
    let seconds = pod(&sim).expect("it lingers")["metadata"]["deletionGracePeriodSeconds"].clone();
    assert_eq!(seconds, 30);
    assert!(sim.get("statefulsets", "office", "a").is_some());
    sim.conduct(Pods::all(), Conduct::Run);
    sim.settled().await;
    assert_eq!((pod(&sim), sim.get("statefulsets", "office", "a")), (None, None));
}

#[tokio::test]
async fn pods_of_a_job_stay_unless_somebody_says_otherwise() {
    let (sim, client) = cluster().await;
    let jobs = api::<Job>(&client);
    let job = json!({
        "metadata": {"name": "backup"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}},
    });
    for (params, left) in [(DeleteParams::default(), 1), (DeleteParams::background(), 0)] {
        create(&jobs, job.clone()).await;
        let complete = |sim: &Sim| {
            let job = sim.get("jobs", "office", "backup")?;
            (crate::condition(&job, "Complete")["status"] == "True").then_some(())
        };
        sim.until("the job is complete", complete).await;
        jobs.delete("backup", &params).await.expect("deleted");
        sim.settled().await;
        let pods = sim.list("pods", "office");
        assert_eq!(pods.len(), left, "{params:?}");
        for pod in names(&pods) {
            sim.delete("pods", "office", pod).expect("deleted");
        }
    }
}

#[tokio::test]
async fn a_collection_is_deleted_by_a_selector() {
    let (sim, client) = cluster().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut map = config(name, "1");
        map["metadata"]["labels"] = json!({"kind": label});
        sim.create("configmaps", "office", map).expect("created");
    }
    let maps: Api<ConfigMap> = api(&client);
    let params = ListParams::default().labels("kind=x");
    let deleted = maps.delete_collection(&DeleteParams::default(), &params).await.expect("deleted");
    assert_eq!(deleted.left().map(|list| list.items.len()), Some(2));
    assert_eq!(names(&sim.list("configmaps", "office")), ["b", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn a_pod_may_be_deleted_without_grace() {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all(), Conduct::Linger);
    let pods = api::<Pod>(&client);
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    create(&pods, pod).await;
    sim.until("it runs", |sim| sim.get("pods", "office", "a").filter(is_ready)).await;
    pods.delete("a", &DeleteParams::default()).await.expect("marked");
    sim.settled().await;
    assert!(sim.get("pods", "office", "a").is_some(), "it lingers");
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    assert_eq!(sim.get("pods", "office", "a"), None);
}
