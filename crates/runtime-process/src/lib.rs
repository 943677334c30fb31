//! The process runtime: one child process an agent, in its own process group, with its own directory and environment.
//!
//! Layout below the root: `<office>/<agent>/workspace` (the agent's), `<office>/<agent>/identity` (its key, not in
//! backups), `<office>/<agent>/tmp` (emptied at each start) and `<office>/<agent>/pid` (what to kill when the platform died
//! before it could). All 0700.

mod capture;
mod child;
mod clone;
mod disk;
mod leftover;
mod sandbox;
mod spawn;
mod workspace;

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, lchown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use mi_base::{Tasks, files::write_private};
use mi_kernel::{AgentId, Clock, Error, InstanceId, OfficeId, Result, secret::Secret};
use mi_runtime::{CapturedLine, Instance, Launch, Place, Progress, Runtime, Sandbox};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::sync::{mpsc, watch};

pub use self::sandbox::SandboxMode;

/// Where a running instance looks for an enrolment token, in its identity directory.
pub const TOKEN_FILE: &str = "enrol-token";
/// How long an instance may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// What all instances run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file; it is opened once, so that an update that replaces it changes nothing for this platform.
    pub path: PathBuf,
    /// Its arguments, the name it goes by first.
    pub arguments: Vec<String>,
}

/// How agents run.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Directory of all agents.
    pub root: PathBuf,
    /// The program that they run.
    pub program: Program,
    /// Whether they are sandboxed.
    pub sandbox: SandboxMode,
    /// How often their files are counted.
    pub disk_interval: Duration,
}

impl ProcessConfig {
    /// Agents as `mi agent run` of this very binary.
    pub fn new(root: PathBuf, sandbox: SandboxMode) -> Self {
        let arguments = ["mi", "agent", "run"].map(str::to_owned).to_vec();
        let program = Program { path: "/proc/self/exe".into(), arguments };
        Self { root, program, sandbox, disk_interval: Duration::from_secs(10) }
    }
}

/// Agents as child processes of this one.
pub struct ProcessRuntime {
    root: PathBuf,
    disk_interval: Duration,
    spawner: spawn::Spawner,
    lines: mpsc::Sender<CapturedLine>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    running: Arc<Mutex<HashMap<AgentId, Running>>>,
    ended_in: mpsc::UnboundedSender<AgentId>,
    ended_out: tokio::sync::Mutex<mpsc::UnboundedReceiver<AgentId>>,
}

/// An instance of this process: its process group, and why it ended once it has.
#[derive(Clone)]
struct Running {
    instance: InstanceId,
    group: Pid,
    exit: watch::Receiver<Option<String>>,
}

/// Finds out how far this host isolates agents, as a platform does when it starts, and takes nothing for them. `root` is
/// an empty directory for the time of the probe.
///
/// # Errors
/// `FailedPrecondition` when no process can be started at all.
pub fn probe(root: &Path) -> Result<Sandbox> {
    spawn::probe(root)
}

