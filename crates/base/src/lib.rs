//! What every role stands on: telemetry, metrics, supervised tasks and shutdown.

pub mod files;
pub mod metrics;
pub mod tasks;
pub mod telemetry;
pub mod trace;

pub use tasks::Tasks;
