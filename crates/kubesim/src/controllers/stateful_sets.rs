//! StatefulSets as the real controller runs them: in order or all at once, and with its well-known trap. A set in order
//! waits for each pod to be ready before it does anything else, so that a pod of a superseded revision that never gets
//! ready is not replaced.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{hash, is_controlled_by, owned_by};
use crate::{
    defaults::claim_of,
    delete::Deletion,
    json::{copy, entries, has, list, list_mut, map, number, set, text},
    select::selects,
    store::{Key, World},
    write::{Writer, is_true},
};

const CONTROLLER: &str = "statefulset-controller";
const REVISION: &str = "controller-revision-hash";

/// One set, as it was when the controller looked.
struct Set<'w> {
    key: &'w Key,
    object: &'w Value,
    uid: String,
    replicas: i64,
    /// Ordinals from here on get the new revision.
    partition: i64,
    in_order: bool,
    current: String,
    update: String,
}

/// Moves a set on.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(object) = world.get(key).cloned() else { return };
    let uid = text(&object, "/metadata/uid").to_owned();
    let template = &object["spec"]["template"];
    let update = format!("{}-{}", key.name, hash(&template.to_string()));
    world.revisions.insert((uid.clone(), update.clone()), template.clone());
    let current = match text(&object, "/status/currentRevision") {
        "" => update.clone(),
        current => current.to_owned(),
    };
    let rolling = object["spec"]["updateStrategy"]["type"] != "OnDelete";
    let partition = number(&object, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or_default();
    let set = Set {
        key,
        object: &object,
        uid,
        replicas: number(&object, "/spec/replicas").unwrap_or(1),
        partition,
        in_order: object["spec"]["podManagementPolicy"] != "Parallel",
        current,
        update,
    };
    if !has(&object, "/metadata/deletionTimestamp") {
        set.adopt(world);
        set.keep_claims(world);
        let went_through = set.create(world) && set.condemn(world);
        if went_through && rolling {
            set.replace(world);
        }
    }
    set.write_status(world);
}

fn is_ready(pod: &Value) -> bool {
    text(pod, "/status/phase") == "Running" && is_true(pod, "Ready")
}

fn is_going(pod: &Value) -> bool {
    has(pod, "/metadata/deletionTimestamp")
}

fn revision(pod: &Value) -> &str {
    pod["metadata"]["labels"][REVISION].as_str().unwrap_or_default()
}

