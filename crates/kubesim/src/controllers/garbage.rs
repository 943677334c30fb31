//! The garbage collector: what has lost its owners goes, what is deleted in the foreground waits for its dependents.

use serde_json::Value;

use crate::{
    delete::{Deletion, FOREGROUND, ORPHAN, Propagation},
    json::{has, list, list_mut, text},
    kinds::Kind,
    store::{Key, World},
    write::{Writer, blocks},
};

const MANAGER: &str = "kube-controller-manager";

/// Looks at an object as an owner, and as a dependent.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    as_owner(world, key);
    as_dependent(world, key);
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    list(object, "/metadata/finalizers").iter().any(|finalizer| finalizer == name)
}

fn drop_finalizer(world: &mut World, key: &Key, name: &str) {
    world.edit(key, &Writer::controller(MANAGER), |object| {
        if let Some(finalizers) = list_mut(object, "/metadata/finalizers") {
            finalizers.retain(|finalizer| finalizer != name);
        }
    });
}

fn drop_owners(world: &mut World, key: &Key, uids: &[String]) {
    world.edit(key, &Writer::controller(MANAGER), |object| {
        if let Some(owners) = list_mut(object, "/metadata/ownerReferences") {
            owners.retain(|owner| !uids.iter().any(|uid| uid == text(owner, "/uid")));
        }
    });
}

fn as_owner(world: &mut World, key: &Key) {
    let Some(object) = world.get(key).cloned() else { return };
    if !has(&object, "/metadata/deletionTimestamp") {
        return;
    }
    let uid = text(&object, "/metadata/uid").to_owned();
    if has_finalizer(&object, ORPHAN) {
        for dependent in world.dependents(&uid) {
            drop_owners(world, &dependent, std::slice::from_ref(&uid));
        }
        drop_finalizer(world, key, ORPHAN);
    } else if has_finalizer(&object, FOREGROUND) {
        for dependent in world.dependents(&uid) {
            as_dependent(world, &dependent);
        }
        let is_blocking = |dependent: &Key| {
            let owners = world.get(dependent).map(|found| list(found, "/metadata/ownerReferences"));
            owners.into_iter().flatten().any(|owner| text(owner, "/uid") == uid && blocks(owner))
        };
        if !world.dependents(&uid).iter().any(is_blocking) {
            drop_finalizer(world, key, FOREGROUND);
        }
    }
}

fn as_dependent(world: &mut World, key: &Key) {
    let Some(object) = world.get(key).cloned() else { return };
    let (mut solid, mut waiting, mut gone) = (0, Vec::new(), Vec::new());
    for owner in list(&object, "/metadata/ownerReferences") {
        let uid = text(owner, "/uid").to_owned();
        // Of kinds that are not known here nobody can say whether they are there.
        if Kind::named(text(owner, "/apiVersion"), text(owner, "/kind")).is_none() {
            solid += 1;
            continue;
        }
        let found =
            world.by_uid(&uid).filter(|(owner, _)| owner.namespace.is_empty() || owner.namespace == key.namespace);
        match found {
            None => gone.push(uid),
            Some((_, owner)) if has(owner, "/metadata/deletionTimestamp") && has_finalizer(owner, FOREGROUND) => {
                waiting.push(uid);
            }
            Some(_) => solid += 1,
        }
    }
    if gone.is_empty() && waiting.is_empty() {
        return;
    }
    if solid > 0 {
        gone.append(&mut waiting);
        drop_owners(world, key, &gone);
        return;
    }
    if has(&object, "/metadata/deletionTimestamp") {
        return;
    }
    let has_dependents = !world.dependents(text(&object, "/metadata/uid")).is_empty();
    let propagation = if has_finalizer(&object, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(&object, FOREGROUND) || (!waiting.is_empty() && has_dependents) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let how = Deletion { propagation: Some(propagation), ..Deletion::default() };
    if world.delete(key, &how).is_err() {
        world.block(key);
    }
}
