//! `mi.internal.v1.SecretService`: secrets for the roles that use them for agents.

use std::collections::HashMap;

use mi_kernel::{OfficeId, Result};
use mi_proto::internal::v1::{ResolveSecretsRequest, ResolveSecretsResponse, secret_service_server::SecretService};
use mi_rpc::{Reply, handle};
use mi_vault::Place;
use tonic::Request;

use super::{Integrations, repo};

impl Integrations {
    /// The office's secrets of an integration, each by its name; an office that has none, or is gone, has none.
    async fn resolve(&self, office_id: OfficeId, integration: &str) -> Result<HashMap<String, String>> {
        let catalogue = self.catalogues.current();
        let integration = catalogue.integration("integration", integration)?;
        let mut conn = self.db.office(office_id).read().await?;
        let sealed = repo::secret_sealed(&mut conn, &integration.name).await?;
        if sealed.is_empty() {
            return Ok(HashMap::new());
        }
        let Some(key) = self.keys.get(&mut conn).await? else { return Ok(HashMap::new()) };
        drop(conn);
        let open = |(name, sealed): (String, Vec<u8>)| {
            let place = Place { office_id, integration: &integration.name, name: &name };
            let secret = key.open(place, &sealed)?;
            Ok((name, secret.expose().to_owned()))
        };
        sealed.into_iter().map(open).collect()
    }
}

#[tonic::async_trait]
impl SecretService for Integrations {
    async fn resolve_secrets(&self, request: Request<ResolveSecretsRequest>) -> Reply<ResolveSecretsResponse> {
        handle!(request, |body| {
            let secrets = self.resolve(OfficeId::parse(&body.office_id)?, &body.integration).await?;
            ResolveSecretsResponse { secrets }
        })
    }
}
