//! An account with an office of its own, as every benchmark over the API needs one.

use std::{path::Path, sync::Arc, time::Duration};

use mi_client::{AgentKey, Client, Credential, KeyRing};
use mi_kernel::{AgentId, secret::Secret};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::until;
use prost_types::FieldMask;
use tonic::Status;

use crate::Result;

/// How long an office or an agent may take to get where it should be.
const PATIENCE: Duration = Duration::from_secs(60);

/// An operator of an account with one active office.
#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) client: Client,
    pub(crate) key: Secret,
    pub(crate) office: String,
}

impl Customer {
    /// Opens an account and an office with room for this many agents.
    pub(crate) async fn open(endpoint: &str, admin_key: &str, max_agents: i32) -> Result<Self> {
        let admin = Client::connect(endpoint, Credential::ApiKey(Secret::new(admin_key)))?;
        let request = v1::CreateAccountRequest { name: "bench".into() };
        let key = Secret::new(admin.access().create_account(request).await?.into_inner().secret);
        let client = Client::connect(endpoint, Credential::ApiKey(key.clone()))?;
        Self { client, key, office: String::new() }.another_office(max_agents).await
    }

    /// Opens one more office of the account.
    pub(crate) async fn another_office(&self, max_agents: i32) -> Result<Self> {
        let client = &self.client;
        let request = v1::CreateOfficeRequest { name: "bench".into(), ..Default::default() };
        let office = client.offices().create_office(request).await?.into_inner().office;
        let office = office.ok_or("an answer without its office")?.id;
        let request = v1::UpdateOfficeSettingsRequest {
            office_id: office.clone(),
            settings: Some(v1::OfficeSettings { max_agents: Some(max_agents), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["max_agents".into()] }),
        };
        client.offices().update_office_settings(request).await?;
        until("the office is active", PATIENCE, async || {
            let request = v1::GetOfficeRequest { office_id: office.clone() };
            let answer = client.offices().get_office(request).await?.into_inner();
            let active = answer.office.is_some_and(|office| office.status() == v1::OfficeStatus::Active);
            Ok::<_, Status>(active.then_some(()))
        })
        .await;
        Ok(Self { office, ..self.clone() })
    }

    /// Has an agent from outside join, with a new key in this file.
    pub(crate) async fn join(&self, name: &str, key_file: &Path) -> Result<AgentId> {
        let invite = v1::CreateInviteRequest { office_id: self.office.clone() };
        let invite = self.client.access().create_invite(invite).await?.into_inner().invite.ok_or("no invite")?;
        let public_key = AgentKey::generate(key_file)?.public_key().to_vec().into();
        let request = v1::JoinOfficeRequest { code: invite.code, name: name.into(), public_key };
        let anonymous = self.client.with_credential(Credential::None)?;
        let agent = anonymous.access().join_office(request).await?.into_inner().agent.ok_or("no agent")?;
        Ok(agent.id.parse()?)
    }

    /// Hires with all defaults.
    pub(crate) async fn hire(&self, name: &str) -> Result {
        let request = v1::HireAgentRequest { office_id: self.office.clone(), name: name.into(), ..Default::default() };
        self.client.agents().hire_agent(request).await?;
        Ok(())
    }

    /// Hires an agent and stops it: a row to read that nothing changes meanwhile.
    pub(crate) async fn hire_at_rest(&self, name: &str) -> Result {
        self.hire(name).await?;
        let (office_id, name) = (self.office.clone(), name.to_owned());
        let request = v1::StopAgentRequest { office_id: office_id.clone(), name: name.clone() };
        self.client.agents().stop_agent(request).await?;
        until("the agent is stopped", PATIENCE, async || {
            let request = v1::GetAgentRequest { office_id: office_id.clone(), name: name.clone() };
            let agent = self.client.agents().get_agent(request).await?.into_inner().agent;
            let phase = agent.and_then(|agent| agent.status).map(|status| status.phase());
            Ok::<_, Status>((phase == Some(AgentPhase::Stopped)).then_some(()))
        })
        .await;
        Ok(())
    }
}

/// A connection of an agent that joined, with its key from this file.
pub(crate) fn connect(endpoint: &str, agent_id: AgentId, key_file: &Path) -> Result<Client> {
    Ok(Client::connect(endpoint, credential(agent_id, key_file)?)?)
}

/// The same over a connection that is there.
pub(crate) fn on(connection: &Client, agent_id: AgentId, key_file: &Path) -> Result<Client> {
    Ok(connection.with_credential(credential(agent_id, key_file)?)?)
}

fn credential(agent_id: AgentId, key_file: &Path) -> Result<Credential> {
    let key = AgentKey::load(key_file)?.ok_or_else(|| format!("{}: no such key", key_file.display()))?;
    let key = Arc::new(KeyRing::new(key));
    Ok(Credential::Agent { agent_id, key })
}
