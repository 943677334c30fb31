//! A cluster and a runtime that uses it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
};
use mi_base::Tasks;
use mi_kernel::{AgentId, Clock, InstanceId, OfficeId, SystemClock};
use mi_kubesim::Sim;
use mi_runtime::{CapturedLine, Cluster, Instance, Launch, Limits, Place, Progress, Runtime};
use mi_runtime_kubernetes::{Driver, KubernetesConfig, KubernetesRuntime, Settings, namespace_name};
use mi_testkit::until;
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

/// For broken code, not for slow machines.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

const CONFIG: &str = r#"
installation = "mi"
namespace = "mi"
service_account = "mi-scheduler"
office_role = "mi-office"
image = "mi:1"
[gateway]
namespace = "mi"
ports = [7400]
[dns]
namespace = "kube-system"
ports = [53]
[quota]
pods = 5
cpu_millis = 16000
memory_bytes = 34359738368
disk_bytes = 107374182400
[defaults]
cpu_millis = 100
memory_bytes = 268435456
disk_bytes = 1073741824
"#;

/// Where the platform is, as a runtime is told it.
pub(crate) fn endpoint() -> BTreeMap<String, String> {
    [("MI_ENDPOINT".to_owned(), "http://gateway".to_owned())].into()
}

/// A cluster and a runtime that uses it.
pub(crate) struct Harness {
    /// The cluster, where it is the one in memory.
    sim: Option<Sim>,
    client: Client,
    pub(crate) runtime: KubernetesRuntime,
    pub(crate) lines: mpsc::Receiver<CapturedLine>,
    pub(crate) office: OfficeId,
    installation: Uuid,
    tasks: Tasks,
}

/// The way to a cluster in memory, as a file.
fn written(sim: &Sim) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("made");
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, sim.kubeconfig()).expect("written");
    (directory, kubeconfig)
}

