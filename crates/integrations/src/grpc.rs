//! `mi.v1.IntegrationService`.

use mi_kernel::secret::Secret;
use mi_proto::v1::{self, integration_service_server::IntegrationService};
use mi_rpc::{Caller, convert, status};
use tonic::{Request, Response, Status};

use super::{Configured, Integrations};

/// Serves integrations.
pub struct Handler {
    integrations: Integrations,
}

impl Handler {
    /// Serves these.
    pub fn new(integrations: Integrations) -> Self {
        Self { integrations }
    }
}

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
impl IntegrationService for Handler {
    async fn list_integrations(
        &self,
        request: Request<v1::ListIntegrationsRequest>,
    ) -> Result<Response<v1::ListIntegrationsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let listed = self.integrations.list(&caller, &request.into_inner().office_id).await.map_err(status)?;
        Ok(Response::new(v1::ListIntegrationsResponse { integrations: listed.iter().map(to_wire).collect() }))
    }

    async fn set_integration_secret(
        &self,
        request: Request<v1::SetIntegrationSecretRequest>,
    ) -> Result<Response<v1::SetIntegrationSecretResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::SetIntegrationSecretRequest { office_id, integration, name, value } = request.into_inner();
        let set = self.integrations.set(&caller, [&office_id, &integration, &name], &Secret::new(value)).await;
        let set = set.map_err(status)?;
        Ok(Response::new(v1::SetIntegrationSecretResponse { integration: Some(to_wire(&set)) }))
    }

    async fn delete_integration_secret(
        &self,
        request: Request<v1::DeleteIntegrationSecretRequest>,
    ) -> Result<Response<v1::DeleteIntegrationSecretResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::DeleteIntegrationSecretRequest { office_id, integration, name } = request.into_inner();
        let left = self.integrations.delete(&caller, [&office_id, &integration, &name]).await.map_err(status)?;
        Ok(Response::new(v1::DeleteIntegrationSecretResponse { integration: Some(to_wire(&left)) }))
    }
}
