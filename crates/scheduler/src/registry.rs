//! `mi.internal.v1.AgentRegistryService`: whose key is this, and who is there.

use std::sync::Arc;

use mi_kernel::{
    Actor, AgentActor, AgentId, Error, OfficeId, Result,
    event::{Category, Event},
};
use mi_proto::{
    internal::v1::{
        CountAgentsRequest, CountAgentsResponse, RecordHeartbeatRequest, RecordHeartbeatResponse,
        RegisterAgentKeyRequest, RegisterAgentKeyResponse, ResolveAgentKeyRequest, ResolveAgentKeyResponse,
        agent_registry_service_server::AgentRegistryService,
    },
    v1::AgentCount,
};
use mi_rpc::{Caller, convert, status};
use mi_store::outbox;
use ring::digest;
use tonic::{Request, Response, Status};

use crate::{
    Scheduler,
    agents::{Agent, repo, wire},
};

/// Serves the other roles.
pub(crate) struct Handler {
    scheduler: Arc<Scheduler>,
}

impl Handler {
    pub(crate) fn new(scheduler: Arc<Scheduler>) -> Self {
        Self { scheduler }
    }
}

/// `k` and the first 16 hex digits of the SHA-256 of the raw key.
pub(crate) fn key_id(public_key: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, public_key);
    let hex: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("k{hex}")
}

impl Scheduler {
    /// The agent that holds this key now.
    async fn resolve_key(&self, id: &str, key: &str) -> Result<(Agent, Vec<u8>)> {
        let unknown = || Error::unauthenticated("the agent's key is unknown or revoked");
        let id = AgentId::parse(id).map_err(|_| unknown())?;
        let agent = repo::agent_find(&mut self.db.platform().read().await?, id).await?.ok_or_else(unknown)?;
        let public_key = agent.public_key.clone().filter(|public_key| key_id(public_key) == key);
        Ok((agent, public_key.ok_or_else(unknown)?))
    }

    /// Registers a key against a token, which is used up by it.
    async fn register_key(&self, request: RegisterAgentKeyRequest, trace_id: &str) -> Result<Agent> {
        let refused = || Error::unauthenticated("the enrolment token is unknown, used or expired");
        let office_id = OfficeId::parse(&request.office_id)?;
        let now = self.clock.now();
        let mut tx = self.db.office(office_id).begin().await?;
        let agent = repo::agent_lock_by_token(&mut tx, &request.token_sha256).await?;
        let mut agent = agent.filter(|agent| agent.enrol_expires_at.is_some_and(|at| at > now)).ok_or_else(refused)?;
        agent.enrol_sha256 = None;
        agent.enrol_expires_at = None;
        let fresh = agent.public_key.as_deref() != Some(&*request.public_key);
        agent.public_key = Some(request.public_key.to_vec());
        if !repo::agent_update(&mut tx, &mut agent).await? {
            return Err(Error::internal("a locked row was changed by somebody else"));
        }
        if fresh {
            let summary = format!("Agent {:?} enrolled a new key", agent.name);
            let event = Event::lifecycle(office_id, &agent.name, "agent.enrolled", summary, now)
                .category(Category::Security)
                .with(serde_json::json!({ "key_id": key_id(&request.public_key) }));
            outbox::push(&mut tx, &event.traced(trace_id)).await?;
        }
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(agent)
    }
}

#[tonic::async_trait]
impl AgentRegistryService for Handler {
    async fn resolve_agent_key(
        &self,
        request: Request<ResolveAgentKeyRequest>,
    ) -> Result<Response<ResolveAgentKeyResponse>, Status> {
        let body = request.into_inner();
        let resolved = self.scheduler.resolve_key(&body.agent_id, &body.key_id).await;
        let (agent, public_key) = resolved.map_err(status)?;
        let actor = Actor::Agent(AgentActor { office_id: agent.office_id, agent_id: agent.id, name: agent.name });
        Ok(Response::new(ResolveAgentKeyResponse {
            principal: Some(convert::principal(&actor)),
            public_key: public_key.into(),
        }))
    }

    async fn register_agent_key(
        &self,
        request: Request<RegisterAgentKeyRequest>,
    ) -> Result<Response<RegisterAgentKeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let registered = self.scheduler.register_key(request.into_inner(), &caller.trace_id).await;
        Ok(Response::new(RegisterAgentKeyResponse { agent: Some(wire::agent(&registered.map_err(status)?)) }))
    }

    async fn record_heartbeat(
        &self,
        request: Request<RecordHeartbeatRequest>,
    ) -> Result<Response<RecordHeartbeatResponse>, Status> {
        let id = AgentId::parse(&request.into_inner().agent_id).map_err(status)?;
        self.scheduler.seen.record(id, self.scheduler.clock.now());
        Ok(Response::new(RecordHeartbeatResponse {}))
    }

    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let office_id = OfficeId::parse(&request.into_inner().office_id).map_err(status)?;
        let counted = async {
            let mut conn = self.scheduler.db.office(office_id).read().await?;
            repo::agent_count_by_phase(&mut conn).await
        };
        let counts = counted.await.map_err(|error| status(error.into()))?;
        let agents = counts.into_iter().map(|(phase, count)| AgentCount {
            phase: wire::phase(phase).into(),
            count: count.try_into().unwrap_or(i32::MAX),
        });
        Ok(Response::new(CountAgentsResponse { agents: agents.collect() }))
    }
}
