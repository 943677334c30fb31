//! What the edge is given: its limits and deadlines, and the ways to the roles.

use std::{num::NonZeroU32, time::Duration};

use mi_rpc::Transport;

/// What one principal may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls a second, in the long run.
    pub per_second: NonZeroU32,
    /// Calls at once after a pause.
    pub burst: NonZeroU32,
    /// Unary calls and streams open at the same time.
    pub concurrent: usize,
}

/// How the edge behaves.
#[derive(Debug, Clone, Copy)]
pub struct GatewayConfig {
    /// For each account and each agent.
    pub limits: Limits,
    /// For each address that calls without a credential.
    pub anonymous: Limits,
    /// For unary calls that ask for none.
    pub default_deadline: Duration,
    /// The longest that a unary call gets.
    pub max_deadline: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        // Literals that the compiler checks.
        const KNOWN: Limits = Limits {
            per_second: NonZeroU32::new(2000).unwrap(),
            burst: NonZeroU32::new(4000).unwrap(),
            concurrent: 512,
        };
        const ANONYMOUS: Limits =
            Limits { per_second: NonZeroU32::new(50).unwrap(), burst: NonZeroU32::new(200).unwrap(), concurrent: 64 };
        Self {
            limits: KNOWN,
            anonymous: ANONYMOUS,
            default_deadline: Duration::from_secs(30),
            max_deadline: Duration::from_secs(300),
        }
    }
}

/// The ways to the roles.
#[derive(Clone)]
pub struct Backends {
    /// Offices, accounts and keys.
    pub office: Transport,
    /// Agents.
    pub scheduler: Transport,
    /// Feed and logs.
    pub activity: Transport,
    /// Calls of models and integrations; none: they are refused.
    pub models: Option<Transport>,
}
