//! The other roles, as far as the models role asks them; and what it asked.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use mi_proto::internal::v1::{
    self as internal, agent_registry_service_server::AgentRegistryService, metering_service_server::MeteringService,
    secret_service_server::SecretService,
};
use tonic::{Request, Response, Status, codegen::BoxStream};

/// What the roles know, and were asked.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) reserved: Mutex<Vec<internal::ReserveCreditsRequest>>,
    pub(crate) settled: Mutex<Vec<internal::SettleCreditsRequest>>,
    /// What a reservation is refused with.
    pub(crate) refusal: Mutex<Option<Status>>,
    /// Micro-credits that may be set aside; none: any number.
    pub(crate) balance: Mutex<Option<i64>>,
    pub(crate) settling_fails: AtomicBool,
    pub(crate) down: AtomicBool,
    pub(crate) secrets: Mutex<HashMap<String, HashMap<String, String>>>,
    pub(crate) spender: Mutex<Option<internal::GetSpenderResponse>>,
    pub(crate) lookups: AtomicUsize,
}

/// The services.
#[derive(Clone)]
pub(crate) struct Roles(pub(crate) Arc<World>);

impl World {
    fn up(&self) -> Result<(), Status> {
        if self.down.load(Ordering::SeqCst) { Err(Status::unavailable("as meant")) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl MeteringService for Roles {
    async fn reserve_credits(
        &self,
        request: Request<internal::ReserveCreditsRequest>,
    ) -> Result<Response<internal::ReserveCreditsResponse>, Status> {
        self.0.up()?;
        let request = request.into_inner();
        let refusal = self.0.refusal.lock().expect("lock").clone();
        let mut reserved = self.0.reserved.lock().expect("lock");
        let is_new = reserved.iter().all(|other| other.call_id != request.call_id);
        let mut balance = self.0.balance.lock().expect("lock");
        let broke = balance.is_some_and(|left| left < request.amount).then(out_of_credits);
        let task_id = request.task_id.clone();
        reserved.push(request);
        if let Some(refusal) = refusal.or(broke.filter(|_| is_new)) {
            return Err(refusal);
        }
        if let Some(left) = balance.as_mut().filter(|_| is_new) {
            *left -= reserved.last().expect("just added").amount;
        }
        Ok(Response::new(internal::ReserveCreditsResponse { task_id }))
    }

    async fn settle_credits(
        &self,
        request: Request<internal::SettleCreditsRequest>,
    ) -> Result<Response<internal::SettleCreditsResponse>, Status> {
        self.0.up()?;
        if self.0.settling_fails.load(Ordering::SeqCst) {
            return Err(Status::unavailable("as meant"));
        }
        self.0.settled.lock().expect("lock").push(request.into_inner());
        Ok(Response::new(internal::SettleCreditsResponse::default()))
    }

    async fn charge_compute(
        &self,
        _: Request<internal::ChargeComputeRequest>,
    ) -> Result<Response<internal::ChargeComputeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_hire_terms(
        &self,
        _: Request<internal::GetHireTermsRequest>,
    ) -> Result<Response<internal::GetHireTermsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// The refusal of an office without credits.
pub(crate) fn out_of_credits() -> Status {
    let error = mi_kernel::Error::new(mi_kernel::ErrorKind::Exhausted, "OUT_OF_CREDITS", "the office has no credits");
    mi_rpc::status(error)
}

#[tonic::async_trait]
impl SecretService for Roles {
    async fn resolve_secrets(
        &self,
        request: Request<internal::ResolveSecretsRequest>,
    ) -> Result<Response<internal::ResolveSecretsResponse>, Status> {
        self.0.up()?;
        let integration = &request.get_ref().integration;
        if integration == "open" {
            return Err(mi_rpc::status(mi_kernel::Error::invalid("integration", "is unknown")));
        }
        let secrets = self.0.secrets.lock().expect("lock").get(integration).cloned();
        Ok(Response::new(internal::ResolveSecretsResponse { secrets: secrets.unwrap_or_default() }))
    }
}

#[tonic::async_trait]
impl AgentRegistryService for Roles {
    async fn get_spender(
        &self,
        _: Request<internal::GetSpenderRequest>,
    ) -> Result<Response<internal::GetSpenderResponse>, Status> {
        self.0.up()?;
        self.0.lookups.fetch_add(1, Ordering::SeqCst);
        let spender = self.0.spender.lock().expect("lock").clone();
        spender.map(Response::new).ok_or_else(|| mi_rpc::status(mi_kernel::Error::not_found("agent", "a")))
    }

    async fn resolve_agent_key(
        &self,
        _: Request<internal::ResolveAgentKeyRequest>,
    ) -> Result<Response<internal::ResolveAgentKeyResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type WatchRevokedAgentKeysStream = BoxStream<internal::WatchRevokedAgentKeysResponse>;

    async fn watch_revoked_agent_keys(
        &self,
        _: Request<internal::WatchRevokedAgentKeysRequest>,
    ) -> Result<Response<Self::WatchRevokedAgentKeysStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn report_refused_credential(
        &self,
        _: Request<internal::ReportRefusedCredentialRequest>,
    ) -> Result<Response<internal::ReportRefusedCredentialResponse>, Status> {
        Err(Status::unimplemented("not here"))
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

    async fn count_agents(
        &self,
        _: Request<internal::CountAgentsRequest>,
    ) -> Result<Response<internal::CountAgentsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_enabled_integrations(
        &self,
        _: Request<internal::ListEnabledIntegrationsRequest>,
    ) -> Result<Response<internal::ListEnabledIntegrationsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
