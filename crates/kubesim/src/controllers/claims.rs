//! Claims of volumes: bound by their storage class, and kept while a pod uses them.

use serde_json::{Value, json};

use super::claims_of;
use crate::{
    admission::{CLAIM_IN_USE, default_class},
    json::{copy, has, list_mut, set, text},
    store::{Key, World},
    write::Writer,
};

const BINDER: &str = "persistentvolume-controller";
const RESIZER: &str = "external-resizer";

/// Binds a claim, and lets one go that is deleted and that no pod uses.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(claim) = world.get(key).cloned() else { return };
    let uses = |pod: &Value| claims_of(pod).any(|name| name == key.name);
    let pods = world.list("pods", &key.namespace).filter(|(_, pod)| uses(pod));
    let pods: Vec<_> = pods.map(|(_, pod)| pod.clone()).collect();
    if has(&claim, "/metadata/deletionTimestamp") {
        // A pod that is on no node yet will not start with a claim that goes.
        let is_idle = |pod: &Value| {
            matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") || text(pod, "/spec/nodeName").is_empty()
        };
        if pods.iter().all(|pod| is_idle(pod)) {
            world.edit(key, &Writer::controller("kube-controller-manager"), |claim| {
                if let Some(finalizers) = list_mut(claim, "/metadata/finalizers") {
                    finalizers.retain(|finalizer| finalizer != CLAIM_IN_USE);
                }
            });
        }
        return;
    }
    if world.conducts.holds(&claim) {
        return;
    }
    if text(&claim, "/status/phase") == "Bound" {
        let asked = claim["spec"]["resources"]["requests"].clone();
        if claim["status"]["capacity"] != asked {
            world.edit(key, &Writer::status(RESIZER), |claim| set(claim, "/status/capacity", asked));
        }
        return;
    }
    let class = text(&claim, "/spec/storageClassName").to_owned();
    if class.is_empty() {
        match default_class(world).filter(|_| !has(&claim, "/spec/storageClassName")) {
            Some(class) => world.edit(key, &Writer::controller(BINDER), |claim| {
                set(claim, "/spec/storageClassName", class);
            }),
            None => {
                let why = "no persistent volumes available for this claim and no storage class is set";
                tell_once(world, key, "Normal", "FailedBinding", why);
            }
        }
        return;
    }
    let Some(found) = world.find("storageclasses", "", &class) else {
        let why = format!("storageclass.storage.k8s.io {class:?} not found");
        tell_once(world, key, "Warning", "ProvisioningFailed", &why);
        return;
    };
    if text(found, "/volumeBindingMode") == "WaitForFirstConsumer" && pods.is_empty() {
        let why = "waiting for first consumer to be created before binding";
        tell_once(world, key, "Normal", "WaitForFirstConsumer", why);
        return;
    }
    let volume = format!("pvc-{}", text(&claim, "/metadata/uid"));
    world.edit(key, &Writer::controller(BINDER), |claim| set(claim, "/spec/volumeName", volume));
    world.edit(key, &Writer::status(BINDER), |claim| {
        let request = claim["spec"]["resources"]["requests"].clone();
        let source = claim.clone();
        set(claim, "/status", json!({"phase": "Bound", "capacity": request}));
        copy(claim, &json!({"status": {"accessModes": source["spec"]["accessModes"]}}), "/status/accessModes");
    });
}

/// Claims are looked at often: the same is told once only.
fn tell_once(world: &mut World, key: &Key, kind: &str, reason: &str, message: &str) {
    let stage = format!("{reason} {message}");
    let uid = world.get(key).map(|claim| text(claim, "/metadata/uid").to_owned()).unwrap_or_default();
    if world.conducts.stages.insert(uid, stage.clone()).as_ref() != Some(&stage) {
        world.tell(key, BINDER, kind, reason, message);
    }
}
