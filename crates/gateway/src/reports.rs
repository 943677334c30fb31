//! Tells the scheduler of refused credentials that named an agent, for the feed of that agent's office.

use std::net::IpAddr;

use mi_base::Tasks;
use mi_kernel::AgentId;
use mi_proto::internal::v1::{
    ReportRefusedCredentialRequest, agent_registry_service_client::AgentRegistryServiceClient,
};
use mi_rpc::RoleClient;
use tokio::sync::mpsc;

/// Reports that wait; more are dropped, since the same refusal is only counted anyway.
const WAITING: usize = 256;

/// Takes reports, and never waits.
pub(crate) struct Reports(mpsc::Sender<ReportRefusedCredentialRequest>);

impl Reports {
    pub(crate) fn start(agents: AgentRegistryServiceClient<RoleClient>, tasks: &Tasks) -> Self {
        let (sender, mut waiting) = mpsc::channel(WAITING);
        tasks.spawn("gateway-reports", async move {
            while let Some(report) = waiting.recv().await {
                if let Err(status) = agents.clone().report_refused_credential(report).await {
                    tracing::debug!(target: "mi::gateway", error = status.message(), "a refused credential is not told");
                }
            }
        });
        Self(sender)
    }

    pub(crate) fn send(&self, agent_id: AgentId, problem: &str, source: Option<IpAddr>) {
        let _ = self.0.try_send(ReportRefusedCredentialRequest {
            agent_id: agent_id.to_string(),
            problem: problem.to_owned(),
            source: source.map(|network| network.to_string()).unwrap_or_default(),
        });
    }
}
