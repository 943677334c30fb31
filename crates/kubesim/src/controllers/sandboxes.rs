//! Sandboxes of agent-sandbox: one pod of the same name with claims of its own, there unless the sandbox is suspended.

use serde_json::{Value, json};

use super::{hash, is_controlled_by, owned_by};
use crate::{
    defaults::claim_of,
    delete::Deletion,
    json::{copy, default, flag, has, list, list_mut, map, moment, set, text},
    store::{Key, World},
    write::{Writer, is_true, set_condition},
};

const CONTROLLER: &str = "sandbox-controller";
const NAME_HASH: &str = "agents.x-k8s.io/sandbox-name-hash";

/// Moves a sandbox on.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(sandbox) = world.get(key).cloned() else { return };
    if has(&sandbox, "/metadata/deletionTimestamp") {
        return;
    }
    let suspended = sandbox["spec"]["operatingMode"] == "Suspended";
    let pod_key = Key::new("pods", &key.namespace, &key.name);
    let uid = text(&sandbox, "/metadata/uid").to_owned();
    let mut refused = None;
    for template in list(&sandbox, "/spec/volumeClaimTemplates") {
        let claim = claim_name(template, &key.name);
        if world.find("persistentvolumeclaims", &key.namespace, &claim).is_none() {
            let mut claim = claim_of(template, &claim);
            map(&mut claim, "/metadata/labels").insert(NAME_HASH.to_owned(), hash(&key.name).into());
            set(&mut claim, "/metadata/ownerReferences", json!([owned_by(key, &sandbox)]));
            if !world.make(key, CONTROLLER, "persistentvolumeclaims", claim) {
                refused = Some("claim");
            }
        }
    }
    match world.get(&pod_key).cloned() {
        Some(pod) if !is_controlled_by(&pod, &uid) => refused = Some("pod"),
        Some(pod) if suspended && !has(&pod, "/metadata/deletionTimestamp") => {
            let _ = world.delete(&pod_key, &Deletion::background());
        }
        Some(_) => {}
        None if suspended => {}
        None => {
            if !world.make(key, CONTROLLER, "pods", pod_of(key, &sandbox)) {
                refused = Some("pod");
            }
        }
    }
    if flag(&sandbox, "/spec/service") && world.find("services", &key.namespace, &key.name).is_none() {
        let service = json!({
            "metadata": {"name": key.name, "ownerReferences": [owned_by(key, &sandbox)]},
            "spec": {"clusterIP": "None", "selector": {NAME_HASH: hash(&key.name)}},
        });
        world.make(key, CONTROLLER, "services", service);
    }
    write_status(world, key, &pod_key, suspended, refused);
}

fn claim_name(template: &Value, sandbox: &str) -> String {
    format!("{}-{sandbox}", text(template, "/metadata/name"))
}

fn pod_of(key: &Key, sandbox: &Value) -> Value {
    let template = &sandbox["spec"]["podTemplate"];
    let mut pod = json!({
        "metadata": {"name": key.name, "ownerReferences": [owned_by(key, sandbox)]},
        "spec": template["spec"],
    });
    copy(&mut pod, template, "/metadata/labels");
    copy(&mut pod, template, "/metadata/annotations");
    map(&mut pod, "/metadata/labels").insert(NAME_HASH.to_owned(), hash(&key.name).into());
    for template in list(sandbox, "/spec/volumeClaimTemplates") {
        let volume = json!({
            "name": template["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": claim_name(template, &key.name)},
        });
        default(&mut pod, "/spec/volumes", json!([]));
        let Some(volumes) = list_mut(&mut pod, "/spec/volumes") else { continue };
        volumes.retain(|known| known["name"] != volume["name"]);
        volumes.push(volume);
    }
    pod
}

fn write_status(world: &mut World, key: &Key, pod: &Key, suspended: bool, refused: Option<&str>) {
    let pod = world.get(pod).cloned();
    let phase = pod.as_ref().map(|pod| text(pod, "/status/phase").to_owned());
    let now = moment(world.now());
    let (is_suspended, reason, message) = match (suspended, &pod) {
        (false, _) => ("False", "NotSuspended", "Sandbox is not suspended"),
        (true, None) => ("True", "PodTerminated", "Pod has been terminated. Sandbox is suspended"),
        (true, Some(_)) => ("False", "PodNotTerminated", "Pod is terminating. Sandbox is suspending"),
    };
    let suspension = json!({"type": "Suspended", "status": is_suspended, "reason": reason, "message": message});
    let is_ready = pod.as_ref().is_some_and(|pod| phase.as_deref() == Some("Running") && is_true(pod, "Ready"));
    let (ready, reason, message) = match (refused, phase.as_deref()) {
        (Some(what), _) => ("False", "ReconcilerError", format!("Error seen: the {what} could not be created")),
        _ if suspended => {
            let word = if pod.is_some() { "suspending" } else { "suspended" };
            ("False", "SandboxSuspended", format!("Sandbox is {word}"))
        }
        (None, Some("Succeeded")) => ("False", "PodSucceeded", "Pod completed successfully".to_owned()),
        (None, Some("Failed")) => ("False", "PodFailed", "Pod failed".to_owned()),
        _ if is_ready => ("True", "DependenciesReady", "Pod is Ready".to_owned()),
        (None, Some("Running")) => ("False", "DependenciesNotReady", "Pod is Running but not Ready".to_owned()),
        (None, Some(phase)) => ("False", "DependenciesNotReady", format!("Pod exists with phase: {phase}")),
        (None, None) => ("False", "DependenciesNotReady", "Pod does not exist".to_owned()),
    };
    let readiness = json!({"type": "Ready", "status": ready, "reason": reason, "message": message});
    let finished = match phase.as_deref() {
        Some("Succeeded") => Some(("PodSucceeded", "Pod completed successfully")),
        Some("Failed") => Some(("PodFailed", "Pod failed")),
        _ => None,
    };
    world.edit(key, &Writer::status(CONTROLLER), |sandbox| {
        let generation = sandbox["metadata"]["generation"].clone();
        let mut conditions = vec![suspension, readiness];
        // Present only while it applies, unlike the other two.
        if let Some(known) = list_mut(sandbox, "/status/conditions") {
            known.retain(|known| known["type"] != "Finished");
        }
        if let Some((reason, message)) = finished {
            conditions.push(json!({"type": "Finished", "status": "True", "reason": reason, "message": message}));
        }
        for mut condition in conditions {
            condition["observedGeneration"] = generation.clone();
            set_condition(sandbox, condition, &now);
        }
        for (name, value) in [
            (
                "podIPs",
                pod.as_ref().map(|pod| {
                    list(pod, "/status/podIPs").iter().map(|ip| ip["ip"].clone()).collect::<Vec<_>>().into()
                }),
            ),
            ("nodeName", pod.as_ref().map(|pod| pod["spec"]["nodeName"].clone())),
            ("selector", pod.as_ref().map(|_| format!("{NAME_HASH}={}", hash(&key.name)).into())),
        ] {
            match value.filter(|value: &Value| !value.is_null() && *value != json!([])) {
                Some(value) => set(sandbox, &format!("/status/{name}"), value),
                None => drop(crate::json::remove(sandbox, &format!("/status/{name}"))),
            }
        }
    });
}
