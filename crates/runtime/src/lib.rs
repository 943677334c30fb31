//! Where agents run: the [`Runtime`] trait, and an implementation in memory for tests of the scheduler.

pub mod fake;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use async_trait::async_trait;
use mi_kernel::{AgentId, InstanceId, OfficeId, Result, Time, secret::Secret};

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

/// How far a runtime isolates its instances where it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
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
    /// Why it ended; none: it runs.
    pub exit: Option<String>,
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
/// An agent has at most one instance at a time. No instance survives the runtime's own process for longer than the next
/// start.
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

    /// Ends the agent's instance, gently first, and returns when nothing of it is left.
    async fn stop(&self, place: Place) -> Result<()>;

    /// The layers that isolate every instance.
    fn sandbox(&self) -> Sandbox;

    /// The agent's newest instance, as far as this process knows; none: it started none.
    fn observe(&self, agent: AgentId) -> Option<Instance>;

    /// The next agent whose instance ended.
    async fn ended(&self) -> AgentId;

    /// Writes the workspace as a zstd-compressed tar archive. The writer is used on a thread that may block.
    async fn archive(&self, place: Place, output: Box<dyn Write + Send>) -> Result<()>;

    /// Removes everything of the agent, which must be stopped.
    async fn remove(&self, place: Place) -> Result<()>;

    /// Ends every instance of this process, gently first: the platform shuts down.
    async fn shut_down(&self);

    /// Removes everything of the office, whose agents are all removed.
    async fn remove_office(&self, office: OfficeId) -> Result<()>;
}
