//! `mi.internal.v1.SecretService`: secrets for the roles that use them for agents.

use std::collections::HashMap;

use mi_kernel::{Actor, Error, OfficeId, Result};
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
        handle!(request, |caller, body| {
            let mut secrets = self.resolve(OfficeId::parse(&body.office_id)?, &body.integration).await?;
            match &caller.actor {
                Actor::Service { role } if role == "models" => {}
                // It starts agents, and they get what they may have in their environment and nothing else.
                Actor::Service { role } if role == "scheduler" => {
                    let catalogue = self.catalogues.current();
                    let integration = catalogue.integration("integration", &body.integration)?;
                    let given = |name: &str| integration.secrets.iter().any(|it| it.name == name && it.in_environment);
                    secrets.retain(|name, _| given(name));
                }
                _ => return Err(Error::denied("only the models role and the scheduler use secrets")),
            }
            ResolveSecretsResponse { secrets }
        })
    }
}
