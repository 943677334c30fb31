//! A namespace that is deleted is emptied before it goes.

use serde_json::json;

use crate::{
    admission::furnish,
    delete::Deletion,
    json::{has, list, moment, set},
    store::{Key, World},
    write::{Writer, set_condition},
};

/// Empties a namespace that is on its way out, and furnishes every other.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(namespace) = world.get(key).cloned() else { return };
    if !has(&namespace, "/metadata/deletionTimestamp") {
        furnish(world, &key.name);
        return;
    }
    for inside in world.in_namespace(&key.name) {
        let is_new = world.get(&inside).is_some_and(|object| !has(object, "/metadata/deletionTimestamp"));
        if is_new && world.delete(&inside, &Deletion::background()).is_err() {
            world.block(&inside);
        }
    }
    let left = world.in_namespace(&key.name);
    if left.is_empty() {
        if list(&namespace, "/metadata/finalizers").is_empty() {
            world.remove(key);
        } else if has(&namespace, "/spec/finalizers") {
            let mut emptied = (*namespace).clone();
            crate::json::remove(&mut emptied, "/spec/finalizers");
            set(&mut emptied, "/spec/finalizers", json!([]));
            if emptied != *namespace {
                world.put(key, emptied);
            }
        }
        return;
    }
    let now = moment(world.now());
    let held =
        left.iter().filter(|key| world.get(key).is_some_and(|object| !list(object, "/metadata/finalizers").is_empty()));
    let held = held.count();
    world.edit(key, &Writer::status("kube-controller-manager"), |namespace| {
        for (kind, reason, count, message) in [
            ("NamespaceContentRemaining", "SomeResourcesRemain", left.len(), "Some resources are remaining"),
            ("NamespaceFinalizersRemaining", "SomeFinalizersRemain", held, "Some content in the namespace has finalizers remaining"),
        ] {
            let condition = if count == 0 {
                json!({"type": kind, "status": "False", "reason": "ContentHasNoFinalizers", "message": "All content-preserving finalizers finished"})
            } else {
                json!({"type": kind, "status": "True", "reason": reason, "message": format!("{message}: {count}")})
            };
            set_condition(namespace, condition, &now);
        }
    });
}
