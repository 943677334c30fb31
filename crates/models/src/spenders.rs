//! Who spends, asked of the scheduler at most once a second.

use std::{sync::Arc, time::Duration};

use mi_kernel::{AgentActor, AgentId, Error, ErrorKind, Result};
use mi_proto::internal::v1::{
    GetSpenderRequest, GetSpenderResponse, agent_registry_service_client::AgentRegistryServiceClient,
};
use mi_rpc::{RoleClient, Transport, status::from_status};
use moka::future::Cache;

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);
/// Agents remembered at once.
const CAPACITY: u64 = 100_000;

/// Knows spenders.
pub(crate) struct Spenders {
    registry: AgentRegistryServiceClient<RoleClient>,
    known: Cache<AgentId, Arc<GetSpenderResponse>>,
}

impl Spenders {
    pub(crate) fn new(scheduler: Transport, own: &'static str) -> Self {
        Self {
            registry: AgentRegistryServiceClient::new(RoleClient::new(scheduler, own)),
            known: Cache::builder().max_capacity(CAPACITY).time_to_live(FRESH).build(),
        }
    }

    /// The agent that calls.
    ///
    /// # Errors
    /// `PermissionDenied` for one that is gone, `Unavailable` when the scheduler cannot be asked.
    pub(crate) async fn get(&self, agent: &AgentActor) -> Result<Arc<GetSpenderResponse>> {
        let ask = async {
            let office_id = agent.office_id.to_string();
            let question = GetSpenderRequest { office_id, agent_id: agent.agent_id.to_string(), agent: String::new() };
            match self.registry.clone().get_spender(question).await {
                Ok(answer) => Ok(Arc::new(answer.into_inner())),
                Err(status) => Err(from_status(&status)),
            }
        };
        self.known.try_get_with(agent.agent_id, ask).await.map_err(|error: Arc<Error>| match error.kind {
            ErrorKind::NotFound => Error::denied("the agent is gone"),
            _ => error.again(),
        })
    }
}
