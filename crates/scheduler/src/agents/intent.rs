//! The changes of what should be: hire, promote, update, start, stop, pause, restart, rotate, fire. Each is one transaction; the
//! reconciler does the rest.

use std::sync::Arc;

use mi_kernel::{
    Actor, AgentId, BackupId, Clock, Error, ErrorKind, OfficeId, Result,
    event::{Category, Event},
    text,
};
use mi_proto::{
    fields,
    internal::v1::{GetHireTermsRequest, GetHireTermsResponse, PauseAgentRequest},
    v1,
};
use mi_rpc::{Caller, status::from_status};
use mi_store::{OfficeTx, idempotency, outbox};
use prost::Message;
use serde_json::json;

use super::{Agent, Desired, State, repo, revoked_keys, rules, wire};
use crate::{Scheduler, backups, liveness::Idle, offices};

/// A change of one agent that its row still waits for.
pub(crate) struct Change {
    pub(crate) tx: OfficeTx,
    pub(crate) agent: Agent,
    pub(crate) trace_id: String,
}

impl Scheduler {
    /// Hires an agent.
    pub(crate) async fn hire(&self, caller: &Caller, request: v1::HireAgentRequest) -> Result<Agent> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let terms = self.hire_terms(caller, office_id).await?;
        let mut tx = self.db.office(office_id).begin().await?;
        let office = offices::repo::office_lock(&mut tx).await?;
        let office = office.ok_or_else(|| Error::not_found("office", office_id))?;
        let access = caller.enter(office_id, office.account_id)?;

        let scope = format!("{}/HireAgent", caller.actor.key());
        let replay = idempotency::Request::new(scope, &request.request_id, &content_of(&request))?;
        if let Some(replay) = &replay
            && let Some(id) = replay.replayed(&mut tx).await?
        {
            let agent = repo::agent_get(&mut tx, id.into()).await?;
            return agent.ok_or_else(|| Error::not_found("agent", &request.name));
        }
        let name = text::new_agent_name("name", &request.name)?;
        rules::office_hires(&office)?;
        let spec = rules::spec_of(&request, &office.settings, &self.catalogues.current(), &terms.configured)?;
        let restore_from = match request.restore_from_backup.as_str() {
            "" => None,
            id => Some(backups::find(&mut tx, id).await?.id),
        };
        let now = self.clock.now();
        let id = AgentId::new();
        let (mut hired_by, mut lineage) = (String::new(), Vec::new());
        if let Some(member) = access.agent() {
            let hirer = repo::agent_get(&mut tx, member.agent_id).await?;
            let hirer = hirer.filter(Agent::stays);
            let hirer = hirer.ok_or_else(|| Error::unauthenticated("the calling agent was fired"))?;
            let recent = offices::repo::hire_count(&mut tx, now - rules::HIRE_WINDOW).await?;
            let allowed = rules::agent_may_hire(&office.settings, &terms, hirer.lineage.len(), recent);
            allowed.map_err(|error| caller.refused(office_id, error))?;
            offices::repo::hire_insert(&mut tx, id, now).await?;
            lineage.push(hirer.id);
            lineage.extend(hirer.lineage);
            hired_by = hirer.name;
        } else {
            rules::solvent(&terms)?;
        }
        rules::room(&office.settings, repo::agent_count(&mut tx).await?)?;

