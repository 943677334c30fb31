//! Chat: the office's group, and direct messages between its agents and operators.
//!
//! Messages of an office have one order, that of their commits, and whoever reads goes by it: no reader that knows where
//! it stands misses one or sees one twice.

pub(crate) mod grpc;
mod mentions;
mod model;
mod read;
pub(crate) mod repo;
pub(crate) mod retention;
mod rules;
mod send;

use std::sync::Arc;

use mi_base::signals::Signals;
use mi_kernel::{Clock, OfficeId};
use mi_store::Db;
use tokio::sync::Notify;

use crate::{members::Members, offices::Offices, tasks::Tasks};

/// The chats of all offices.
#[derive(Clone)]
pub(crate) struct Chat {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    members: Members,
    tasks: Tasks,
    /// Wakes those who watch an office's chat.
    sent: Signals<OfficeId>,
}

/// What the chats are made of.
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) outbox: Arc<Notify>,
    pub(crate) offices: Offices,
    pub(crate) members: Members,
    pub(crate) tasks: Tasks,
    /// Wakes those who watch an office's chat.
    pub(crate) sent: Signals<OfficeId>,
}

impl Chat {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { db, clock, outbox, offices, members, tasks, sent } = parts;
        Self { db, clock, outbox, offices, members, tasks, sent }
    }
}
