//! What has to hold of every rendering of the chart, whatever the values.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{list, texts};

/// Kinds that run pods by a template.
const WORKLOADS: [&str; 3] = ["Deployment", "StatefulSet", "Job"];
/// The one component that speaks with the API server.
const SCHEDULER: &str = "scheduler";
/// The one component that is reached from anywhere.
const GATEWAY: &str = "gateway";
const COMPONENT: &str = "app.kubernetes.io/component";
/// Of names that become labels or names of hosts, and of values of labels.
const MOST_LETTERS: usize = 63;
/// How long a role takes to end, in seconds: `SHUTDOWN` in crates/server.
const SHUTDOWN: u64 = 15;
/// A shorter secret is a word that may stand anywhere.
const SECRET_LETTERS: usize = 16;
/// Fields of secrets that are none.
const PUBLIC: [&str; 2] = ["ca.crt", "tls.crt"];
const VOLUMES: [&str; 5] = ["configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"];
const READS: [&str; 3] = ["get", "list", "watch"];

/// Everything that is wrong with these objects; `given` is the text of the values that they come of.
pub(super) fn faults(objects: &[Value], given: &str) -> Vec<String> {
    let mut faults = Vec::new();
    names(objects, &mut faults);
    secrets(objects, &mut faults);
    rights(objects, &mut faults);
    for workload in of_kinds(objects, &WORKLOADS) {
        let mut found = Vec::new();
        pod(workload, &mut found);
        references(workload, objects, given, &mut found);
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", title(workload))));
    }
    policies(objects, &mut faults);
    selectors(objects, &mut faults);
    faults
}

/// Where a schema of values takes keys that it does not know.
pub(super) fn open_schemas(schema: &Value) -> Vec<String> {
    fn walk(schema: &Value, path: &str, found: &mut Vec<String>) {
        if schema.get("properties").is_some() && schema["additionalProperties"] != Value::Bool(false) {
            found.push(if path.is_empty() { "the whole".to_owned() } else { path.to_owned() });
        }
        match schema {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, part)| walk(part, &format!("{path}/{name}"), found))
            }
            Value::Array(parts) => parts.iter().for_each(|part| walk(part, path, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(schema, "", &mut found);
    found
}

/// Metrics that a dashboard shows and the platform does not have.
pub(super) fn unknown_metrics(dashboard: &str, source: &str) -> Vec<String> {
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        words.filter(|word| word.starts_with("mi_")).map(str::to_owned).collect()
    };
    let known = words(source);
    let shown = words(dashboard).into_iter();
    let plain =
        |name: &str| ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end).map(str::to_owned));
    shown
        .filter(|name| !known.contains(name) && !plain(name).is_some_and(|name| known.contains(&name)))
        .map(|name| format!("files/dashboard.json: there is no metric {name}"))
        .collect()
}

