//! What the role needs to know at the start.

use std::{sync::Arc, time::Duration};

use mi_store::DbTarget;
use object_store::ObjectStore;

/// Configuration of the activity role.
#[derive(Debug, Clone)]
pub struct ActivityConfig {
    /// Where feeds and the index of the logs live.
    pub db: DbTarget,
    /// Where log segments live, under `logs/`.
    pub objects: Arc<dyn ObjectStore>,
    /// Events and log lines older than this are deleted.
    pub retention_age: Duration,
    /// The segments of one agent's log take at most this many bytes as stored; the oldest go first.
    pub retention_bytes: u64,
}

impl ActivityConfig {
    /// 30 days, and 256 MiB of log an agent.
    pub fn new(db: DbTarget, objects: Arc<dyn ObjectStore>) -> Self {
        Self { db, objects, retention_age: Duration::from_secs(30 * 24 * 3600), retention_bytes: 256 << 20 }
    }
}
