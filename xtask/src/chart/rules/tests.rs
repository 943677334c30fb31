//! Each rule finds what it is there for, and nothing else.

use serde_json::json;

use super::*;

const SECRET: &str = "a password that is long enough";
/// The same in base64.
const ENCODED: &str = "YSBwYXNzd29yZCB0aGF0IGlzIGxvbmcgZW5vdWdo";

/// Objects that are in order.
fn good() -> Vec<Value> {
    let labels = json!({COMPONENT: "office"});
    let probe = json!({"httpGet": {"path": "/healthz", "port": "metrics"}});
    let container = json!({
        "name": "mi",
        "ports": [{"name": "api", "containerPort": 7411}],
        "startupProbe": probe, "livenessProbe": probe, "readinessProbe": probe,
        "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": [{"name": "MI_DATABASE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "url"}}}],
        "volumeMounts": [{"name": "keys", "mountPath": "/keys"}],
    });
    let spec = json!({
        "serviceAccountName": "office", "automountServiceAccountToken": false, "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 45,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
    });
    vec![
        json!({"kind": "ServiceAccount", "metadata": {"name": "office"}}),
        json!({"kind": "Secret", "metadata": {"name": "keys"}, "data": {"url": ENCODED, "tls.crt": "YQ=="}}),
        json!({"kind": "ConfigMap", "metadata": {"name": "runtime"}, "data": {"runtime.toml": "x = 1"}}),
        json!({"kind": "Deployment", "metadata": {"name": "office", "labels": labels}, "spec": {
            "strategy": {"rollingUpdate": {"maxUnavailable": 0}},
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec},
        }}),
        json!({"kind": "Service", "metadata": {"name": "office"}, "spec": {"selector": labels}}),
        json!({"kind": "ClusterRole", "metadata": {"name": "office"}, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": ["x"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["office"]},
        ]}),
        json!({"kind": "NetworkPolicy", "metadata": {"name": "office"}, "spec": {
            "podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}}]}],
        }}),
        json!({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "office"},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "office"}}}),
    ]
}

/// What is found when a place of an object of this kind is something else.
fn broken(kind: &str, pointer: &str, value: Value) -> Vec<String> {
    let mut objects = good();
    let object = objects.iter_mut().find(|object| object["kind"] == kind).expect("there");
    let (parent, field) = pointer.rsplit_once('/').expect("a place");
    let place = object.pointer_mut(parent).expect("a place");
    match place.as_array_mut() {
        Some(parts) => parts[field.parse::<usize>().expect("a number")] = value,
        None => place[field] = value,
    }
    faults(&objects, "")
}

#[test]
fn what_is_in_order_is_not_found_fault_with() {
    assert_eq!(faults(&good(), ""), [""; 0]);
}

#[test]
fn each_thing_that_is_wrong_with_a_pod_is_found() {
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    let null = Value::Null;
    let cases = [
        (pod, "automountServiceAccountToken", json!(true), "has a token, or should have one and has none"),
        (pod, "automountServiceAccountToken", null.clone(), "has a token, or should have one and has none"),
        (pod, "enableServiceLinks", null.clone(), "gets variables of services"),
        (pod, "serviceAccountName", null.clone(), "has no account of its own"),
        (pod, "hostNetwork", json!(true), "shares namespaces of the node"),
        (pod, "securityContext/runAsNonRoot", json!(false), "may run as root"),
        (pod, "securityContext/runAsUser", json!(0), "has no user"),
        (pod, "securityContext/seccompProfile/type", json!("Unconfined"), "has no seccomp profile"),
        (pod, "volumes/0", json!({"name": "keys", "hostPath": {"path": "/"}}), "has a volume of the node"),
        (pod, "volumes/0", json!({"name": "other", "emptyDir": {}}), "mounts keys, which is no volume"),
        (pod, "volumes/0/secret/secretName", json!("other"), "there is no Secret other"),
        (pod, "serviceAccountName", json!("other"), "there is no ServiceAccount other"),
        (pod, "terminationGracePeriodSeconds", json!(24), "is killed before it has ended"),
        (container, "securityContext/allowPrivilegeEscalation", null.clone(), "may gain privileges"),
        (container, "securityContext/readOnlyRootFilesystem", json!(false), "may write to its image"),
        (container, "securityContext/runAsNonRoot", null.clone(), "may run as root"),
        (container, "securityContext/capabilities", json!({"drop": ["ALL"], "add": ["X"]}), "has capabilities"),
        (container, "securityContext/privileged", json!(true), "is privileged"),
        (container, "ports/0/hostPort", json!(80), "has a port of the node"),
        (container, "resources/requests", json!({"memory": "1Gi"}), "requests no cpu"),
        (container, "resources/limits", json!({}), "limits no memory"),
        (container, "startupProbe", null.clone(), "has no startupProbe"),
        (container, "livenessProbe", null.clone(), "has no livenessProbe"),
        (container, "readinessProbe", null.clone(), "has no readinessProbe"),
        (container, "lifecycle", null, "is killed before it has ended"),
        (container, "env/0/valueFrom/secretKeyRef/name", json!("other"), "there is no Secret other"),
    ];
    for (part, place, value, fault) in cases {
        let found = broken("Deployment", &format!("{part}/{place}"), value);
        assert_eq!(found, [format!("Deployment office: {fault}")], "{place}");
    }
    let found = broken("Deployment", "/spec/strategy", json!({}));
    assert_eq!(found, ["Deployment office: has fewer pods while it is updated"]);
}

