//! Agents: what they should be, what was seen of them, and how the two are told apart.

pub(crate) mod budget;
pub(crate) mod external;
pub(crate) mod grpc;
pub(crate) mod integrations;
pub(crate) mod intent;
pub(crate) mod invite_redemptions;
pub(crate) mod keys;
pub(crate) mod next_look;
pub(crate) mod repo;
pub(crate) mod revoked_keys;
pub(crate) mod roster_changes;
pub(crate) mod rules;
pub(crate) mod watch;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};

use mi_kernel::{AgentId, BackupId, InstanceId, OfficeId, Time};
use mi_store::FromRow;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// What the change bus tells of when an office's agents changed.
pub(crate) const TOPIC: &str = "agents";

/// What an agent is made of; a change replaces its instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Model tier.
    pub model_tier: String,
    /// Model provider.
    pub provider: String,
    /// Role template; may be empty.
    pub role: String,
    /// Skills.
    pub skills: Vec<String>,
    /// Instructions.
    pub system_prompt: String,
    /// Environment of the instance.
    pub env: BTreeMap<String, String>,
    /// Bounds of the instance; 0: the default.
    pub resources: Resources,
    /// Integrations that are enabled for it, by name.
    #[serde(default)]
    pub integrations: BTreeSet<String>,
    /// Grows with every change of these; 0: hired before there were any.
    #[serde(default)]
    pub integrations_revision: i64,
    /// What it runs instead of doing tasks; empty: it does tasks.
    #[serde(default)]
    pub command: String,
}

impl Spec {
    /// The integrations that are enabled. Whoever was hired before there were any has its provider's.
    pub fn enabled(&self) -> BTreeSet<String> {
        match self.integrations_revision {
            0 => BTreeSet::from([self.provider.clone()]),
            _ => self.integrations.clone(),
        }
    }

    /// Enables or disables an integration; false: it is as asked already.
    pub fn set_integration(&mut self, name: &str, enabled: bool) -> bool {
        let mut now = self.enabled();
        let changed = if enabled { now.insert(name.to_owned()) } else { now.remove(name) };
        if changed {
            self.integrations = now;
            self.integrations_revision += 1;
        }
        changed
    }
}

/// Bounds of an instance; 0: the runtime's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: i32,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Processes and threads.
    pub pids: i32,
    /// Bytes of the largest file.
    pub file_bytes: i64,
    /// Bytes of all files together.
    pub disk_bytes: i64,
}

/// The state that is wanted of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "want")]
pub enum Desired {
    /// It should run, while its office is active.
    Run,
    /// It should be stopped.
    Stop,
    /// It should be stopped, until somebody starts it again: it went in circles. Or until its budget, or that of an agent
    /// above it, is raised. The state is [`State::Paused`] from the start.
    Pause,
    /// It should be gone.
    Fire {
        /// Also when the workspace cannot be backed up.
        force: bool,
        /// Id of the backup, chosen with the intent, so that a repeated try makes no second one.
        backup_id: BackupId,
    },
}

/// What was last recorded of an agent's instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum State {
    /// Nothing was started since it was last wanted.
    Pending,
    /// An instance was started and has not reported yet.
    Starting {
        /// The id of the instance.
        instance: InstanceId,
        /// The generation that it was started with.
        generation: i64,
        /// When it was started.
        since: Time,
    },
    /// The instance reported ready.
    Running {
        /// The id of the instance.
        instance: InstanceId,
        /// The generation that it was started with.
        generation: i64,
        /// When it reported.
        since: Time,
    },
    /// The instance ended unasked; the next one waits.
    BackingOff {
        /// When the next one starts.
        retry_at: Time,
        /// Why it ended.
        reason: String,
    },
    /// Too many ended in a row, or a fire could not be finished.
    Failed {
        /// What failed.
        reason: String,
    },
    /// It runs elsewhere and was heard of lately.
    Online,
    /// It runs elsewhere and was not heard of for long.
    Offline,
    /// Ended as wanted.
    Stopped,
    /// Ended because the office is suspended.
    Suspended,
    /// Ended, or not listened to, because it went in circles or its budget is used up.
    Paused {
        /// What it was paused for.
        reason: String,
    },
    /// It is being fired.
    Terminating {
        /// When to try again; none: at once.
        retry_at: Option<Time>,
        /// Why the last try failed.
        reason: String,
    },
}

