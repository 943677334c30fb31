//! What is seen of the cluster: one watch a kind, by label, reduced to what the platform decides by.
//!
//! What this process wrote is there at once, and an older version that a watch brings later changes nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use mi_kernel::{AgentId, OfficeId};
use mi_runtime::Place;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{
    pods::PodView,
    views::{ClaimView, JobView, NamespaceView, Workload},
};

/// Objects that are listed with one request: as many are in memory whole, once as their text.
const PAGE: u32 = 100;
/// Errors of a watch in a row after which its list is made anew: the server may have gone back in time.
const PATIENCE: u32 = 5;

/// Objects of one kind, by whose they are and by name.
pub(crate) struct Table<T> {
    rows: HashMap<Place, BTreeMap<String, Row<T>>>,
    /// What a list has brought so far that is not whole yet.
    listed: Option<HashMap<Place, BTreeMap<String, Row<T>>>>,
    /// What was written while that list was made.
    written: HashSet<(Place, String)>,
    /// Whether a list was whole ever.
    seen: bool,
}

#[derive(PartialEq)]
struct Row<T> {
    version: u64,
    object: T,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), listed: None, written: HashSet::new(), seen: false }
    }
}

impl<T: PartialEq> Table<T> {
    /// An owner's objects by name.
    pub(crate) fn of(&self, place: Place) -> impl Iterator<Item = (&str, &T)> {
        self.rows.get(&place).into_iter().flatten().map(|(name, row)| (&**name, &row.object))
    }

    /// What is known of an object.
    fn known(&self, place: Place, name: &str) -> Option<&Row<T>> {
        self.rows.get(&place)?.get(name)
    }

    /// Takes a version of an object in; whether anything is new.
    fn put(&mut self, place: Place, name: &str, version: u64, object: T) -> bool {
        let rows = self.rows.entry(place).or_default();
        match rows.get(name) {
            Some(known) if version < known.version => false,
            Some(known) if known.object == object => {
                rows.entry(name.to_owned()).and_modify(|row| row.version = version);
                false
            }
            _ => {
                rows.insert(name.to_owned(), Row { version, object });
                true
            }
        }
    }

    /// Forgets an object; whether it was there.
    fn remove(&mut self, place: Place, name: &str, version: u64) -> bool {
        let Some(rows) = self.rows.get_mut(&place) else { return false };
        let there = rows.get(name).is_some_and(|known| version >= known.version);
        if there {
            rows.remove(name);
        }
        if rows.is_empty() {
            self.rows.remove(&place);
        }
        there
    }

    fn begin_list(&mut self) {
        self.listed = Some(HashMap::new());
        self.written.clear();
    }

    /// Puts what was listed in the place of what was known; answers of whom something is new.
    fn end_list(&mut self) -> Vec<Place> {
        let mut new = self.listed.take().unwrap_or_default();
        for (place, name) in mem::take(&mut self.written) {
            if let Some(row) = self.rows.get_mut(&place).and_then(|rows| rows.remove(&name)) {
                let listed = new.entry(place).or_default();
                if listed.get(&name).is_none_or(|listed| listed.version < row.version) {
                    listed.insert(name, row);
                }
            }
        }
        self.seen = true;
        let old = mem::replace(&mut self.rows, new);
        let gone = old.keys().filter(|place| !self.rows.contains_key(place));
        let changed = self.rows.iter().filter(|(place, rows)| old.get(place) != Some(rows)).map(|(place, _)| place);
        gone.chain(changed).copied().collect()
    }
}

/// What is seen of all kinds.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) workloads: Table<Workload>,
    pub(crate) pods: Table<PodView>,
    pub(crate) claims: Table<ClaimView>,
    pub(crate) jobs: Table<JobView>,
    /// Of offices, so that their place has the least agent.
    pub(crate) namespaces: Table<NamespaceView>,
    /// The office of each agent of which something was seen.
    pub(crate) offices: HashMap<AgentId, OfficeId>,
    /// What somebody else said of an agent whose pod is not made.
    pub(crate) notes: HashMap<AgentId, String>,
    /// Why an agent's claim could not be made larger.
    pub(crate) ungrown: HashMap<AgentId, String>,
}

impl Seen {
    /// Whether every kind was seen whole.
    pub(crate) fn whole(&self) -> bool {
        let Self { workloads, pods, claims, jobs, namespaces, .. } = self;
        workloads.seen && pods.seen && claims.seen && jobs.seen && namespaces.seen
    }

    /// Whether there is nothing of an agent.
    pub(crate) fn nothing_of(&self, place: Place) -> bool {
        self.workloads.of(place).next().is_none()
            && self.pods.of(place).next().is_none()
            && self.claims.of(place).next().is_none()
            && self.jobs.of(place).next().is_none()
    }

    pub(crate) fn namespace_of(&self, office: OfficeId) -> Option<&NamespaceView> {
        self.namespaces.of(office_place(office)).map(|(_, view)| view).next()
    }

    /// Whose objects there are.
    pub(crate) fn places(&self) -> (Vec<Place>, Vec<OfficeId>) {
        let of_agents = self.workloads.rows.keys().chain(self.claims.rows.keys()).chain(self.jobs.rows.keys());
        let places: HashSet<Place> = of_agents.copied().collect();
        let offices = self.namespaces.rows.keys().map(|place| place.office_id);
        (places.into_iter().collect(), offices.collect())
    }
}

