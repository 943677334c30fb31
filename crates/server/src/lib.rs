//! Composition root: roles become services, services become listeners. The only crate that knows all of them.

mod catalogue;
mod config;
mod data_dir;
pub mod doctor;
mod objects;
mod ready;
mod roles;
mod run;

pub use config::{PlatformConfig, PlatformOptions, ServeOptions};
pub use ready::Ready;
pub use run::{serve, up};
