//! [`Runtime`] over a cluster.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::Job,
    core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mi_base::Tasks;
use mi_kernel::{AgentId, BackupId, Clock, Error, InstanceId, OfficeId, Result, secret::Secret as Token};
use mi_runtime::{CapturedLine, Cluster, Instance, Launch, Place, Progress, Runtime, Sandbox, Saving};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    agent::{TOKEN_KEY, TOKEN_VARIABLE, token_secret},
    cache::{Cache, office_place, watch},
    calls::{apply, call, call_gone, delete},
    growth::grow,
    labels::{
        AGENT_ID, INSTALLATION, INSTANCE_ID, KEPT_FOR, MANAGED_BY, agent_name, namespace_name, of_agent, place_of,
        token_name,
    },
    logs, notes,
    offices::Offices,
    pods::PodView,
    save::save,
    settings::{Driver, Settings},
    sight::observe,
    views::{ClaimView, JobView, NamespaceView, Workload},
    workloads::Workloads,
};

/// What the runtime is started with.
pub struct KubernetesConfig {
    /// How it uses the cluster.
    pub settings: Settings,
    /// Where the cluster is; none: that of this pod, else as `kubectl` finds it.
    pub kubeconfig: Option<PathBuf>,
    /// A watch that is silent for longer is taken for dead.
    pub silence: Duration,
}

/// Agents as pods.
pub struct KubernetesRuntime {
    client: Client,
    settings: Settings,
    silence: Duration,
    cache: Arc<Cache>,
    offices: Offices,
    workloads: Workloads,
    /// Instances that still have what they needed for their start alone.
    unclean: Mutex<HashMap<AgentId, InstanceId>>,
    /// Set once it watches.
    joined: OnceLock<Settings>,
    lines: mpsc::Sender<CapturedLine>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    news: tokio::sync::Mutex<mpsc::UnboundedReceiver<AgentId>>,
}

