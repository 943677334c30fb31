//! The process runtime: one child process an agent, in its own process group, with its own directory and environment.
//!
//! Layout below the root: `<office>/<agent>/workspace` (the agent's), `<office>/<agent>/identity` (its key, not in
//! backups) and `<office>/<agent>/pid` (what to kill when the platform died before it could). All 0700.

mod capture;
mod leftover;
mod spawn;
mod workspace;

use std::{
    collections::HashMap,
    io::{Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use mi_base::files::write_private;
use mi_kernel::{AgentId, Clock, Error, InstanceId, OfficeId, Result, secret::Secret};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::Child,
    sync::{mpsc, watch},
};

use crate::{CapturedLine, Compute, Launch, Place, Runtime};

/// Where a running compute looks for an enrolment token, in its identity directory.
pub const TOKEN_FILE: &str = "enrol-token";
/// How long a compute may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Agents as child processes of this one.
pub struct ProcessRuntime {
    root: PathBuf,
    spawner: spawn::Spawner,
    lines: mpsc::Sender<CapturedLine>,
    clock: Arc<dyn Clock>,
    running: Arc<Mutex<HashMap<AgentId, Running>>>,
    ended_in: mpsc::UnboundedSender<AgentId>,
    ended_out: tokio::sync::Mutex<mpsc::UnboundedReceiver<AgentId>>,
}

/// A compute of this process: its process group, and why it ended once it has.
#[derive(Clone)]
struct Running {
    instance: InstanceId,
    group: Pid,
    exit: watch::Receiver<Option<String>>,
}

impl ProcessRuntime {
    /// Opens the root directory and kills what an earlier platform left behind there. `lines` takes what computes print;
    /// while it is full, they wait.
    ///
    /// # Errors
    /// `FailedPrecondition` when the directory cannot be made or read.
    pub fn open(root: PathBuf, lines: mpsc::Sender<CapturedLine>, clock: Arc<dyn Clock>) -> Result<Self> {
        make_private(&root)?;
        leftover::kill_all(&root)?;
        // One message a compute that ends: bounded by the number of agents.
        let (ended_in, ended_out) = mpsc::unbounded_channel();
        Ok(Self {
            root,
            spawner: spawn::Spawner::start()?,
            lines,
            clock,
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

    /// Waits for the child, then kills what is left of its group and tells the scheduler.
    fn supervise(
        &self,
        mut child: Child,
        group: Pid,
        place: Place,
        home: PathBuf,
        exit: watch::Sender<Option<String>>,
    ) {
        let ended = self.ended_in.clone();
        tokio::spawn(async move {
            let reason = match child.wait().await {
                Ok(status) => spawn::describe(status),
                Err(error) => format!("could not be waited for: {error}"),
            };
            let _ = killpg(group, Signal::SIGKILL);
            leftover::forget(&home);
            exit.send_replace(Some(reason));
            let _ = ended.send(place.agent_id);
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
        if let Some(compute) = self.observe(place.agent_id)
            && compute.exit.is_none()
        {
            return match compute.instance == instance {
                true => Ok(()),
                false => Err(Error::precondition("COMPUTE_RUNNING", "the agent's earlier compute still runs")),
            };
        }
        let home = self.home(place);
        let mut child = self.spawner.spawn(launch, &home).await?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Pid::from_raw(pid.ok_or_else(|| Error::internal("a fresh child has no process id"))?);
        leftover::remember(&home, group);
        let source = capture::Source { place, name, instance, lines: self.lines.clone(), clock: self.clock.clone() };
        capture::start(&mut child, &source);
        let (exit_in, exit) = watch::channel(None);
        self.running().insert(place.agent_id, Running { instance, group, exit });
        self.supervise(child, group, place, home, exit_in);
        Ok(())
    }

    async fn hand_over(&self, place: Place, token: &Secret) -> Result<()> {
        let (file, token) = (workspace::identity(&self.home(place)).join(TOKEN_FILE), token.clone());
        blocking(move || {
            write_private(&file, token.expose().as_bytes())
                .map_err(|error| Error::unavailable("the enrolment token could not be handed over").caused_by(error))
        })
        .await
    }

    async fn stop(&self, place: Place) -> Result<()> {
        let Some(running) = self.running().get(&place.agent_id).cloned() else {
            return Ok(());
        };
        end(running).await;
        // The reason of an end that was asked for is of no interest, and a new start needs the place.
        self.running().remove(&place.agent_id);
        Ok(())
    }

    async fn shut_down(&self) {
        let running: Vec<Running> = self.running().values().cloned().collect();
        futures::future::join_all(running.into_iter().map(end)).await;
    }

    fn observe(&self, agent: AgentId) -> Option<Compute> {
        let running = self.running();
        let compute = running.get(&agent)?;
        Some(Compute { instance: compute.instance, exit: compute.exit.borrow().clone() })
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
        blocking(move || workspace::archive(&home, output)).await
    }

    async fn remove(&self, place: Place) -> Result<()> {
        self.running().remove(&place.agent_id);
        let home = self.home(place);
        blocking(move || workspace::remove(&home)).await
    }

    async fn remove_office(&self, office: OfficeId) -> Result<()> {
        let home = self.root.join(office.to_string());
        blocking(move || workspace::remove(&home)).await
    }
}

/// Ends one compute; returns when its leader is gone and its group was killed.
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