        let agent = Agent { id, hired_by, lineage, restore_from, ..Agent::fresh(office_id, name, spec, now) };
        let inserted = repo::agent_insert(&mut tx, &agent).await;
        inserted.map_err(|error| error.unique_or(|| Error::already_exists("agent", &agent.name)))?;
        if let Some(replay) = &replay {
            replay.remember(&mut tx, id.0, now).await?;
        }
        let by = if agent.hired_by.is_empty() { "an operator".to_owned() } else { format!("{:?}", agent.hired_by) };
        let summary = format!("Agent {:?} hired by {by} with model {}", agent.name, agent.spec.model_tier);
        let event = Event::lifecycle(office_id, &agent.name, "agent.hired", summary, now).with(json!({
            "agent_id": agent.id, "model_tier": agent.spec.model_tier, "provider": agent.spec.provider,
            "role": agent.spec.role, "integrations": agent.spec.integrations, "hired_by": agent.hired_by,
            "restored_from": agent.restore_from,
        }));
        outbox::push(&mut tx, &event.traced(&caller.trace_id)).await?;
        let granted = security(&agent, "access.granted", "may act in the office", &agent.hired_by, &self.clock);
        outbox::push(&mut tx, &granted.traced(&caller.trace_id)).await?;
        tx.commit().await?;
        self.changed(&agent);
        Ok(agent)
    }

    /// What a hire has to know of the office role, for a caller that may hire in the office. It is asked before the
    /// transaction: none waits for another role.
    async fn hire_terms(&self, caller: &Caller, office_id: OfficeId) -> Result<GetHireTermsResponse> {
        self.enter(&mut self.db.office(office_id).read().await?, caller).await?;
        self.terms(office_id).await
    }

    /// What the office role says of an office's credits and keys.
    pub(crate) async fn terms(&self, office_id: OfficeId) -> Result<GetHireTermsResponse> {
        let request = GetHireTermsRequest { office_id: office_id.to_string() };
        let answer = self.metering.clone().get_hire_terms(request).await;
        Ok(answer.map_err(|status| from_status(&status))?.into_inner())
    }

    /// Locks an agent that the caller may act on and that is not being fired.
    async fn change(&self, caller: &Caller, office_id: &str, name: &str) -> Result<Change> {
        let office_id = OfficeId::parse(office_id)?;
        let mut tx = self.db.office(office_id).begin().await?;
        let (_, access) = self.enter(&mut tx, caller).await?;
        let name = text::lookup_name("name", name)?;
        let agent = repo::agent_lock_by_name(&mut tx, &name).await?;
        let agent = agent.ok_or_else(|| Error::not_found("agent", &name))?;
        let allowed = rules::may_act_on(&access, &caller.rule.callers, &agent);
        allowed.map_err(|error| caller.refused(office_id, error))?;
        let trace_id = caller.trace_id.clone();
        Ok(Change { tx, agent, trace_id })
    }

    /// Writes a changed agent with its event, and lets the reconciler loose.
    pub(crate) async fn save(
        &self,
        mut change: Change,
        kind: &str,
        summary: String,
        metadata: serde_json::Value,
    ) -> Result<Agent> {
        if !repo::agent_update(&mut change.tx, &mut change.agent).await? {
            return Err(Error::internal("a locked row was changed by somebody else"));
        }
        let agent = change.agent;
        let mut event = Event::lifecycle(agent.office_id, &agent.name, kind, summary, self.clock.now()).with(metadata);
        match kind {
            "agent.identity_rotated" => event = event.category(Category::Security),
            "integration.enabled" | "integration.disabled" => event = event.category(Category::Integration),
            _ => {}
        }
        outbox::push(&mut change.tx, &event.traced(&change.trace_id)).await?;
        change.tx.commit().await?;
        self.changed(&agent);
        Ok(agent)
    }

    /// The same for a change that another role has told the feed of.
    pub(crate) async fn save_silently(&self, mut change: Change) -> Result<Agent> {
        if !repo::agent_update(&mut change.tx, &mut change.agent).await? {
            return Err(Error::internal("a locked row was changed by somebody else"));
        }
        change.tx.commit().await?;
        self.changed(&change.agent);
        Ok(change.agent)
    }

    /// Changes tier and provider.
    pub(crate) async fn promote(&self, caller: &Caller, request: v1::PromoteAgentRequest) -> Result<Agent> {
        let office_id = OfficeId::parse(&request.office_id)?;
        // Only whoever names a provider needs a key for it.
        let configured = match request.provider.as_str() {
            "" => Vec::new(),
            _ => self.hire_terms(caller, office_id).await?.configured,
        };
        let mut change = self.change(caller, &request.office_id, &request.name).await?;
        let agent = &mut change.agent;
        agent.renew()?;
        let before = agent.spec.model_tier.clone();
        let tier = match request.model_tier.as_str() {
            "" if request.provider.is_empty() => {
                return Err(Error::invalid("model_tier", "is required unless a provider is given"));
            }
            "" => before.as_str(),
            tier => tier,
        };
        let catalogue = self.catalogues.current();
        let tier = catalogue.tier("model_tier", tier)?;
        agent.spec.provider = match request.provider.as_str() {
            "" => tier.provider().to_owned(),
            asked => rules::provider(&catalogue, tier, asked, &configured)?,
        };
        agent.spec.model_tier.clone_from(&tier.name);
        if let Some(name) = rules::integration_of(&catalogue, &agent.spec.provider) {
            agent.spec.set_integration(&name, true);
        }
        let summary = format!("Agent {:?} promoted from {before} to {}", agent.name, tier.name);
        let metadata =
            json!({ "from": before, "to": tier.name, "provider": agent.spec.provider, "generation": agent.generation });
        self.save(change, "agent.promoted", summary, metadata).await
    }

    /// Changes the fields in the mask.
    pub(crate) async fn update(&self, caller: &Caller, request: v1::UpdateAgentRequest) -> Result<Agent> {
        let mut change = self.change(caller, &request.office_id, &request.name).await?;
        let agent = &mut change.agent;
        agent.renew()?;
        let given = request.agent.unwrap_or_default();
        let mut paths = request.update_mask.unwrap_or_default().paths;
        for path in &mut paths {
            if let Some(field) = fields::field("mi.v1.Agent", path) {
                field.name().clone_into(path);
            }
        }
        paths.sort_unstable();
        paths.dedup();
        if paths.is_empty() {
            return Err(Error::invalid(
                "update_mask",
                "must name at least one of skills, system_prompt, env, resources, command",
            ));
        }
        for path in &paths {
            match path.as_str() {
                "skills" => agent.spec.skills = rules::skills(&given.skills)?,
                "system_prompt" => agent.spec.system_prompt = rules::system_prompt(&given.system_prompt)?,
                "env" => agent.spec.env = rules::env(&given.env)?,
                "resources" => agent.spec.resources = rules::resources(given.resources.as_ref())?,
                "command" => agent.spec.command = rules::command(&given.command)?,
                other => {
                    let shown: String = other.chars().take(80).collect();
                    let problem =
                        format!("names {shown:?}; it may name skills, system_prompt, env, resources, command");
                    return Err(Error::invalid("update_mask", problem));
                }
            }
        }
        let summary = format!("Agent {:?} updated: {}", agent.name, paths.join(", "));
        let metadata = json!({ "fields": paths, "generation": agent.generation });
        self.save(change, "agent.updated", summary, metadata).await
    }

    /// Starts a stopped, failed or paused agent.
    pub(crate) async fn start(&self, caller: &Caller, office_id: &str, name: &str) -> Result<Agent> {
        let mut change = self.change(caller, office_id, name).await?;
        let agent = &mut change.agent;
        agent.startable(caller)?;
        if agent.desired == Desired::Run && !matches!(agent.state, State::Failed { .. } | State::BackingOff { .. }) {
            return Ok(change.agent);
        }
        agent.renew()?;
        agent.desired = Desired::Run;
        let summary = format!("Agent {:?} is to start", agent.name);
        let metadata = json!({ "generation": agent.generation });
        self.save(change, "agent.start_requested", summary, metadata).await
    }

    /// Stops an agent.
    pub(crate) async fn stop(&self, caller: &Caller, office_id: &str, name: &str) -> Result<Agent> {
        let mut change = self.change(caller, office_id, name).await?;
        let agent = &mut change.agent;
        agent.hosted()?;
        agent.left_to_operators(caller)?;
        if agent.desired == Desired::Stop && !matches!(agent.state, State::Failed { .. }) {
            return Ok(change.agent);
        }
        agent.renew()?;
        agent.desired = Desired::Stop;
        let summary = format!("Agent {:?} is to stop", agent.name);
        let metadata = json!({ "generation": agent.generation });
        self.save(change, "agent.stop_requested", summary, metadata).await
    }

    /// Pauses an agent until somebody starts it again. One that is gone or paused stays as it is.
    pub(crate) async fn pause(&self, request: PauseAgentRequest) -> Result<()> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let reason = rules::pause_reason(&request)?;
        let name = match text::lookup_name("agent", &request.agent) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            name => name?,
        };
        let mut tx = self.db.office(office_id).begin().await?;
        let Some(mut agent) = repo::agent_lock_by_name(&mut tx, &name).await? else {
            return Ok(());
        };
        if matches!(agent.desired, Desired::Pause | Desired::Fire { .. }) {
            return Ok(());
        }
        agent.renew()?;
        agent.desired = Desired::Pause;
        let summary = format!("Agent {:?} is paused: {reason}", agent.name);
        let metadata = json!({ "reason": request.reason, "generation": agent.generation });
        agent.state = State::Paused { reason };
        self.save(Change { tx, agent, trace_id: request.trace_id }, "agent.paused", summary, metadata).await?;
        Ok(())
    }

    /// Replaces the instance.
    pub(crate) async fn restart(&self, caller: &Caller, office_id: &str, name: &str) -> Result<Agent> {
        let mut change = self.change(caller, office_id, name).await?;
        let agent = &mut change.agent;
        agent.startable(caller)?;
        agent.renew()?;
        agent.desired = Desired::Run;
        let summary = format!("Agent {:?} is to restart", agent.name);
        let metadata = json!({ "generation": agent.generation });
        self.save(change, "agent.restart_requested", summary, metadata).await
    }

    /// Kills the key at once. The instance goes on: it is handed a token for a key that it makes anew.
    pub(crate) async fn rotate(&self, caller: &Caller, office_id: &str, name: &str) -> Result<Agent> {
        let mut change = self.change(caller, office_id, name).await?;
        change.agent.may_change()?;
        change.agent.hosted()?;
        if change.agent.public_key.is_none() {
            // Whoever asks again may not have got the answer, and nobody else may have been told.
            self.db.notify(revoked_keys::topic());
            return Ok(change.agent);
        }
        revoked_keys::key_revoke(&mut change.tx, &change.agent, self.clock.now()).await?;
        change.agent.public_key = None;
        change.agent.enrol_sha256 = None;
        let summary = format!("The key of agent {:?} was revoked; it makes a new one", change.agent.name);
        let rotated = self.save(change, "agent.identity_rotated", summary, json!({})).await?;
        self.db.notify(revoked_keys::topic());
        Ok(rotated)
    }

    /// Fires an agent. Firing one that is being fired changes nothing, except that it may become forced.
    pub(crate) async fn fire(&self, caller: &Caller, request: v1::FireAgentRequest) -> Result<Agent> {
        let change = self.change(caller, &request.office_id, &request.name).await?;
        let by = match &caller.actor {
            Actor::Agent(agent) => agent.name.clone(),
            _ => String::new(),
        };
        let summary = format!("Agent {:?} is being fired", change.agent.name);
        self.begin_fire(change, request.force, &by, summary).await
    }

    /// Fires an agent that an agent hired and that said that it has had nothing to do, unless something became of it since, or
    /// it was heard of elsewhere.
    pub(crate) async fn fire_for_idleness(
        &self,
        office_id: OfficeId,
        id: AgentId,
        said: Idle,
        limit: i64,
    ) -> Result<()> {
        let mut tx = self.db.office(office_id).begin().await?;
        let agent = match repo::agent_get(&mut tx, id).await? {
            Some(agent) => repo::agent_lock_by_name(&mut tx, &agent.name).await?,
            None => None,
        };
        let idle = |agent: &Agent| {
            let runs = matches!(agent.state, State::Running { since: begun, .. } if begun <= said.since);
            let here = agent.last_seen_at <= Some(said.heard_at);
            agent.id == id && runs && here && agent.desired == Desired::Run && !agent.hired_by.is_empty()
        };
        let Some(agent) = agent.filter(idle) else { return Ok(()) };
        // It may wait for what it had others do.
        if repo::agent_hired_any(&mut tx, &agent.name).await? {
            return Ok(());
        }
        let summary = format!("Agent {:?} is being fired: it had nothing to do for {limit} seconds", agent.name);
        let change = Change { tx, agent, trace_id: String::new() };
        self.begin_fire(change, false, "platform", summary).await.map(drop)
    }

    async fn begin_fire(&self, mut change: Change, force: bool, by: &str, summary: String) -> Result<Agent> {
        revoked_keys::key_revoke(&mut change.tx, &change.agent, self.clock.now()).await?;
        let already = change.agent.begin_fire(force);
        if already {
            self.db.notify(revoked_keys::topic());
            return Ok(change.agent);
        }
        let metadata = json!({ "force": force, "fired_by": by });
        let revoked = security(&change.agent, "access.revoked", "may not act any more", by, &self.clock);
        outbox::push(&mut change.tx, &revoked.traced(&change.trace_id)).await?;
        let fired = self.save(change, "agent.fire_requested", summary, metadata).await?;
        self.db.notify(revoked_keys::topic());
        Ok(fired)
    }

    /// The agent with this name, for a caller that may read in the office.
    pub(crate) async fn get(&self, caller: &Caller, office_id: &str, name: &str) -> Result<v1::Agent> {
        let office_id = OfficeId::parse(office_id)?;
        let mut conn = self.db.office(office_id).read().await?;
        self.enter(&mut conn, caller).await?;
        let name = text::lookup_name("name", name)?;
        let agent = repo::agent_get_by_name(&mut conn, &name).await?;
        let agent = agent.ok_or_else(|| Error::not_found("agent", &name))?;
        Ok(wire::agent(&self.seen.freshen(agent), self.runtime.sandbox()))
    }
}

