//! What all work of one agent shares.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use mi_client::{Client, KeyRing};
use mi_kernel::AgentId;
use mi_proto::v1::{Agent, Task};

use super::model::http::Model;
use crate::{
    config::{ModelConfig, WorkConfig},
    idle::Idle,
    logs::Log,
};

/// What all work of one agent shares.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) office_id: String,
    pub(super) agent_id: AgentId,
    pub(super) key: Arc<KeyRing>,
    pub(super) log: Log,
    pub(super) config: WorkConfig,
    /// What the agent is.
    pub(super) agent: Agent,
    pub(super) idle: Idle,
    pub(super) model: OnceLock<Model>,
}

impl Shared {
    /// The model, made when it is first needed.
    pub(super) fn model(&self) -> Option<(&ModelConfig, &Model)> {
        let config = self.config.model.as_ref()?;
        if self.model.get().is_none() {
            match Model::new(config) {
                // Two tasks may have made one; either will do.
                Ok(model) => drop(self.model.set(model)),
                Err(error) => self.log.say(format!("the model cannot be used: {error}")),
            }
        }
        Some((config, self.model.get()?))
    }
}

/// For a request; none of ours is too long for that.
pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

/// Whether the log, which every agent of the office may read, says nothing of what the task holds and of what comes of it.
/// A task that answers a direct message shows that to its receiver and to operators only. One that answers the group is
/// treated alike: on the wire both say no more than that a message is their cause.
pub(super) fn is_private(task: &Task) -> bool {
    task.cause.starts_with("message/")
}