impl KubernetesRuntime {
    /// Finds the cluster, and does not ask it for anything yet.
    ///
    /// # Errors
    /// When there is no configuration of a cluster, or it cannot be used.
    pub async fn open(
        config: KubernetesConfig,
        lines: mpsc::Sender<CapturedLine>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Self> {
        let unusable = |text: &str| Error::invalid("kubeconfig", text);
        let found = match &config.kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file).map_err(|error| unusable("cannot be read").caused_by(error))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| unusable("names no cluster that can be used").caused_by(error))?
            }
            None => Config::infer().await.map_err(|error| {
                unusable("is needed: this is no pod of a cluster, and there is no ~/.kube/config").caused_by(error)
            })?,
        };
        let client = Client::try_from(found)
            .map_err(|error| unusable("names a cluster that cannot be spoken to").caused_by(error))?;
        let (news, heard) = mpsc::unbounded_channel();
        Ok(Self {
            workloads: Workloads::new(client.clone(), config.settings.driver),
            client,
            settings: config.settings,
            silence: config.silence,
            cache: Arc::new(Cache::new(news)),
            offices: Offices::default(),
            unclean: Mutex::default(),
            joined: OnceLock::new(),
            lines,
            clock,
            tasks: tasks.clone(),
            news: tokio::sync::Mutex::new(heard),
        })
    }

    fn settings(&self) -> Result<&Settings> {
        self.joined.get().ok_or_else(|| Error::unavailable("the cluster was not reached yet"))
    }

    async fn ensure_office(&self, office: OfficeId) -> Result<()> {
        self.offices.ensure((&self.client, self.settings()?, &self.cache), office, false).await
    }

    fn in_office<K>(&self, office: OfficeId) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &namespace_name(office))
    }

    /// Deletes secrets of an agent by a label besides.
    async fn delete_secrets(&self, place: Place, besides: &str) -> Result<()> {
        let secrets: Api<Secret> = self.in_office(place.office_id);
        let chosen = ListParams::default().labels(&format!("{AGENT_ID}={}{besides}", place.agent_id));
        call_gone(secrets.delete_collection(&DeleteParams::default(), &chosen)).await.map(drop)
    }

    fn unclean(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, InstanceId>> {
        self.unclean.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Runtime for KubernetesRuntime {
    async fn prepare(&self, place: Place, _: Option<Box<dyn Read + Send>>) -> Result<()> {
        self.ensure_office(place.office_id).await
    }

    async fn prepared(&self, place: Place) -> Result<bool> {
        self.settings()?;
        let prepared = self.cache.seen().claims.of(place).any(|(_, claim)| !claim.deleting);
        Ok(prepared)
    }

    async fn start(&self, launch: Launch) -> Result<()> {
        let settings = self.settings()?;
        self.ensure_office(launch.place.office_id).await?;
        let token = Token::new(launch.env.get(TOKEN_VARIABLE).cloned().unwrap_or_default());
        let office = launch.place.office_id;
        let base = Workloads::base(settings, &launch, &token);
        let (accounts, secrets): (Api<ServiceAccount>, Api<Secret>) = (self.in_office(office), self.in_office(office));
        let name_of = |secret: &Secret| secret.metadata.name.clone().unwrap_or_default();
        let agent = agent_name(launch.place.agent_id);
        let (token_name, environment_name) = (name_of(&base.token), name_of(&base.environment));
        tokio::try_join!(
            call(apply(&accounts, &agent, &base.account)),
            call(apply(&secrets, &token_name, &base.token)),
            call(apply(&secrets, &environment_name, &base.environment)),
        )?;
        self.unclean().insert(launch.place.agent_id, launch.instance);
        self.workloads.start(settings, &self.cache, &launch, base).await?;
        grow(&self.client, &self.cache, launch.place).await;
        Ok(())
    }

    async fn hand_over(&self, place: Place, token: &Token) -> Result<()> {
        let settings = self.settings()?;
        let instance = self.cache.seen().workloads.of(place).find_map(|(_, workload)| workload.instance);
        let Some(instance) = instance else {
            return Err(Error::unavailable("the agent has no pod that a token could be laid into"));
        };
        let name = token_name(place.agent_id, instance);
        let mut labels = of_agent(settings, place.office_id, place.agent_id);
        labels.insert(INSTANCE_ID.to_owned(), instance.to_string());
        let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace_name(place.office_id)),
            labels: Some(labels),
            ..Default::default()
        };
        let secrets: Api<Secret> = self.in_office(place.office_id);
        call(apply(&secrets, &name, &token_secret(metadata, TOKEN_KEY, token))).await?;
        self.unclean().insert(place.agent_id, instance);
        Ok(())
    }

    async fn stop(&self, place: Place) -> Result<Progress> {
        self.settings()?;
        let up = self.cache.seen().workloads.of(place).any(|(_, workload)| workload.up && !workload.deleting);
        if up {
            self.workloads.stop(&self.cache, place).await?;
        }
        let seen = self.cache.seen();
        Ok(match observe(&seen, place, self.clock.now()) {
            None => Progress::Done,
            Some(_) => Progress::UnderWay,
        })
    }

    fn sandbox(&self) -> Sandbox {
        let enforced = ["pod", "pod-security-restricted", "network-policy", "seccomp", "resources"];
        let missing = match &self.settings.runtime_class {
            Some(_) => Vec::new(),
            None => vec!["runtime-class: none is configured, so that pods share the kernel of their node".to_owned()],
        };
        let class = self.settings.runtime_class.iter().map(|class| format!("runtime-class {class}"));
        Sandbox { in_cluster: true, enforced: enforced.map(str::to_owned).into_iter().chain(class).collect(), missing }
    }

    fn observe(&self, agent: AgentId) -> Option<Instance> {
        let seen = self.cache.seen();
        let office_id = *seen.offices.get(&agent)?;
        observe(&seen, Place { office_id, agent_id: agent }, self.clock.now())
    }

    async fn ended(&self) -> AgentId {
        match self.news.lock().await.recv().await {
            Some(agent) => agent,
            None => std::future::pending().await,
        }
    }

    async fn archive(&self, _: Place, _: Box<dyn Write + Send>) -> Result<()> {
        Err(Error::internal("a workspace in a cluster is sent by who has it"))
    }

    async fn remove(&self, place: Place) -> Result<Progress> {
        self.settings()?;
        let (workloads, claims, jobs, nothing) = {
            let seen = self.cache.seen();
            let name = |name: &str| name.to_owned();
            let workloads: Vec<String> =
                seen.workloads.of(place).filter(|(_, it)| !it.deleting).map(|(it, _)| name(it)).collect();
            let claims: Vec<String> =
                seen.claims.of(place).filter(|(_, it)| !it.deleting).map(|(it, _)| name(it)).collect();
            let jobs: Vec<String> =
                seen.jobs.of(place).filter(|(_, it)| !it.deleting).map(|(it, _)| name(it)).collect();
            (workloads, claims, jobs, seen.nothing_of(place))
        };
        let (sets, volumes, saves): (_, Api<PersistentVolumeClaim>, Api<Job>) =
            (&self.workloads, self.in_office(place.office_id), self.in_office(place.office_id));
        for name in jobs {
            delete(&saves, &name).await?;
        }
        for name in workloads {
            sets.delete(&self.cache, place, &name).await?;
        }
        for name in claims {
            delete(&volumes, &name).await?;
        }
        if !nothing {
            return Ok(Progress::UnderWay);
        }
        let accounts: Api<ServiceAccount> = self.in_office(place.office_id);
        delete(&accounts, &agent_name(place.agent_id)).await?;
        self.delete_secrets(place, "").await?;
        self.unclean().remove(&place.agent_id);
        self.cache.seen().ungrown.remove(&place.agent_id);
        Ok(Progress::Done)
    }

    async fn shut_down(&self) {}

    async fn remove_office(&self, office: OfficeId) -> Result<Progress> {
        self.settings()?;
        self.offices.remove(&self.client, &self.cache, office).await
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }
}

