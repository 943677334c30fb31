//! `mi.v1.IntegrationService`.

use mi_kernel::secret::Secret;
use mi_proto::v1::{self, integration_service_server::IntegrationService};
use mi_rpc::{Reply, convert, handle};
use tonic::Request;

use super::{Configured, Integrations, Stage};

fn stage(stage: Stage) -> v1::IntegrationStatus {
    match stage {
        Stage::Pending => v1::IntegrationStatus::Pending,
        Stage::Configured => v1::IntegrationStatus::Configured,
        Stage::Active => v1::IntegrationStatus::Active,
    }
}

fn to_wire(configured: &Configured) -> v1::Integration {
    let integration = &configured.integration;
    let secrets = integration.secrets.iter().zip(&configured.updated_at).map(|(spec, since)| v1::IntegrationSecret {
        name: spec.name.clone(),
        description: spec.description.clone(),
        env: spec.env.clone(),
        required: spec.required,
        updated_at: since.map(convert::timestamp),
        in_environment: spec.in_environment,
    });
    v1::Integration {
        name: integration.name.clone(),
        description: integration.description.clone(),
        secrets: secrets.collect(),
        configured: configured.complete(),
        aliases: integration.aliases.clone(),
        category: integration.category.clone(),
        status: stage(configured.stage()).into(),
    }
}

fn of_agent(configured: &Configured) -> v1::AgentIntegration {
    let integration = &configured.integration;
    let shared = integration.secrets.iter().filter(|spec| spec.in_environment);
    v1::AgentIntegration {
        name: integration.name.clone(),
        enabled: configured.enabled,
        status: stage(configured.stage()).into(),
        env: shared.map(|spec| spec.env.clone()).collect(),
        category: integration.category.clone(),
    }
}

#[tonic::async_trait]
impl IntegrationService for Integrations {
    async fn list_integrations(
        &self,
        request: Request<v1::ListIntegrationsRequest>,
    ) -> Reply<v1::ListIntegrationsResponse> {
        handle!(request, |caller, body| {
            let listed = self.list(&caller, &body.office_id).await?;
            v1::ListIntegrationsResponse { integrations: listed.iter().map(to_wire).collect() }
        })
    }

    async fn set_integration_secret(
        &self,
        request: Request<v1::SetIntegrationSecretRequest>,
    ) -> Reply<v1::SetIntegrationSecretResponse> {
        handle!(request, |caller, v1::SetIntegrationSecretRequest { office_id, integration, name, value }| {
            let set = self.set(&caller, [&office_id, &integration, &name], &Secret::new(value)).await?;
            v1::SetIntegrationSecretResponse { integration: Some(to_wire(&set)) }
        })
    }

    async fn delete_integration_secret(
        &self,
        request: Request<v1::DeleteIntegrationSecretRequest>,
    ) -> Reply<v1::DeleteIntegrationSecretResponse> {
        handle!(request, |caller, v1::DeleteIntegrationSecretRequest { office_id, integration, name }| {
            let left = self.delete(&caller, [&office_id, &integration, &name]).await?;
            v1::DeleteIntegrationSecretResponse { integration: Some(to_wire(&left)) }
        })
    }

    async fn set_agent_integration(
        &self,
        request: Request<v1::SetAgentIntegrationRequest>,
    ) -> Reply<v1::SetAgentIntegrationResponse> {
        handle!(request, |caller, v1::SetAgentIntegrationRequest { office_id, agent, integration, enabled }| {
            let (now, revision) = self.toggle(&caller, [&office_id, &agent, &integration], enabled).await?;
            v1::SetAgentIntegrationResponse { integration: Some(of_agent(&now)), revision }
        })
    }

    async fn list_agent_integrations(
        &self,
        request: Request<v1::ListAgentIntegrationsRequest>,
    ) -> Reply<v1::ListAgentIntegrationsResponse> {
        handle!(request, |caller, body| {
            let (listed, revision) = self.list_of_agent(&caller, &body.office_id, &body.agent).await?;
            v1::ListAgentIntegrationsResponse { integrations: listed.iter().map(of_agent).collect(), revision }
        })
    }
}
