//! What every role stands on: telemetry, metrics, supervised tasks, shutdown and private files.

pub mod files;
pub mod metrics;
pub mod signals;
pub mod tasks;
pub mod telemetry;
pub mod trace;

pub use tasks::{Tasks, caught};
