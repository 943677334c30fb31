//! StatefulSets and their claims.

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use mi_kubesim::{Conduct, Matching, Pods, Setup, Sim};
use serde_json::{Value, json};

use crate::{api, cluster, cluster_with, create, is_ready, names, refusal, set};

fn with_claim(name: &str) -> Value {
    let mut set = set(name, "i:1");
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "work"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
    set
}

async fn running(sim: &Sim, pod: &str) -> Value {
    sim.until("it runs", |sim| sim.get("pods", "office", pod).filter(is_ready)).await
}

async fn image(sets: &Api<StatefulSet>, name: &str, image: &str) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": image}]}}}});
    sets.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.expect("patched");
}

fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().expect("an image")
}

fn claim(sim: &Sim, name: &str) -> Option<Value> {
    sim.get("persistentvolumeclaims", "office", name)
}

#[tokio::test]
async fn a_set_makes_its_pods_with_names_claims_and_labels() {
    let (sim, client) = cluster().await;
    create(&api::<StatefulSet>(&client), with_claim("a")).await;
    let pod = running(&sim, "a-0").await;
    sim.settled().await;
    let set = sim.get("statefulsets", "office", "a").expect("it is there");
    let revision = set["status"]["updateRevision"].clone();
    assert_eq!(
        pod["metadata"]["labels"],
        json!({
            "app": "a",
            "apps.kubernetes.io/pod-index": "0",
            "controller-revision-hash": revision,
            "statefulset.kubernetes.io/pod-name": "a-0",
        })
    );
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "a", "uid": set["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }]);
    assert_eq!((&pod["metadata"]["ownerReferences"], &pod["spec"]["hostname"]), (&owner, &json!("a-0")));
    assert_eq!(
        set["status"],
        json!({
            "observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "currentReplicas": 1,
            "updatedReplicas": 1, "currentRevision": revision, "updateRevision": revision, "collisionCount": 0,
        })
    );
    let claim = claim(&sim, "work-a-0").expect("a claim");
    assert_eq!(claim["metadata"]["labels"], json!({"app": "a"}));
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    assert_eq!((&claim["status"]["phase"], &claim["spec"]["storageClassName"]), (&json!("Bound"), &json!("standard")));
    assert_eq!(claim["metadata"].get("ownerReferences"), None, "it outlives the set");
}

#[tokio::test]
async fn a_deleted_pod_comes_back() {
    let (sim, client) = cluster().await;
    create(&api::<StatefulSet>(&client), set("a", "i:1")).await;
    let first = running(&sim, "a-0").await["metadata"]["uid"].clone();
    sim.delete("pods", "office", "a-0").expect("deleted");
    let other =
        |sim: &Sim| sim.get("pods", "office", "a-0").filter(|pod| is_ready(pod) && pod["metadata"]["uid"] != first);
    sim.until("another one runs", other).await;
}

#[tokio::test]
async fn a_new_template_replaces_pods_and_an_evicted_one_is_made_anew() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, set("a", "i:1")).await;
    running(&sim, "a-0").await;
    image(&sets, "a", "i:2").await;
    let new = |sim: &Sim| sim.get("pods", "office", "a-0").filter(|pod| is_ready(pod) && image_of(pod) == "i:2");
    let pod = sim.until("the new one runs", new).await;
    sim.settled().await;
    let status = sim.get("statefulsets", "office", "a").expect("it is there")["status"].clone();
    assert_eq!((&status["currentRevision"], &status["observedGeneration"]), (&status["updateRevision"], &json!(2)));
    let evicted = Pods::all().name("a-0");
    sim.conduct(evicted.clone(), Conduct::Evict("low on memory".to_owned()));
    let uid = pod["metadata"]["uid"].clone();
    sim.until("it is made anew", |sim| sim.get("pods", "office", "a-0").filter(|pod| pod["metadata"]["uid"] != uid))
        .await;
    sim.conduct(evicted, Conduct::Run);
    running(&sim, "a-0").await;
}

