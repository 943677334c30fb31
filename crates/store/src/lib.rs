//! SQLite and Postgres behind one small surface.
//!
//! One SQL text serves both where the dialects agree: [`exec!`], [`all!`], [`optional!`], [`one!`], [`scalars!`],
//! [`scalar!`] and [`scalar_one!`] compile a statement once for each database. The only crate beside the `repo` modules that knows sqlx.

mod change_bus;
mod class;
mod conn;
#[doc(hidden)]
pub mod connection_eviction;
mod db;
mod error;
pub mod examine;
pub mod idempotency;
pub mod lease;
pub mod migrate;
pub mod outbox;
mod probe;
mod rows;
mod service_role;
pub mod simulated;
mod statement;
mod writer;

pub use change_bus::{Batch, Changes, Topic};
pub use conn::{Arm, Conn, OfficeConn, OfficeTx, PlatformConn, PlatformTx, Tx};
pub use db::{Db, DbTarget, OfficeDb, PlatformDb};
pub use error::{DbError, DbResult};
pub use migrate::{Migrations, Step};
pub use rows::{delete_before, delete_some, json_text, time_text};
#[doc(hidden)]
pub use sqlx;
pub use sqlx::{FromRow, types::Json};
