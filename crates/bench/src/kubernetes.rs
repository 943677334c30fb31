//! `kubernetes`: agents in the API server in memory, against a bare loop of the same requests in alternating rounds, and what a
//! scheduler weighs that sees many of them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mi_base::Tasks;
use mi_kernel::{AgentId, InstanceId, OfficeId, SystemClock, secret::Secret as Token};
use mi_kubesim::Sim;
use mi_runtime::{Cluster, Launch, Limits, Place, Runtime};
use mi_runtime_kubernetes::{AGENT_ID, KubernetesConfig, KubernetesRuntime, MANAGER, Settings, agent, namespace_name};
use mi_testkit::until;
use tokio::{process::Command, sync::mpsc};
use uuid::Uuid;

use crate::{
    ROUNDS, Result,
    latency::Latency,
    proc,
    report::{Goal, Table},
};

/// The first argument of the process that only looks.
pub(crate) const WATCHER: &str = "kubernetes-watcher";
/// Hires of a round, one after the other, and at once.
const SEQUENTIAL: usize = 50;
const CROWD: usize = 300;
/// How many are under way at once.
const AT_ONCE: usize = 32;
/// Agents that a full pass sees, and the offices that they are in.
const MANY: usize = 2000;
const OFFICES: usize = 20;
/// For broken code, not for slow machines.
const LIMIT: Duration = Duration::from_secs(120);

const CONFIG: &str = r#"
installation = "bench"
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
pods = 10000
cpu_millis = 10000000
memory_bytes = 10000000000000
disk_bytes = 100000000000000
[defaults]
cpu_millis = 100
memory_bytes = 268435456
disk_bytes = 1073741824
"#;

/// A runtime with the files that tell it of the cluster.
struct Scheduler {
    runtime: KubernetesRuntime,
    settings: Settings,
    office: OfficeId,
    _lines: mpsc::Receiver<mi_runtime::CapturedLine>,
    tasks: Tasks,
}

impl Scheduler {
    async fn open(files: &Path, installation: Uuid, office: OfficeId) -> Result<Self> {
        let (config, kubeconfig) = files_in(files);
        let settings = Settings::read(&config)?;
        let asked = KubernetesConfig {
            settings: settings.clone(),
            kubeconfig: Some(kubeconfig),
            silence: Duration::from_secs(60),
        };
        let (told, lines) = mpsc::channel(1000);
        let tasks = Tasks::new();
        let runtime = KubernetesRuntime::open(asked, told, SystemClock::shared(), &tasks).await?;
        runtime.join(installation);
        until("the cluster is seen", LIMIT, async || runtime.seen().map(Some)).await;
        Ok(Self { runtime, settings, office, _lines: lines, tasks })
    }

    fn launch(&self) -> Launch {
        let env = [("MI_ENROL_TOKEN", "token"), ("MI_ENDPOINT", "http://gateway"), ("KEY", "of an integration")];
        Launch {
            place: Place { office_id: self.office, agent_id: AgentId::new() },
            name: "analyst".to_owned(),
            instance: InstanceId::new(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            limits: Limits::default(),
        }
    }

    async fn hire(&self) -> Result {
        let launch = self.launch();
        self.runtime.prepare(launch.place, None).await?;
        Ok(self.runtime.start(launch).await?)
    }

    async fn hire_many(&self, count: usize) -> Result<f64> {
        let start = Instant::now();
        let all = stream::iter(0..count).map(|_| self.hire()).buffer_unordered(AT_ONCE);
        all.try_collect::<()>().await?;
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }
}

/// The same requests, and nothing else.
struct Bare {
    client: Client,
    namespace: String,
}

impl Bare {
    async fn open(files: &Path, office: OfficeId) -> Result<Self> {
        let config = Kubeconfig::read_from(files_in(files).1)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)?, namespace: namespace_name(office) })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn hire(&self, settings: &Settings, launch: Launch) -> Result {
        let objects = agent(settings, &launch, &Token::new("token"));
        let options = PatchParams::apply(MANAGER).force();
        let (accounts, secrets, sets) = (self.api::<ServiceAccount>(), self.api::<Secret>(), self.api::<StatefulSet>());
        let name = |metadata: &ObjectMeta| metadata.name.clone().unwrap_or_default();
        let [account, token, environment] =
            [&objects.account.metadata, &objects.token.metadata, &objects.environment.metadata].map(name);
        let patches =
            (Patch::Apply(&objects.account), Patch::Apply(&objects.token), Patch::Apply(&objects.environment));
        tokio::try_join!(
            accounts.patch(&account, &options, &patches.0),
            secrets.patch(&token, &options, &patches.1),
            secrets.patch(&environment, &options, &patches.2),
        )?;
        sets.patch(&name(&objects.set.metadata), &options, &Patch::Apply(&objects.set)).await?;
        Ok(())
    }

    async fn hire_many(&self, scheduler: &Scheduler, count: usize) -> Result<f64> {
        // Watched by nobody.
        let settings = Settings { installation: Uuid::nil().to_string(), ..scheduler.settings.clone() };
        let start = Instant::now();
        let all = stream::iter(0..count).map(|_| self.hire(&settings, scheduler.launch())).buffer_unordered(AT_ONCE);
        all.try_collect::<()>().await?;
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    /// Leaves none of them to the next round.
    async fn clear(&self) -> Result {
        let chosen = ListParams::default().labels(AGENT_ID);
        self.api::<StatefulSet>().delete_collection(&DeleteParams::background(), &chosen).await?;
        self.api::<Secret>().delete_collection(&DeleteParams::background(), &chosen).await?;
        self.api::<ServiceAccount>().delete_collection(&DeleteParams::background(), &chosen).await?;
        Ok(())
    }
}