impl ProcessRuntime {
    /// Opens the root directory and kills what an earlier platform left behind there. `lines` takes what instances print;
    /// while it is full, they wait. Each instance that runs is one of `tasks`, whose shutdown waits for its end.
    ///
    /// # Errors
    /// `FailedPrecondition` when the directory cannot be made or read, or a sandbox is required and cannot be had.
    pub fn open(
        config: ProcessConfig,
        lines: mpsc::Sender<CapturedLine>,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Self> {
        let ProcessConfig { root, program, sandbox, disk_interval } = config;
        make_private(&root)?;
        leftover::kill_all(&root)?;
        // One message an instance that ends: bounded by the number of agents.
        let (ended_in, ended_out) = mpsc::unbounded_channel();
        Ok(Self {
            spawner: spawn::Spawner::start(&root, program, sandbox)?,
            root,
            disk_interval,
            lines,
            clock,
            tasks: tasks.clone(),
            running: Arc::default(),
            ended_in,
            ended_out: tokio::sync::Mutex::new(ended_out),
        })
    }

    fn home(&self, place: Place) -> PathBuf {
        self.root.join(place.office_id.to_string()).join(place.agent_id.to_string())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<AgentId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the child prints, and waits for the child or ends it when its files are too many, then clears up and
    /// tells the scheduler.
    fn supervise(
        &self,
        started: spawn::Started,
        place: Place,
        home: PathBuf,
        source: capture::Source,
        exit: watch::Sender<Option<String>>,
    ) {
        let (ended, every) = (self.ended_in.clone(), self.disk_interval);
        let spawn::Started { mut child, stdout, stderr, group, disk_bytes } = started;
        let (mut exited, shutdown) = (exit.subscribe(), self.tasks.shutdown());
        // What left the child's process group may hold its output open: shutdown does not wait for that.
        let reading = async move {
            let over = async {
                let _ = exited.wait_for(Option::is_some).await;
                shutdown.cancelled().await;
            };
            tokio::select! {
                () = capture::read_all(stdout, stderr, source) => {}
                () = over => {}
            }
        };
        let ending = async move {
            let reason = tokio::select! {
                reason = child.wait() => reason,
                used = disk::exceeded(&home, disk_bytes, every) => {
                    child.kill();
                    child.wait().await;
                    match used {
                        u64::MAX => "its directories are too deep to be counted, or closed to it".to_owned(),
                        used => format!("its files take {used} bytes of disk or more, its limit disk_bytes is {disk_bytes}"),
                    }
                }
            };
            // What a control group still holds dies with it.
            drop(group);
            leftover::forget(&home);
            exit.send_replace(Some(reason));
            let _ = ended.send(place.agent_id);
        };
        self.tasks.spawn_to_end("runtime-instance", async move {
            tokio::join!(ending, reading);
        });
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    async fn prepare(&self, place: Place, archive: Option<Box<dyn Read + Send>>) -> Result<()> {
        let home = self.home(place);
        blocking(move || workspace::prepare(&home, archive)).await
    }

    async fn prepared(&self, place: Place) -> Result<bool> {
        Ok(workspace::workspace(&self.home(place)).is_dir())
    }

    async fn start(&self, launch: Launch) -> Result<()> {
        let (place, instance, name) = (launch.place, launch.instance, launch.name.clone());
        if let Some(earlier) = self.observe(place.agent_id)
            && earlier.exit.is_none()
        {
            return match earlier.id == instance {
                true => Ok(()),
                false => Err(Error::precondition("INSTANCE_RUNNING", "the agent's earlier instance still runs")),
            };
        }
        let home = self.home(place);
        // What an instance before did not take up is worth nothing any more, and would be taken for one that is. The directory is
        // the agent's: what it may have laid there must not keep it from starting.
        let _ = std::fs::remove_file(workspace::identity(&home).join(TOKEN_FILE));
        let started = self.spawner.spawn(launch, &home).await?;
        let pid = started.child.id();
        leftover::remember(&home, pid);
        let source = capture::Source { place, name, instance, lines: self.lines.clone(), clock: self.clock.clone() };
        let (exit_in, exit) = watch::channel(None);
        self.running().insert(place.agent_id, Running { instance, group: pid, exit });
        self.supervise(started, place, home, source, exit_in);
        Ok(())
    }

    async fn hand_over(&self, place: Place, token: &Secret) -> Result<()> {
        let (home, token) = (self.home(place), token.clone());
        let (user, group) = self.spawner.isolation().owner(place.agent_id);
        blocking(move || {
            // Made where the agent cannot lay a link in its way, and then moved to it.
            let draft = home.join(TOKEN_FILE);
            let lay = || {
                write_private(&draft, token.expose().as_bytes())?;
                lchown(&draft, Some(user), Some(group))?;
                std::fs::rename(&draft, workspace::identity(&home).join(TOKEN_FILE))
            };
            lay().map_err(|error: io::Error| {
                Error::unavailable("the enrolment token could not be handed over").caused_by(error)
            })
        })
        .await
    }

    async fn stop(&self, place: Place) -> Result<Progress> {
        let Some(running) = self.running().get(&place.agent_id).cloned() else {
            return Ok(Progress::Done);
        };
        end(running).await;
        // The reason of an end that was asked for is of no interest, and a new start needs the place.
        self.running().remove(&place.agent_id);
        Ok(Progress::Done)
    }

    async fn shut_down(&self) {
        let running: Vec<Running> = self.running().values().cloned().collect();
        futures::future::join_all(running.into_iter().map(end)).await;
    }

    fn sandbox(&self) -> Sandbox {
        self.spawner.isolation().report().clone()
    }

    fn observe(&self, agent: AgentId) -> Option<Instance> {
        let all = self.running();
        let running = all.get(&agent)?;
        Some(Instance { exit: running.exit.borrow().clone(), ..Instance::up(running.instance) })
    }

    async fn ended(&self) -> AgentId {
        match self.ended_out.lock().await.recv().await {
            Some(agent) => agent,
            // The runtime holds a sender itself, so the channel never closes.
            None => std::future::pending().await,
        }
    }

    async fn archive(&self, place: Place, output: Box<dyn Write + Send>) -> Result<()> {
        let home = self.home(place);
        blocking(move || mi_archive::pack(&workspace::workspace(&home), output)).await
    }

    async fn remove(&self, place: Place) -> Result<Progress> {
        self.running().remove(&place.agent_id);
        let home = self.home(place);
        blocking(move || workspace::remove(&home)).await.map(|()| Progress::Done)
    }

    async fn remove_office(&self, office: OfficeId) -> Result<Progress> {
        let home = self.root.join(office.to_string());
        blocking(move || workspace::remove(&home)).await.map(|()| Progress::Done)
    }
}

/// Ends one instance; returns when its leader is gone and its group was killed.
async fn end(running: Running) {
    let Running { group, mut exit, .. } = running;
    if exit.borrow().is_some() {
        return;
    }
    // Only the leader is asked: it knows how to end its own children. What it leaves is killed with the group.
    let _ = kill(group, Signal::SIGTERM);
    if tokio::time::timeout(GRACE, exit.wait_for(Option::is_some)).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        let _ = exit.wait_for(Option::is_some).await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

/// Makes a directory and its parents that only this user may enter.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        let text = format!("cannot make the directory {}", path.display());
        Error::precondition("DATA_DIR", text).caused_by(error)
    })
}