#[async_trait]
impl Cluster for KubernetesRuntime {
    async fn id(&self) -> Result<String> {
        // Nobody deletes this one.
        let all: Api<Namespace> = Api::all(self.client.clone());
        Ok(call(all.get("kube-system")).await?.metadata.uid.unwrap_or_default())
    }

    fn join(&self, installation: Uuid) {
        let settings = Settings { installation: installation.to_string(), ..self.settings.clone() };
        if self.joined.set(settings).is_ok() {
            self.watch_all(installation);
        }
    }

    fn seen(&self) -> Result<(), String> {
        match self.joined.get().is_some() && self.cache.seen().whole() {
            true => Ok(()),
            false => Err("the cluster was not reached yet".to_owned()),
        }
    }

    fn saving(&self, place: Place, backup: BackupId) -> Saving {
        let seen = self.cache.seen();
        let mut jobs = seen.jobs.of(place).map(|(_, job)| job);
        match jobs.find(|job| job.backup == Some(backup)) {
            None => Saving::NotAsked,
            // It is in nobody's way, and its end is waited for all the same: one at a time.
            Some(job) if job.deleting => Saving::UnderWay(None),
            Some(JobView { saving: Saving::UnderWay(_), .. }) => {
                let pod = seen.pods.of(place).map(|(_, pod)| pod).find(|pod| pod.saves);
                Saving::UnderWay(pod.and_then(|pod| pod.waiting.clone()).map(|it| format!("the backup waits: {it}")))
            }
            Some(job) => job.saving.clone(),
        }
    }

    async fn save(&self, place: Place, backup: BackupId, env: &BTreeMap<String, String>, token: &Token) -> Result<()> {
        let settings = self.settings()?;
        let claim =
            self.cache.seen().claims.of(place).find(|(_, claim)| !claim.deleting).map(|(name, _)| name.to_owned());
        let Some(claim) = claim else {
            return Err(Error::precondition("BACKUP_FAILED", "the agent's claim is gone"));
        };
        let objects = save(settings, (place, backup), &claim, env, token);
        let (secrets, jobs): (Api<Secret>, Api<Job>) =
            (self.in_office(place.office_id), self.in_office(place.office_id));
        let name = objects.job.metadata.name.clone().unwrap_or_default();
        call(apply(&secrets, &name, &objects.token)).await?;
        let job = call(apply(&jobs, &name, &objects.job)).await?;
        self.cache.wrote(|seen| &mut seen.jobs, place, &job.metadata, JobView::of(&job));
        Ok(())
    }

