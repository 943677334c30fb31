//! `mi.internal.v1.AgentRegistryService`: whose key is this, and who is there.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt};
use mi_kernel::{
    Actor, AgentActor, AgentId, Error, OfficeId, Result, Time,
    event::{Category, Event},
    public_key::key_id,
};
use mi_proto::{
    internal::v1::{
        AdmitExternalAgentRequest, AdmitExternalAgentResponse, AgentKeyName, ApplyAgentBudgetRequest,
        ApplyAgentBudgetResponse, ApplyAgentIntegrationRequest, ApplyAgentIntegrationResponse, CountAgentsRequest,
        CountAgentsResponse, GetSpenderRequest, GetSpenderResponse, ListChangedRostersRequest,
        ListChangedRostersResponse, ListEnabledIntegrationsRequest, ListEnabledIntegrationsResponse,
        ListMembersRequest, ListMembersResponse, ListTiersRequest, ListTiersResponse, PauseAgentRequest,
        PauseAgentResponse, ProviderNames, RecordHeartbeatRequest, RecordHeartbeatResponse, RegisterAgentKeyRequest,
        RegisterAgentKeyResponse, ReportRefusedCredentialRequest, ReportRefusedCredentialResponse,
        ResolveAgentKeyRequest, ResolveAgentKeyResponse, WatchRevokedAgentKeysRequest, WatchRevokedAgentKeysResponse,
        agent_registry_service_server::AgentRegistryService,
    },
    v1::AgentCount,
};
use mi_rpc::{Caller, Refusal, Reply, convert, handle, status};
use mi_store::{Batch, outbox};
use tonic::{Request, Response, codegen::BoxStream};

use crate::{
    Scheduler,
    agents::{Agent, keys, repo, revoked_keys, roster_changes, wire},
    offices,
};

/// How long after its time a revocation may become visible: it may wait for a connection, a lock and a statement, as long as
/// the store lets each of them last, which makes 90 seconds, and clocks of processes differ.
const OVERLAP: Duration = Duration::from_secs(180);
/// Most members of a page: with all that an agent may have, they fit into a message.
const MEMBERS: usize = 200;

/// Serves the other roles.
pub(crate) struct Handler {
    scheduler: Arc<Scheduler>,
}

impl Handler {
    pub(crate) fn new(scheduler: Arc<Scheduler>) -> Self {
        Self { scheduler }
    }
}

