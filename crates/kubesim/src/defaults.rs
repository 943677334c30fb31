//! What the server fills in.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    json::{default, entries, has, list, list_mut, map, remove, set, text},
    kinds::Kind,
    quantity::Quantity,
};

/// Fills in what a client may leave out.
pub(crate) fn fill(kind: &Kind, object: &mut Value) {
    quantities(kind, object);
    match kind.resource {
        "namespaces" => {
            default(object, "/spec/finalizers", json!(["kubernetes"]));
            default(object, "/status/phase", "Active");
            let name = text(object, "/metadata/name").to_owned();
            map(object, "/metadata/labels").insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
        "pods" => {
            pod_spec(map_value(object, "spec"));
            for (pointer, value) in [
                ("/spec/serviceAccountName", json!("default")),
                ("/spec/priority", json!(0)),
                ("/spec/preemptionPolicy", json!("PreemptLowerPriority")),
                ("/status/phase", json!("Pending")),
            ] {
                default(object, pointer, value);
            }
            let account = object["spec"]["serviceAccountName"].clone();
            default(object, "/spec/serviceAccount", account);
            complete(object);
        }
        "secrets" => {
            default(object, "/type", "Opaque");
            if let Some(Value::Object(plain)) = remove(object, "/stringData") {
                let data = map(object, "/data");
                for (name, value) in plain {
                    let sealed = BASE64_STANDARD.encode(value.as_str().unwrap_or_default());
                    data.insert(name, sealed.into());
                }
            }
        }
        "services" => service(object),
        "persistentvolumeclaims" => {
            default(object, "/spec/volumeMode", "Filesystem");
            default(object, "/status/phase", "Pending");
        }
        "networkpolicies" => {
            let types = if has(object, "/spec/egress") { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            default(object, "/spec/policyTypes", types);
            default(object, "/spec/podSelector", json!({}));
            for direction in ["/spec/ingress", "/spec/egress"] {
                for rule in list_mut(object, direction).into_iter().flatten() {
                    for port in list_mut(rule, "/ports").into_iter().flatten() {
                        default(port, "/protocol", "TCP");
                    }
                }
            }
        }
        "statefulsets" => stateful_set(object),
        "jobs" => job(object),
        "rolebindings" => {
            default(object, "/roleRef/apiGroup", "rbac.authorization.k8s.io");
            for subject in list_mut(object, "/subjects").into_iter().flatten() {
                if subject["kind"] != "ServiceAccount" {
                    default(subject, "/apiGroup", "rbac.authorization.k8s.io");
                }
            }
        }
        "storageclasses" => {
            default(object, "/reclaimPolicy", "Delete");
            default(object, "/volumeBindingMode", "Immediate");
        }
        "poddisruptionbudgets" => default(object, "/status", json!({})),
        "sandboxes" => {
            default(object, "/spec/operatingMode", "Running");
            default(object, "/spec/shutdownPolicy", "Retain");
        }
        _ => {}
    }
}

fn map_value<'v>(object: &'v mut Value, name: &str) -> &'v mut Value {
    let map = crate::json::object(object);
    map.entry(name).or_insert_with(|| json!({}))
}

/// The same for the spec of a pod, or of a template of one.
fn pod_spec(spec: &mut Value) {
    for (pointer, value) in [
        ("/restartPolicy", json!("Always")),
        ("/dnsPolicy", json!("ClusterFirst")),
        ("/schedulerName", json!("default-scheduler")),
        ("/terminationGracePeriodSeconds", json!(30)),
        ("/securityContext", json!({})),
        ("/enableServiceLinks", json!(true)),
    ] {
        default(spec, pointer, value);
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default(spec, "/serviceAccount", account);
    }
    for containers in ["/containers", "/initContainers"] {
        list_mut(spec, containers).into_iter().flatten().for_each(container);
    }
    for volume in list_mut(spec, "/volumes").into_iter().flatten() {
        for source in ["secret", "configMap", "projected", "downwardAPI"] {
            if has(volume, &format!("/{source}")) {
                default(volume, &format!("/{source}/defaultMode"), 420);
            }
        }
    }
}

fn container(container: &mut Value) {
    let image = text(container, "/image");
    let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
    let pull = if image.contains('@') || tag.is_some_and(|tag| tag != "latest") { "IfNotPresent" } else { "Always" };
    for (pointer, value) in [
        ("/imagePullPolicy", json!(pull)),
        ("/resources", json!({})),
        ("/terminationMessagePath", json!("/dev/termination-log")),
        ("/terminationMessagePolicy", json!("File")),
    ] {
        default(container, pointer, value);
    }
    for port in list_mut(container, "/ports").into_iter().flatten() {
        default(port, "/protocol", "TCP");
    }
    for variable in list_mut(container, "/env").into_iter().flatten() {
        if has(variable, "/valueFrom/fieldRef") {
            default(variable, "/valueFrom/fieldRef/apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe) else { continue };
        for (pointer, value) in
            [("/timeoutSeconds", 1), ("/periodSeconds", 10), ("/successThreshold", 1), ("/failureThreshold", 3)]
        {
            default(probe, pointer, value);
        }
        if has(probe, "/httpGet") {
            default(probe, "/httpGet/scheme", "HTTP");
            default(probe, "/httpGet/path", "/");
        }
    }
}

/// What a container may use at most is what it asks for, where it does not say; and the pod's class follows.
pub(crate) fn complete(pod: &mut Value) {
    for container in list_mut(pod, "/spec/containers").into_iter().flatten() {
        let limits: Vec<_> =
            entries(container, "/resources/limits").map(|(name, value)| (name.clone(), value.clone())).collect();
        for (name, value) in limits {
            map(container, "/resources/requests").entry(name).or_insert(value);
        }
    }
    set(pod, "/status/qosClass", qos(pod));
}

fn qos(pod: &Value) -> &'static str {
    let containers = list(pod, "/spec/containers");
    let of = |container: &Value, what: &str, name: &str| container["resources"][what][name].clone();
    let is_guaranteed = |container: &Value| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = of(container, "limits", name);
            !limit.is_null() && limit == of(container, "requests", name)
        })
    };
    let asks = |container: &Value| {
        entries(container, "/resources/requests").count() + entries(container, "/resources/limits").count() > 0
    };
    if !containers.is_empty() && containers.iter().all(is_guaranteed) {
        "Guaranteed"
    } else if containers.iter().any(asks) {
        "Burstable"
    } else {
        "BestEffort"
    }
}