/// Who may act in an office, and since when not any more: for whoever audits it, beside what becomes of the agent.
pub(crate) fn security(agent: &Agent, kind: &str, what: &str, by: &str, clock: &Arc<dyn Clock>) -> Event {
    let summary = format!("Agent {:?} {what}", agent.name);
    Event::lifecycle(agent.office_id, &agent.name, kind, summary, clock.now())
        .category(Category::Security)
        .with(json!({ "agent_id": agent.id, "by": by }))
}

/// The encoded request; the same bytes each time, though a map has no order.
fn content_of(request: &v1::HireAgentRequest) -> Vec<u8> {
    let mut plain = request.clone();
    let mut env: Vec<(String, String)> = plain.env.drain().collect();
    env.sort_unstable();
    let mut content = plain.encode_to_vec();
    content.extend(json!(env).to_string().into_bytes());
    content
}

impl Agent {
    pub(super) fn may_change(&self) -> Result<()> {
        if matches!(self.desired, Desired::Fire { .. }) {
            return Err(Error::precondition("AGENT_TERMINATING", format!("agent {:?} is being fired", self.name)));
        }
        Ok(())
    }

    /// Refuses to start what is started elsewhere, unless the platform itself paused it.
    fn startable(&self, caller: &Caller) -> Result<()> {
        self.left_to_operators(caller)?;
        if self.desired != Desired::Pause {
            self.hosted()?;
        }
        self.has_budget()
    }

