//! The other driver: an agent as a `Sandbox` of agent-sandbox, where that controller is installed.

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use mi_kernel::secret::Secret as Token;
use mi_runtime::Launch;
use serde_json::{Value, json};

use crate::{
    agent::{base, claim, pod, pod_metadata},
    labels::agent_name,
    settings::Settings,
};

/// The version of the resource that this writes.
pub const SANDBOX_VERSION: &str = "agents.x-k8s.io/v1beta1";
/// The kind of it.
pub const SANDBOX_KIND: &str = "Sandbox";

/// The objects of an agent, in the order in which they are to be applied: the sandbox last, which starts it.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxObjects {
    /// Whom its pod runs as: nobody to the cluster, without a token.
    pub account: ServiceAccount,
    /// The enrolment token of this instance and nothing else. It is deleted once the agent has enrolled.
    pub token: Secret,
    /// The environment of this instance.
    pub environment: Secret,
    /// The sandbox, as JSON: no type of it is published.
    pub sandbox: Value,
}

/// What an agent is made of that is started so; suspended, it has no pod, and keeps its claim.
pub fn sandbox(settings: &Settings, launch: &Launch, token: &Token, suspended: bool) -> SandboxObjects {
    let base = base(settings, launch, token);
    let mut spec = sandbox_of(settings, launch);
    if suspended {
        spec["operatingMode"] = "Suspended".into();
    }
    let sandbox = json!({"apiVersion": SANDBOX_VERSION, "kind": SANDBOX_KIND, "metadata": base.metadata, "spec": spec});
    SandboxObjects { account: base.account, token: base.token, environment: base.environment, sandbox }
}

/// The specification of a sandbox that runs.
pub(crate) fn sandbox_of(settings: &Settings, launch: &Launch) -> Value {
    let name = agent_name(launch.place.agent_id);
    let metadata = pod_metadata(settings, launch);
    let claim = claim(settings, launch);
    json!({
        "operatingMode": "Running",
        "podTemplate": {
            "metadata": {"labels": metadata.labels, "annotations": metadata.annotations},
            "spec": pod(settings, launch, &name),
        },
        // Labels and name are all that the resource takes of its metadata.
        "volumeClaimTemplates": [{
            "metadata": {"name": claim.metadata.name, "labels": claim.metadata.labels},
            "spec": claim.spec,
        }],
    })
}
