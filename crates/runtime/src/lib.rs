//! Where agents run: the [`Runtime`] trait, and an implementation in memory for tests of the scheduler.

pub mod fake;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use async_trait::async_trait;
use mi_kernel::{AgentId, BackupId, InstanceId, OfficeId, Result, Time, secret::Secret};
use uuid::Uuid;

/// Whose instance and workspace is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The office.
    pub office_id: OfficeId,
    /// The agent.
    pub agent_id: AgentId,
}

/// Upper bounds of an instance; none: the runtime's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of the largest file.
    pub file_bytes: Option<u64>,
    /// Bytes of all files together.
    pub disk_bytes: Option<u64>,
}

/// Where a runtime has its instances, and how far it isolates them there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether they are pods of a cluster; else they are processes.
    pub in_cluster: bool,
    /// Names of the layers that are in place.
    pub enforced: Vec<String>,
    /// The layers that are missing, each as `name: why`.
    pub missing: Vec<String>,
}

/// One start of an instance of an agent.
#[derive(Clone)]
pub struct Launch {
    /// The agent that it is for.
    pub place: Place,
    /// The agent's name, for its log.
    pub name: String,
    /// This start, told apart from all others.
    pub instance: InstanceId,
    /// Its whole environment, apart from what the runtime itself must set.
    pub env: BTreeMap<String, String>,
    /// Its bounds.
    pub limits: Limits,
}

/// What the runtime sees of an instance: one run of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The id that it was started with.
    pub id: InstanceId,
    /// Why it ended; none: it runs, or is about to.
    pub exit: Option<String>,
    /// What it waits for before it can run, in words for the operator; none: it runs. However long that takes, it is not the
    /// agent's failure.
    pub waiting: Option<String>,
    /// Since when it runs, where that is not since its start.
    pub up_since: Option<Time>,
    /// Somebody else changed what it is made of.
    pub altered: bool,
    /// What is not as it should be although it runs, in words for the operator.
    pub flaw: Option<String>,
}

impl Instance {
    /// One that runs.
    pub fn up(id: InstanceId) -> Self {
        Self { id, exit: None, waiting: None, up_since: None, altered: false, flaw: None }
    }

    /// The same, ended for this reason.
    #[must_use]
    pub fn ended(self, reason: String) -> Self {
        Self { exit: Some(reason), ..self }
    }
}

/// How far something is that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It is done.
    Done,
    /// It goes on by itself; [`Runtime::ended`] tells when to ask again.
    UnderWay,
}

/// How far the archive of a workspace is that is made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saving {
    /// Nobody was asked for it.
    NotAsked,
    /// It is being made; what it waits for, where that is known.
    UnderWay(Option<String>),
    /// Whoever was asked says that it was sent.
    Sent,
    /// It failed for this reason. To ask again is to try again.
    Failed(String),
}

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that an instance printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedLine {
    /// The agent that printed it.
    pub place: Place,
    /// The agent's name.
    pub name: String,
    /// The instance of it.
    pub instance: InstanceId,
    /// Which run of the instance, where one can have several.
    pub run: i32,
    /// When it was read.
    pub time: Time,
    /// The output that it was read from.
    pub output: Output,
    /// The text without its line end.
    pub text: String,
}

/// Starts, stops and observes instances, and keeps workspaces. Every call may be repeated.
///
/// # Guarantees
/// An agent has at most one instance at a time. Where instances are this process's own, none survives it for longer than the
/// next start.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the workspace, from an archive when one is given. A workspace that is there already stays as it is.
    async fn prepare(&self, place: Place, archive: Option<Box<dyn Read + Send>>) -> Result<()>;

    /// Whether the agent has a workspace.
    async fn prepared(&self, place: Place) -> Result<bool>;

    /// Starts an instance. The agent must have no other one that runs.
    async fn start(&self, launch: Launch) -> Result<()>;

    /// Lays an enrolment token where the running instance finds it, and nobody else.
    async fn hand_over(&self, place: Place, token: &Secret) -> Result<()>;

    /// Ends the agent's instance, gently first. Done: nothing of it is left.
    async fn stop(&self, place: Place) -> Result<Progress>;

    /// The layers that isolate every instance.
    fn sandbox(&self) -> Sandbox;

    /// The agent's newest instance, as far as this process knows; none: it has none.
    fn observe(&self, agent: AgentId) -> Option<Instance>;

    /// The next agent of which there is something new to see.
    async fn ended(&self) -> AgentId;

    /// Writes the workspace as a zstd-compressed tar archive. The writer is used on a thread that may block.
    async fn archive(&self, place: Place, output: Box<dyn Write + Send>) -> Result<()>;

    /// Removes everything of the agent, which must be stopped.
    async fn remove(&self, place: Place) -> Result<Progress>;

    /// Ends every instance that is this process's own, gently first: the platform shuts down.
    async fn shut_down(&self);

    /// Removes everything of the office, whose agents are all removed.
    async fn remove_office(&self, office: OfficeId) -> Result<Progress>;

    /// Instances and workspaces that are elsewhere; none: they are this process's own.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }
}

/// What a runtime can do besides whose instances and workspaces are elsewhere: they outlive this process, every process over
/// the same database sees the same, and archives of workspaces go through the platform's API ([`Launch::env`] says from where).
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The id of the cluster, which never changes.
    async fn id(&self) -> Result<String>;

    /// Begins to look at what this installation has there, and to write as it.
    fn join(&self, installation: Uuid);

    /// Whether what [`Runtime::observe`] answers is what there is; else why nobody knows.
    fn seen(&self) -> Result<(), String>;

    /// How far the archive is that [`Cluster::save`] asked for.
    fn saving(&self, place: Place, backup: BackupId) -> Saving;

    /// Sees to it that somebody with the workspace of the agent, which is stopped, sends an archive of it to the platform, and
    /// shows this token; `env` says where the platform is, as to an instance.
    async fn save(&self, place: Place, backup: BackupId, env: &BTreeMap<String, String>, token: &Secret) -> Result<()>;

    /// Forgets what came of [`Cluster::save`], so that it can be asked for again.
    async fn discard(&self, place: Place) -> Result<()>;

    /// Takes away what this instance needed for its start alone, and what is left of those before it.
    async fn started(&self, place: Place, instance: InstanceId) -> Result<()>;

    /// Looks for what somebody else changed around agents, and mends it if this process is to.
    async fn look_over(&self, mend: bool) -> Result<()>;

    /// Whose objects there are: agents, and offices.
    fn places(&self) -> (Vec<Place>, Vec<OfficeId>);

    /// What is wrong with what the office has, in words for its operator.
    fn problems(&self, office: OfficeId) -> Vec<String>;
}
