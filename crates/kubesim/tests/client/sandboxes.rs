//! Sandboxes of agent-sandbox.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use mi_kubesim::{Conduct, Pods, Sim};
use serde_json::{Value, json};

use crate::{cluster, condition, create, object, refusal, sandboxes};

fn sandbox() -> Value {
    json!({
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {"name": "a"},
        "spec": {
            "podTemplate": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "agent", "image": "i:1"}]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "work"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }],
        },
    })
}

/// Waits for the two conditions that are always there.
async fn conditions(sim: &Sim, ready: &str, suspended: &str) -> (Value, Value) {
    let look = |sim: &Sim| {
        let found = sim.get("sandboxes", "office", "a")?;
        let found = (condition(&found, "Ready"), condition(&found, "Suspended"));
        (found.0["status"] == ready && found.1["status"] == suspended).then_some(found)
    };
    sim.until(&format!("Ready is {ready} and Suspended {suspended}"), look).await
}

async fn mode(api: &kube::Api<kube::api::DynamicObject>, mode: &str) {
    let patch = Patch::Merge(json!({"spec": {"operatingMode": mode}}));
    api.patch("a", &PatchParams::default(), &patch).await.expect("patched");
}

#[tokio::test]
async fn a_sandbox_has_a_pod_of_its_name_unless_it_is_suspended() {
    let (sim, client) = cluster().await;
    let sandboxes = sandboxes(&client);
    create(&sandboxes, sandbox()).await;
    let (ready, suspended) = conditions(&sim, "True", "False").await;
    let expected = json!({"type": "Ready", "status": "True", "reason": "DependenciesReady", "message": "Pod is Ready"});
    assert_eq!(ready, expected);
    assert_eq!(suspended["reason"], "NotSuspended", "it is there and false");
    let status = sim.get("sandboxes", "office", "a").expect("it is there")["status"].clone();
    assert_eq!(status["nodeName"], "node-1");
    let volumes = sim.get("pods", "office", "a").expect("its pod")["spec"]["volumes"].clone();
    let claim = json!({"name": "work", "persistentVolumeClaim": {"claimName": "work-a"}});
    assert_eq!(volumes[0], claim);

    mode(&sandboxes, "Suspended").await;
    let (ready, suspended) = conditions(&sim, "False", "True").await;
    let found = (&ready["reason"], &ready["message"], &suspended["reason"]);
    assert_eq!(found, (&json!("SandboxSuspended"), &json!("Sandbox is suspended"), &json!("PodTerminated")));
    assert_eq!(sim.get("pods", "office", "a"), None);
    assert!(sim.get("persistentvolumeclaims", "office", "work-a").is_some(), "its work stays");

    mode(&sandboxes, "Running").await;
    conditions(&sim, "True", "False").await;
    sandboxes.delete("a", &DeleteParams::background()).await.expect("deleted");
    sim.settled().await;
    let left = [sim.list("pods", "office"), sim.list("persistentvolumeclaims", "office")].concat();
    assert_eq!(left, Vec::<Value>::new());
}

#[tokio::test]
async fn a_sandbox_says_how_its_pod_fares() {
    let (sim, client) = cluster().await;
    sim.conduct(Pods::all(), Conduct::CrashLoop { exit_code: 1, restarts: 2 });
    create(&sandboxes(&client), sandbox()).await;
    sim.settled().await;
    let (ready, _) = conditions(&sim, "False", "False").await;
    let found = (&ready["reason"], &ready["message"]);
    assert_eq!(found, (&json!("DependenciesNotReady"), &json!("Pod is Running but not Ready")));
    sim.conduct(Pods::all(), Conduct::Evict("low on memory".to_owned()));
    let finished = |sim: &Sim| {
        let found = condition(&sim.get("sandboxes", "office", "a")?, "Finished");
        (!found.is_null()).then_some(found)
    };
    assert_eq!(sim.until("it is over", finished).await["reason"], "PodFailed");
    // That condition, unlike the others, goes with its cause.
    sim.conduct(Pods::all(), Conduct::Run);
    sim.delete("pods", "office", "a").expect("deleted");
    conditions(&sim, "True", "False").await;
    assert_eq!(finished(&sim), None);
}

#[tokio::test]
async fn custom_resources_have_rules_of_their_own() {
    let (_sim, client) = cluster().await;
    let sandboxes = sandboxes(&client);
    create(&sandboxes, sandbox()).await;
    let strategic = sandboxes.patch("a", &PatchParams::default(), &Patch::Strategic(json!({"spec": {}}))).await;
    let (code, reason, _) = refusal(strategic);
    assert_eq!((code, reason.as_str()), (415, "UnsupportedMediaType"));
    let blind: DynamicObject = object(sandbox());
    let message = "Sandbox.agents.x-k8s.io \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
        specified for an update";
    let refused = sandboxes.replace("a", &PostParams::default(), &blind).await;
    assert_eq!(refusal(refused), (422, "Invalid".to_owned(), message.to_owned()));
    let patch = Patch::Merge(json!({"spec": {"operatingMode": "Paused"}}));
    let wrong = sandboxes.patch("a", &PatchParams::default(), &patch).await;
    let message = "Sandbox.agents.x-k8s.io \"a\" is invalid: spec.operatingMode: Unsupported value: \"Paused\": supported \
        values: \"Running\", \"Suspended\"";
    assert_eq!(refusal(wrong), (422, "Invalid".to_owned(), message.to_owned()));
}
