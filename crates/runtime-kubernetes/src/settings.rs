//! What an operator says about the cluster.

use std::collections::BTreeMap;

use mi_runtime::Limits;

/// Where agents may go: pods by their labels, and addresses. Network plugins look at a connection before or after the
/// address of a service is translated, so that both are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The namespace of the pods, if there are pods.
    pub namespace: Option<String>,
    /// The labels of the pods there; all of them when there are none.
    pub labels: BTreeMap<String, String>,
    /// Addresses, as blocks such as `10.96.0.10/32`: of the service, or of a resolver on the node, which is no pod.
    pub blocks: Vec<String>,
    /// Ports of the pods and of the service.
    pub ports: Vec<u16>,
}

/// The most that an office may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Pods; an agent has one, and a backup another one for a while.
    pub pods: u32,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of all workspaces together.
    pub disk_bytes: u64,
}

/// How the platform uses a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which installation this is, of several that may share the cluster.
    pub installation: String,
    /// The namespace of the platform itself.
    pub namespace: String,
    /// The account as which the platform acts.
    pub service_account: String,
    /// The role that the platform has in each office.
    pub cluster_role: String,
    /// The image of agents.
    pub image: String,
    /// The gateway.
    pub gateway: Destination,
    /// The resolver.
    pub dns: Destination,
    /// What an agent gets that asks for nothing.
    pub defaults: Limits,
    /// The most of it that an agent may ask for.
    pub most: Limits,
    /// What agents are run by; the cluster's usual one when none is named.
    pub runtime_class: Option<String>,
    /// The class of workspaces; the cluster's default when none is named.
    pub storage_class: Option<String>,
    /// The nodes of agents, by their labels.
    pub node_selector: BTreeMap<String, String>,
    /// The user and the group of agents in their pods, not root.
    pub user_id: u32,
    /// Seconds that an agent has to end.
    pub grace_seconds: u32,
}