/// Each object is there once, and is called what it may be called.
fn names(objects: &[Value], faults: &mut Vec<String>) {
    let mut known = BTreeSet::new();
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if !known.insert((object["kind"].to_string(), name)) {
            faults.push(format!("{} is there twice", title(object)));
        }
        if name.len() > MOST_LETTERS || !is_name(name) {
            faults.push(format!("{}: is no name", title(object)));
        }
        let labels = [&object["metadata"]["labels"], &object["spec"]["template"]["metadata"]["labels"]];
        for (label, value) in labels.iter().flat_map(|labels| labels.as_object().into_iter().flatten()) {
            if value.as_str().is_none_or(|value| value.len() > MOST_LETTERS) {
                faults
                    .push(format!("{}: the label {label} is no text of at most {MOST_LETTERS} letters", title(object)));
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|byte| inner(*byte)) && bytes.last().is_some_and(|byte| inner(*byte));
    ends && bytes.iter().all(|byte| inner(*byte) || *byte == b'-' || *byte == b'.')
}

/// What is in a Secret is nowhere else.
fn secrets(objects: &[Value], faults: &mut Vec<String>) {
    let mut known: Vec<(String, String)> = Vec::new();
    for secret in of_kinds(objects, &["Secret"]) {
        let fields = secret["data"].as_object().into_iter().flatten();
        for (field, value) in fields.filter(|(field, _)| !PUBLIC.contains(&field.as_str())) {
            let value = decoded(value.as_str().unwrap_or_default());
            if value.len() < SECRET_LETTERS {
                faults.push(format!("{}: {field} is no secret", title(secret)));
            } else {
                known.push((format!("{} {field}", title(secret)), value));
            }
        }
    }
    for object in objects.iter().filter(|object| object["kind"] != "Secret") {
        let mut text = String::new();
        flatten(object, &mut text);
        if text.contains("PRIVATE KEY") {
            faults.push(format!("{}: holds a private key", title(object)));
        }
        let told = known.iter().filter(|(_, value)| text.contains(value.as_str()));
        faults.extend(told.map(|(name, _)| format!("{}: holds what is in {name}", title(object))));
    }
}

/// All texts within, as they are.
fn flatten(value: &Value, into: &mut String) {
    match value {
        Value::String(text) => {
            into.push_str(text);
            into.push('\n');
        }
        Value::Array(parts) => parts.iter().for_each(|part| flatten(part, into)),
        Value::Object(parts) => parts.values().for_each(|part| flatten(part, into)),
        _ => {}
    }
}

/// The text of base64; empty for what is none.
fn decoded(text: &str) -> String {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.bytes().filter_map(digit) {
        bits = (bits << 6 | u32::from(digit)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.extend(u8::try_from(bits >> count & 0xff));
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Nobody may do everything, and nobody may read secrets.
fn rights(objects: &[Value], faults: &mut Vec<String>) {
    for role in of_kinds(objects, &["ClusterRole", "Role"]) {
        for rule in list(&role["rules"]) {
            let has = |field: &str, word: &str| texts(&rule[field]).any(|found| found == word);
            if ["apiGroups", "resources", "verbs"].iter().any(|field| has(field, "*")) {
                faults.push(format!("{}: a right to everything", title(role)));
            }
            if has("resources", "secrets") && READS.iter().any(|verb| has("verbs", verb)) {
                faults.push(format!("{}: reads secrets", title(role)));
            }
            if has("verbs", "bind") && list(&rule["resourceNames"]).is_empty() {
                faults.push(format!("{}: may give itself any role", title(role)));
            }
            if has("verbs", "escalate") || has("verbs", "impersonate") {
                faults.push(format!("{}: may become anybody", title(role)));
            }
        }
    }
}

/// A pod is held to the restricted level of the Pod Security standards and more, is probed, and has bounds.
fn pod(workload: &Value, faults: &mut Vec<String>) {
    let spec = &workload["spec"]["template"]["spec"];
    let mut must = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    let component = &workload["metadata"]["labels"][COMPONENT];
    must(
        spec["automountServiceAccountToken"] == (component == SCHEDULER),
        "has a token, or should have one and has none",
    );
    must(spec["enableServiceLinks"] == false, "gets variables of services");
    must(spec["serviceAccountName"].is_string(), "has no account of its own");
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        must(spec.get(host).is_none_or(|value| value == false), "shares namespaces of the node");
    }
    let security = &spec["securityContext"];
    must(security["runAsNonRoot"] == true, "may run as root");
    must(security["runAsUser"].as_u64().is_some_and(|user| user > 0), "has no user");
    must(security["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile");
    for volume in list(&spec["volumes"]) {
        let kinds =
            volume.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).filter(|kind| *kind != "name");
        must(kinds.into_iter().all(|kind| VOLUMES.contains(&kind)), "has a volume of the node");
    }
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap_or_default();
    for container in list(&spec["containers"]).iter().chain(list(&spec["initContainers"])) {
        let security = &container["securityContext"];
        must(security["allowPrivilegeEscalation"] == false, "may gain privileges");
        must(security["readOnlyRootFilesystem"] == true, "may write to its image");
        must(security["runAsNonRoot"] == true, "may run as root");
        must(security["capabilities"] == serde_json::json!({"drop": ["ALL"]}), "has capabilities");
        must(security.get("privileged").is_none_or(|value| value == false), "is privileged");
        must(list(&container["ports"]).iter().all(|port| port.get("hostPort").is_none()), "has a port of the node");
        for (kind, amount) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
            must(container["resources"][kind].get(amount).is_some(), &format!("{kind} no {amount}"));
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            must(container[probe].is_object(), &format!("has no {probe}"));
        }
        if workload["kind"] == "Deployment" {
            let drain = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
            must(drain.is_some_and(|drain| grace >= drain + SHUTDOWN), "is killed before it has ended");
        }
    }
    if workload["kind"] == "Deployment" {
        must(
            workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0,
            "has fewer pods while it is updated",
        );
    }
}

/// What a pod names is among the objects, or in the values.
fn references(workload: &Value, objects: &[Value], given: &str, faults: &mut Vec<String>) {
    let spec = &workload["spec"]["template"]["spec"];
    let mut named: Vec<(&str, &Value)> = vec![("ServiceAccount", &spec["serviceAccountName"])];
    for volume in list(&spec["volumes"]) {
        named.push(("Secret", &volume["secret"]["secretName"]));
        named.push(("ConfigMap", &volume["configMap"]["name"]));
        named.push(("PersistentVolumeClaim", &volume["persistentVolumeClaim"]["claimName"]));
    }
    for container in list(&spec["containers"]) {
        named.extend(
            list(&container["env"]).iter().map(|found| ("Secret", &found["valueFrom"]["secretKeyRef"]["name"])),
        );
        named.extend(list(&container["envFrom"]).iter().map(|found| ("Secret", &found["secretRef"]["name"])));
        let volumes = list(&spec["volumes"]).iter().chain(list(&workload["spec"]["volumeClaimTemplates"]));
        let known: BTreeSet<&str> = volumes
            .filter_map(|volume| volume["name"].as_str().or_else(|| volume["metadata"]["name"].as_str()))
            .collect();
        let mounts = list(&container["volumeMounts"]).iter().filter_map(|mount| mount["name"].as_str());
        faults.extend(
            mounts.filter(|name| !known.contains(name)).map(|name| format!("mounts {name}, which is no volume")),
        );
    }
    for (kind, name) in named.into_iter().filter_map(|(kind, name)| Some((kind, name.as_str()?))) {
        let made = objects.iter().any(|object| {
            let certificate =
                object["kind"] == "Certificate" && kind == "Secret" && object["spec"]["secretName"] == name;
            certificate || (object["kind"] == kind && object["metadata"]["name"] == name)
        });
        // Certificates of roles are given by what their names begin with.
        let prefix = name.rsplit_once('-').map_or(name, |(prefix, _)| prefix);
        let told = given.contains(name) || kind == "Secret" && given.contains(prefix);
        if !(made || told) {
            faults.push(format!("there is no {kind} {name}"));
        }
    }
}

/// Where there are policies, each pod has one, and only the gateway is reached by everybody.
fn policies(objects: &[Value], faults: &mut Vec<String>) {
    let policies: Vec<&Value> = of_kinds(objects, &["NetworkPolicy"]).collect();
    if policies.is_empty() {
        return;
    }
    for workload in of_kinds(objects, &WORKLOADS) {
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let own: Vec<&&Value> =
            policies.iter().filter(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"], labels)).collect();
        for direction in ["Ingress", "Egress"] {
            if !own.iter().any(|policy| texts(&policy["spec"]["policyTypes"]).any(|kind| kind == direction)) {
                faults.push(format!("{}: no policy for {direction}", title(workload)));
            }
        }
        let open = own.iter().flat_map(|policy| list(&policy["spec"]["ingress"]));
        let open = open.filter(|rule| list(&rule["from"]).is_empty()).count();
        if open > 0 && labels[COMPONENT] != GATEWAY {
            faults.push(format!("{}: everybody may call it", title(workload)));
        }
    }
}

/// Services, budgets and autoscalers find what they are about.
fn selectors(objects: &[Value], faults: &mut Vec<String>) {
    let pods: Vec<&Value> =
        of_kinds(objects, &WORKLOADS).map(|workload| &workload["spec"]["template"]["metadata"]["labels"]).collect();
    for object in of_kinds(objects, &["Service", "PodDisruptionBudget", "Deployment", "StatefulSet"]) {
        let selector = match object["kind"].as_str() {
            Some("Service") => &object["spec"]["selector"],
            _ => &object["spec"]["selector"]["matchLabels"],
        };
        if !pods.iter().any(|labels| selects(selector, labels)) {
            faults.push(format!("{}: selects no pod", title(object)));
        }
    }
    for scaler in of_kinds(objects, &["HorizontalPodAutoscaler"]) {
        let target = &scaler["spec"]["scaleTargetRef"];
        let found =
            objects.iter().find(|found| found["kind"] == target["kind"] && found["metadata"]["name"] == target["name"]);
        match found {
            None => faults.push(format!("{}: scales nothing", title(scaler))),
            // Each upgrade would set it back.
            Some(found) if found["spec"].get("replicas").is_some() => {
                faults.push(format!("{}: its target has a number of its own", title(scaler)));
            }
            Some(_) => {}
        }
    }
}

/// Whether a selector is about pods with these labels. An empty one is no selector.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted: BTreeMap<&String, &Value> = selector.as_object().into_iter().flatten().collect();
    !wanted.is_empty() && wanted.iter().all(|(label, value)| labels.get(label.as_str()) == Some(value))
}

fn of_kinds<'a>(objects: &'a [Value], kinds: &[&str]) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)))
}

fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}
