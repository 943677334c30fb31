//! The services of the fake roles.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use futures::{Stream, StreamExt, stream};
use mi_proto::{
    internal::v1::{
        self as internal, agent_registry_service_server as registry, credential_service_server as credentials,
        ingest_service_server as ingest,
    },
    v1::{self, activity_service_server as activity},
};
use mi_rpc::Caller;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use crate::fake::{Fake, World};

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl credentials::CredentialService for Fake {
    async fn resolve_api_key(
        &self,
        request: Request<internal::ResolveApiKeyRequest>,
    ) -> Result<Response<internal::ResolveApiKeyResponse>, Status> {
        self.0.up()?;
        let hash = request.into_inner().sha256;
        if hash[..] != [0; 32] {
            self.0.lookups.fetch_add(1, Ordering::SeqCst);
        }
        let principal = self.0.api_keys.lock().expect("unpoisoned").get(&hash[..]).cloned();
        let principal = Some(principal.ok_or_else(|| Status::unauthenticated("unknown"))?);
        Ok(Response::new(internal::ResolveApiKeyResponse { principal }))
    }

    type WatchRevokedApiKeysStream = Told<internal::WatchRevokedApiKeysResponse>;

    async fn watch_revoked_api_keys(
        &self,
        request: Request<internal::WatchRevokedApiKeysRequest>,
    ) -> Result<Response<Self::WatchRevokedApiKeysStream>, Status> {
        let time = self.0.tells("office", request.into_inner().since)?;
        let told = BroadcastStream::new(self.0.revoked_api_keys.subscribe());
        let before = self.0.dead_api_keys.lock().expect("unpoisoned").clone();
        let told = stream::iter([before]).chain(told.map(|id| id.into_iter().collect()));
        let message = move |api_key_ids| Ok(internal::WatchRevokedApiKeysResponse { api_key_ids, time });
        Ok(Response::new(Box::pin(told.map(message))))
    }
}

#[tonic::async_trait]
impl registry::AgentRegistryService for Fake {
    async fn resolve_agent_key(
        &self,
        request: Request<internal::ResolveAgentKeyRequest>,
    ) -> Result<Response<internal::ResolveAgentKeyResponse>, Status> {
        self.0.up()?;
        let name = (request.get_ref().agent_id.clone(), request.get_ref().key_id.clone());
        if name.1 != "k0000000000000000" {
            self.0.lookups.fetch_add(1, Ordering::SeqCst);
        }
        let known = self.0.agents.lock().expect("unpoisoned").get(&name).cloned();
        known.map(Response::new).ok_or_else(|| Status::unauthenticated("unknown"))
    }

    type WatchRevokedAgentKeysStream = Told<internal::WatchRevokedAgentKeysResponse>;

    async fn watch_revoked_agent_keys(
        &self,
        request: Request<internal::WatchRevokedAgentKeysRequest>,
    ) -> Result<Response<Self::WatchRevokedAgentKeysStream>, Status> {
        let time = self.0.tells("scheduler", request.into_inner().since)?;
        let told = BroadcastStream::new(self.0.revoked_agent_keys.subscribe());
        let before = self.0.dead_agent_keys.lock().expect("unpoisoned").clone();
        let told = stream::iter([before]).chain(told.map(|key| key.into_iter().collect()));
        let message = move |keys| Ok(internal::WatchRevokedAgentKeysResponse { keys, time });
        Ok(Response::new(Box::pin(told.map(message))))
    }

    async fn report_refused_credential(
        &self,
        request: Request<internal::ReportRefusedCredentialRequest>,
    ) -> Result<Response<internal::ReportRefusedCredentialResponse>, Status> {
        self.0.reported.send_modify(|reported| reported.push(request.into_inner()));
        Ok(Response::new(Default::default()))
    }

