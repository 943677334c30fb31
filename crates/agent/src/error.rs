//! Why an agent gives up.

use std::{io, net::SocketAddr};

use mi_client::ClientError;
use thiserror::Error;

/// Why an agent gives up.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The environment is not one that the platform made.
    #[error("environment variable {name} {problem}; `mi agent run` is started by the platform, not by hand")]
    Environment {
        /// The name of the variable.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The platform refused the token or the key.
    #[error("enrolment was refused: {0}")]
    Enrolment(#[source] ClientError),
    /// The platform refused the session.
    #[error("the session was refused: {0}")]
    Session(#[source] ClientError),
    /// Somebody else has the port of the relay.
    #[error("the relay for programs cannot listen on port {port} of 127.0.0.1: {source}")]
    Relay {
        /// The port, from `MI_RELAY_PORT`.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else has the address for probes, or it is none of this machine.
    #[error("nothing can listen on {address} (MI_HEALTH_LISTEN): {source}")]
    Health {
        /// The address, from `MI_HEALTH_LISTEN`.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The workspace cannot be filled from the backup.
    #[error("the workspace could not be restored: {0}")]
    Restore(String),
    /// The workspace cannot be read, or the platform does not want it.
    #[error("the workspace could not be saved: {0}")]
    Save(String),
    /// The key or the endpoint cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
}