#[tokio::test]
async fn pods_that_were_left_alone_are_taken_over() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, set("a", "i:1")).await;
    let pod = running(&sim, "a-0").await;
    sets.delete("a", &DeleteParams::orphan()).await.expect("deleted");
    sim.settled().await;
    assert_eq!(sim.get("pods", "office", "a-0").expect("it stays")["metadata"].get("ownerReferences"), None);
    // What of a set cannot be changed is changed that way.
    let mut value = set("a", "i:1");
    value["spec"]["podManagementPolicy"] = "Parallel".into();
    let new = create(&sets, value).await;
    sim.settled().await;
    let kept = sim.get("pods", "office", "a-0").expect("it stays");
    assert_eq!(kept["metadata"]["uid"], pod["metadata"]["uid"]);
    assert_eq!(kept["metadata"]["ownerReferences"][0]["uid"].as_str(), new.metadata.uid.as_deref());
}

#[tokio::test]
async fn a_partition_and_a_wish_hold_back_a_new_template() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    let mut value = set("a", "i:1");
    value["spec"]["replicas"] = 2.into();
    value["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    create(&sets, value).await;
    let mut value = set("b", "i:1");
    value["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    create(&sets, value).await;
    running(&sim, "a-1").await;
    running(&sim, "b-0").await;
    image(&sets, "a", "i:2").await;
    image(&sets, "b", "i:2").await;
    let images = |sim: &Sim| -> Vec<String> {
        let pods = ["a-0", "a-1", "b-0"].into_iter().filter_map(|pod| sim.get("pods", "office", pod));
        pods.map(|pod| image_of(&pod).to_owned()).collect()
    };
    sim.settled().await;
    assert_eq!(images(&sim), ["i:1", "i:2", "i:1"]);
    // Below the partition a pod is made of the revision before.
    sim.delete("pods", "office", "a-0").expect("deleted");
    sim.delete("pods", "office", "b-0").expect("deleted");
    sim.settled().await;
    assert_eq!(images(&sim), ["i:1", "i:2", "i:2"]);
}

/// A set whose first revision never becomes ready, and its second.
async fn corrected(policy: &str) -> Sim {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all().image("bad:1"), Conduct::ImagePullBackOff("no such image".to_owned()));
    let sets = api::<StatefulSet>(&client);
    let mut value = set("a", "bad:1");
    value["spec"]["podManagementPolicy"] = policy.into();
    create(&sets, value).await;
    sim.settled().await;
    assert_eq!(image_of(&sim.get("pods", "office", "a-0").expect("it is there")), "bad:1");
    image(&sets, "a", "i:2").await;
    sim.settled().await;
    sim
}

#[tokio::test]
async fn an_ordered_set_never_replaces_a_pod_that_was_never_ready() {
    let sim = corrected("OrderedReady").await;
    let pod = sim.get("pods", "office", "a-0").expect("it is there");
    assert_eq!(image_of(&pod), "bad:1");
    let status = sim.get("statefulsets", "office", "a").expect("it is there")["status"].clone();
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    // Until somebody deletes it.
    sim.delete("pods", "office", "a-0").expect("deleted");
    assert_eq!(image_of(&running(&sim, "a-0").await), "i:2");
}

#[tokio::test]
async fn a_parallel_set_replaces_it() {
    let sim = corrected("Parallel").await;
    assert_eq!(image_of(&running(&sim, "a-0").await), "i:2");
}

#[tokio::test]
async fn pods_come_and_go_in_order_or_at_once() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    for (name, policy, first) in [("a", "OrderedReady", vec!["a-0"]), ("b", "Parallel", vec!["b-0", "b-1", "b-2"])] {
        let unready = Pods::all().label("app", name);
        sim.conduct(unready.clone(), Conduct::Unready);
        let mut value = set(name, "i:1");
        value["spec"]["podManagementPolicy"] = policy.into();
        value["spec"]["replicas"] = 3.into();
        create(&sets, value).await;
        sim.settled().await;
        let pods = |sim: &Sim| -> Vec<String> {
            let all = sim.list("pods", "office");
            names(&all).into_iter().filter(|pod| pod.starts_with(name)).map(str::to_owned).collect()
        };
        assert_eq!(pods(&sim), first);
        sim.conduct(unready, Conduct::Run);
        sim.until("three are there", |sim| (pods(sim).len() == 3).then_some(())).await;
        sim.settled().await;
        sets.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}})))
            .await
            .expect("scaled");
        sim.settled().await;
        assert_eq!(pods(&sim), [format!("{name}-0")]);
    }
}

