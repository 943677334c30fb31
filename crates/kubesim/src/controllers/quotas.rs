//! How much of a quota is used.

use serde_json::{Map, json};

use crate::{
    json::{entries, set},
    quota,
    store::{Key, World},
    write::Writer,
};

/// Writes what is used into the status of a quota.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(found) = world.get(key).cloned() else { return };
    let used = entries(&found, "/spec/hard")
        .map(|(name, _)| (name.clone(), quota::used(world, &key.namespace, name).canonical().into()));
    let used: Map<_, _> = used.collect();
    let status = json!({"hard": found["spec"]["hard"], "used": used});
    world.edit(key, &Writer::status("kube-controller-manager"), |quota| set(quota, "/status", status));
}
