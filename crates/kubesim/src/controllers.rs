//! Small controllers, which look at an object when it or something that it depends on has changed.

mod budgets;
mod claims;
mod garbage;
mod jobs;
mod kubelet;
mod namespaces;
mod pods;
mod quotas;
mod sandboxes;
mod stateful_sets;

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::{
    json::{has, list, moment, number, text},
    kinds::Kind,
    store::{Key, World},
    write::Writer,
};

pub(crate) use pods::release_all;

/// Templates of StatefulSets: by uid of the set and name of the revision.
pub(crate) type Revisions = HashMap<(String, String), Value>;

/// Looks at one object that is due; says whether there was one.
pub(crate) fn step(world: &mut World) -> bool {
    let Some(key) = world.due.take() else { return false };
    garbage::reconcile(world, &key);
    match key.resource {
        "namespaces" => namespaces::reconcile(world, &key),
        "pods" => pods::reconcile(world, &key),
        "persistentvolumeclaims" => claims::reconcile(world, &key),
        "statefulsets" => stateful_sets::reconcile(world, &key),
        "jobs" => jobs::reconcile(world, &key),
        "sandboxes" => sandboxes::reconcile(world, &key),
        "resourcequotas" => quotas::reconcile(world, &key),
        "poddisruptionbudgets" => budgets::reconcile(world, &key),
        "nodes" => pods::reconcile_node(world, &key),
        _ => {}
    }
    true
}

impl World {
    /// Notes who has to look after a change.
    pub(crate) fn wake(&mut self, key: &Key, before: Option<&Value>, object: &Value, deleted: bool) {
        let mut due: BTreeSet<Key> = BTreeSet::from([key.clone()]);
        for version in before.into_iter().chain([object]) {
            for owner in list(version, "/metadata/ownerReferences") {
                due.extend(self.by_uid(text(owner, "/uid")).map(|(key, _)| key.clone()));
            }
        }
        if deleted {
            self.conducts.stages.remove(text(object, "/metadata/uid"));
            due.extend(self.dependents(text(object, "/metadata/uid")));
        }
        let mut of = |resource: &'static str, namespace: &str| {
            due.extend(self.list(resource, namespace).map(|(key, _)| key.clone()));
        };
        match key.resource {
            "nodes" => of("pods", ""),
            "storageclasses" => of("persistentvolumeclaims", ""),
            "pods" => of("poddisruptionbudgets", &key.namespace),
            _ => {}
        }
        if !key.namespace.is_empty() && key.resource != "events" {
            of("resourcequotas", &key.namespace);
            due.extend(self.take_blocked(&key.namespace));
        }
        if key.resource == "pods" {
            let claims = claims_of(object).map(|name| Key::new("persistentvolumeclaims", &key.namespace, name));
            due.extend(claims);
        }
        if key.resource == "persistentvolumeclaims" {
            let uses = |pod: &Value| claims_of(pod).any(|name| name == key.name);
            let pods = self.list("pods", &key.namespace).filter(|(_, pod)| uses(pod));
            due.extend(pods.map(|(key, _)| key.clone()));
        }
        let is_furniture = deleted && matches!(key.resource, "serviceaccounts" | "configmaps");
        if is_furniture || self.is_terminating(&key.namespace) {
            due.insert(Key::new("namespaces", "", &key.namespace));
        }
        due.into_iter().for_each(|key| self.due.add(key));
    }

    /// Whether a namespace is on its way out.
    pub(crate) fn is_terminating(&self, namespace: &str) -> bool {
        self.find("namespaces", "", namespace).is_some_and(|found| has(found, "/metadata/deletionTimestamp"))
    }

    /// Tells of something about an object, as an `Event`: the same again is counted.
    pub(crate) fn tell(&mut self, about: &Key, component: &str, kind: &str, reason: &str, message: &str) {
        let Some(object) = self.get(about).cloned() else { return };
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let hash = hash(&format!("{reason} {message} {}", text(&object, "/metadata/uid")));
        let key = Key::new("events", namespace, &format!("{}.{hash}", about.name));
        let now = moment(self.now());
        let by = Writer::controller(component);
        if self.get(&key).is_some() {
            self.edit(&key, &by, |event| {
                event["count"] = (number(event, "/count").unwrap_or(1) + 1).into();
                event["lastTimestamp"] = now;
            });
            return;
        }
        let event = json!({
            "metadata": {"name": key.name},
            "involvedObject": {
                "apiVersion": about.kind().api_version(),
                "kind": about.kind().kind,
                "name": about.name,
                "namespace": about.namespace,
                "uid": object["metadata"]["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
        });
        // A namespace on its way out takes none.
        let _ = self.create(Kind::of("events").expect("a kind"), namespace, event, &by);
    }

    /// Creates what a controller makes for its object. What is refused is told, and tried again after the next change
    /// in the namespace.
    fn make(&mut self, owner: &Key, component: &str, resource: &'static str, object: Value) -> bool {
        let kind = Kind::of(resource).expect("a kind");
        let name = text(&object, "/metadata/name").to_owned();
        match self.create(kind, &owner.namespace, object, &Writer::controller(component)) {
            Ok(_) => true,
            Err(refusal) => {
                let message = format!(
                    "create {} {name} in {} {} failed error: {}",
                    kind.kind,
                    owner.kind().kind,
                    owner.name,
                    refusal.message
                );
                self.tell(owner, component, "Warning", "FailedCreate", &message);
                self.block(owner);
                false
            }
        }
    }
}

/// A reference to the controller of an object.
fn owned_by(key: &Key, owner: &Value) -> Value {
    json!({
        "apiVersion": key.kind().api_version(),
        "kind": key.kind().kind,
        "name": key.name,
        "uid": owner["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// Whether an object is controlled by the one with this uid.
fn is_controlled_by(object: &Value, uid: &str) -> bool {
    let owners = list(object, "/metadata/ownerReferences").iter();
    owners.filter(|owner| owner["controller"] == true).any(|owner| owner["uid"] == uid)
}

/// The names of the claims that a pod uses.
fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = list(pod, "/spec/volumes").iter();
    volumes.map(|volume| text(volume, "/persistentVolumeClaim/claimName")).filter(|name| !name.is_empty())
}

/// A short name for a text, always the same.
fn hash(text: &str) -> String {
    // FNV-1a, of which ten letters are shown, as controllers do.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")[..10].to_owned()
}
