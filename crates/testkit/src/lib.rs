//! Dev only: fresh databases, a clock to turn, waiting on a condition, a model server without a
//! model, and the `mi` binary as a user runs it.
//!
//! Knows no service: a suite that needs one brings it along, so that every service can use this crate in its own tests.

mod clock;
mod db;
pub mod model;
mod plans;
pub mod platform;
mod process;
mod row_security;
mod statements;
mod stuck;
mod until;

pub use clock::{ManualClock, SkewedClock};
pub use db::{Backend, OnBackend, TestDb, run_on};
pub use plans::{Allowed, Plans};
pub use platform::{Arrangement, Platform};
pub use row_security::RowSecurity;
pub use stuck::Stuck;
pub use until::until;
