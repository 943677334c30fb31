//! Chat: the office's group, and direct messages between its agents and operators.
//!
//! Messages of an office have one order, that of their commits, and whoever reads goes by it: no reader that knows where
//! it stands misses one or sees one twice.

mod grpc;
mod mentions;
mod model;
mod part;
mod read;
mod repo;
mod retention;
mod rules;
mod send;

use std::sync::Arc;

use mi_kernel::Clock;
use mi_store::Db;
use mi_tasks::{Members, Tasks};
use mi_tenancy::{Offices, RoleContext};
use tokio::sync::Notify;

pub use self::retention::HISTORY;

/// What the change bus tells of when a message was sent.
const TOPIC: &str = "chat";

/// The chats of all offices.
#[derive(Clone)]
pub struct Chat {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    members: Members,
    tasks: Tasks,
    background: mi_base::Tasks,
}

impl Chat {
    /// Chats of these offices. Whoever is called there gets a task; `background` carries watches.
    pub fn new(
        context: RoleContext,
        offices: Offices,
        members: Members,
        tasks: Tasks,
        background: mi_base::Tasks,
    ) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox, offices, members, tasks, background }
    }
}
