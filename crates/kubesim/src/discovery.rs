//! What the server says about itself.

use serde_json::{Value, json};

use crate::kinds::{KINDS, Kind};

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];

/// The document at this path, if one is there.
pub(crate) fn document(path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    Some(match parts.as_slice() {
        ["version"] => json!({
            "major": "1",
            "minor": "36",
            "gitVersion": "v1.36.0-sim",
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z",
            "goVersion": "none",
            "compiler": "rustc",
            "platform": "linux/amd64",
        }),
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
        }),
        ["apis"] => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let found = groups().into_iter().find(|kind| kind.group == *name)?;
            let mut group = group(found);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["api", version] => resources("", version)?,
        ["apis", group, version] => resources(group, version)?,
        _ => return None,
    })
}

/// One kind of each named group.
fn groups() -> Vec<&'static Kind> {
    let mut found: Vec<&Kind> = Vec::new();
    for kind in KINDS.iter().filter(|kind| !kind.group.is_empty()) {
        if !found.iter().any(|known| known.group == kind.group) {
            found.push(kind);
        }
    }
    found
}

fn group(kind: &Kind) -> Value {
    let version = json!({"groupVersion": kind.api_version(), "version": kind.version});
    json!({"name": kind.group, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    let mut group_version = None;
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        group_version = Some(kind.api_version());
        resources.push(json!({
            "name": kind.resource,
            "singularName": kind.kind.to_lowercase(),
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": VERBS,
            "shortNames": kind.short,
        }));
        let mut sub = |name: &str, kind_name: &str, verbs: &[&str], group: Option<(&str, &str)>| {
            let mut resource = json!({
                "name": format!("{}/{name}", kind.resource),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind_name,
                "verbs": verbs,
            });
            if let Some((group, version)) = group {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            resources.push(resource);
        };
        if kind.status {
            sub("status", kind.kind, SUBRESOURCE_VERBS, None);
        }
        if kind.scale {
            sub("scale", "Scale", SUBRESOURCE_VERBS, Some(("autoscaling", "v1")));
        }
        if kind.resource == "pods" {
            sub("log", "Pod", &["get"], None);
            sub("eviction", "Eviction", &["create"], Some(("policy", "v1")));
        }
    }
    let group_version = group_version?;
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}
