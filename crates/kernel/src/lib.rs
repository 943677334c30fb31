//! The words every other crate shares: ids, errors, actors, the clock, paging and the rules of names.
//!
//! Nothing here knows tokio, tonic, sqlx or kube, and nothing here does IO.

pub mod actor;
pub mod backoff;
pub mod chain;
pub mod clock;
pub mod credits;
pub mod error;
pub mod event;
pub mod exec;
pub mod id;
pub mod isolation;
pub mod page;
pub mod public_key;
pub mod receipt;
pub mod secret;
pub mod text;

pub use actor::{Actor, AgentActor};
pub use clock::{Clock, SystemClock, Time};
pub use error::{Error, ErrorKind, Result};
pub use id::{
    AccountId, AgentId, ApiKeyId, BackupId, CallId, EventId, ExecId, InstanceId, InviteId, LeaseId, LedgerEntryId,
    MessageId, NoteId, OfficeId, TaskId,
};
