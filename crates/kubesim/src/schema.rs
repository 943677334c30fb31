//! How lists and maps are merged: what the published schemas say with `x-kubernetes-list-type` and its like.
//!
//! The rules go by the names on the way to a field, which are the same wherever a pod template is found.

/// How a list is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListRule {
    /// As a whole.
    Atomic,
    /// By its values.
    Set,
    /// By these fields of its items.
    Map(&'static [&'static str]),
}

/// The rule of the list at this place, given by the names of the fields that lead there.
pub(crate) fn list_rule(path: &[&str]) -> ListRule {
    let Some((name, parents)) = path.split_last() else { return ListRule::Atomic };
    let parent = parents.last().copied().unwrap_or_default();
    let in_pod = matches!(parent, "containers" | "initContainers" | "ephemeralContainers");
    match *name {
        "containers" | "initContainers" | "ephemeralContainers" if parent == "spec" => ListRule::Map(&["name"]),
        "volumes" | "schedulingGates" | "resourceClaims" | "imagePullSecrets" | "evictionResponders"
            if parent == "spec" =>
        {
            ListRule::Map(&["name"])
        }
        "hostAliases" if parent == "spec" => ListRule::Map(&["ip"]),
        "topologySpreadConstraints" if parent == "spec" => ListRule::Map(&["topologyKey", "whenUnsatisfiable"]),
        "env" if in_pod => ListRule::Map(&["name"]),
        "ports" if in_pod => ListRule::Map(&["containerPort", "protocol"]),
        "volumeMounts" if in_pod => ListRule::Map(&["mountPath"]),
        "bindMountOptions" if parent == "volumeMounts" => ListRule::Set,
        "volumeDevices" if in_pod => ListRule::Map(&["devicePath"]),
        "claims" if parent == "resources" => ListRule::Map(&["name"]),
        "ports" if path == ["spec", "ports"] => ListRule::Map(&["port", "protocol"]),
        "secrets" if path.len() == 1 => ListRule::Map(&["name"]),
        "podIPs" if parent == "status" => ListRule::Map(&["ip"]),
        "conditions" if path == ["status", "conditions"] => ListRule::Map(&["type"]),
        "addresses" if parent == "status" => ListRule::Map(&["type"]),
        // Of templates too.
        "ownerReferences" if parent == "metadata" => ListRule::Map(&["uid"]),
        "finalizers" if parent == "metadata" => ListRule::Set,
        _ => ListRule::Atomic,
    }
}

/// Whether the map at this place, or each item of the list there, is merged as a whole.
pub(crate) fn is_atomic_map(path: &[&str]) -> bool {
    let Some(name) = path.last() else { return false };
    // Keys of users' own maps may be called anything.
    let user = path.iter().rev().nth(1).is_some_and(|parent| {
        matches!(
            *parent,
            "labels" | "annotations" | "data" | "stringData" | "binaryData" | "hard" | "limits" | "requests"
        )
    });
    let reference = matches!(
        *name,
        "secretKeyRef"
            | "configMapKeyRef"
            | "fileKeyRef"
            | "fieldRef"
            | "resourceFieldRef"
            | "secretRef"
            | "nodePublishSecretRef"
            | "roleRef"
            | "involvedObject"
            | "related"
            | "dataSource"
    );
    // Of these lists each item is one whole, known by its key.
    let item = matches!(*name, "ownerReferences" | "imagePullSecrets" | "evictionResponders" | "secrets");
    let selector = matches!(
        *name,
        "selector"
            | "requiredDuringSchedulingIgnoredDuringExecution"
            | "podSelector"
            | "namespaceSelector"
            | "labelSelector"
            | "nodeSelector"
            | "scopeSelector"
    );
    !user && (reference || item || selector)
}

/// What a field of a key is when it is left out.
pub(crate) fn key_default(field: &str) -> Option<&'static str> {
    (field == "protocol").then_some("TCP")
}
