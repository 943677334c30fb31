//! What an object has to have, beside its metadata: the mistakes that renderers of objects make.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    json::{entries, has, list, text},
    kinds::Kind,
    names,
    quantity::Quantity,
    refusal::Cause,
    select::selects,
};

/// What is wrong with an object.
pub(crate) fn check(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    match kind.resource {
        "pods" => pod(&object["spec"], "spec", &mut causes),
        "statefulsets" => stateful_set(object, &mut causes),
        "jobs" => {
            let template = &object["spec"]["template"];
            names::labels(template, "/metadata/labels", "spec.template.metadata.labels", &mut causes);
            pod(&template["spec"], "spec.template.spec", &mut causes);
            let restart = &template["spec"]["restartPolicy"];
            if restart == "Always" {
                let field = "spec.template.spec.restartPolicy";
                causes.push(Cause::unsupported(field, restart, &["OnFailure", "Never"]));
            }
        }
        "sandboxes" => {
            if !has(object, "/spec/podTemplate") {
                causes.push(Cause::required("spec.podTemplate", ""));
            } else if !has(object, "/spec/podTemplate/spec") {
                causes.push(Cause::required("spec.podTemplate.spec", ""));
            }
            let mode = &object["spec"]["operatingMode"];
            if mode != "Running" && mode != "Suspended" {
                causes.push(Cause::unsupported("spec.operatingMode", mode, &["Running", "Suspended"]));
            }
        }
        "persistentvolumeclaims" => claim(&object["spec"], "spec", &mut causes),
        "rolebindings" => {
            for part in ["kind", "name"] {
                if text(object, &format!("/roleRef/{part}")).is_empty() {
                    causes.push(Cause::required(format!("roleRef.{part}"), ""));
                }
            }
            for (place, subject) in list(object, "/subjects").iter().enumerate() {
                if subject["kind"] == "ServiceAccount" && text(subject, "/namespace").is_empty() {
                    causes.push(Cause::required(format!("subjects[{place}].namespace"), ""));
                }
            }
        }
        "resourcequotas" => {
            for (name, value) in entries(object, "/spec/hard") {
                quantity(value, &format!("spec.hard[{name}]"), &mut causes);
            }
        }
        "services" if list(object, "/spec/ports").is_empty() && object["spec"]["clusterIP"] != "None" => {
            causes.push(Cause::required("spec.ports", ""));
        }
        "networkpolicies" => {
            for (place, kind) in list(object, "/spec/policyTypes").iter().enumerate() {
                if kind != "Ingress" && kind != "Egress" {
                    let field = format!("spec.policyTypes[{place}]");
                    causes.push(Cause::unsupported(field, kind, &["Egress", "Ingress"]));
                }
            }
        }
        "secrets" => {
            for (name, value) in entries(object, "/data") {
                use base64::Engine;
                let sealed = value.as_str().map(|value| base64::prelude::BASE64_STANDARD.decode(value));
                if !matches!(sealed, Some(Ok(_))) {
                    causes.push(Cause::invalid(format!("data[{name}]"), value, "must be base64"));
                }
            }
        }
        _ => {}
    }
    causes
}

fn stateful_set(object: &Value, causes: &mut Vec<Cause>) {
    let (selector, template) = (&object["spec"]["selector"], &object["spec"]["template"]);
    if !has(object, "/spec/selector") {
        causes.push(Cause::required("spec.selector", ""));
    } else if entries(selector, "/matchLabels").count() == 0 && list(selector, "/matchExpressions").is_empty() {
        let why = "empty selector is invalid for statefulset";
        causes.push(Cause::invalid("spec.selector", selector, why));
    } else if !selects(selector, template) {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &template["metadata"]["labels"], why));
    }
    names::labels(template, "/metadata/labels", "spec.template.metadata.labels", causes);
    if template["spec"]["restartPolicy"] != "Always" {
        let field = "spec.template.spec.restartPolicy";
        causes.push(Cause::unsupported(field, &template["spec"]["restartPolicy"], &["Always"]));
    }
    let policy = &object["spec"]["podManagementPolicy"];
    if policy != "OrderedReady" && policy != "Parallel" {
        let why = format!("must be '{}' or '{}'", "OrderedReady", "Parallel");
        causes.push(Cause::invalid("spec.podManagementPolicy", policy, &why));
    }
    // Claims of templates are volumes, which the template itself does not have.
    let mut spec = template["spec"].clone();
    for claim in list(object, "/spec/volumeClaimTemplates") {
        let volume = json!({"name": claim["metadata"]["name"], "emptyDir": {}});
        match spec.get_mut("volumes").and_then(Value::as_array_mut) {
            Some(volumes) => volumes.push(volume),
            None => spec["volumes"] = json!([volume]),
        }
    }
    pod(&spec, "spec.template.spec", causes);
    for (place, template) in list(object, "/spec/volumeClaimTemplates").iter().enumerate() {
        claim(&template["spec"], &format!("spec.volumeClaimTemplates[{place}].spec"), causes);
    }
}