/// A runtime that has not joined yet, and what its instances print.
async fn runtime(
    kubeconfig: PathBuf,
    (driver, image): (Driver, &str),
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> (KubernetesRuntime, mpsc::Receiver<CapturedLine>) {
    let config = tempfile::NamedTempFile::new().expect("made");
    std::fs::write(config.path(), CONFIG.replace("mi:1", image)).expect("written");
    let settings = Settings { driver, ..Settings::read(config.path()).expect("reads") };
    let config = KubernetesConfig { settings, kubeconfig: Some(kubeconfig), silence: Duration::from_secs(2) };
    let (told, lines) = mpsc::channel(1000);
    (KubernetesRuntime::open(config, told, clock, tasks).await.expect("opens"), lines)
}

impl Harness {
    /// On the cluster that `MI_TEST_KUBECONFIG` names, else on the one in memory.
    pub(crate) async fn start(driver: Driver) -> Self {
        match std::env::var_os("MI_TEST_KUBECONFIG") {
            Some(kubeconfig) => Self::open((None, kubeconfig.into()), driver, SystemClock::shared()).await,
            None => Self::start_on(Sim::start().await, driver).await,
        }
    }

    pub(crate) async fn simulated() -> Self {
        Self::start_on(Sim::start().await, Driver::StatefulSet).await
    }

    pub(crate) async fn start_on(sim: Sim, driver: Driver) -> Self {
        Self::start_at(sim, driver, SystemClock::shared()).await
    }

    /// With a clock of its own.
    pub(crate) async fn start_at(sim: Sim, driver: Driver, clock: Arc<dyn Clock>) -> Self {
        let (_directory, kubeconfig) = written(&sim);
        Self::open((Some(sim), kubeconfig), driver, clock).await
    }

    async fn open((sim, kubeconfig): (Option<Sim>, PathBuf), driver: Driver, clock: Arc<dyn Clock>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = Kubeconfig::read_from(&kubeconfig).expect("reads");
        let found = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a cluster");
        let client = Client::try_from(found).expect("a client");
        let (tasks, installation) = (Tasks::new(), Uuid::now_v7());
        let image = std::env::var("MI_TEST_KUBERNETES_IMAGE").unwrap_or_else(|_| "mi:1".to_owned());
        let (runtime, lines) = runtime(kubeconfig, (driver, &image), clock, &tasks).await;
        assert!(runtime.seen().is_err(), "nothing was seen yet");
        runtime.join(installation);
        let harness = Self { sim, client, runtime, lines, office: OfficeId::new(), installation, tasks };
        until("the cluster is seen", LIMIT, async || harness.runtime.seen().map(Some)).await;
        harness
    }

    /// The platform is started again, with this image for agents.
    pub(crate) async fn restart_with(&mut self, image: &str) {
        let (_directory, kubeconfig) = written(self.sim());
        let of = (Driver::StatefulSet, image);
        (self.runtime, self.lines) = runtime(kubeconfig, of, SystemClock::shared(), &self.tasks).await;
        self.runtime.join(self.installation);
        until("the cluster is seen", LIMIT, async || self.runtime.seen().map(Some)).await;
    }

    pub(crate) fn namespace(&self) -> String {
        namespace_name(self.office)
    }

    pub(crate) fn agent(&self) -> Place {
        Place { office_id: self.office, agent_id: AgentId::new() }
    }

    pub(crate) fn launch(&self, place: Place) -> Launch {
        let env = [("MI_ENROL_TOKEN", "token"), ("MI_ENDPOINT", "http://gateway"), ("KEY", "of an integration")];
        Launch {
            place,
            name: "analyst".to_owned(),
            instance: InstanceId::new(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            limits: Limits::default(),
        }
    }

    /// From now on the storage class lets volumes grow.
    pub(crate) fn let_volumes_grow(&self) {
        let allow = |class: &mut Value| class["allowVolumeExpansion"] = true.into();
        self.sim().edit("storageclasses", "", "standard", allow).expect("edited");
    }

    pub(crate) async fn started(&self, place: Place) -> InstanceId {
        self.begun(self.launch(place)).await
    }

    /// With a claim of so many bytes.
    pub(crate) async fn started_with(&self, place: Place, disk_bytes: u64) -> InstanceId {
        let limits = Limits { disk_bytes: Some(disk_bytes), ..Limits::default() };
        self.begun(Launch { limits, ..self.launch(place) }).await
    }

    async fn begun(&self, launch: Launch) -> InstanceId {
        let place = launch.place;
        let id = launch.instance;
        self.runtime.prepare(place, None).await.expect("prepared");
        self.runtime.start(launch).await.expect("started");
        id
    }

    /// Waits until what is seen of an agent is so.
    pub(crate) async fn seen(
        &self,
        place: Place,
        what: &str,
        is: impl Fn(Option<&Instance>) -> bool,
    ) -> Option<Instance> {
        until(what, LIMIT, async || {
            let seen = self.runtime.observe(place.agent_id);
            if is(seen.as_ref()) { Ok(Some(seen)) } else { Err(format!("{seen:?}")) }
        })
        .await
    }

    pub(crate) async fn up(&self, place: Place) -> Instance {
        let up = |seen: Option<&Instance>| seen.is_some_and(|seen| seen.waiting.is_none() && !seen.altered);
        self.seen(place, "it runs", up).await.expect("there")
    }

    /// Waits until it waits, and says so with these words.
    pub(crate) async fn waits(&self, place: Place, words: &str) {
        let says = |seen: Option<&Instance>| {
            seen.and_then(|seen| seen.waiting.as_deref()).is_some_and(|waiting| waiting.contains(words))
        };
        self.seen(place, words, says).await;
    }

    pub(crate) async fn stopped(&self, place: Place) {
        until("it has stopped", LIMIT, async || {
            let progress = self.runtime.stop(place).await.map_err(|error| error.chain())?;
            if progress == Progress::Done { Ok(Some(())) } else { Err("under way".to_owned()) }
        })
        .await;
    }

    /// The cluster in memory.
    pub(crate) fn sim(&self) -> &Sim {
        self.sim.as_ref().expect("a test of the API server in memory")
    }

    fn api(&self, resource: &str) -> Api<DynamicObject> {
        let (group, version, kind) = match resource {
            "namespaces" => ("", "v1", "Namespace"),
            "pods" => ("", "v1", "Pod"),
            "persistentvolumeclaims" => ("", "v1", "PersistentVolumeClaim"),
            "resourcequotas" => ("", "v1", "ResourceQuota"),
            "secrets" => ("", "v1", "Secret"),
            "serviceaccounts" => ("", "v1", "ServiceAccount"),
            "statefulsets" => ("apps", "v1", "StatefulSet"),
            "networkpolicies" => ("networking.k8s.io", "v1", "NetworkPolicy"),
            _ => panic!("{resource} is not among those that scenarios use"),
        };
        let of = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), resource);
        match resource {
            "namespaces" => Api::all_with(self.client.clone(), &of),
            _ => Api::namespaced_with(self.client.clone(), &self.namespace(), &of),
        }
    }

    /// An object in the office's namespace, or a namespace.
    pub(crate) async fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let found = self.api(resource).get_opt(name).await.expect("answered");
        found.map(|found| serde_json::to_value(found).expect("JSON"))
    }

    /// How many objects of agents there are.
    pub(crate) async fn count(&self, resource: &str) -> usize {
        let of_agents = ListParams::default().labels("mi/agent-id");
        self.api(resource).list(&of_agents).await.expect("answered").items.len()
    }

    /// Makes an object, as somebody does by hand.
    pub(crate) async fn create(&self, resource: &str, object: Value) {
        let object = serde_json::from_value(object).expect("an object");
        self.api(resource).create(&PostParams::default(), &object).await.expect("made");
    }

    /// Changes an object, as somebody does by hand.
    pub(crate) async fn edit(&self, resource: &str, name: &str, patch: Value) {
        let options = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
        self.api(resource).patch(name, &options, &Patch::Merge(patch)).await.expect("edited");
    }

    /// Deletes an object, as somebody does by hand.
    pub(crate) async fn delete(&self, resource: &str, name: &str) {
        let _ = self.api(resource).delete(name, &DeleteParams::background()).await.expect("deleted");
    }

    /// Deletes a pod without waiting for its node.
    pub(crate) async fn delete_by_force(&self, pod: &str) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let _ = self.api("pods").delete(pod, &now).await.expect("deleted");
    }

    /// Has a pod go elsewhere, as `kubectl drain` does.
    pub(crate) async fn evict(&self, pod: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace());
        pods.evict(pod, &EvictParams::default()).await.expect("evicted");
    }

    /// Waits until it is done.
    pub(crate) async fn done(&self, what: &str, mut ask: impl AsyncFnMut() -> mi_kernel::Result<Progress>) {
        until(what, LIMIT, async || match ask().await {
            Ok(Progress::Done) => Ok(Some(())),
            Ok(Progress::UnderWay) => Err("under way".to_owned()),
            Err(error) => Err(error.chain()),
        })
        .await;
    }

    /// The end of a scenario: a real cluster is left as it was.
    pub(crate) async fn clear(&self) {
        self.done("the namespace is gone", async || self.runtime.remove_office(self.office).await).await;
    }
}