#[tokio::test]
async fn claims_follow_the_retention_policy() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    let mut value = with_claim("a");
    value["spec"]["replicas"] = 2.into();
    value["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    create(&sets, value).await;
    create(&sets, with_claim("kept")).await;
    running(&sim, "a-1").await;
    running(&sim, "kept-0").await;
    let claims = |sim: &Sim| {
        names(&sim.list("persistentvolumeclaims", "office")).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(claims(&sim), ["work-a-0", "work-a-1", "work-kept-0"]);
    sets.patch("a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}}))).await.expect("scaled");
    sim.settled().await;
    assert_eq!(claims(&sim), ["work-a-0", "work-kept-0"]);
    for name in ["a", "kept"] {
        sets.delete(name, &DeleteParams::background()).await.expect("deleted");
    }
    sim.settled().await;
    assert_eq!(claims(&sim), ["work-kept-0"]);
}

#[tokio::test]
async fn a_claim_grows_where_its_class_lets_it_and_never_shrinks() {
    let (sim, client) = cluster().await;
    create(&api::<StatefulSet>(&client), with_claim("a")).await;
    running(&sim, "a-0").await;
    sim.settled().await;
    let claims = api::<PersistentVolumeClaim>(&client);
    let ask = async |size: &str| {
        let patch = Patch::Merge(json!({"spec": {"resources": {"requests": {"storage": size}}}}));
        claims.patch("work-a-0", &PatchParams::default(), &patch).await
    };
    let refused = refusal(ask("100Gi").await);
    assert!(refused.0 == 403 && refused.2.contains("must support resize"), "{refused:?}");
    let allow = |class: &mut Value| class["allowVolumeExpansion"] = true.into();
    sim.edit("storageclasses", "", "standard", allow).expect("edited");
    ask("100Gi").await.expect("grows");
    sim.settled().await;
    let claim = sim.get("persistentvolumeclaims", "office", "work-a-0").expect("there");
    assert_eq!(claim["status"]["capacity"]["storage"], "100Gi");
    let refused = refusal(ask("1Gi").await);
    assert!(refused.0 == 422 && refused.2.contains("less than status.capacity"), "{refused:?}");
}

#[tokio::test]
async fn a_claim_in_use_stays_until_its_pod_is_gone_and_is_not_bound_anew_meanwhile() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, with_claim("a")).await;
    let old = running(&sim, "a-0").await;
    sim.conduct(Pods::all(), Conduct::Linger);
    sim.delete("persistentvolumeclaims", "office", "work-a-0").expect("marked");
    sets.delete("a", &DeleteParams::orphan()).await.expect("deleted");
    sim.settled().await;
    let uid = claim(&sim, "work-a-0").expect("its pod uses it")["metadata"]["uid"].clone();
    sim.delete("pods", "office", "a-0").expect("marked");
    // A hire anew: the pod of before is in the way, then its claim is.
    create(&sets, with_claim("a")).await;
    sim.settled().await;
    assert_eq!(sim.get("pods", "office", "a-0").expect("it lingers")["metadata"]["uid"], old["metadata"]["uid"]);
    sim.conduct(Pods::all(), Conduct::Run);
    let new = |sim: &Sim| {
        sim.get("pods", "office", "a-0").filter(|pod| is_ready(pod) && pod["metadata"]["uid"] != old["metadata"]["uid"])
    };
    sim.until("a new one runs", new).await;
    assert_ne!(claim(&sim, "work-a-0").expect("a new one")["metadata"]["uid"], uid);
}

