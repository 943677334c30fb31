//! Agents as pods of Kubernetes. So far the part without IO: which objects an office and an agent are made of.
//!
//! Objects are derived from what the platform knows, never the other way round. Their names and labels derive from ids,
//! never from what users wrote; they are meant for server-side apply as [`MANAGER`].

mod agent;
mod labels;
mod office;
mod sandbox;
mod settings;

pub use agent::{AgentObjects, HEALTH_PORT, IDENTITY_PATH, TOKEN_KEY, TOKEN_PATH, WORKSPACE_PATH, agent};
pub use labels::{
    AGENT_ID, INSTALLATION, INSTANCE_ID, MANAGED_BY, OFFICE_ID, agent_name, environment_name, is_reserved,
    namespace_name, token_name,
};
pub use office::{OfficeObjects, office};
pub use sandbox::{SANDBOX_KIND, SANDBOX_VERSION, SandboxObjects, sandbox};
pub use settings::{Destination, Quota, Settings};

/// The field manager of everything that the platform applies.
pub const MANAGER: &str = "mi";
