//! Composition root: roles become services, services become listeners. The only crate that knows all of them.

mod config;
mod data_dir;
pub mod doctor;
mod model;
mod objects;
mod ready;
mod roles;
mod run;

pub use config::{MasterKeySource, ModelApi, ModelFlags, PlatformConfig, RoleName, ServeConfig};
pub use mi_office::{DriveLimits, Quotas};
pub use mi_rpc::tls::KeyFiles;
pub use mi_runtime_process::SandboxMode;
pub use ready::Ready;
pub use run::{serve, up};