#[tokio::test]
async fn a_set_makes_no_pod_for_a_claim_that_goes() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, with_claim("a")).await;
    running(&sim, "a-0").await;
    sim.conduct(Pods::all().name("backup"), Conduct::Linger);
    let backup = json!({
        "metadata": {"name": "backup"},
        "spec": {
            "containers": [{"name": "c", "image": "i:1"}],
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "work-a-0"}}],
        },
    });
    sim.create("pods", "office", backup).expect("created");
    running(&sim, "backup").await;
    sets.delete("a", &DeleteParams::background()).await.expect("deleted");
    sim.delete("persistentvolumeclaims", "office", "work-a-0").expect("marked");
    sim.settled().await;
    create(&sets, with_claim("a")).await;
    sim.settled().await;
    assert_eq!(names(&sim.list("pods", "office")), ["backup"]);
    let told = sim.list("events", "office").into_iter().find(|event| event["reason"] == "FailedCreate");
    assert_eq!(told.expect("it is told")["message"], "pvc work-a-0 is being deleted");
    sim.conduct(Pods::all(), Conduct::Run);
    sim.delete("pods", "office", "backup").expect("deleted");
    running(&sim, "a-0").await;
}

#[tokio::test]
async fn a_pod_that_does_not_run_holds_no_claim() {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all(), Conduct::Unschedulable("no room".to_owned()));
    create(&api::<StatefulSet>(&client), with_claim("a")).await;
    sim.settled().await;
    let uid = claim(&sim, "work-a-0").expect("a claim")["metadata"]["uid"].clone();
    sim.delete("persistentvolumeclaims", "office", "work-a-0").expect("deleted");
    sim.settled().await;
    assert_ne!(claim(&sim, "work-a-0").map(|claim| claim["metadata"]["uid"].clone()), Some(uid));
}

#[tokio::test]
async fn without_a_storage_class_claims_wait() {
    let (sim, client) = cluster_with(Setup { default_storage_class: false, ..Setup::default() }).await;
    create(&api::<StatefulSet>(&client), with_claim("a")).await;
    sim.settled().await;
    assert_eq!(claim(&sim, "work-a-0").expect("a claim")["status"], json!({"phase": "Pending"}));
    let pod = sim.get("pods", "office", "a-0").expect("it waits");
    let why = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes are \
        available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(crate::condition(&pod, "PodScheduled")["message"], why);
    let told = sim.list("events", "office").into_iter().find(|event| event["reason"] == "FailedBinding");
    let message = "no persistent volumes available for this claim and no storage class is set";
    assert_eq!(told.expect("an event")["message"], message);
    let class = json!({
        "metadata": {"name": "late", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "x",
    });
    sim.create("storageclasses", "", class).expect("created");
    running(&sim, "a-0").await;
}

#[tokio::test]
async fn a_claim_can_be_held_and_released() {
    let (sim, client) = cluster().await;
    sim.hold_claims(Pods::all().namespace("office"));
    create(&api::<StatefulSet>(&client), with_claim("a")).await;
    sim.settled().await;
    assert_eq!(claim(&sim, "work-a-0").expect("a claim")["status"]["phase"], "Pending");
    sim.release_claims(Pods::all().namespace("office"));
    running(&sim, "a-0").await;
}

#[tokio::test]
async fn what_of_a_set_cannot_change_is_refused() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, set("a", "i:1")).await;
    let patch = json!({"spec": {"podManagementPolicy": "Parallel"}});
    let refused = sets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await;
    let message = "StatefulSet.apps \"a\" is invalid: spec: Forbidden: updates to statefulset spec for fields other than \
        'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
        'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    assert_eq!(refusal(refused), (422, "Invalid".to_owned(), message.to_owned()));
    create(&sets, with_claim("b")).await;
    running(&sim, "b-0").await;
    let claims = api::<PersistentVolumeClaim>(&client);
    let other = json!({"spec": {"storageClassName": "other"}});
    assert_eq!(refusal(claims.patch("work-b-0", &PatchParams::default(), &Patch::Merge(other)).await).0, 422);
}

#[tokio::test]
async fn a_set_waits_for_a_webhook_to_give_way() {
    let (sim, client) = cluster().await;
    let id = sim.refuse(Matching::all().resource("pods").verb("create"), "policy.example.com", "no pods today");
    create(&api::<StatefulSet>(&client), set("a", "i:1")).await;
    let told = |sim: &Sim| sim.list("events", "office").into_iter().find(|event| event["reason"] == "FailedCreate");
    let event = sim.until("it is told", told).await;
    let message = "create Pod a-0 in StatefulSet a failed error: admission webhook \"policy.example.com\" denied the \
        request: no pods today";
    assert_eq!(event["message"], message);
    sim.heal(id);
    running(&sim, "a-0").await;
}