/// The agent of the office whose token was shown, or whose it is and what is wrong with it.
fn usable(found: Option<&Agent>, office_id: OfficeId, now: Time) -> Result<&Agent, (&str, &'static str)> {
    match found {
        None => Err(("", "an unknown enrolment token")),
        Some(agent) if agent.office_id != office_id => Err(("", "an enrolment token of another office")),
        Some(agent) if !agent.stays() => Err((&agent.name, "a token of an agent that is being fired")),
        Some(agent) => match agent.enrol_expires_at {
            Some(at) if at > now => Ok(agent),
            Some(_) => Err((&agent.name, "an expired enrolment token")),
            None => Err((&agent.name, "an enrolment token that was used before")),
        },
    }
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
    async fn register_key(&self, caller: &Caller, request: RegisterAgentKeyRequest) -> Result<Agent> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let now = self.clock.now();
        let mut tx = self.db.platform().begin().await?;
        let found = repo::agent_lock_by_token(&mut tx, &request.token_sha256).await?;
        let key_id = key_id(&request.public_key);
        let lived = revoked_keys::key_lived(&mut tx, &key_id).await?;
        let tx_of_office = tx.within(office_id);
        let mut agent = match usable(found.as_ref(), office_id, now) {
            Ok(agent) => agent.clone(),
            Err((name, problem)) => {
                if offices::repo::office_get(tx_of_office).await?.is_some() {
                    self.enrolment_refused(caller, office_id, name, problem);
                }
                // Whose token it is must know that somebody else has it.
                if let Some(Agent { office_id, name, .. }) = found.filter(|agent| agent.office_id != office_id) {
                    self.enrolment_refused(caller, office_id, &name, "its enrolment token, in another office");
                }
                return Err(Error::unauthenticated("the enrolment token is unknown, used or expired"));
            }
        };
        if revoked_keys::key_is_revoked(tx_of_office, agent.id, &key_id).await? {
            self.enrolment_refused(caller, office_id, &agent.name, "a key that was revoked");
            return Err(Error::unauthenticated("this key was revoked; make a new one"));
        }
        // The hash stays: a second use is told apart from a guess.
        agent.enrol_expires_at = None;
        let fresh = agent.public_key.as_deref() != Some(&*request.public_key);
        if fresh {
            let taken = || {
                self.enrolment_refused(caller, office_id, &agent.name, "a key that another agent has or had");
                keys::in_use()
            };
            if lived {
                return Err(taken());
            }
            let took = keys::key_take(tx_of_office, agent.id, &request.public_key).await;
            took.map_err(|error| error.unique_or(taken))?;
            revoked_keys::key_revoke(tx_of_office, &agent, now).await?;
        }
        agent.public_key = Some(request.public_key.to_vec());
        if !repo::agent_update(tx_of_office, &mut agent).await? {
            return Err(Error::internal("a locked row was changed by somebody else"));
        }
        if fresh {
            let summary = format!("Agent {:?} enrolled a new key", agent.name);
            let event = Event::lifecycle(office_id, &agent.name, "agent.enrolled", summary, now)
                .category(Category::Security)
                .with(serde_json::json!({ "key_id": key_id }));
            outbox::push(tx_of_office, &event.traced(&caller.trace_id)).await?;
        }
        tx.commit().await?;
        self.db.notify(revoked_keys::topic());
        self.changed(&agent);
        Ok(agent)
    }

    fn enrolment_refused(&self, caller: &Caller, office_id: OfficeId, agent: &str, problem: &str) {
        let refusal = Refusal {
            office_id,
            agent: agent.to_owned(),
            kind: "enrolment.refused",
            summary: format!("Enrolment refused: {problem}"),
            detail: problem.to_owned(),
        };
        caller.refusals.note(refusal, &caller.trace_id);
    }

    /// Notes a refused credential in the feed of the office of the agent that it named, if there is or was one.
    async fn credential_refused(&self, caller: &Caller, report: ReportRefusedCredentialRequest) -> Result<()> {
        let id = AgentId::parse(&report.agent_id)?;
        let mut conn = self.db.platform().read().await?;
        let owner = match repo::agent_find(&mut conn, id).await? {
            Some(agent) => Some((agent.office_id, agent.name)),
            None => revoked_keys::key_owner(&mut conn, id).await?,
        };
        let Some((office_id, agent)) = owner else {
            return Ok(());
        };
        let refusal = Refusal {
            office_id,
            summary: format!("A token in the name of agent {agent:?} was refused: {}", report.problem),
            agent,
            kind: "credential.refused",
            detail: report.source,
        };
        caller.refusals.note(refusal, &caller.trace_id);
        Ok(())
    }

    /// Keys that died since a time, then each that does.
    fn watch_revoked(
        self: Arc<Self>,
        mut since: Option<Time>,
    ) -> impl Stream<Item = Result<WatchRevokedAgentKeysResponse>> + use<> {
        let (changes, mut first, mut told) = (self.db.listen(revoked_keys::topic()), true, HashSet::new());
        changes.follow(async move || {
            let now = self.clock.now();
            // A clock that was set back stamps what comes next with times of before.
            let from = since.replace(now).unwrap_or(now).min(now) - OVERLAP;
            let revoked = revoked_keys::keys_revoked_since(&mut self.db.platform().read().await?, from).await?;
            let fresh = revoked.iter().filter(|key| !told.contains(*key));
            let keys: Vec<AgentKeyName> =
                fresh.map(|(id, key_id)| AgentKeyName { agent_id: id.to_string(), key_id: key_id.clone() }).collect();
            told = revoked.into_iter().collect();
            // The first one says from when on keys are told, whether there are any or not.
            let tells = std::mem::take(&mut first) || !keys.is_empty();
            let message = WatchRevokedAgentKeysResponse { keys, time: Some(convert::timestamp(now)) };
            Ok(Batch { found: tells.then_some(message).into_iter().collect(), more: false })
        })
    }
}

#[tonic::async_trait]
impl AgentRegistryService for Handler {
    async fn resolve_agent_key(&self, request: Request<ResolveAgentKeyRequest>) -> Reply<ResolveAgentKeyResponse> {
        handle!(request, |body| {
            let (agent, public_key) = self.scheduler.resolve_key(&body.agent_id, &body.key_id).await?;
            let actor = Actor::Agent(AgentActor { office_id: agent.office_id, agent_id: agent.id, name: agent.name });
            ResolveAgentKeyResponse { principal: Some(convert::principal(&actor)), public_key: public_key.into() }
        })
    }

    async fn register_agent_key(&self, request: Request<RegisterAgentKeyRequest>) -> Reply<RegisterAgentKeyResponse> {
        handle!(request, |caller, body| {
            let registered = self.scheduler.register_key(&caller, body).await?;
            RegisterAgentKeyResponse { agent: Some(wire::agent(&registered, self.scheduler.runtime.sandbox())) }
        })
    }

    type WatchRevokedAgentKeysStream = BoxStream<WatchRevokedAgentKeysResponse>;

    async fn watch_revoked_agent_keys(
        &self,
        request: Request<WatchRevokedAgentKeysRequest>,
    ) -> Reply<Self::WatchRevokedAgentKeysStream> {
        handle!(request, |body| {
            let since = body.since.map(|since| convert::time("since", &since)).transpose()?;
            self.scheduler.clone().watch_revoked(since).map_err(status).boxed()
        })
    }

