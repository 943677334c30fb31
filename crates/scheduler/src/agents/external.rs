//! Agents that run elsewhere: let in by an invite, and there for as long as they are heard of.

use mi_kernel::{
    AgentId, Error, InviteId, OfficeId, Result,
    event::{Category, Event},
    public_key::key_id,
    text,
};
use mi_proto::{internal::v1::AdmitExternalAgentRequest, v1::HireAgentRequest};
use mi_rpc::Caller;
use mi_store::outbox;
use serde_json::json;

use super::{Agent, Desired, State, intent::security, invite_redemptions, keys, repo, revoked_keys, rules};
use crate::{Scheduler, offices};

fn used() -> Error {
    Error::unauthenticated("the invite is used")
}

impl Scheduler {
    /// Lets the holder of an invite in. The invite is used up in the transaction that creates the agent: of several who
    /// show it one wins, and the winner may ask again.
    pub(crate) async fn admit(&self, caller: &Caller, request: AdmitExternalAgentRequest) -> Result<Agent> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let invite = InviteId::parse(&request.invite_id)?;
        let name = text::new_agent_name("name", &request.name)?;
        let public_key = request.public_key.to_vec();
        // Before the transaction, which sees its own office alone. Whatever key dies meanwhile is in `agent_keys`, too.
        let lived = revoked_keys::key_lived(&mut self.db.platform().read().await?, &key_id(&public_key)).await?;
        let mut tx = self.db.office(office_id).begin().await?;
        let office = offices::repo::office_lock(&mut tx).await?;
        let office = office.ok_or_else(|| Error::not_found("office", office_id))?;
        if let Some(id) = invite_redemptions::redemption_get(&mut tx, invite).await? {
            let admitted = repo::agent_get(&mut tx, id).await?;
            let same = |agent: &Agent| agent.name == name && agent.public_key.as_ref() == Some(&public_key);
            return admitted.filter(same).ok_or_else(used);
        }
        rules::office_hires(&office)?;
        // It brings a model of its own; the office's default stands for it until somebody promotes it.
        let spec = rules::spec_of(&HireAgentRequest::default(), &office.settings, &self.catalogues.current(), &[])?;
        rules::room(&office.settings, repo::agent_count(&mut tx).await?)?;

        let now = self.clock.now();
        let agent = Agent {
            external: true,
            state: State::Online,
            observed_generation: 1,
            public_key: Some(public_key),
            last_seen_at: Some(now),
            ..Agent::fresh(office_id, name, spec, now)
        };
        let inserted = repo::agent_insert(&mut tx, &agent).await;
        inserted.map_err(|error| error.unique_or(|| Error::already_exists("agent", &agent.name)))?;
        if lived {
            return Err(keys::in_use());
        }
        let took = keys::key_take(&mut tx, agent.id, &request.public_key).await;
        took.map_err(|error| error.unique_or(keys::in_use))?;
        invite_redemptions::redemption_insert(&mut tx, invite, agent.id, now).await?;
        let about = json!({ "agent_id": agent.id, "invite_id": invite });
        let redeemed = format!("The invite of agent {:?} was redeemed", agent.name);
        let joined = format!("Agent {:?} joined by invite", agent.name);
        for event in [
            Event::lifecycle(office_id, &agent.name, "invite.redeemed", redeemed, now)
                .category(Category::Security)
                .with(about.clone()),
            Event::lifecycle(office_id, &agent.name, "agent.joined", joined, now).with(about),
            security(&agent, "access.granted", "may act in the office", "", &self.clock),
        ] {
            outbox::push(&mut tx, &event.traced(&caller.trace_id)).await?;
        }
        tx.commit().await?;
        self.changed(&agent);
        Ok(agent)
    }

    /// Takes a sign of life of an agent. In a suspended office, and of a paused agent, it counts, so that whoever stayed is
    /// there at once when that ends; but the agent hears that it is to wait.
    pub(crate) async fn sign_of_life(&self, office_id: OfficeId, id: AgentId) -> Result<()> {
        let now = self.clock.now();
        if self.seen.known(office_id, id, None, now) {
            return Ok(());
        }
        let before = self.seen.before();
        let mut conn = self.db.office(office_id).read().await?;
        let office = offices::repo::office_get(&mut conn).await?;
        let office = office.ok_or_else(|| Error::not_found("office", office_id))?;
        let agent = repo::agent_get(&mut conn, id).await?;
        drop(conn);
        let agent = agent.filter(|agent| !matches!(agent.desired, Desired::Fire { .. }));
        let agent = agent.ok_or_else(|| Error::unauthenticated("the agent was fired"))?;
        self.seen.record(office_id, id, now);
        rules::office_works(&office)?;
        agent.listened_to()?;
        if agent.external && agent.state == State::Online {
            self.seen.vouch(&agent, None, before, now);
        } else if agent.external {
            // At once, also where another process leads: there is no instance that two could fight over.
            self.settle(id).await;
            self.queue.push(id);
        }
        Ok(())
    }
}

impl Agent {
    /// Refuses a sign of life of an agent that is paused.
    fn listened_to(&self) -> Result<()> {
        match &self.state {
            State::Paused { reason } if self.desired == Desired::Pause => {
                self.has_budget()?;
                let text = format!("agent {:?} is paused until somebody starts it again: {reason}", self.name);
                Err(Error::precondition("LOOP_DETECTED", text))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what only an instance of the platform's own can be asked for.
    pub(crate) fn hosted(&self) -> Result<()> {
        if self.external {
            let text = format!(
                "agent {:?} runs elsewhere; start, stop and restart it there, and to give it a new key fire it and \
                 let it join again with a new invite",
                self.name
            );
            return Err(Error::precondition("EXTERNAL_AGENT", text));
        }
        Ok(())
    }
}
