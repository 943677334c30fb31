//! A role that keeps copies of offices, as the office role sees it: it answers, fails or takes its time as told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use mi_base::Tasks;
use mi_kernel::{AgentId, Clock, Error, event::Event};
use mi_proto::{
    internal::v1::{
        AdmitExternalAgentRequest, AdmitExternalAgentResponse, AppendCapturedLogsRequest, AppendCapturedLogsResponse,
        AppendEventsRequest, AppendEventsResponse, ApplyAgentBudgetRequest, ApplyAgentBudgetResponse,
        ApplyAgentIntegrationRequest, ApplyAgentIntegrationResponse, ApplyOfficeRequest, ApplyOfficeResponse,
        CountAgentsRequest, CountAgentsResponse, GetSpenderRequest, GetSpenderResponse, ListChangedRostersRequest,
        ListChangedRostersResponse, ListEnabledIntegrationsRequest, ListEnabledIntegrationsResponse,
        ListMembersRequest, ListMembersResponse, ListTiersRequest, ListTiersResponse, Member, PauseAgentRequest,
        PauseAgentResponse, ProviderNames, RecordHeartbeatRequest, RecordHeartbeatResponse, RegisterAgentKeyRequest,
        RegisterAgentKeyResponse, RemoveOfficeRequest, RemoveOfficeResponse, ReportRefusedCredentialRequest,
        ReportRefusedCredentialResponse, ResolveAgentKeyRequest, ResolveAgentKeyResponse, RunIsolationChecksRequest,
        RunIsolationChecksResponse, WatchRevokedAgentKeysRequest, WatchRevokedAgentKeysResponse,
        agent_registry_service_server::{AgentRegistryService, AgentRegistryServiceServer},
        ingest_service_server::{IngestService, IngestServiceServer},
        office_replica_service_server::{OfficeReplicaService, OfficeReplicaServiceServer},
    },
    v1::{Agent, AgentCount, AgentPhase, ModelTier},
};
use mi_rpc::{Guard, PrincipalKey, Transport, convert, status};
use tokio::sync::Notify;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, service::Routes};

/// What a peer does with the next calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mood {
    /// Does as asked.
    #[default]
    Works,
    /// Answers UNAVAILABLE.
    Fails,
    /// Never answers.
    Hangs,
    /// Admits agents and answers UNAVAILABLE.
    AnswersGetLost,
    /// Fails at the next call, once it is told to go on, and does as asked at all others.
    FailsLate,
    /// Applies, and says of every removal that it is not done yet.
    NotDone,
}

/// Everything that was asked of a peer and what it keeps.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) mood: Mood,
    /// Every office's newest copy.
    pub(super) offices: BTreeMap<String, ApplyOfficeRequest>,
    /// Versions of an office in the order in which they came.
    pub(super) versions: Vec<(String, i64)>,
    /// Offices whose removal was asked for, each time.
    pub(super) removals: Vec<String>,
    /// Calls that failed or hang on purpose.
    pub(super) refused: usize,
    /// Has those go on that are late.
    pub(super) go_on: Arc<Notify>,
    /// Agents that were let in, by invite.
    pub(super) admitted: BTreeMap<String, Admitted>,
    /// The agents there are, in whatever office.
    pub(super) members: Vec<Member>,
    /// What is enabled for agents by name, and how often that changed.
    pub(super) integrations: BTreeMap<String, (BTreeSet<String>, i64)>,
    /// The hirers of agents, by id.
    pub(super) lineages: BTreeMap<String, Vec<String>>,
    /// What was told of budgets.
    pub(super) budgets: Vec<ApplyAgentBudgetRequest>,
    /// Agents that were to be paused.
    pub(super) paused: Vec<PauseAgentRequest>,
    /// Events of the feed.
    pub(super) events: Vec<Event>,
}

/// An agent that was let in.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    agent_id: AgentId,
    request: AdmitExternalAgentRequest,
}

