//! Which integrations agents use.

use std::collections::BTreeSet;

use mi_kernel::{Error, OfficeId, Result, text};
use mi_proto::internal::v1::ApplyAgentIntegrationRequest;
use serde_json::json;

use super::{Agent, intent::Change, repo};
use crate::Scheduler;

/// Agents that are read at a time.
const PAGE: i64 = 1000;

impl Scheduler {
    /// Enables or disables an integration for an agent; as it is already, nothing changes. The instance is replaced only if
    /// its environment is another one then.
    pub(crate) async fn apply_integration(&self, request: ApplyAgentIntegrationRequest) -> Result<Agent> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let name = text::lookup_name("agent", &request.agent)?;
        let catalogue = self.catalogues.current();
        let integration = catalogue.integration("integration", &request.integration)?;
        let mut tx = self.db.office(office_id).begin().await?;
        let agent = repo::agent_lock_by_name(&mut tx, &name).await?;
        let mut agent = agent.ok_or_else(|| Error::not_found("agent", &name))?;
        agent.may_change()?;
        if !agent.spec.set_integration(&integration.name, request.enabled) {
            return Ok(agent);
        }
        if !agent.external && integration.secrets.iter().any(|spec| spec.in_environment) {
            agent.renew()?;
        }
        let (kind, verb) = match request.enabled {
            true => ("integration.enabled", "enabled"),
            false => ("integration.disabled", "disabled"),
        };
        let summary = format!("Integration {} {verb} for agent {:?}", integration.name, agent.name);
        let metadata = json!({
            "integration": integration.name, "revision": agent.spec.integrations_revision,
            "generation": agent.generation,
        });
        self.save(Change { tx, agent, trace_id: request.trace_id }, kind, summary, metadata).await
    }

    /// The integrations that are enabled for any agent of the office.
    pub(crate) async fn enabled_integrations(&self, office_id: OfficeId) -> Result<BTreeSet<String>> {
        let (mut after, mut found) = (String::new(), BTreeSet::new());
        loop {
            let page = repo::agent_integrations(&mut self.db.office(office_id).read().await?, &after, PAGE).await?;
            let full = i64::try_from(page.len()) == Ok(PAGE);
            for (name, integrations) in page {
                let integrations: Vec<String> = serde_json::from_str(&integrations).map_err(Error::internal)?;
                found.extend(integrations);
                after = name;
            }
            if !full {
                return Ok(found);
            }
        }
    }
}