impl Set<'_> {
    /// The pods of the set by their ordinals.
    fn pods(&self, world: &World) -> BTreeMap<i64, (Key, Arc<Value>)> {
        let own = world.dependents(&self.uid).into_iter().filter(|key| key.resource == "pods");
        let own = own.filter_map(|key| {
            let pod = world.get(&key).filter(|pod| is_controlled_by(pod, &self.uid))?.clone();
            let ordinal = key.name.strip_prefix(&self.key.name)?.strip_prefix('-')?.parse().ok()?;
            Some((ordinal, (key, pod)))
        });
        own.collect()
    }

    /// Takes over pods that nobody controls and that could be its own.
    fn adopt(&self, world: &mut World) {
        for ordinal in 0..self.replicas {
            let key = Key::new("pods", &self.key.namespace, &format!("{}-{ordinal}", self.key.name));
            let is_free = |pod: &Value| {
                let owners = list(pod, "/metadata/ownerReferences");
                !is_going(pod) && !owners.iter().any(|owner| owner["controller"] == true)
            };
            let selector = &self.object["spec"]["selector"];
            if world.get(&key).is_some_and(|pod| is_free(pod) && selects(selector, pod)) {
                world.edit(&key, &Writer::controller(CONTROLLER), |pod| {
                    let mut owners = list(pod, "/metadata/ownerReferences").to_vec();
                    owners.push(owned_by(self.key, self.object));
                    set(pod, "/metadata/ownerReferences", owners);
                });
            }
        }
    }

    /// Makes pods that are missing; says whether nothing is to be waited for.
    fn create(&self, world: &mut World) -> bool {
        let pods = self.pods(world);
        for ordinal in 0..self.replicas {
            match pods.get(&ordinal) {
                None => {
                    let made = self.make_claims(world, ordinal) && self.make_pod(world, ordinal);
                    if self.in_order || !made {
                        return false;
                    }
                }
                Some((key, pod)) if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") => {
                    if !is_going(pod) {
                        let _ = world.delete(key, &Deletion::background());
                    }
                    if self.in_order {
                        return false;
                    }
                }
                Some((_, pod)) if self.in_order && (is_going(pod) || !is_ready(pod)) => return false,
                Some(_) => {}
            }
        }
        true
    }

    /// Ends pods that are too many, the last first; says whether none is left.
    fn condemn(&self, world: &mut World) -> bool {
        let mut left = false;
        for (ordinal, (key, pod)) in self.pods(world).into_iter().rev() {
            if ordinal < self.replicas {
                break;
            }
            left = true;
            if !is_going(&pod) {
                let _ = world.delete(&key, &Deletion::background());
            }
            if self.in_order {
                break;
            }
        }
        !left
    }

    /// Ends one pod of another revision, the last first, so that it is made anew.
    fn replace(&self, world: &mut World) {
        for (ordinal, (key, pod)) in self.pods(world).into_iter().rev() {
            if ordinal < self.partition {
                return;
            }
            if revision(&pod) != self.update && !is_going(&pod) {
                let _ = world.delete(&key, &Deletion::background());
                return;
            }
            if is_going(&pod) || !is_ready(&pod) {
                return;
            }
        }
    }

    fn claim_key(&self, template: &Value, ordinal: i64) -> Key {
        let name = format!("{}-{}-{ordinal}", text(template, "/metadata/name"), self.key.name);
        Key::new("persistentvolumeclaims", &self.key.namespace, &name)
    }

    /// Makes claims that are missing; says whether all are there to be used.
    fn make_claims(&self, world: &mut World, ordinal: i64) -> bool {
        for template in list(self.object, "/spec/volumeClaimTemplates") {
            let key = self.claim_key(template, ordinal);
            match world.get(&key) {
                Some(claim) if has(claim, "/metadata/deletionTimestamp") => {
                    let why = format!("pvc {} is being deleted", key.name);
                    world.tell(self.key, CONTROLLER, "Warning", "FailedCreate", &why);
                    world.block(self.key);
                    return false;
                }
                Some(_) => {}
                None => {
                    let mut claim = claim_of(template, &key.name);
                    for (label, value) in entries(self.object, "/spec/selector/matchLabels") {
                        map(&mut claim, "/metadata/labels").insert(label.clone(), value.clone());
                    }
                    if !world.make(self.key, CONTROLLER, "persistentvolumeclaims", claim) {
                        return false;
                    }
                }
            }
        }
        self.keep_claims(world);
        true
    }

    /// Has claims go with the set, or with the pod, where the policy says so.
    fn keep_claims(&self, world: &mut World) {
        let policy = &self.object["spec"]["persistentVolumeClaimRetentionPolicy"];
        let pods = self.pods(world);
        let last = pods.keys().next_back().map_or(self.replicas, |last| self.replicas.max(last + 1));
        for ordinal in 0..last {
            let pod = pods.get(&ordinal).filter(|_| ordinal >= self.replicas);
            let mut wanted = Vec::new();
            if policy["whenDeleted"] == "Delete" {
                wanted.push(owned_by(self.key, self.object));
            }
            if let Some((key, pod)) = pod.filter(|_| policy["whenScaled"] == "Delete") {
                wanted = vec![owned_by(key, pod)];
            }
            for template in list(self.object, "/spec/volumeClaimTemplates") {
                let key = self.claim_key(template, ordinal);
                let Some(claim) = world.get(&key) else { continue };
                // Of claims that somebody else owns the set keeps away.
                let is_own = |owner: &Value| owner["kind"] == "StatefulSet" || owner["kind"] == "Pod";
                let owners = list(claim, "/metadata/ownerReferences");
                if owners.iter().all(is_own) && owners != wanted {
                    world.edit(&key, &Writer::controller(CONTROLLER), |claim| {
                        set(claim, "/metadata/ownerReferences", wanted.clone());
                    });
                }
            }
        }
    }

    fn make_pod(&self, world: &mut World, ordinal: i64) -> bool {
        let revision = if ordinal < self.partition { &self.current } else { &self.update };
        let template = world.revisions.get(&(self.uid.clone(), revision.clone()));
        let template = template.unwrap_or(&self.object["spec"]["template"]).clone();
        let name = format!("{}-{ordinal}", self.key.name);
        let mut pod = json!({"metadata": {"name": name}, "spec": template["spec"]});
        copy(&mut pod, &template, "/metadata/labels");
        copy(&mut pod, &template, "/metadata/annotations");
        copy(&mut pod, &template, "/metadata/finalizers");
        let labels = map(&mut pod, "/metadata/labels");
        labels.insert(REVISION.to_owned(), revision.clone().into());
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name.clone().into());
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string().into());
        set(&mut pod, "/metadata/ownerReferences", json!([owned_by(self.key, self.object)]));
        set(&mut pod, "/spec/hostname", name);
        let service = self.object["spec"]["serviceName"].as_str().unwrap_or_default();
        if !service.is_empty() {
            set(&mut pod, "/spec/subdomain", service);
        }
        for template in list(self.object, "/spec/volumeClaimTemplates") {
            let volume = json!({
                "name": template["metadata"]["name"],
                "persistentVolumeClaim": {"claimName": self.claim_key(template, ordinal).name},
            });
            crate::json::default(&mut pod, "/spec/volumes", json!([]));
            let Some(volumes) = list_mut(&mut pod, "/spec/volumes") else { continue };
            volumes.retain(|known| known["name"] != volume["name"]);
            volumes.push(volume);
        }
        world.make(self.key, CONTROLLER, "pods", pod)
    }

    fn write_status(&self, world: &mut World) {
        let pods = self.pods(world);
        let count = |is: &dyn Fn(&Value) -> bool| {
            i64::try_from(pods.values().filter(|(_, pod)| is(pod)).count()).unwrap_or(i64::MAX)
        };
        let all = count(&|_| true);
        let ready = count(&|pod| is_ready(pod));
        let updated = count(&|pod| revision(pod) == self.update && !is_going(pod));
        let is_done = updated == self.replicas && ready == self.replicas && all == self.replicas;
        let current = if is_done { &self.update } else { &self.current };
        let of_current = count(&|pod| revision(pod) == current && !is_going(pod));
        let mut status = json!({
            "observedGeneration": self.object["metadata"]["generation"],
            "replicas": all,
            "availableReplicas": ready,
            "currentRevision": current,
            "updateRevision": self.update,
            "collisionCount": 0,
        });
        for (name, count) in [("readyReplicas", ready), ("currentReplicas", of_current), ("updatedReplicas", updated)] {
            if count > 0 {
                status[name] = count.into();
            }
        }
        let uid = self.uid.clone();
        let kept = [current.clone(), self.update.clone()];
        world.revisions.retain(|(set, revision), _| *set != uid || kept.contains(revision));
        world.edit(self.key, &Writer::status("kube-controller-manager"), |set| {
            crate::json::set(set, "/status", status);
        });
    }
}
