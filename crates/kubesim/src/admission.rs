//! What is asked before a write: webhooks, service accounts, limits and quotas, Pod Security, storage classes.

use serde_json::{Value, json};

use crate::{
    json::{default, entries, has, list, list_mut, map, set, text},
    kinds::Kind,
    matching::Matching,
    pod_security,
    quantity::Quantity,
    quota,
    refusal::Refusal,
    store::World,
};

/// The annotation of the storage class that claims get which name none.
pub(crate) const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The finalizer of a claim that is in use.
pub(crate) const CLAIM_IN_USE: &str = "kubernetes.io/pvc-protection";

/// Somebody who refuses writes.
pub(crate) struct Webhook {
    /// By which it is taken away again.
    pub(crate) id: u64,
    /// The writes that it refuses.
    pub(crate) of: Matching,
    /// Its name.
    pub(crate) name: String,
    /// What it says.
    pub(crate) message: String,
}

fn webhooks(world: &World, kind: &Kind, object: &Value, verb: &str, subresource: &str) -> Result<(), Refusal> {
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let refuses = |webhook: &&Webhook| webhook.of.is_of(verb, kind.resource, subresource, namespace, name);
    match world.webhooks.iter().find(refuses) {
        Some(webhook) => {
            let message = format!("admission webhook {:?} denied the request: {}", webhook.name, webhook.message);
            Err(Refusal::new(403, "Forbidden", message))
        }
        None => Ok(()),
    }
}

/// Completes a new object by what its namespace says, or refuses it.
pub(crate) fn admit_new(world: &World, kind: &Kind, object: &mut Value) -> Result<(), Refusal> {
    match kind.resource {
        "pods" => {
            service_account(world, kind, object)?;
            quota::defaults(world, object);
            pod_security::check(world, kind, object)?;
        }
        "persistentvolumeclaims" => {
            if let Some(class) = default_class(world)
                && !has(object, "/spec/storageClassName")
            {
                set(object, "/spec/storageClassName", class);
            }
            let mut finalizers = list(object, "/metadata/finalizers").to_vec();
            if !finalizers.iter().any(|finalizer| finalizer == CLAIM_IN_USE) {
                finalizers.push(CLAIM_IN_USE.into());
                set(object, "/metadata/finalizers", finalizers);
            }
        }
        "services" if !has(object, "/spec/clusterIP") => {
            let number = world.version() % 60_000;
            let address = format!("10.96.{}.{}", number / 250, number % 250 + 1);
            set(object, "/spec/clusterIP", address.clone());
            set(object, "/spec/clusterIPs", json!([address]));
        }
        _ => {}
    }
    webhooks(world, kind, object, "create", "")
}

/// Refuses a change.
pub(crate) fn admit_change(world: &World, kind: &Kind, object: &Value, subresource: &str) -> Result<(), Refusal> {
    if kind.resource == "persistentvolumeclaims" && subresource.is_empty() {
        growth(world, kind, object)?;
    }
    webhooks(world, kind, object, "update", subresource)
}

/// A claim grows where its storage class says that its volumes can.
fn growth(world: &World, kind: &Kind, claim: &Value) -> Result<(), Refusal> {
    let (namespace, name) = (text(claim, "/metadata/namespace"), text(claim, "/metadata/name"));
    let asked = |claim: &Value| Quantity::parse(text(claim, "/spec/resources/requests/storage"));
    let before = world.find(kind.resource, namespace, name).and_then(|before| asked(before));
    let class = world.find("storageclasses", "", text(claim, "/spec/storageClassName"));
    if asked(claim) > before && class.is_none_or(|class| class["allowVolumeExpansion"] != true) {
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                   support resize";
        return Err(Refusal::forbidden(kind, name, why));
    }
    Ok(())
}

/// Refuses a deletion.
pub(crate) fn admit_deletion(world: &World, kind: &Kind, object: &Value) -> Result<(), Refusal> {
    webhooks(world, kind, object, "delete", "")
}

/// Refuses what is more than limits and quotas allow.
pub(crate) fn limits(world: &World, kind: &Kind, object: &Value) -> Result<(), Refusal> {
    if kind.resource == "pods" {
        quota::within_limits(world, kind, object)?;
    }
    quota::within_quota(world, kind, object)
}

/// The storage class of claims that name none.
pub(crate) fn default_class(world: &World) -> Option<String> {
    let mut classes = world.list("storageclasses", "");
    let is_default = |class: &Value| class["metadata"]["annotations"][DEFAULT_CLASS] == "true";
    classes.find(|(_, class)| is_default(class)).map(|(key, _)| key.name.clone())
}

/// A pod runs as an account that has to be there, and has its token unless one of the two says no.
fn service_account(world: &World, kind: &Kind, pod: &mut Value) -> Result<(), Refusal> {
    let (namespace, name) = (text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned());
    let account = text(pod, "/spec/serviceAccountName").to_owned();
    let Some(found) = world.find("serviceaccounts", &namespace, &account) else {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        return Err(Refusal::forbidden(kind, &name, &why));
    };
    let mounts = match pod["spec"]["automountServiceAccountToken"].as_bool() {
        Some(mounts) => mounts,
        None => found["automountServiceAccountToken"] != false,
    };
    if !mounts {
        return Ok(());
    }
    let volume = format!("kube-api-access-{}", crate::write::suffix());
    let token = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}});
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    for containers in ["/spec/containers", "/spec/initContainers"] {
        for container in list_mut(pod, containers).into_iter().flatten() {
            default(container, "/volumeMounts", json!([]));
            let mounts = list_mut(container, "/volumeMounts");
            mounts.into_iter().for_each(|mounts| {
                mounts.push(json!({"name": volume, "mountPath": path, "readOnly": true}));
            });
        }
    }
    default(pod, "/spec/volumes", json!([]));
    list_mut(pod, "/spec/volumes").into_iter().for_each(|volumes| volumes.push(token.clone()));
    Ok(())
}

/// Adds what a namespace has from the start.
pub(crate) fn furnish(world: &mut World, namespace: &str) {
    let by = crate::write::Writer::controller("kube-controller-manager");
    let account = json!({"metadata": {"name": "default"}});
    let mut authority = json!({"metadata": {"name": "kube-root-ca.crt"}});
    map(&mut authority, "/data").insert("ca.crt".to_owned(), "simulated".into());
    for (resource, object) in [("serviceaccounts", account), ("configmaps", authority)] {
        let kind = Kind::of(resource).expect("a kind");
        let name = text(&object, "/metadata/name").to_owned();
        if world.find(kind.resource, namespace, &name).is_none() {
            // The namespace may be on its way out, or a webhook against it: then it goes without.
            let _ = world.create(kind, namespace, object, &by);
        }
    }
}

/// What of a pod is counted by limits and quotas: the sum over its containers.
pub(crate) fn asked(pod: &Value, part: &str, resource: &str) -> Option<crate::quantity::Quantity> {
    let mut sum = None;
    for container in list(pod, "/spec/containers") {
        for (name, value) in entries(container, &format!("/resources/{part}")) {
            if name == resource {
                let amount = value.as_str().and_then(crate::quantity::Quantity::parse)?;
                sum = Some(sum.map_or(amount, |sum: crate::quantity::Quantity| sum.plus(amount)));
            }
        }
    }
    sum
}