fn service(object: &mut Value) {
    for (pointer, value) in [
        ("/spec/type", json!("ClusterIP")),
        ("/spec/sessionAffinity", json!("None")),
        ("/spec/internalTrafficPolicy", json!("Cluster")),
        ("/spec/ipFamilies", json!(["IPv4"])),
        ("/spec/ipFamilyPolicy", json!("SingleStack")),
        ("/status/loadBalancer", json!({})),
    ] {
        default(object, pointer, value);
    }
    for port in list_mut(object, "/spec/ports").into_iter().flatten() {
        default(port, "/protocol", "TCP");
        let number = port["port"].clone();
        default(port, "/targetPort", number);
    }
}

fn stateful_set(object: &mut Value) {
    for (pointer, value) in [
        ("/spec/replicas", json!(1)),
        ("/spec/podManagementPolicy", json!("OrderedReady")),
        ("/spec/revisionHistoryLimit", json!(10)),
        ("/spec/updateStrategy/type", json!("RollingUpdate")),
        ("/spec/persistentVolumeClaimRetentionPolicy/whenDeleted", json!("Retain")),
        ("/spec/persistentVolumeClaimRetentionPolicy/whenScaled", json!("Retain")),
        ("/status/replicas", json!(0)),
    ] {
        default(object, pointer, value);
    }
    if object["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
        default(object, "/spec/updateStrategy/rollingUpdate/partition", 0);
    }
    pod_spec(map_value(map_value(map_value(object, "spec"), "template"), "spec"));
    for claim in list_mut(object, "/spec/volumeClaimTemplates").into_iter().flatten() {
        for (pointer, value) in [
            ("/apiVersion", "v1"),
            ("/kind", "PersistentVolumeClaim"),
            ("/spec/volumeMode", "Filesystem"),
            ("/status/phase", "Pending"),
        ] {
            default(claim, pointer, value);
        }
    }
}

fn job(object: &mut Value) {
    for (pointer, value) in [
        ("/spec/parallelism", json!(1)),
        ("/spec/completions", json!(1)),
        ("/spec/backoffLimit", json!(6)),
        ("/spec/completionMode", json!("NonIndexed")),
        ("/spec/suspend", json!(false)),
        ("/spec/manualSelector", json!(false)),
        ("/spec/podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        default(object, pointer, value);
    }
    let (name, uid) = (text(object, "/metadata/name").to_owned(), text(object, "/metadata/uid").to_owned());
    if object["spec"]["manualSelector"] != true && !uid.is_empty() {
        default(object, "/spec/selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
        let labels = map(object, "/spec/template/metadata/labels");
        for prefix in ["", "batch.kubernetes.io/"] {
            labels.entry(format!("{prefix}controller-uid")).or_insert_with(|| uid.clone().into());
            labels.entry(format!("{prefix}job-name")).or_insert_with(|| name.clone().into());
        }
    }
    pod_spec(map_value(map_value(map_value(object, "spec"), "template"), "spec"));
}

/// Writes every quantity of an object as the server does. Objects of a custom resource are left as they are.
pub(crate) fn quantities(kind: &Kind, object: &mut Value) {
    if kind.custom {
        return;
    }
    if kind.resource == "limitranges" {
        for limit in list_mut(object, "/spec/limits").into_iter().flatten() {
            for name in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                limit.get_mut(name).into_iter().for_each(amounts);
            }
        }
    }
    for part in ["spec", "status"] {
        object.get_mut(part).into_iter().for_each(below);
    }
}

fn below(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match name.as_str() {
                    "limits" | "requests" | "hard" | "used" | "capacity" if value.is_object() => amounts(value),
                    "sizeLimit" => amount(value),
                    "matchLabels" | "labels" | "annotations" => {}
                    _ => below(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(below),
        _ => {}
    }
}

fn amounts(map: &mut Value) {
    map.as_object_mut().into_iter().flat_map(|map| map.values_mut()).for_each(amount);
}

fn amount(value: &mut Value) {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    // What is no quantity is left for validation.
    if let Some(quantity) = Quantity::parse(&text) {
        *value = quantity.canonical().into();
    }
}

/// The claim of a template, as controllers make it.
pub(crate) fn claim_of(template: &Value, name: &str) -> Value {
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": template["spec"],
    });
    for part in ["labels", "annotations"] {
        if has(template, &format!("/metadata/{part}")) {
            set(&mut claim, &format!("/metadata/{part}"), template["metadata"][part].clone());
        }
    }
    claim
}