/// An agent, as its row has it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Agent {
    /// Its id, which no other agent ever had.
    pub id: AgentId,
    /// The office that it was hired into.
    pub office_id: OfficeId,
    /// Its name, unique in its office.
    pub name: String,
    /// Whether it runs elsewhere: it joined by an invite, and nothing is launched, ended or backed up for it.
    pub external: bool,
    /// Name of the agent that hired it; empty: an operator.
    pub hired_by: String,
    /// Ids of its hirer, the hirer's hirer and so on, nearest first.
    #[sqlx(json)]
    pub lineage: Vec<AgentId>,
    /// What it is made of.
    #[sqlx(json)]
    pub spec: Spec,
    /// The state that is wanted.
    #[sqlx(json)]
    pub desired: Desired,
    /// Grows with every change of spec or desired.
    pub generation: i64,
    /// Backup that fills its workspace.
    pub restore_from: Option<BackupId>,
    /// What was last recorded.
    #[sqlx(json)]
    pub state: State,
    /// Instances that ended unasked in a row, or tries of a backup that failed.
    pub failures: i32,
    /// Instances that ended unasked, ever.
    pub restarts: i32,
    /// Newest generation that was reached.
    pub observed_generation: i64,
    /// Raw Ed25519 public key, once enrolled.
    pub public_key: Option<Vec<u8>>,
    /// SHA-256 of the single-use enrolment token, until it is used.
    pub enrol_sha256: Option<Vec<u8>>,
    /// When the token dies.
    pub enrol_expires_at: Option<Time>,
    /// Last sign of life.
    pub last_seen_at: Option<Time>,
    /// Micro-credits that it and all whom it hired may spend; none: no limit of its own.
    pub budget: Option<i64>,
    /// The newest version of its budget that the office role told.
    pub budget_version: i64,
    /// Whose budget is used up, so that it has to wait; empty: it need not.
    pub budget_reached: String,
    /// Why its office's credits do not suffice for it, as it is shown; empty: they do.
    pub broke: String,
    /// Whether its last start told it of a model; of an external one nobody knows.
    pub has_model: bool,
    /// What keeps it from where it should be, as last seen; empty: nothing, or nobody knows.
    pub trouble: String,
    /// Grows with every write of the row, for optimistic concurrency.
    pub revision: i64,
    /// When it was hired.
    pub created_at: Time,
}

/// Where an agent stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs, reason = "the protocol documents the phases")]
pub enum Phase {
    Pending,
    Running,
    Restarting,
    Stopped,
    Suspended,
    Failed,
    Terminating,
    Offline,
}

impl Phase {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Agent {
    /// An agent of which nothing was seen yet, wanted by an operator.
    fn fresh(office_id: OfficeId, name: String, spec: Spec, now: Time) -> Self {
        Self {
            id: AgentId::new(),
            office_id,
            name,
            external: false,
            hired_by: String::new(),
            lineage: Vec::new(),
            spec,
            desired: Desired::Run,
            generation: 1,
            restore_from: None,
            state: State::Pending,
            failures: 0,
            restarts: 0,
            observed_generation: 0,
            public_key: None,
            enrol_sha256: None,
            enrol_expires_at: None,
            last_seen_at: None,
            budget: None,
            budget_version: 0,
            budget_reached: String::new(),
            broke: String::new(),
            has_model: true,
            trouble: String::new(),
            revision: 1,
            created_at: now,
        }
    }

    /// The phase that follows from state and history.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Pending | State::Starting { .. } if self.observed_generation == 0 => Phase::Pending,
            State::Pending | State::Starting { .. } | State::BackingOff { .. } => Phase::Restarting,
            State::Running { .. } | State::Online => Phase::Running,
            State::Offline => Phase::Offline,
            State::Failed { .. } => Phase::Failed,
            State::Stopped => Phase::Stopped,
            State::Suspended | State::Paused { .. } => Phase::Suspended,
            State::Terminating { .. } => Phase::Terminating,
        }
    }

    /// Why it is in its phase, where that is not obvious.
    pub fn message(&self) -> &str {
        match &self.state {
            State::Failed { reason } | State::Paused { reason } => reason,
            State::Offline => "no heartbeat for two minutes",
            State::Pending | State::Starting { .. } | State::Running { .. } | State::Online
                if !self.broke.is_empty() =>
            {
                &self.broke
            }
            State::BackingOff { reason, .. } | State::Terminating { reason, .. } if self.trouble.is_empty() => reason,
            _ => &self.trouble,
        }
    }

    /// Whether it is not being fired.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self.desired, Desired::Fire { .. })
    }

    /// Whether it may work, as far as that is its own matter and not its office's.
    pub(crate) fn works(&self) -> bool {
        self.desired == Desired::Run && !matches!(self.state, State::Suspended | State::Failed { .. })
    }

    /// Whether this instance is the one that should run now.
    pub fn wants(&self, instance: InstanceId) -> bool {
        let current = match &self.state {
            State::Starting { instance, .. } | State::Running { instance, .. } => Some(*instance),
            _ => None,
        };
        current == Some(instance) && self.desired == Desired::Run
    }
}
