//! What of an object cannot be changed once it is there.

use serde_json::Value;

use crate::{
    json::{has, list_mut, object, remove, text},
    kinds::Kind,
    quantity::Quantity,
    refusal::Cause,
};

const FIXED: &str = "field is immutable";
const STATEFUL_SET: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
    'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const POD: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const CLAIM: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
    claims";

const SMALLER: &str = "field can not be less than status.capacity";

/// What is wrong with a change.
pub(crate) fn check(kind: &Kind, old: &Value, new: &Value) -> Option<Cause> {
    let differs = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    match kind.resource {
        "statefulsets" => {
            let free = [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
            ];
            (without(&old["spec"], &free) != without(&new["spec"], &free))
                .then(|| Cause::forbidden("spec", STATEFUL_SET))
        }
        "pods" => (fixed_of_pod(old) != fixed_of_pod(new)).then(|| Cause::forbidden("spec", POD)),
        "persistentvolumeclaims" => {
            let fixed = |claim: &Value| {
                let mut spec = claim["spec"].clone();
                remove(&mut spec, "/resources/requests");
                // Filled in later, by the controller.
                for late in ["volumeName", "storageClassName"] {
                    if !has(old, &format!("/spec/{late}")) {
                        object(&mut spec).remove(late);
                    }
                }
                spec
            };
            let amount = |claim: &Value, pointer: &str| Quantity::parse(text(claim, pointer));
            let (asked, has) = ("/spec/resources/requests/storage", "/status/capacity/storage");
            if amount(new, asked) < amount(old, asked) && amount(new, asked) < amount(old, has) {
                return Some(Cause::forbidden("spec.resources.requests.storage", SMALLER));
            }
            (fixed(old) != fixed(new)).then(|| Cause::forbidden("spec", CLAIM))
        }
        "jobs" => {
            let part =
                ["/spec/template", "/spec/selector", "/spec/completionMode"].into_iter().find(|part| differs(part));
            part.map(|part| invalid(part, new))
        }
        "rolebindings" => {
            differs("/roleRef").then(|| Cause::invalid("roleRef", &new["roleRef"], "cannot change roleRef"))
        }
        "secrets" if differs("/type") => Some(invalid("/type", new)),
        "secrets" | "configmaps" if old["immutable"] == true => {
            let changed = ["/data", "/binaryData", "/immutable"].into_iter().find(|part| differs(part))?;
            Some(Cause::forbidden(&changed[1..], "field is immutable when `immutable` is set"))
        }
        "services" => {
            let was = text(old, "/spec/clusterIP");
            (!was.is_empty() && differs("/spec/clusterIP")).then(|| invalid("/spec/clusterIP", new))
        }
        "storageclasses" => {
            let parts = ["/provisioner", "/parameters", "/reclaimPolicy", "/volumeBindingMode"];
            parts.into_iter().find(|part| differs(part)).map(|part| Cause::forbidden(&part[1..], FIXED))
        }
        _ => None,
    }
}

fn invalid(pointer: &str, new: &Value) -> Cause {
    let value = new.pointer(pointer).unwrap_or(&Value::Null);
    Cause::invalid(pointer[1..].replace('/', "."), value, FIXED)
}

fn without(spec: &Value, free: &[&str]) -> Value {
    let mut spec = spec.clone();
    object(&mut spec).retain(|name, _| !free.contains(&name.as_str()));
    spec
}

fn fixed_of_pod(pod: &Value) -> Value {
    let free = ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"];
    let mut spec = without(&pod["spec"], &free);
    for containers in ["/containers", "/initContainers"] {
        for container in list_mut(&mut spec, containers).into_iter().flatten() {
            object(container).remove("image");
        }
    }
    spec
}
