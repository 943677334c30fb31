//! The simulated cluster as a test holds it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mi_kernel::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use crate::{
    admission::{DEFAULT_CLASS, Webhook},
    conduct::{Conduct, Pods},
    controllers,
    delete::Deletion,
    faults::{Fault, FaultId},
    kinds::Kind,
    matching::Matching,
    record::Request,
    refusal::Refusal,
    serve::serve,
    shared::{Core, control},
    store::{Key, World},
    watch::Order,
    write::Writer,
};

/// How long a test waits for something that has to come. For broken code, not for slow machines.
const LIMIT: Duration = Duration::from_secs(60);
/// When it is looked again where nothing has changed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What is there from the start.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// Who changes objects by [`Sim::edit`] and its like.
const SOMEBODY: &str = "kubectl-edit";

/// How a cluster is.
pub struct Setup {
    /// The pause between two bookmarks of a watch. A real server has a minute.
    pub bookmarks: Duration,
    /// How many changes are remembered for watches.
    pub kept_changes: usize,
    /// Whether there is a storage class, `standard`, that claims get which name none.
    pub default_storage_class: bool,
    /// How many nodes there are: `node-1` and so on.
    pub nodes: usize,
    /// Its time.
    pub clock: Arc<dyn Clock>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            bookmarks: Duration::from_secs(60),
            kept_changes: 10_000,
            default_storage_class: true,
            nodes: 1,
            clock: SystemClock::shared(),
        }
    }
}

