//! The objects, in one order of versions, with the history that watches and consistent lists read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use mi_kernel::{Clock, Time};
use serde_json::Value;

use crate::{
    admission::Webhook,
    conduct::Conducts,
    controllers::Revisions,
    json::{list, set, text},
    kinds::Kind,
};

/// The version before the first change.
const FIRST_VERSION: u64 = 1000;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The resource, such as `pods`.
    pub(crate) resource: &'static str,
    /// The namespace, empty for what is in none.
    pub(crate) namespace: String,
    /// The name.
    pub(crate) name: String,
}

impl Key {
    /// The key of an object.
    pub(crate) fn new(resource: &'static str, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> &'static Kind {
        Kind::of(self.resource).expect("keys are made of kinds")
    }
}

/// What happened to an object.
#[derive(Debug)]
pub(crate) struct Change {
    /// The version that the change made.
    pub(crate) version: u64,
    /// Which object.
    pub(crate) key: Key,
    /// It before, nothing when it was created.
    pub(crate) before: Option<Arc<Value>>,
    /// It after; the last of it, in this version, when it was deleted.
    pub(crate) object: Arc<Value>,
    /// Whether it was deleted.
    pub(crate) deleted: bool,
}

/// Everything that the server knows.
pub(crate) struct World {
    objects: BTreeMap<Key, Arc<Value>>,
    by_uid: HashMap<String, Key>,
    /// Objects by the uid of each owner.
    dependents: HashMap<String, BTreeSet<Key>>,
    history: VecDeque<Change>,
    version: u64,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    /// How many changes are kept.
    pub(crate) kept: usize,
    /// What the controllers have to look at.
    pub(crate) due: Due,
    /// What the kubelet, the scheduler and the provisioner do.
    pub(crate) conducts: Conducts,
    /// Templates of StatefulSets by their revisions.
    pub(crate) revisions: Revisions,
    /// Who is asked before a write.
    pub(crate) webhooks: Vec<Webhook>,
    /// What could not be done, and is tried again after the next change in its namespace.
    blocked: BTreeSet<Key>,
    /// Logs of containers, by namespace, pod and container; the second is of the run before.
    pub(crate) logs: HashMap<(String, String, String), (String, String)>,
    clock: Arc<dyn Clock>,
}

/// Keys that controllers have to look at, each once, in the order in which they came.
#[derive(Default)]
pub(crate) struct Due {
    waiting: VecDeque<Key>,
    known: BTreeSet<Key>,
}

impl Due {
    /// Adds a key unless it waits already.
    pub(crate) fn add(&mut self, key: Key) {
        if self.known.insert(key.clone()) {
            self.waiting.push_back(key);
        }
    }

    /// Whether there is one.
    pub(crate) fn is_due(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the next one.
    pub(crate) fn take(&mut self) -> Option<Key> {
        let key = self.waiting.pop_front()?;
        self.known.remove(&key);
        Some(key)
    }
}

impl World {
    /// One without objects.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            objects: BTreeMap::new(),
            by_uid: HashMap::new(),
            dependents: HashMap::new(),
            history: VecDeque::new(),
            version: FIRST_VERSION,
            forgotten: FIRST_VERSION,
            kept: usize::MAX,
            due: Due::default(),
            conducts: Conducts::default(),
            revisions: Revisions::default(),
            webhooks: Vec::new(),
            blocked: BTreeSet::new(),
            logs: HashMap::new(),
            clock,
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets all history.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.forgotten = self.version;
    }

    /// An object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// An object by where it is.
    pub(crate) fn find(&self, resource: &'static str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&Key::new(resource, namespace, name))
    }

    /// An object by its uid.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<(&Key, &Arc<Value>)> {
        self.objects.get_key_value(self.by_uid.get(uid)?)
    }

    /// The objects of a resource, those of one namespace if that is named, by namespace and name.
    pub(crate) fn list<'w>(
        &'w self,
        resource: &'static str,
        namespace: &'w str,
    ) -> impl Iterator<Item = (&'w Key, &'w Arc<Value>)> {
        self.objects.range(Key::new(resource, namespace, "")..).take_while(move |(key, _)| {
            key.resource == resource && (namespace.is_empty() || key.namespace == namespace)
        })
    }

    /// Everything in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Key> {
        let kinds = crate::kinds::KINDS.iter().filter(|kind| kind.namespaced);
        kinds.flat_map(|kind| self.list(kind.resource, namespace)).map(|(key, _)| key.clone()).collect()
    }

    /// Who has an owner reference with this uid.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<Key> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// The objects of a resource as they were at a version; nothing when that is forgotten.
    pub(crate) fn at(&self, resource: &'static str, version: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        if version < self.forgotten || version > self.version {
            return None;
        }
        let mut objects: BTreeMap<_, _> =
            self.list(resource, "").map(|(key, object)| (key.clone(), object.clone())).collect();
        for change in self.history.iter().rev().take_while(|change| change.version > version) {
            if change.key.resource != resource {
                continue;
            }
            match &change.before {
                Some(before) => drop(objects.insert(change.key.clone(), before.clone())),
                None => drop(objects.remove(&change.key)),
            }
        }
        Some(objects)
    }

    /// What happened after a version; nothing when that is forgotten.
    pub(crate) fn after(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        let first = self.history.partition_point(|change| change.version <= version);
        (version >= self.forgotten).then(|| self.history.range(first..))
    }

    /// Writes an object, in a new version.
    pub(crate) fn put(&mut self, key: &Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        set(&mut object, "/metadata/resourceVersion", self.version.to_string());
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), object.clone());
        if let Some(before) = &before {
            self.unlink(key, before);
        }
        self.by_uid.insert(text(&object, "/metadata/uid").to_owned(), key.clone());
        for owner in list(&object, "/metadata/ownerReferences") {
            self.dependents.entry(text(owner, "/uid").to_owned()).or_default().insert(key.clone());
        }
        self.note(key, before, object.clone(), false);
        object
    }

    /// Removes an object, in a new version, which the last of it carries.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.unlink(key, &before);
        self.by_uid.remove(text(&before, "/metadata/uid"));
        self.version += 1;
        let mut last = Value::clone(&before);
        set(&mut last, "/metadata/resourceVersion", self.version.to_string());
        let last = Arc::new(last);
        self.note(key, Some(before), last.clone(), true);
        Some(last)
    }

    /// Notes that something could not be done for an object.
    pub(crate) fn block(&mut self, key: &Key) {
        self.blocked.insert(key.clone());
    }

    /// Takes what waits for a change in this namespace.
    pub(crate) fn take_blocked(&mut self, namespace: &str) -> Vec<Key> {
        let found: Vec<Key> = self.blocked.iter().filter(|key| key.namespace == namespace).cloned().collect();
        self.blocked.retain(|key| key.namespace != namespace);
        found
    }

    /// Takes everything that waits.
    pub(crate) fn take_all_blocked(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.blocked)
    }

    fn unlink(&mut self, key: &Key, object: &Value) {
        for owner in list(object, "/metadata/ownerReferences") {
            let uid = text(owner, "/uid");
            if let Some(keys) = self.dependents.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
    }

    fn note(&mut self, key: &Key, before: Option<Arc<Value>>, object: Arc<Value>, deleted: bool) {
        self.wake(key, before.as_deref(), &object, deleted);
        self.history.push_back(Change { version: self.version, key: key.clone(), before, object, deleted });
        while self.history.len() > self.kept {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.version;
            }
        }
    }
}