impl Admitted {
    pub(super) fn agent_id(&self) -> String {
        self.agent_id.to_string()
    }
}

impl std::ops::Deref for Admitted {
    type Target = AdmitExternalAgentRequest;
    fn deref(&self) -> &AdmitExternalAgentRequest {
        &self.request
    }
}

/// Another role, as far as this one talks to it.
#[derive(Clone, Default)]
pub(super) struct Peer(Arc<Mutex<Known>>);

impl Peer {
    /// What it knows; to be looked at and changed by the test.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no test panics with this lock")
    }

    /// Changes what it does from now on.
    pub(super) fn be(&self, mood: Mood) {
        self.known().mood = mood;
    }

    /// The way to it.
    pub(super) fn transport(&self, clock: &Arc<dyn Clock>) -> Transport {
        let routes = Routes::new(OfficeReplicaServiceServer::new(self.clone()))
            .add_service(AgentRegistryServiceServer::new(self.clone()))
            .add_service(IngestServiceServer::new(self.clone()));
        let guard = Guard::new("peer", routes, PrincipalKey::random(), clock.clone(), Tasks::new(), Default::default());
        Transport::local(guard)
    }

    /// The member of this name with its integrations.
    #[allow(clippy::result_large_err, reason = "tonic's status is what handlers return")]
    fn spender(&self, name: &str, id: &str) -> Result<GetSpenderResponse, Status> {
        let known = self.known();
        let found = known.members.iter().find(|member| member.name == name || member.agent_id == id);
        let member = found.ok_or_else(|| status(Error::not_found("agent", name)))?;
        let (enabled, revision) = known.integrations.get(&member.name).cloned().unwrap_or_default();
        Ok(GetSpenderResponse {
            agent: Some(Agent { id: member.agent_id.clone(), name: member.name.clone(), ..Agent::default() }),
            lineage: known.lineages.get(&member.agent_id).cloned().unwrap_or_default(),
            integrations: enabled.into_iter().collect(),
            integrations_revision: revision,
            ..GetSpenderResponse::default()
        })
    }

    /// Fails or hangs, if it is in that mood.
    async fn answer(&self) -> Result<Mood, Status> {
        let mood = {
            let mut known = self.known();
            known.refused += usize::from(known.mood != Mood::Works);
            let next = if known.mood == Mood::FailsLate { Mood::Works } else { known.mood };
            std::mem::replace(&mut known.mood, next)
        };
        let go_on = self.known().go_on.clone();
        match mood {
            Mood::Fails => Err(status(Error::unavailable("the peer is down, as asked"))),
            Mood::Hangs => std::future::pending().await,
            Mood::FailsLate => {
                go_on.notified().await;
                Err(status(Error::unavailable("the peer was down, as asked")))
            }
            Mood::Works | Mood::NotDone | Mood::AnswersGetLost => Ok(mood),
        }
    }
}

#[tonic::async_trait]
impl OfficeReplicaService for Peer {
    async fn apply_office(
        &self,
        request: Request<ApplyOfficeRequest>,
    ) -> Result<Response<ApplyOfficeResponse>, Status> {
        self.answer().await?;
        let (office, mut known) = (request.into_inner(), self.known());
        known.versions.push((office.office_id.clone(), office.version));
        let newest = known.offices.get(&office.office_id).map_or(0, |known| known.version);
        if office.version > newest {
            known.offices.insert(office.office_id.clone(), office);
        }
        Ok(Response::new(ApplyOfficeResponse {}))
    }

    async fn run_isolation_checks(
        &self,
        _: Request<RunIsolationChecksRequest>,
    ) -> Result<Response<RunIsolationChecksResponse>, Status> {
        Ok(Response::new(RunIsolationChecksResponse::default()))
    }