    async fn register_agent_key(
        &self,
        _: Request<internal::RegisterAgentKeyRequest>,
    ) -> Result<Response<internal::RegisterAgentKeyResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn admit_external_agent(
        &self,
        _: Request<internal::AdmitExternalAgentRequest>,
    ) -> Result<Response<internal::AdmitExternalAgentResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn record_heartbeat(
        &self,
        _: Request<internal::RecordHeartbeatRequest>,
    ) -> Result<Response<internal::RecordHeartbeatResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_changed_rosters(
        &self,
        _: Request<internal::ListChangedRostersRequest>,
    ) -> Result<Response<internal::ListChangedRostersResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_members(
        &self,
        _: Request<internal::ListMembersRequest>,
    ) -> Result<Response<internal::ListMembersResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn pause_agent(
        &self,
        _: Request<internal::PauseAgentRequest>,
    ) -> Result<Response<internal::PauseAgentResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_tiers(
        &self,
        _: Request<internal::ListTiersRequest>,
    ) -> Result<Response<internal::ListTiersResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_spender(
        &self,
        _: Request<internal::GetSpenderRequest>,
    ) -> Result<Response<internal::GetSpenderResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn apply_agent_budget(
        &self,
        _: Request<internal::ApplyAgentBudgetRequest>,
    ) -> Result<Response<internal::ApplyAgentBudgetResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn apply_agent_integration(
        &self,
        _: Request<internal::ApplyAgentIntegrationRequest>,
    ) -> Result<Response<internal::ApplyAgentIntegrationResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_enabled_integrations(
        &self,
        _: Request<internal::ListEnabledIntegrationsRequest>,
    ) -> Result<Response<internal::ListEnabledIntegrationsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn count_agents(
        &self,
        _: Request<internal::CountAgentsRequest>,
    ) -> Result<Response<internal::CountAgentsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[tonic::async_trait]
impl ingest::IngestService for Fake {
    async fn append_events(
        &self,
        _: Request<internal::AppendEventsRequest>,
    ) -> Result<Response<internal::AppendEventsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn append_captured_logs(
        &self,
        _: Request<internal::AppendCapturedLogsRequest>,
    ) -> Result<Response<internal::AppendCapturedLogsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Counts a call as inside until it is dropped.
struct Inside(Arc<World>);

impl Inside {
    fn new(world: &Arc<World>) -> Self {
        world.inside.send_modify(|now| *now += 1);
        Self(world.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.send_modify(|now| *now -= 1);
    }
}

fn describe<T>(request: &Request<T>) -> Result<v1::ActivityEvent, Status> {
    let caller = Caller::of(request)?;
    let mut names: Vec<_> = request.metadata().clone().into_headers().keys().map(ToString::to_string).collect();
    names.sort();
    let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(v1::ActivityEvent {
        id: mi_rpc::source_of(request).to_owned(),
        summary: caller.actor.key(),
        trace_id: caller.trace_id,
        r#type: text("grpc-timeout").to_owned(),
        agent: names.join(" "),
        ..Default::default()
    })
}

#[tonic::async_trait]
impl activity::ActivityService for Fake {
    type WatchActivityStream = Pin<Box<dyn Stream<Item = Result<v1::WatchActivityResponse, Status>> + Send>>;

    async fn list_activity(
        &self,
        request: Request<v1::ListActivityRequest>,
    ) -> Result<Response<v1::ListActivityResponse>, Status> {
        let _inside = Inside::new(&self.0);
        if request.get_ref().agent == "hang" {
            std::future::pending::<()>().await;
        }
        let events = vec![describe(&request)?];
        Ok(Response::new(v1::ListActivityResponse { events, ..Default::default() }))
    }

    async fn get_activity_head(
        &self,
        _: Request<v1::GetActivityHeadRequest>,
    ) -> Result<Response<v1::GetActivityHeadResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_activity(
        &self,
        request: Request<v1::WatchActivityRequest>,
    ) -> Result<Response<Self::WatchActivityStream>, Status> {
        let inside = Inside::new(&self.0);
        let event = Some(describe(&request)?);
        // One event, then silence.
        let endless = stream::iter([Ok(v1::WatchActivityResponse { event })]).chain(stream::pending());
        Ok(Response::new(Box::pin(endless.map(move |item| {
            let _ = &inside;
            item
        }))))
    }
}