/// A cluster in memory with an API server on loopback. It ends when it is dropped.
pub struct Sim {
    core: Arc<Core>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Sim {
    /// Starts a usual one.
    ///
    /// # Panics
    /// When there is no port on loopback.
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    /// Starts one that is set up so.
    ///
    /// # Panics
    /// When there is no port on loopback.
    pub async fn start_with(setup: Setup) -> Self {
        let mut world = World::new(setup.clock);
        world.kept = setup.kept_changes;
        furnish(&mut world, setup.nodes, setup.default_storage_class);
        let core = Arc::new(Core::new(world, setup.bookmarks));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(control(core.clone()));
        tasks.spawn(serve(core.clone(), listener));
        Self { core, address, _tasks: tasks }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads here, as YAML.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "sim",
            "clusters": [{"name": "sim", "cluster": {"server": self.url()}}],
            "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "sim"}}],
            "users": [{"name": "sim", "user": {}}],
        })
        .to_string()
    }

    /// Has every request that matches go wrong, until it is healed.
    pub fn fault(&self, of: Matching, fault: Fault) -> FaultId {
        self.add_fault(of, fault, None)
    }

    /// Has the next requests that match go wrong, so many of them.
    pub fn fault_times(&self, times: usize, of: Matching, fault: Fault) -> FaultId {
        self.add_fault(of, fault, Some(times))
    }

    fn add_fault(&self, of: Matching, fault: Fault, times: Option<usize>) -> FaultId {
        let id = FaultId(self.core.next());
        self.core.faults().add(id, of, fault, times);
        id
    }

    /// Has an admission webhook refuse writes, those of controllers too. A patch is an `update` to it, or a `create`.
    pub fn refuse(&self, of: Matching, name: &str, message: &str) -> FaultId {
        let id = self.core.next();
        let (name, message) = (name.to_owned(), message.to_owned());
        self.core.change(|world| world.webhooks.push(Webhook { id, of, name, message }));
        FaultId(id)
    }

    /// Takes a fault or a webhook away.
    pub fn heal(&self, id: FaultId) {
        self.core.faults().take(id);
        self.core.change(|world| {
            world.webhooks.retain(|webhook| webhook.id != id.0);
            controllers::release_all(world);
        });
    }

    /// Takes all faults and webhooks away.
    pub fn heal_all(&self) {
        self.core.faults().clear();
        self.core.change(|world| {
            world.webhooks.clear();
            controllers::release_all(world);
        });
    }

    /// The API server is gone, until it is healed: every connection is broken, and no request is answered. What is in the
    /// cluster goes on.
    pub fn go_down(&self) -> FaultId {
        let id = self.fault(Matching::all(), Fault::Disconnect);
        self.break_watches(&Matching::all());
        id
    }

    /// Breaks the connections of watches that are open; says how many.
    pub fn break_watches(&self, of: &Matching) -> usize {
        self.core.watches().order(of, Order::Break)
    }

    /// Has watches that are open stay silent for ever; says how many.
    pub fn hang_watches(&self, of: &Matching) -> usize {
        self.core.watches().order(of, Order::Hang)
    }

    /// Tells watches that are open that their version is forgotten (410); says how many.
    pub fn expire_watches(&self, of: &Matching) -> usize {
        self.core.watches().order(of, Order::Expire)
    }

    /// How many watches are open.
    pub fn open_watches(&self, of: &Matching) -> usize {
        self.core.watches().count(of)
    }

    /// Forgets all history: old versions are 410 from now on, for watches, pages and exact lists.
    pub fn compact(&self) {
        self.core.change(World::compact);
    }

    /// From now on lists of any version (`resourceVersion=0`) show what there is at this moment.
    pub fn serve_stale_lists(&self) {
        self.core.set_stale(Some(self.version()));
    }

    /// Lists of any version show the newest again.
    pub fn serve_fresh_lists(&self) {
        self.core.set_stale(None);
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.core.world().version()
    }

    /// Says how pods fare from now on; of what is said about a pod the last counts.
    pub fn conduct(&self, pods: Pods, conduct: Conduct) {
        self.core.change(|world| {
            world.conducts.say(pods, conduct);
            controllers::release_all(world);
        });
    }

    /// Has claims stay pending, whatever their class.
    pub fn hold_claims(&self, claims: Pods) {
        self.core.change(|world| world.conducts.hold(claims, true));
    }

    /// Binds claims again that were held.
    pub fn release_claims(&self, claims: Pods) {
        self.core.change(|world| {
            world.conducts.hold(claims, false);
            controllers::release_all(world);
        });
    }

    /// A node no longer answers: its pods are not ready, and do not end when they are deleted.
    pub fn lose_node(&self, name: &str) {
        self.core.change(|world| {
            world.conducts.lost_nodes.insert(name.to_owned());
            controllers::release_all(world);
        });
    }

    /// A node answers again.
    pub fn return_node(&self, name: &str) {
        self.core.change(|world| {
            world.conducts.lost_nodes.remove(name);
            controllers::release_all(world);
        });
    }

    /// Deletes the pods of a node, as happens to those of a node that is lost for long. They do not go before it returns,
    /// or is removed.
    pub fn evict_from(&self, node: &str) {
        self.core.change(|world| {
            let pods = world.list("pods", "").filter(|(_, pod)| pod["spec"]["nodeName"] == node);
            let pods: Vec<Key> = pods.map(|(key, _)| key.clone()).collect();
            for pod in pods {
                // A webhook may be against it.
                let _ = world.delete(&pod, &Deletion::background());
            }
        });
    }

    /// What a container printed, and what its run before did.
    pub fn set_log(&self, namespace: &str, pod: &str, container: &str, current: &str, previous: &str) {
        let place = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        let texts = (current.to_owned(), previous.to_owned());
        self.core.change(|world| world.logs.insert(place, texts));
    }

    /// Everything that was asked, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.core.requests().values().cloned().collect()
    }

    /// What was asked of these.
    pub fn requests_of(&self, of: &Matching) -> Vec<Request> {
        self.core.requests().values().filter(|request| request.is(of)).cloned().collect()
    }

    /// Forgets what was asked.
    pub fn forget_requests(&self) {
        self.core.requests().clear();
    }

    /// An object as it is.
    ///
    /// # Panics
    /// When there is no such resource, as in all that follow.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.core.world().get(&key(resource, namespace, name)).map(|object| (**object).clone())
    }

    /// The objects of a resource, in all namespaces if none is named.
    pub fn list(&self, resource: &str, namespace: &str) -> Vec<Value> {
        let kind = kind(resource);
        self.core.world().list(kind.resource, namespace).map(|(_, object)| (**object).clone()).collect()
    }

    /// Creates an object as somebody does by hand.
    ///
    /// # Errors
    /// With the `Status` of the refusal.
    pub fn create(&self, resource: &str, namespace: &str, object: Value) -> Result<Value, Value> {
        let created = self.core.change(|world| world.create(kind(resource), namespace, object, &somebody()));
        created.map(|object| (*object).clone()).map_err(|refusal| refusal.status())
    }

    /// Changes an object as somebody does by hand: its status by a change of that alone. Until the change has returned
    /// the cluster stands still, so that it may not ask anything of it.
    ///
    /// # Errors
    /// With the `Status` of the refusal.
    pub fn edit(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Value> {
        let key = key(resource, namespace, name);
        let edited = self.core.change(|world| {
            let found = world.get(&key).ok_or_else(|| Refusal::not_found(key.kind(), &key.name))?;
            let mut object = Value::clone(found);
            let status = object.get("status").cloned();
            change(&mut object);
            let mut by = somebody();
            if object.get("status").cloned() != status {
                by.subresource = "status".to_owned();
            }
            world.update(&key, object, &by)
        });
        edited.map(|object| (*object).clone()).map_err(|refusal| refusal.status())
    }

    /// Deletes an object as somebody does by hand, with the usual grace.
    ///
    /// # Errors
    /// With the `Status` of the refusal.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<(), Value> {
        let key = key(resource, namespace, name);
        let deleted = self.core.change(|world| world.delete(&key, &Deletion::background()));
        deleted.map(drop).map_err(|refusal| refusal.status())
    }

    /// Waits until a look finds something, looking again after each change.
    ///
    /// # Panics
    /// After a minute, naming what was awaited.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let mut changes = self.core.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = look(self) {
                    return found;
                }
                // Never closed: this is one of its senders. Controllers come to rest without a change, too.
                let _ = timeout(LOOK_AGAIN, changes.changed()).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} until {what}, in vain"))
    }

    /// Waits until the controllers have nothing left to do.
    ///
    /// # Panics
    /// When they do not come to rest within a minute.
    pub async fn settled(&self) {
        let rest = |sim: &Self| (!sim.core.world().due.is_due()).then_some(());
        self.until("the controllers come to rest", rest).await;
    }
}

fn somebody() -> Writer {
    Writer::controller(SOMEBODY)
}

fn kind(resource: &str) -> &'static Kind {
    Kind::of(resource).unwrap_or_else(|| panic!("there is no resource {resource:?}"))
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key::new(kind(resource).resource, namespace, name)
}

fn furnish(world: &mut World, nodes: usize, storage: bool) {
    let by = Writer::controller("sim");
    let mut add = |resource: &str, object: Value| {
        world.create(kind(resource), "", object, &by).expect("what is there from the start is valid");
    };
    for name in NAMESPACES {
        add("namespaces", json!({"metadata": {"name": name}}));
    }
    for number in 1..=nodes {
        let name = format!("node-{number}");
        add("nodes", json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}}));
    }
    if storage {
        let class = json!({
            "metadata": {"name": "standard", "annotations": {DEFAULT_CLASS: "true"}},
            "provisioner": "sim.example.com/disk",
        });
        add("storageclasses", class);
    }
}