    async fn report_refused_credential(
        &self,
        request: Request<ReportRefusedCredentialRequest>,
    ) -> Reply<ReportRefusedCredentialResponse> {
        handle!(request, |caller, body| {
            self.scheduler.credential_refused(&caller, body).await?;
            ReportRefusedCredentialResponse {}
        })
    }

    async fn admit_external_agent(
        &self,
        request: Request<AdmitExternalAgentRequest>,
    ) -> Reply<AdmitExternalAgentResponse> {
        handle!(request, |caller, body| {
            let admitted = self.scheduler.admit(&caller, body).await?;
            AdmitExternalAgentResponse {
                agent: Some(wire::agent(&self.scheduler.seen.freshen(admitted), self.scheduler.runtime.sandbox())),
            }
        })
    }

    async fn record_heartbeat(&self, request: Request<RecordHeartbeatRequest>) -> Reply<RecordHeartbeatResponse> {
        handle!(request, |body| {
            let (office_id, id) = (OfficeId::parse(&body.office_id)?, AgentId::parse(&body.agent_id)?);
            self.scheduler.sign_of_life(office_id, id).await?;
            RecordHeartbeatResponse {}
        })
    }

    async fn list_members(&self, request: Request<ListMembersRequest>) -> Reply<ListMembersResponse> {
        handle!(request, |body| {
            let office_id = OfficeId::parse(&body.office_id)?;
            let mut conn = self.scheduler.db.office(office_id).read().await?;
            let agents = repo::agent_page(&mut conn, &body.after_name, MEMBERS).await?;
            let last = agents.last().filter(|_| agents.len() == MEMBERS).map(|agent| agent.name.clone());
            ListMembersResponse {
                members: agents.into_iter().filter(Agent::stays).map(wire::member).collect(),
                next_after_name: last.unwrap_or_default(),
            }
        })
    }

    async fn list_changed_rosters(
        &self,
        request: Request<ListChangedRostersRequest>,
    ) -> Reply<ListChangedRostersResponse> {
        handle!(request, |body| {
            let mut conn = self.scheduler.db.platform().read().await?;
            let changed = roster_changes::changed_since(&mut conn, body.since_ms, &body.position).await?;
            ListChangedRostersResponse {
                office_ids: changed.offices.iter().map(ToString::to_string).collect(),
                now_ms: changed.now_ms,
                position: changed.position,
                all: changed.all,
            }
        })
    }

    async fn pause_agent(&self, request: Request<PauseAgentRequest>) -> Reply<PauseAgentResponse> {
        handle!(request, |body| {
            self.scheduler.pause(body).await?;
            PauseAgentResponse {}
        })
    }

    async fn get_spender(&self, request: Request<GetSpenderRequest>) -> Reply<GetSpenderResponse> {
        handle!(request, |body| self.scheduler.spender(&body).await?)
    }

    async fn apply_agent_budget(&self, request: Request<ApplyAgentBudgetRequest>) -> Reply<ApplyAgentBudgetResponse> {
        handle!(request, |body| ApplyAgentBudgetResponse { agent: self.scheduler.apply_budget(body).await? })
    }

    async fn list_tiers(&self, _: Request<ListTiersRequest>) -> Reply<ListTiersResponse> {
        let catalogue = self.scheduler.catalogues.current();
        let providers = catalogue
            .providers
            .iter()
            .map(|provider| ProviderNames { name: provider.name.clone(), aliases: provider.aliases.clone() });
        let providers = providers.collect();
        Ok(Response::new(ListTiersResponse { model_tiers: wire::tiers(&catalogue), providers }))
    }

    async fn apply_agent_integration(
        &self,
        request: Request<ApplyAgentIntegrationRequest>,
    ) -> Reply<ApplyAgentIntegrationResponse> {
        handle!(request, |body| {
            let agent = self.scheduler.apply_integration(body).await?;
            let agent = self.scheduler.seen.freshen(agent);
            ApplyAgentIntegrationResponse { spender: Some(wire::spender(&agent, self.scheduler.runtime.sandbox())) }
        })
    }

    async fn list_enabled_integrations(
        &self,
        request: Request<ListEnabledIntegrationsRequest>,
    ) -> Reply<ListEnabledIntegrationsResponse> {
        handle!(request, |body| {
            let enabled = self.scheduler.enabled_integrations(OfficeId::parse(&body.office_id)?).await?;
            ListEnabledIntegrationsResponse { integrations: enabled.into_iter().collect() }
        })
    }

    async fn count_agents(&self, request: Request<CountAgentsRequest>) -> Reply<CountAgentsResponse> {
        handle!(request, |body| {
            let office_id = OfficeId::parse(&body.office_id)?;
            let mut conn = self.scheduler.db.office(office_id).read().await?;
            let counts = repo::agent_count_by_phase(&mut conn).await?;
            let agents = counts.into_iter().map(|(phase, count)| AgentCount {
                phase: wire::phase(phase).into(),
                count: count.try_into().unwrap_or(i32::MAX),
            });
            CountAgentsResponse { agents: agents.collect(), conditions: self.scheduler.conditions(office_id) }
        })
    }
}