fn files_in(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("kubernetes.toml"), directory.join("kubeconfig"))
}

pub(crate) async fn run() -> Result<Table> {
    let (mut p50, mut p99, mut ours, mut bare, mut ratio) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (sim, files) = start().await?;
        let office = OfficeId::new();
        let scheduler = Scheduler::open(files.path(), Uuid::now_v7(), office).await?;
        let loops = Bare::open(files.path(), office).await?;
        // The first one makes the office's namespace.
        scheduler.hire().await?;
        let latency = Latency::of(SEQUENTIAL, async || scheduler.hire().await).await?;
        p50.push(latency.millis(0.5));
        p99.push(latency.millis(0.99));
        let first = scheduler.hire_many(CROWD).await?;
        sim.settled().await;
        loops.clear().await?;
        let alone = loops.hire_many(&scheduler, CROWD).await?;
        ours.push(first);
        bare.push(alone);
        ratio.push(first / alone);
        scheduler.tasks.stop(LIMIT).await;
    }
    let mut table = Table::new("kubernetes");
    table.goal("hire -> objects applied, p50", "ms", &p50, Goal::AtMost(60.0));
    table.row("the same, p99", "ms", &p99);
    table.row("agents started, 32 at once", "/s", &ours);
    table.row("a bare loop of the same four applies, watched by nobody", "/s", &bare);
    table.goal("share of the bare loop", "", &ratio, Goal::AtLeast(0.9));
    many(&mut table).await?;
    Ok(table)
}

async fn start() -> Result<(Sim, tempfile::TempDir)> {
    let sim = Sim::start().await;
    let files = tempfile::tempdir()?;
    let (config, kubeconfig) = files_in(files.path());
    std::fs::write(config, CONFIG)?;
    std::fs::write(kubeconfig, sim.kubeconfig())?;
    Ok((sim, files))
}

/// A scheduler of its own process finds many agents.
async fn many(table: &mut Table) -> Result {
    let (sim, files) = start().await?;
    let installation = Uuid::now_v7();
    let mut scheduler = Scheduler::open(files.path(), installation, OfficeId::new()).await?;
    for _ in 0..OFFICES {
        scheduler.office = OfficeId::new();
        scheduler.hire().await?;
        scheduler.hire_many(MANY / OFFICES - 1).await?;
        sim.settled().await;
    }
    let (mut growth, mut found, mut pass) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(WATCHER).arg(files.path()).arg(installation.to_string()).stderr(Stdio::inherit());
        let output = command.kill_on_drop(true).output().await?;
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [resident, first, each] = numbers[..] else { return Err(format!("the watcher said `{text}`").into()) };
        growth.push(resident);
        found.push(first);
        pass.push(each);
    }
    table.goal("2,000 agents: resident memory for what is seen of them", "MB", &growth, Goal::AtMost(60.0));
    table.row("2,000 agents: seen after a start", "ms", &found);
    table.goal("2,000 agents: a full pass", "ms", &pass, Goal::AtMost(2000.0));
    Ok(())
}

/// `mi-bench kubernetes-watcher FILES INSTALLATION`: says how much memory it took to see all, in MB, how long that took, and
/// how long a full pass takes, in milliseconds.
pub(crate) async fn watch(args: &[String]) -> Result {
    let [files, installation] = args else {
        return Err(format!("usage: mi-bench {WATCHER} FILES INSTALLATION").into());
    };
    let pid = std::process::id();
    let (before, start) = (proc::memory(pid)?.rss, Instant::now());
    let scheduler = Scheduler::open(Path::new(files), installation.parse()?, OfficeId::new()).await?;
    let found = start.elapsed();
    let start = Instant::now();
    scheduler.runtime.look_over(true).await?;
    let (places, _) = scheduler.runtime.places();
    if places.len() != MANY {
        return Err(format!("{} agents were seen, and {MANY} there are", places.len()).into());
    }
    println!(
        "{} {} {}",
        proc::memory(pid)?.rss - before,
        found.as_secs_f64() * 1e3,
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
