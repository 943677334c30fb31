//! A scheduler for tests, which knows who works there.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::Clock;
use mi_proto::internal::v1::{
    self as internal, Member,
    agent_registry_service_client::AgentRegistryServiceClient,
    agent_registry_service_server::{AgentRegistryService, AgentRegistryServiceServer},
};
use mi_rpc::{Guard, PrincipalKey, RoleClient, Transport};
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes};

/// How long it takes to list agents.
const TAKES: Duration = Duration::from_millis(1);

/// The agents there are, and what was asked about them. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    members: Arc<Mutex<Vec<Member>>>,
    asked: Arc<Mutex<Asked>>,
}

/// What a registry was asked.
#[derive(Default)]
pub(crate) struct Asked {
    /// Offices whose agents were listed.
    pub(crate) listed: Vec<String>,
    /// Since when, and since which position, changes were asked for.
    pub(crate) since: Vec<(i64, String)>,
    /// What is answered to that; none: nothing.
    pub(crate) changed: Option<internal::ListChangedRostersResponse>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        locked(&self.members)
    }

    pub(crate) fn asked(&self) -> MutexGuard<'_, Asked> {
        locked(&self.asked)
    }

    /// The way to it.
    pub(crate) fn client(&self, clock: Arc<dyn Clock>) -> AgentRegistryServiceClient<RoleClient> {
        let routes = Routes::new(AgentRegistryServiceServer::new(self.clone()));
        let tasks = mi_base::Tasks::new();
        let guard = Guard::new("scheduler", routes, PrincipalKey::random(), clock, tasks, Default::default());
        AgentRegistryServiceClient::new(RoleClient::new(Transport::local(guard), "office"))
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// Methods that nobody calls here.
macro_rules! unused {
    ($($name:ident($request:ident) -> $answer:ty;)*) => {
        $(
            fn $name<'s, 'a>(&'s self, _: Request<internal::$request>) -> Answer<'a, $answer>
            where
                's: 'a,
            {
                Box::pin(async { Err(Status::unimplemented("no part of the simulation")) })
            }
        )*
    };
}

impl AgentRegistryService for Registry {
    fn list_members<'s, 'a>(
        &'s self,
        request: Request<internal::ListMembersRequest>,
    ) -> Answer<'a, internal::ListMembersResponse>
    where
        's: 'a,
    {
        self.asked().listed.push(request.into_inner().office_id);
        let members = self.members().clone();
        Box::pin(async {
            tokio::time::sleep(TAKES).await;
            Ok(Response::new(internal::ListMembersResponse { members, ..Default::default() }))
        })
    }

    fn list_changed_rosters<'s, 'a>(
        &'s self,
        request: Request<internal::ListChangedRostersRequest>,
    ) -> Answer<'a, internal::ListChangedRostersResponse>
    where
        's: 'a,
    {
        let request = request.into_inner();
        self.asked().since.push((request.since_ms, request.position));
        let changed = self.asked().changed.clone();
        Box::pin(async { changed.map(Response::new).ok_or_else(|| Status::unimplemented("not yet")) })
    }

    type WatchRevokedAgentKeysStream = BoxStream<internal::WatchRevokedAgentKeysResponse>;

    unused! {
        pause_agent(PauseAgentRequest) -> internal::PauseAgentResponse;
        get_spender(GetSpenderRequest) -> internal::GetSpenderResponse;
        apply_agent_budget(ApplyAgentBudgetRequest) -> internal::ApplyAgentBudgetResponse;
        apply_agent_integration(ApplyAgentIntegrationRequest) -> internal::ApplyAgentIntegrationResponse;
        list_enabled_integrations(ListEnabledIntegrationsRequest) -> internal::ListEnabledIntegrationsResponse;
        count_agents(CountAgentsRequest) -> internal::CountAgentsResponse;
        list_tiers(ListTiersRequest) -> internal::ListTiersResponse;
        resolve_agent_key(ResolveAgentKeyRequest) -> internal::ResolveAgentKeyResponse;
        watch_revoked_agent_keys(WatchRevokedAgentKeysRequest) -> Self::WatchRevokedAgentKeysStream;
        report_refused_credential(ReportRefusedCredentialRequest) -> internal::ReportRefusedCredentialResponse;
        register_agent_key(RegisterAgentKeyRequest) -> internal::RegisterAgentKeyResponse;
        admit_external_agent(AdmitExternalAgentRequest) -> internal::AdmitExternalAgentResponse;
        record_heartbeat(RecordHeartbeatRequest) -> internal::RecordHeartbeatResponse;
    }
}