fn claim(spec: &Value, field: &str, causes: &mut Vec<Cause>) {
    if list(spec, "/accessModes").is_empty() {
        causes.push(Cause::required(format!("{field}.accessModes"), "at least 1 access mode is required"));
    }
    match spec.pointer("/resources/requests/storage") {
        Some(storage) => quantity(storage, &format!("{field}.resources.requests[storage]"), causes),
        None => causes.push(Cause::required(format!("{field}.resources[storage]"), "")),
    }
}

fn quantity(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    match value.as_str().and_then(Quantity::parse) {
        Some(quantity) if quantity < Quantity::ZERO => {
            causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
        }
        Some(_) => {}
        None => {
            let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
            causes.push(Cause::invalid(field, value, why));
        }
    }
}

/// The spec of a pod.
fn pod(spec: &Value, field: &str, causes: &mut Vec<Cause>) {
    let mut volumes = BTreeSet::new();
    for (place, volume) in list(spec, "/volumes").iter().enumerate() {
        let name = text(volume, "/name");
        let field = format!("{field}.volumes[{place}].name");
        match names::label(name) {
            _ if name.is_empty() => causes.push(Cause::required(field, "")),
            Some(why) => causes.push(Cause::invalid(field, &volume["name"], &why)),
            None if !volumes.insert(name) => causes.push(Cause::duplicate(field, &volume["name"])),
            None => {}
        }
    }
    if list(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    let mut seen = BTreeSet::new();
    for part in ["containers", "initContainers"] {
        for (place, container) in list(spec, &format!("/{part}")).iter().enumerate() {
            let field = format!("{field}.{part}[{place}]");
            let name = text(container, "/name");
            match names::label(name) {
                _ if name.is_empty() => causes.push(Cause::required(format!("{field}.name"), "")),
                Some(why) => causes.push(Cause::invalid(format!("{field}.name"), &container["name"], &why)),
                None if !seen.insert(name) => {
                    causes.push(Cause::duplicate(format!("{field}.name"), &container["name"]));
                }
                None => {}
            }
            self::container(container, &field, &volumes, causes);
        }
    }
    names::labels(spec, "/nodeSelector", &format!("{field}.nodeSelector"), causes);
}

fn container(container: &Value, field: &str, volumes: &BTreeSet<&str>, causes: &mut Vec<Cause>) {
    if text(container, "/image").trim().is_empty() {
        causes.push(Cause::required(format!("{field}.image"), ""));
    }
    for (place, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let name = text(mount, "/name");
        if !volumes.contains(name) {
            causes.push(Cause::not_found(format!("{field}.volumeMounts[{place}].name"), name));
        }
        if text(mount, "/mountPath").is_empty() {
            causes.push(Cause::required(format!("{field}.volumeMounts[{place}].mountPath"), ""));
        }
    }
    for (place, variable) in list(container, "/env").iter().enumerate() {
        if text(variable, "/name").is_empty() {
            causes.push(Cause::required(format!("{field}.env[{place}].name"), ""));
        }
        if variable.get("value").is_some_and(|value| !value.is_string()) {
            causes.push(Cause::invalid(format!("{field}.env[{place}].value"), &variable["value"], "must be a string"));
        }
    }
    for part in ["limits", "requests"] {
        for (name, value) in entries(container, &format!("/resources/{part}")) {
            quantity(value, &format!("{field}.resources.{part}[{name}]"), causes);
        }
    }
    for (name, request) in entries(container, "/resources/requests") {
        let amount = |value: &Value| value.as_str().and_then(Quantity::parse);
        let limit = &container["resources"]["limits"][name];
        if let (Some(asked), Some(most)) = (amount(request), amount(limit))
            && asked > most
        {
            let why = format!("must be less than or equal to {name} limit of {}", most.canonical());
            causes.push(Cause::invalid(format!("{field}.resources.requests"), request, &why));
        }
    }
}