    async fn remove_office(
        &self,
        request: Request<RemoveOfficeRequest>,
    ) -> Result<Response<RemoveOfficeResponse>, Status> {
        let id = request.into_inner().office_id;
        self.known().removals.push(id.clone());
        let done = self.answer().await? != Mood::NotDone;
        if done {
            self.known().offices.remove(&id);
        }
        Ok(Response::new(RemoveOfficeResponse { done, message: String::new() }))
    }
}

#[tonic::async_trait]
impl IngestService for Peer {
    async fn append_events(
        &self,
        request: Request<AppendEventsRequest>,
    ) -> Result<Response<AppendEventsResponse>, Status> {
        self.answer().await?;
        let mut known = self.known();
        for event in request.into_inner().events {
            let event = convert::event_from_wire(event).map_err(status)?;
            // At least once is promised; the feed knows events by their id.
            if known.events.iter().all(|other| other.id != event.id) {
                known.events.push(event);
            }
        }
        Ok(Response::new(AppendEventsResponse {}))
    }

    async fn append_captured_logs(
        &self,
        _: Request<AppendCapturedLogsRequest>,
    ) -> Result<Response<AppendCapturedLogsResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }
}

#[tonic::async_trait]
impl AgentRegistryService for Peer {
    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        /// Few, so that offices with some agents have several pages.
        const PAGE: usize = 2;
        self.answer().await?;
        // Of all offices together, so that several have the same name.
        let place = |member: &Member| format!("{}/{}", member.name, member.agent_id);
        let after = request.into_inner().after_name;
        let mut members: Vec<Member> =
            self.known().members.iter().filter(|member| place(member) > after).cloned().collect();
        members.sort_by_key(place);
        let next = members.get(PAGE - 1).filter(|_| members.len() > PAGE).map(place);
        members.truncate(PAGE);
        Ok(Response::new(ListMembersResponse { members, next_after_name: next.unwrap_or_default() }))
    }

    async fn list_changed_rosters(
        &self,
        _: Request<ListChangedRostersRequest>,
    ) -> Result<Response<ListChangedRostersResponse>, Status> {
        self.answer().await?;
        // Tests change members at any time.
        Ok(Response::new(ListChangedRostersResponse { all: true, ..ListChangedRostersResponse::default() }))
    }

    async fn pause_agent(&self, request: Request<PauseAgentRequest>) -> Result<Response<PauseAgentResponse>, Status> {
        self.answer().await?;
        self.known().paused.push(request.into_inner());
        Ok(Response::new(PauseAgentResponse {}))
    }

    async fn get_spender(&self, request: Request<GetSpenderRequest>) -> Result<Response<GetSpenderResponse>, Status> {
        self.answer().await?;
        let asked = request.into_inner();
        Ok(Response::new(self.spender(&asked.agent, &asked.agent_id)?))
    }

    async fn apply_agent_budget(
        &self,
        request: Request<ApplyAgentBudgetRequest>,
    ) -> Result<Response<ApplyAgentBudgetResponse>, Status> {
        self.answer().await?;
        let (asked, mut known) = (request.into_inner(), self.known());
        let (id, budget) = (asked.agent_id.clone(), asked.budget);
        known.budgets.push(asked);
        let member = known.members.iter().find(|member| member.agent_id == id);
        let agent = member.map(|member| Agent { id, name: member.name.clone(), budget, ..Agent::default() });
        Ok(Response::new(ApplyAgentBudgetResponse { agent }))
    }

    async fn apply_agent_integration(
        &self,
        request: Request<ApplyAgentIntegrationRequest>,
    ) -> Result<Response<ApplyAgentIntegrationResponse>, Status> {
        self.answer().await?;
        let request = request.into_inner();
        self.spender(&request.agent, "")?;
        let mut known = self.known();
        let (enabled, revision) = known.integrations.entry(request.agent.clone()).or_default();
        let changed = match request.enabled {
            true => enabled.insert(request.integration),
            false => enabled.remove(&request.integration),
        };
        *revision += i64::from(changed);
        drop(known);
        Ok(Response::new(ApplyAgentIntegrationResponse { spender: Some(self.spender(&request.agent, "")?) }))
    }

    async fn list_enabled_integrations(
        &self,
        _: Request<ListEnabledIntegrationsRequest>,
    ) -> Result<Response<ListEnabledIntegrationsResponse>, Status> {
        self.answer().await?;
        let known = self.known();
        let all: BTreeSet<String> = known.integrations.values().flat_map(|(enabled, _)| enabled.clone()).collect();
        Ok(Response::new(ListEnabledIntegrationsResponse { integrations: all.into_iter().collect() }))
    }

    async fn count_agents(&self, _: Request<CountAgentsRequest>) -> Result<Response<CountAgentsResponse>, Status> {
        let agents = vec![AgentCount { phase: AgentPhase::Running.into(), count: 3 }];
        Ok(Response::new(CountAgentsResponse { agents, conditions: Vec::new() }))
    }

    async fn list_tiers(&self, _: Request<ListTiersRequest>) -> Result<Response<ListTiersResponse>, Status> {
        self.answer().await?;
        let tier = |(name, provider): (&str, &str)| ModelTier {
            name: name.into(),
            provider: provider.into(),
            providers: vec![provider.into(), "router".into()],
            ..ModelTier::default()
        };
        let model_tiers = [("sonnet", "anthropic"), ("opus", "anthropic"), ("gpt", "openai")].map(tier).to_vec();
        let names = |name: &str, aliases: &[&str]| ProviderNames {
            name: name.into(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
        };
        let providers = vec![names("anthropic", &["claude"]), names("openai", &[]), names("router", &[])];
        Ok(Response::new(ListTiersResponse { model_tiers, providers }))
    }

    async fn resolve_agent_key(
        &self,
        _: Request<ResolveAgentKeyRequest>,
    ) -> Result<Response<ResolveAgentKeyResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    type WatchRevokedAgentKeysStream = ReceiverStream<Result<WatchRevokedAgentKeysResponse, Status>>;

    async fn watch_revoked_agent_keys(
        &self,
        _: Request<WatchRevokedAgentKeysRequest>,
    ) -> Result<Response<Self::WatchRevokedAgentKeysStream>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn report_refused_credential(
        &self,
        _: Request<ReportRefusedCredentialRequest>,
    ) -> Result<Response<ReportRefusedCredentialResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn register_agent_key(
        &self,
        _: Request<RegisterAgentKeyRequest>,
    ) -> Result<Response<RegisterAgentKeyResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn admit_external_agent(
        &self,
        request: Request<AdmitExternalAgentRequest>,
    ) -> Result<Response<AdmitExternalAgentResponse>, Status> {
        let mood = self.answer().await?;
        let (request, mut known) = (request.into_inner(), self.known());
        let (invite, name) = (request.invite_id.clone(), request.name.clone());
        let admitted = match known.admitted.get(&invite) {
            Some(admitted) if admitted.request == request => admitted.clone(),
            Some(_) => return Err(status(Error::unauthenticated("the invite is used"))),
            None if known.admitted.values().any(|other| other.name == name) => {
                return Err(status(Error::already_exists("agent", &name)));
            }
            None => Admitted { agent_id: AgentId::new(), request },
        };
        known.admitted.insert(invite, admitted.clone());
        match mood {
            Mood::AnswersGetLost => Err(status(Error::unavailable("the answer gets lost, as asked"))),
            _ => {
                let agent = Agent { id: admitted.agent_id(), name, ..Agent::default() };
                Ok(Response::new(AdmitExternalAgentResponse { agent: Some(agent) }))
            }
        }
    }

    async fn record_heartbeat(
        &self,
        _: Request<RecordHeartbeatRequest>,
    ) -> Result<Response<RecordHeartbeatResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }
}
