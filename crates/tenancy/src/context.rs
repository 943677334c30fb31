//! What every resource of the role works with.

use std::sync::Arc;

use mi_kernel::Clock;
use mi_store::Db;
use tokio::sync::Notify;

/// What every resource of the role works with. Clones share it.
#[derive(Clone)]
pub struct RoleContext {
    /// Where the role's tables are.
    pub db: Db,
    /// What time it is, where the database has no clock of its own.
    pub clock: Arc<dyn Clock>,
    /// Wakes the relay of the outbox, after a transaction that wrote events.
    pub outbox: Arc<Notify>,
}
