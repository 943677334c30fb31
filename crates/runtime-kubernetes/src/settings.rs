//! What an operator says about the cluster: the file of `--kubernetes-config`.

use std::{collections::BTreeMap, path::Path};

use mi_kernel::{Error, Result};
use mi_runtime::Limits;
use serde::Deserialize;

/// Where agents may go: pods by their labels, and addresses. Network plugins look at a connection before or after the
/// address of a service is translated, so that both are named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The namespace of the pods, if there are pods.
    pub namespace: Option<String>,
    /// The labels of the pods there; all of them when there are none.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Addresses, as blocks such as `10.96.0.10/32`: of the service, or of a resolver on the node, which is no pod.
    #[serde(default)]
    pub blocks: Vec<String>,
    /// Ports of the pods and of the service.
    pub ports: Vec<u16>,
}

/// The most that an office may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// What an agent gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of its workspace.
    pub disk_bytes: Option<u64>,
}

impl Share {
    /// As bounds.
    pub(crate) fn limits(self) -> Limits {
        let Self { cpu_millis, memory_bytes, disk_bytes } = self;
        Limits { cpu_millis, memory_bytes, disk_bytes, ..Limits::default() }
    }
}

/// What runs the pods of agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// A StatefulSet each, which every cluster has.
    #[default]
    StatefulSet,
    /// A Sandbox each, of agent-sandbox.
    Sandbox,
}

/// How the platform uses a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What its operator calls this installation, for people who look at labels.
    #[serde(rename = "installation")]
    pub instance: String,
    /// The id of this installation, which is kept with its agents. Never in the file.
    #[serde(skip)]
    pub installation: String,
    /// What runs the pods of agents. Never in the file.
    #[serde(skip)]
    pub driver: Driver,
    /// The namespace of the platform itself.
    pub namespace: String,
    /// The account as which the platform acts.
    pub service_account: String,
    /// The role that the platform has in each office.
    #[serde(rename = "office_role")]
    pub cluster_role: String,
    /// The image of agents.
    pub image: String,
    /// The gateway.
    pub gateway: Destination,
    /// The resolver.
    pub dns: Destination,
    /// The most that an office may use.
    pub quota: Quota,
    /// What an agent gets that asks for nothing.
    #[serde(default)]
    pub defaults: Share,
    /// The most of it that an agent may ask for.
    #[serde(default)]
    pub most: Share,
    /// What agents are run by; the cluster's usual one when none is named.
    pub runtime_class: Option<String>,
    /// The class of workspaces; the cluster's default when none is named.
    pub storage_class: Option<String>,
    /// The nodes of agents, by their labels.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// The user and the group of agents in their pods, not root.
    #[serde(default = "usual_user")]
    pub user_id: u32,
    /// Seconds that an agent has to end.
    #[serde(default = "usual_grace")]
    pub grace_seconds: u32,
}

/// Nobody, by the custom of images without a distribution.
fn usual_user() -> u32 {
    65_532
}

fn usual_grace() -> u32 {
    30
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, with the line.
    pub fn read(file: &Path) -> Result<Self> {
        let wrong = |text: String| Error::invalid("kubernetes_config", format!("{}: {text}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if settings.user_id == 0 {
            return Err("user_id must not be 0: agents are never root".to_owned());
        }
        for (name, value) in [
            ("installation", &settings.instance),
            ("namespace", &settings.namespace),
            ("service_account", &settings.service_account),
            ("office_role", &settings.cluster_role),
            ("image", &settings.image),
        ] {
            if value.trim().is_empty() {
                return Err(format!("{name} must not be empty"));
            }
        }
        for (name, destination) in [("gateway", &settings.gateway), ("dns", &settings.dns)] {
            if destination.ports.is_empty() || destination.namespace.is_none() && destination.blocks.is_empty() {
                return Err(format!(
                    "[{name}] needs ports, and a namespace or blocks: agents would reach nobody there"
                ));
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
installation = "one"
namespace = "mi"
service_account = "mi-scheduler"
office_role = "mi-office"
image = "mi:1"
[gateway]
namespace = "mi"
ports = [7400]
[dns]
blocks = ["169.254.20.10/32"]
ports = [53]
[quota]
pods = 10
cpu_millis = 1000
memory_bytes = 1000
disk_bytes = 1000
"#;

    #[test]
    fn the_least_that_is_said() {
        let settings = Settings::parse(LEAST).expect("reads");
        assert_eq!((settings.user_id, settings.grace_seconds, settings.driver), (65_532, 30, Driver::StatefulSet));
        assert_eq!(settings.dns.blocks, ["169.254.20.10/32"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, named) in [
            ("image = \"mi:1\"", "image = \"\"", "image must not be empty"),
            ("image = \"mi:1\"", "images = \"mi:1\"", "images"),
            ("image = \"mi:1\"", "image = \"mi:1\"\nuser_id = 0", "user_id must not be 0"),
            ("ports = [53]", "ports = []", "[dns] needs ports"),
            ("ports = [53]", "ports = [70000]", "70000"),
            ("pods = 10", "", "pods"),
        ] {
            let error = Settings::parse(&LEAST.replace(from, to)).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
