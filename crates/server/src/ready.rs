//! What a started platform says of itself.

use std::{net::SocketAddr, path::Path};

use mi_base::files::write_private;
use mi_kernel::{Error, Result, secret::Secret};
use serde_json::json;

/// A platform, or a role of it, that serves.
#[derive(Debug, Clone)]
pub struct Ready {
    /// URL of the API.
    pub endpoint: String,
    /// URL of metrics and liveness.
    pub metrics_endpoint: String,
    /// The administrator's API key; only where the office role runs.
    pub api_key: Option<Secret>,
}

impl Ready {
    pub(crate) fn new(listen: SocketAddr, metrics: SocketAddr, api_key: Option<Secret>) -> Self {
        Self { endpoint: reachable(listen), metrics_endpoint: reachable(metrics), api_key }
    }

    /// Writes the ready file, whole and only for this user.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let content = json!({
            "endpoint": self.endpoint,
            "metrics_endpoint": self.metrics_endpoint,
            "api_key": self.api_key.as_ref().map(Secret::expose),
            "pid": std::process::id(),
        });
        write_private(file, content.to_string().as_bytes()).map_err(|error| {
            let text = format!("cannot write the ready file {}", file.display());
            Error::precondition("READY_FILE", text).caused_by(error)
        })
    }
}

/// A URL under which a process of this machine reaches the listener.
pub(crate) fn reachable(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}
