//! Why an agent gives up.

use std::io;

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
    /// The key or the endpoint cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
}
