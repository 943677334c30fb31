//! `mi.v1.IntegrationService`.

use mi_kernel::secret::Secret;
use mi_proto::v1::{self, integration_service_server::IntegrationService};
use mi_rpc::{Reply, convert, handle};
use tonic::Request;

use super::{Configured, Integrations};

fn to_wire(configured: &Configured<'_>) -> v1::Integration {
    let integration = configured.integration;
    let secrets = integration.secrets.iter().zip(&configured.updated_at).map(|(spec, since)| v1::IntegrationSecret {
        name: spec.name.clone(),
        description: spec.description.clone(),
        env: spec.env.clone(),
        required: spec.required,
        updated_at: since.map(convert::timestamp),
    });
    v1::Integration {
        name: integration.name.clone(),
        description: integration.description.clone(),
        secrets: secrets.collect(),
        configured: configured.complete(),
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
}
