//! The Pod Security standard `restricted`, as the labels of a namespace enforce it.

use serde_json::Value;

use crate::{
    json::{has, list, text},
    kinds::Kind,
    refusal::Refusal,
    store::World,
};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const VERSION: &str = "pod-security.kubernetes.io/enforce-version";
/// Sources of volumes that a restricted pod may have.
const VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// Refuses a pod that its namespace does not want.
pub(crate) fn check(world: &World, kind: &Kind, pod: &Value) -> Result<(), Refusal> {
    let Some(namespace) = world.find("namespaces", "", text(pod, "/metadata/namespace")) else { return Ok(()) };
    let labels = &namespace["metadata"]["labels"];
    let level = labels[ENFORCE].as_str().unwrap_or("privileged");
    let mut faults = Vec::new();
    if level != "privileged" {
        baseline(pod, &mut faults);
    }
    if level == "restricted" {
        restricted(pod, &mut faults);
    }
    if faults.is_empty() {
        return Ok(());
    }
    let version = labels[VERSION].as_str().unwrap_or("latest");
    let why = format!("violates PodSecurity \"{level}:{version}\": {}", faults.join(", "));
    Err(Refusal::forbidden(kind, text(pod, "/metadata/name"), &why))
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/spec/initContainers", "/spec/containers"].into_iter().flat_map(|part| list(pod, part))
}

/// The containers for which something holds, as messages name them.
fn those(pod: &Value, holds: impl Fn(&Value) -> bool) -> Option<String> {
    let names: Vec<String> =
        containers(pod).filter(|found| holds(found)).map(|found| format!("{:?}", text(found, "/name"))).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("container {one}")),
        several => Some(format!("containers {}", several.join(", "))),
    }
}

fn baseline(pod: &Value, faults: &mut Vec<String>) {
    let spec = &pod["spec"];
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| spec[field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if !host.is_empty() {
        faults.push(format!("host namespaces ({})", host.join(", ")));
    }
    if let Some(who) = those(pod, |container| container["securityContext"]["privileged"] == true) {
        faults.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    if list(pod, "/spec/volumes").iter().any(|volume| has(volume, "/hostPath")) {
        faults.push("hostPath volumes".to_owned());
    }
}

fn restricted(pod: &Value, faults: &mut Vec<String>) {
    let security = |container: &Value| container["securityContext"].clone();
    if let Some(who) = those(pod, |container| security(container)["allowPrivilegeEscalation"] != false) {
        faults.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let drops_all = |container: &Value| {
        list(container, "/securityContext/capabilities/drop").iter().any(|capability| capability == "ALL")
    };
    if let Some(who) = those(pod, |container| !drops_all(container)) {
        faults.push(format!("unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"));
    }
    let is_wrong = |volume: &&Value| !VOLUMES.iter().any(|source| has(volume, &format!("/{source}")));
    if let Some(volume) = list(pod, "/spec/volumes").iter().find(|volume| is_wrong(volume)) {
        faults.push(format!(
            "restricted volume types (volume {:?} uses a restricted volume type)",
            text(volume, "/name")
        ));
    }
    let whole = pod["spec"]["securityContext"].clone();
    let of = |container: &Value, field: &str| match &container["securityContext"][field] {
        Value::Null => whole[field].clone(),
        own => own.clone(),
    };
    if let Some(who) = those(pod, |container| of(container, "runAsNonRoot") != true) {
        faults.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    if those(pod, |container| of(container, "runAsUser") == 0).is_some() {
        faults.push("runAsUser=0 (pod must not set runAsUser=0)".to_owned());
    }
    let profile = |container: &Value| of(container, "seccompProfile")["type"].clone();
    let is_right = |profile: Value| profile == "RuntimeDefault" || profile == "Localhost";
    if let Some(who) = those(pod, |container| !is_right(profile(container))) {
        faults.push(format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ));
    }
}
