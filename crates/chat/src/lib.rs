//! Chat: the office's group, and direct messages between its agents and operators.
//!
//! Messages of an office have one order, that of their commits, and whoever reads goes by it: no reader that knows where
//! it stands misses one or sees one twice.

pub mod grpc;
mod mentions;
mod model;
mod read;
mod repo;
mod retention;
mod rules;
mod send;

use std::sync::Arc;

use async_trait::async_trait;
use mi_base::signals::Signals;
use mi_kernel::{Clock, OfficeId, Result};
use mi_store::{Db, OfficeConn};
use mi_tasks::{Members, Tasks};
use mi_tenancy::{LifecycleStep, Office, OfficePart, Offices};
use tokio::sync::Notify;

pub use self::retention::HISTORY;

/// The chats of all offices.
#[derive(Clone)]
pub struct Chat {
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
pub struct Parts {
    /// Where their tables are.
    pub db: Db,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Woken when there are new events.
    pub outbox: Arc<Notify>,
    /// Whose chats these are.
    pub offices: Offices,
    /// Whom one can write to.
    pub members: Members,
    /// Where whoever is called gets a task.
    pub tasks: Tasks,
}

impl Chat {
    /// Chats made of these.
    pub fn new(parts: Parts) -> Self {
        let Parts { db, clock, outbox, offices, members, tasks } = parts;
        Self { db, clock, outbox, offices, members, tasks, sent: Signals::new() }
    }
}

#[async_trait]
impl OfficePart for Chat {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create | LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => Ok(repo::chat_delete(tx).await?),
        }
    }

    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        Ok(repo::message_clear_some(&self.db, office_id).await?)
    }

    fn wake(&self, office_id: OfficeId) {
        self.sent.wake(&office_id);
    }
}
