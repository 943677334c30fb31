//! SQLite and Postgres behind one small surface.
//!
//! One SQL text serves both where the dialects agree; [`on!`] expands a query once for each database, so that every
//! sqlx feature works unchanged. The only crate beside the `repo` modules that knows sqlx.

mod class;
mod conn;
mod db;
mod error;
pub mod examine;
pub mod idempotency;
pub mod lease;
pub mod migrate;
mod notify;
pub mod outbox;
mod probe;
mod rows;
mod service_role;
#[doc(hidden)]
pub mod turnover;

pub use conn::{Arm, Conn, OfficeConn, OfficeTx, PlatformConn, PlatformTx, Tx};
pub use db::{Db, DbTarget, OfficeDb, PlatformDb};
pub use error::{DbError, DbResult};
pub use migrate::{Migrations, Step};
pub use notify::{Heard, Listener};
pub use rows::{delete_before, delete_some, json_text, time_text};