    async fn discard(&self, place: Place) -> Result<()> {
        let names: Vec<String> = self.cache.seen().jobs.of(place).map(|(name, _)| name.to_owned()).collect();
        let jobs: Api<Job> = self.in_office(place.office_id);
        for name in names {
            delete(&jobs, &name).await?;
        }
        Ok(())
    }

    async fn started(&self, place: Place, instance: InstanceId) -> Result<()> {
        if self.unclean().get(&place.agent_id) != Some(&instance) {
            return Ok(());
        }
        self.delete_secrets(place, &format!(",{KEPT_FOR}!={instance}")).await?;
        self.unclean().remove(&place.agent_id);
        Ok(())
    }

    async fn look_over(&self, mend: bool) -> Result<()> {
        self.offices.look_over((&self.client, self.settings()?, &self.cache), mend).await?;
        let places = if mend { self.places().0 } else { Vec::new() };
        for place in places {
            grow(&self.client, &self.cache, place).await;
        }
        Ok(())
    }

    fn places(&self) -> (Vec<Place>, Vec<OfficeId>) {
        self.cache.seen().places()
    }

    fn problems(&self, office: OfficeId) -> Vec<String> {
        self.offices.problems(office)
    }
}

impl KubernetesRuntime {
    /// One watch a kind, over all offices of this installation.
    fn watch_all(&self, installation: Uuid) {
        let of = (format!("{MANAGED_BY}=mi,{INSTALLATION}={installation}"), self.silence);
        let all = |cache: &Arc<Cache>| cache.clone();
        let (client, tasks, cache) = (&self.client, &self.tasks, &self.cache);
        let office = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            let office = crate::labels::id_in(metadata.labels.as_ref(), crate::OFFICE_ID)?;
            (metadata.name.as_deref() == Some(&*namespace_name(office))).then(|| office_place(office))
        };
        match &self.workloads {
            Workloads::Sets(_) => tasks.spawn(
                "kubernetes-sets",
                watch(
                    all(cache),
                    Api::<StatefulSet>::all(client.clone()),
                    of.clone(),
                    |seen| &mut seen.workloads,
                    (place_of, Workload::of_set),
                ),
            ),
            Workloads::Sandboxes(_, kind) => tasks.spawn(
                "kubernetes-sandboxes",
                watch(
                    all(cache),
                    Api::all_with(client.clone(), kind),
                    of.clone(),
                    |seen| &mut seen.workloads,
                    (place_of, Workload::of_sandbox),
                ),
            ),
        }
        tasks.spawn(
            "kubernetes-pods",
            watch(
                all(cache),
                Api::<Pod>::all(client.clone()),
                of.clone(),
                |seen| &mut seen.pods,
                (place_of, |object, _| PodView::of(object)),
            ),
        );
        tasks.spawn(
            "kubernetes-claims",
            watch(
                all(cache),
                Api::<PersistentVolumeClaim>::all(client.clone()),
                of.clone(),
                |seen| &mut seen.claims,
                (place_of, |object, _| ClaimView::of(object)),
            ),
        );
        tasks.spawn(
            "kubernetes-jobs",
            watch(
                all(cache),
                Api::<Job>::all(client.clone()),
                of.clone(),
                |seen| &mut seen.jobs,
                (place_of, |object, _| JobView::of(object)),
            ),
        );
        tasks.spawn(
            "kubernetes-namespaces",
            watch(
                all(cache),
                Api::<Namespace>::all(client.clone()),
                of,
                |seen| &mut seen.namespaces,
                (office, |object, _| NamespaceView::of(object)),
            ),
        );
        tasks.spawn("kubernetes-notes", notes::read(client.clone(), cache.clone()));
        tasks.spawn(
            "kubernetes-logs",
            logs::read(client.clone(), cache.clone(), self.lines.clone(), self.clock.clone()),
        );
    }
}

/// Which driver an operator named.
impl std::str::FromStr for Driver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "statefulset" => Ok(Self::StatefulSet),
            "sandbox" => Ok(Self::Sandbox),
            _ => Err("must be statefulset or sandbox"),
        }
    }
}