/// The place of what is an office's and no agent's.
pub(crate) fn office_place(office_id: OfficeId) -> Place {
    Place { office_id, agent_id: AgentId::MIN }
}

/// What is seen, and whom it is news of.
pub(crate) struct Cache {
    seen: Mutex<Seen>,
    news: mpsc::UnboundedSender<AgentId>,
}

/// Whose an object is, and what of it counts, given what counted of an older version of it.
pub(crate) type Reading<K, T> = (fn(&ObjectMeta) -> Option<Place>, fn(&K, Option<&T>) -> T);
/// A kind's table.
pub(crate) type TableOf<T> = fn(&mut Seen) -> &mut Table<T>;

impl Cache {
    pub(crate) fn new(news: mpsc::UnboundedSender<AgentId>) -> Self {
        Self { seen: Mutex::default(), news }
    }

    // The maps are whole between any two statements: a panic elsewhere does not spoil them.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, agent: AgentId) {
        if agent != AgentId::MIN {
            let _ = self.news.send(agent);
        }
    }

    /// Takes in what this process has just written.
    pub(crate) fn wrote<T: PartialEq>(&self, table: TableOf<T>, place: Place, metadata: &ObjectMeta, object: T) {
        let mut seen = self.seen();
        seen.offices.insert(place.agent_id, place.office_id);
        let name = metadata.name.clone().unwrap_or_default();
        let table = table(&mut seen);
        if table.listed.is_some() {
            table.written.insert((place, name.clone()));
        }
        table.put(place, &name, version_of(metadata), object);
    }

    /// Forgets what turned out to be gone.
    pub(crate) fn gone<T: PartialEq>(&self, table: TableOf<T>, place: Place, name: &str) {
        table(&mut self.seen()).remove(place, name, u64::MAX);
        self.tell(place.agent_id);
    }

    fn take<K: Resource, T: PartialEq>(&self, event: Event<K>, table: TableOf<T>, (place_of, view): Reading<K, T>) {
        let mut news = Vec::new();
        let mut seen = self.seen();
        match event {
            Event::Init => table(&mut seen).begin_list(),
            Event::InitApply(object) => {
                let Some(place) = place_of(object.meta()) else { return };
                seen.offices.insert(place.agent_id, place.office_id);
                let name = object.meta().name.clone().unwrap_or_default();
                let table = table(&mut seen);
                let known = table.known(place, &name).map(|row| &row.object);
                let row = Row { version: version_of(object.meta()), object: view(&object, known) };
                if let Some(listed) = &mut table.listed {
                    listed.entry(place).or_default().insert(name, row);
                }
            }
            Event::InitDone => {
                news = table(&mut seen).end_list();
                // Whoever has nothing any more is forgotten, once everybody was seen.
                if seen.whole() {
                    let offices = mem::take(&mut seen.offices);
                    let left = |(agent_id, office_id): &(AgentId, OfficeId)| {
                        !seen.nothing_of(Place { office_id: *office_id, agent_id: *agent_id })
                    };
                    let left: HashMap<AgentId, OfficeId> = offices.into_iter().filter(left).collect();
                    seen.offices = left;
                }
            }
            Event::Apply(object) => {
                let Some(place) = place_of(object.meta()) else { return };
                seen.offices.insert(place.agent_id, place.office_id);
                let (name, version) = (object.meta().name.as_deref().unwrap_or_default(), version_of(object.meta()));
                let table = table(&mut seen);
                let known = table.known(place, name);
                // What this process wrote comes back to it.
                if known.is_some_and(|known| version <= known.version) {
                    return;
                }
                let object = view(&object, known.map(|known| &known.object));
                if table.put(place, name, version, object) {
                    news.push(place);
                }
            }
            Event::Delete(object) => {
                let Some(place) = place_of(object.meta()) else { return };
                let name = object.meta().name.as_deref().unwrap_or_default();
                if table(&mut seen).remove(place, name, version_of(object.meta())) {
                    news.push(place);
                }
            }
        }
        drop(seen);
        news.into_iter().for_each(|place| self.tell(place.agent_id));
    }
}

/// Versions of objects grow with each change of anything in a cluster.
fn version_of(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Watches a kind until it is dropped. A watch that is silent for longer than `silence` is taken for dead.
pub(crate) async fn watch<K, T>(
    cache: Arc<Cache>,
    api: Api<K>,
    (labels, silence): (String, Duration),
    table: TableOf<T>,
    read: Reading<K, T>,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: PartialEq,
{
    let seconds = u32::try_from(silence.as_secs()).unwrap_or(u32::MAX);
    let config = Config::default().labels(&labels).timeout(seconds).page_size(PAGE);
    loop {
        let mut events = pin!(watcher(api.clone(), config.clone()).default_backoff());
        let mut errors = 0;
        while errors < PATIENCE {
            match events.next().await {
                Some(Ok(event)) => {
                    errors = 0;
                    cache.take(event, table, read);
                }
                Some(Err(error)) => {
                    errors += 1;
                    let url = api.resource_url();
                    tracing::warn!(target: "mi::kubernetes", url, %error, "a watch was interrupted and goes on");
                }
                None => break,
            }
        }
    }
}
