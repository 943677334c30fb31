//! What every role stands on: telemetry, metrics, supervised tasks, sweeps, writing of objects, shutdown and private files.

pub mod budget;
pub mod disk_reserve;
pub mod failure_backoff;
pub mod files;
pub mod metrics;
pub mod object_writer;
pub mod shared_answer;
pub mod sweep;
pub mod tasks;
pub mod telemetry;
pub mod trace;

pub use object_writer::ObjectWriter;
pub use tasks::{Tasks, caught};
