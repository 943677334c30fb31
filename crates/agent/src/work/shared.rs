//! What all work of one agent shares.

use std::{sync::Arc, time::Duration};

use mi_client::{Client, KeyRing};
use mi_kernel::AgentId;
use mi_proto::v1::{Agent, Task};

use super::{paid::Paid, vendors::Vendors};
use crate::{config::WorkConfig, idle::Idle, logs::Log, proxy::Proxy};

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
    /// The way to its model.
    pub(super) proxy: Arc<Proxy>,
    /// Whether that is paid for.
    pub(super) paid: Paid,
    /// How its programs reach theirs.
    pub(super) vendors: Vendors,
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
