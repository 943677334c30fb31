//! Which agents use an integration. The scheduler keeps that, with what else an agent should be.

use std::collections::BTreeSet;

use mi_kernel::{Error, Result};
use mi_proto::internal::v1::{ApplyAgentIntegrationRequest, GetSpenderRequest, GetSpenderResponse};
use mi_rpc::{Caller, status::from_status};
use mi_tenancy::State;
use tonic::{Code, Status};

use super::{Configured, Integrations, repo};

/// What an agent has: its integrations, and the revision of all of them.
type OfAgent<T> = (T, i64);

impl Integrations {
    /// Every integration, as the agent has it.
    pub(crate) async fn list_of_agent(
        &self,
        caller: &Caller,
        office: &str,
        agent: &str,
    ) -> Result<OfAgent<Vec<Configured>>> {
        let (_, office) = self.offices.get(caller, office).await?;
        let request =
            GetSpenderRequest { office_id: office.id.to_string(), agent_id: String::new(), agent: agent.to_owned() };
        let answer = self.registry.clone().get_spender(request).await;
        let spender = answer.map_err(|status| refused(&status, agent))?.into_inner();
        let kept = repo::secret_list(&mut self.db.office(office.id).read().await?).await?;
        let (catalogue, enabled) = (self.catalogues.current(), enabled_of(&spender));
        let all = catalogue.integrations.iter().map(|known| Configured::new(&catalogue, known, &kept, &enabled));
        Ok((all.collect(), spender.integrations_revision))
    }

    /// Enables or disables an integration for an agent.
    pub(crate) async fn toggle(
        &self,
        caller: &Caller,
        [office, agent, integration]: [&str; 3],
        enabled: bool,
    ) -> Result<OfAgent<Configured>> {
        let (access, office) = self.offices.get(caller, office).await?;
        let catalogue = self.catalogues.current();
        let integration = catalogue.integration("integration", integration)?;
        if office.state == State::Deleting {
            return Err(State::deleting());
        }
        let kept = repo::secret_list(&mut self.db.office(office.id).read().await?).await?;
        let known = Configured::new(&catalogue, integration, &kept, &BTreeSet::new());
        if enabled && !known.complete() && !known.provided {
            let text = format!(
                "the office has no secret {} of the integration {:?}; set it first",
                known.missing().iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
                integration.name
            );
            return Err(Error::precondition("INTEGRATION_NOT_CONFIGURED", text));
        }
        let request = ApplyAgentIntegrationRequest {
            office_id: office.id.to_string(),
            agent: agent.to_owned(),
            integration: integration.name.clone(),
            enabled,
            trace_id: access.trace_id().to_owned(),
        };
        let answer = self.registry.clone().apply_agent_integration(request).await;
        let spender = answer.map_err(|status| refused(&status, agent))?.into_inner().spender.unwrap_or_default();
        let now = Configured::new(&catalogue, integration, &kept, &enabled_of(&spender));
        Ok((now, spender.integrations_revision))
    }
}

/// What the scheduler answers about an agent, in full: names of resources do not cross from role to role.
fn refused(status: &Status, agent: &str) -> Error {
    match status.code() {
        Code::NotFound => Error::not_found("agent", agent),
        _ => from_status(status),
    }
}

fn enabled_of(spender: &GetSpenderResponse) -> BTreeSet<String> {
    spender.integrations.iter().cloned().collect()
}
