//! The role that calls models for agents. It alone holds the keys of providers, and each call is paid for before it is made:
//! what it may cost at most is set aside, and settled at what the provider says was used.
//!
//! `route.rs` knows the paths, `allowed.rs` says who may call what, `asked.rs` reads what a request may cost, `usage.rs` what it
//! used, `price.rs` multiplies, `ledger.rs` reserves and settles, and `job.rs` carries one call from its reservation to its
//! settlement, whatever client and provider do.

mod allowed;
mod asked;
mod body;
mod headers;
mod job;
mod json;
mod keys;
mod ledger;
mod price;
mod proxy;
mod route;
mod slots;
mod spenders;
mod sse;
mod upstream;
mod usage;

use std::{sync::Arc, time::Duration};

use axum::Router;
use mi_base::Tasks;
use mi_catalogue::Catalogues;
use mi_kernel::Result;
use mi_rpc::Transport;

use crate::proxy::Proxy;

/// What the role is given.
#[derive(Clone)]
pub struct ModelsConfig {
    /// Providers, their models and prices.
    pub catalogues: Catalogues,
    /// Where credits and secrets are kept.
    pub office: Transport,
    /// Where agents are known.
    pub scheduler: Transport,
    /// How long things may take, and how many there may be.
    pub limits: Limits,
}

/// How long things may take, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until a provider takes a connection.
    pub connect: Duration,
    /// Between two pieces of an answer, and until the client takes one.
    pub silence: Duration,
    /// Until the first piece of an answer that is not streamed: nothing comes before all of it is there.
    pub whole_answer: Duration,
    /// A call in all.
    pub total: Duration,
    /// Until a client has sent its request.
    pub request: Duration,
    /// For how long credits are set aside at once.
    pub reserved_for: Duration,
    /// How often that is put off.
    pub renewed_every: Duration,
    /// For how long a settlement that fails is tried again.
    pub settled_within: Duration,
    /// Calls of an office at the same time.
    pub per_office: usize,
    /// Calls of an agent at the same time.
    pub per_agent: usize,
    /// Calls to a provider at the same time.
    pub per_provider: usize,
    /// Bytes of requests that are being read, of all offices together.
    pub request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(120),
            whole_answer: Duration::from_secs(600),
            total: Duration::from_secs(3600),
            request: Duration::from_secs(60),
            reserved_for: Duration::from_secs(300),
            renewed_every: Duration::from_secs(120),
            settled_within: Duration::from_secs(1800),
            per_office: 4000,
            per_agent: 512,
            per_provider: 10_000,
            request_bytes: 512 << 20,
        }
    }
}

/// Builds the role's HTTP, to be served behind a guard. Must be called inside a tokio runtime.
///
/// # Errors
/// `Internal` when no client of HTTP can be made.
pub fn build(config: ModelsConfig, tasks: &Tasks) -> Result<Router> {
    let proxy = Arc::new(Proxy::new(config, tasks)?);
    Ok(Router::new().fallback(proxy::handle).with_state(proxy))
}