    /// Refuses agents who would bring back a paused one: itself and those above it may be what it goes in circles with.
    fn left_to_operators(&self, caller: &Caller) -> Result<()> {
        if self.desired == Desired::Pause && matches!(caller.actor, Actor::Agent(_)) {
            let error = Error::denied(format!("agent {:?} is paused, and only an operator brings it back", self.name));
            return Err(caller.refused(self.office_id, error));
        }
        Ok(())
    }

    /// A new generation, tried from the start.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.may_change()?;
        self.generation += 1;
        self.failures = 0;
        // A token is for one generation.
        self.enrol_sha256 = None;
        if matches!(self.state, State::Failed { .. } | State::BackingOff { .. }) {
            self.state = State::Pending;
        }
        Ok(())
    }

    /// Turns the intent into a fire; true: it already was one, and nothing changed.
    pub(crate) fn begin_fire(&mut self, force: bool) -> bool {
        if let Desired::Fire { force: forced, backup_id } = self.desired {
            if forced || !force {
                return true;
            }
            self.desired = Desired::Fire { force, backup_id };
        } else {
            self.desired = Desired::Fire { force, backup_id: BackupId::new() };
        }
        self.generation += 1;
        self.failures = 0;
        self.public_key = None;
        self.enrol_sha256 = None;
        self.state = State::Terminating { retry_at: None, reason: String::new() };
        false
    }
}