#[test]
fn what_values_name_is_not_missed() {
    let mut objects = good();
    objects.retain(|object| object["kind"] != "Secret");
    assert_eq!(faults(&objects, "").len(), 2, "a volume and a variable");
    assert_eq!(faults(&objects, "existingSecret: keys"), [""; 0]);
}

#[test]
fn a_secret_is_nowhere_else() {
    let found = broken("ConfigMap", "/data/runtime.toml", json!(format!("url = \"{SECRET}\"")));
    assert_eq!(found, ["ConfigMap runtime: holds what is in Secret keys url"]);
    let found = broken("Deployment", "/spec/template/spec/containers/0/args", json!([format!("--database={SECRET}")]));
    assert_eq!(found, ["Deployment office: holds what is in Secret keys url"]);
    let found = broken("ConfigMap", "/data/key", json!("-----BEGIN RSA PRIVATE KEY-----"));
    assert_eq!(found, ["ConfigMap runtime: holds a private key"]);
    assert_eq!(broken("Secret", "/data/url", json!("YQ==")), ["Secret keys: url is no secret"]);
}

#[test]
fn a_right_too_many_is_found() {
    let cases = [
        ("/rules/0/verbs", json!(["*"]), "a right to everything"),
        ("/rules/0/verbs", json!(["create", "list"]), "reads secrets"),
        ("/rules/1/resourceNames", json!([]), "may give itself any role"),
        ("/rules/0/verbs", json!(["escalate"]), "may become anybody"),
    ];
    for (place, value, fault) in cases {
        assert_eq!(broken("ClusterRole", place, value), [format!("ClusterRole office: {fault}")]);
    }
}

#[test]
fn names_are_names_and_there_once() {
    let long = "a".repeat(64);
    assert_eq!(broken("ConfigMap", "/metadata/name", json!(long)), [format!("ConfigMap {long}: is no name")]);
    assert_eq!(broken("ConfigMap", "/metadata/name", json!("My")), ["ConfigMap My: is no name"]);
    let found = broken("ConfigMap", "/metadata/labels", json!({"x": true}));
    assert_eq!(found, ["ConfigMap runtime: the label x is no text of at most 63 letters"]);
    let mut objects = good();
    objects.push(objects[0].clone());
    assert_eq!(faults(&objects, ""), ["ServiceAccount office is there twice"]);
}

#[test]
fn a_pod_is_reached_by_whom_policies_name() {
    let found = broken("NetworkPolicy", "/spec/ingress", json!([{"ports": [{"port": 1}]}]));
    assert_eq!(found, ["Deployment office: everybody may call it"]);
    let found = broken("NetworkPolicy", "/spec/policyTypes", json!(["Ingress"]));
    assert_eq!(found, ["Deployment office: no policy for Egress"]);
    let found = broken("NetworkPolicy", "/spec/podSelector", json!({"matchLabels": {"a": "b"}}));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_selects_finds_something() {
    assert_eq!(broken("Service", "/spec/selector", json!({COMPONENT: "other"})), ["Service office: selects no pod"]);
    let target = json!({"kind": "Deployment", "name": "other"});
    let found = broken("HorizontalPodAutoscaler", "/spec/scaleTargetRef", target);
    assert_eq!(found, ["HorizontalPodAutoscaler office: scales nothing"]);
    let found = broken("Deployment", "/spec/replicas", json!(2));
    assert_eq!(found, ["HorizontalPodAutoscaler office: its target has a number of its own"]);
}

#[test]
fn a_schema_refuses_what_it_does_not_know() {
    let closed =
        json!({"properties": {"a": {"properties": {}, "additionalProperties": false}}, "additionalProperties": false});
    assert_eq!(open_schemas(&closed), [""; 0]);
    let open = json!({"properties": {"a": {"properties": {}}}, "additionalProperties": false});
    assert_eq!(open_schemas(&open), ["/properties/a"]);
}

#[test]
fn a_dashboard_shows_what_there_is() {
    let source = r#"histogram_opts!("mi_calls_seconds", "...")"#;
    assert_eq!(unknown_metrics("sum(rate(mi_calls_seconds_bucket[5m]))", source), [""; 0]);
    let found = unknown_metrics("mi_gone", source);
    assert_eq!(found, ["files/dashboard.json: there is no metric mi_gone"]);
}
