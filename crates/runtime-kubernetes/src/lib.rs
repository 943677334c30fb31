//! Agents as pods of Kubernetes: [`KubernetesRuntime`] is the platform's `Runtime` there.
//!
//! `office.rs`, `agent.rs`, `sandbox.rs` and `save.rs` say which objects an office, an agent and a backup are made of, without
//! any IO. `cache.rs` is what is seen of the cluster, `pods.rs` and `views.rs` what of that counts, `sight.rs` what it comes to, `workloads.rs` and
//! `offices.rs` are what is written, `notes.rs` and `logs.rs` what is read now and then.
//!
//! Objects are derived from what the platform knows, never the other way round. Their names and labels derive from ids,
//! never from what users wrote; they are meant for server-side apply as [`MANAGER`].

mod agent;
mod cache;
mod calls;
mod growth;
mod labels;
mod logs;
mod notes;
mod office;
mod offices;
mod pods;
mod runtime;
mod sandbox;
mod save;
mod settings;
mod sight;
mod views;
mod workloads;

pub use agent::{AgentObjects, HEALTH_PORT, IDENTITY_PATH, TOKEN_KEY, TOKEN_PATH, WORKSPACE_PATH, agent};
pub use labels::{
    AGENT_ID, INSTALLATION, INSTANCE_ID, MANAGED_BY, OFFICE_ID, agent_name, environment_name, is_reserved,
    namespace_name, token_name,
};
pub use office::{OfficeObjects, office};
pub use runtime::{KubernetesConfig, KubernetesRuntime};
pub use sandbox::{SANDBOX_KIND, SANDBOX_VERSION, SandboxObjects, sandbox};
pub use settings::{Destination, Driver, Quota, Settings, Share};

/// The field manager of everything that the platform applies.
pub const MANAGER: &str = "mi";
