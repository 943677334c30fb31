//! Where agents compute: the [`Runtime`] trait, and an implementation in memory for tests of the scheduler.

pub mod fake;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use async_trait::async_trait;
use mi_kernel::{AgentId, InstanceId, OfficeId, Result, Time, secret::Secret};

/// Whose compute and workspace is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The office.
    pub office_id: OfficeId,
    /// The agent.
    pub agent_id: AgentId,
}

/// Upper bounds of a compute; none: the runtime's default.
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

/// How far a runtime walls its computes off where it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Names of the walls that stand.
    pub enforced: Vec<String>,
    /// The walls that do not, each as `name: why`.
    pub missing: Vec<String>,
}

/// One start of an agent's compute.
#[derive(Clone)]
pub struct Launch {
    /// Whose.
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

/// What the runtime sees of a compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compute {
    /// Which start it is.
    pub instance: InstanceId,
    /// Why it ended; none: it lives.
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

/// A line that a compute printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedLine {
    /// Who.
    pub place: Place,
    /// The agent's name.
    pub name: String,
    /// Which start of it.
    pub instance: InstanceId,
    /// When it was read.
    pub time: Time,
    /// Where from.
    pub output: Output,
    /// The text without its line end.
    pub text: String,
}

/// Starts, stops and observes computes, and keeps workspaces. Every call may be repeated.
///
/// # Guarantees
/// At most one compute an agent at a time. No compute survives the runtime's own process for longer than the next start.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the workspace, from an archive when one is given. A workspace that is there already stays as it is.
    async fn prepare(&self, place: Place, archive: Option<Box<dyn Read + Send>>) -> Result<()>;

    /// Whether the agent has a workspace.
    async fn prepared(&self, place: Place) -> Result<bool>;

    /// Starts a compute. The agent must have no other living one.
    async fn start(&self, launch: Launch) -> Result<()>;

    /// Lays an enrolment token where the running compute finds it, and nobody else.
    async fn hand_over(&self, place: Place, token: &Secret) -> Result<()>;

    /// Ends the agent's compute, gently first, and returns when nothing of it is left.
    async fn stop(&self, place: Place) -> Result<()>;

    /// What every compute is walled off by.
    fn sandbox(&self) -> Sandbox;

    /// The agent's newest compute in this process's memory; none: there is none.
    fn observe(&self, agent: AgentId) -> Option<Compute>;

    /// The next agent whose compute ended.
    async fn ended(&self) -> AgentId;

    /// Writes the workspace as a zstd-compressed tar archive. The writer is used on a thread that may block.
    async fn archive(&self, place: Place, output: Box<dyn Write + Send>) -> Result<()>;

    /// Removes everything of the agent, which must be stopped.
    async fn remove(&self, place: Place) -> Result<()>;

    /// Ends every compute of this process, gently first: the platform shuts down.
    async fn shut_down(&self);

    /// Removes everything of the office, whose agents are all removed.
    async fn remove_office(&self, office: OfficeId) -> Result<()>;
}
