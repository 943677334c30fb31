//! Keys of providers: the office's own, or else the installation's.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderValue;
use mi_catalogue::{Catalogue, ModelApi, Provider};
use mi_kernel::{Error, OfficeId, Result, secret::Secret};
use mi_proto::internal::v1::{ResolveSecretsRequest, secret_service_client::SecretServiceClient};
use mi_rpc::{RoleClient, Transport, status::from_status};
use moka::future::Cache;

/// How long secrets are remembered: so long does one that was replaced live on at most.
const FRESH: Duration = Duration::from_secs(1);
/// Integrations of offices remembered at once.
const CAPACITY: u64 = 10_000;
/// The secret that is a provider's key.
const API_KEY: &str = "api_key";
/// The organisation that OpenAI bills, where an account has several.
const ORGANIZATION: &str = "organization";

type Secrets = Arc<HashMap<String, Secret>>;

/// Asks for secrets, and remembers them for a moment.
pub(crate) struct Keys {
    service: SecretServiceClient<RoleClient>,
    known: Cache<(OfficeId, String), Secrets>,
}

impl Keys {
    pub(crate) fn new(office: Transport, own: &'static str) -> Self {
        Self {
            service: SecretServiceClient::new(RoleClient::new(office, own)),
            known: Cache::builder().max_capacity(CAPACITY).time_to_live(FRESH).build(),
        }
    }

    /// What an office has set of an integration.
    ///
    /// # Errors
    /// `Unavailable` when the office role cannot be asked.
    pub(crate) async fn secrets(&self, office_id: OfficeId, integration: &str) -> Result<Secrets> {
        let ask = async {
            let question =
                ResolveSecretsRequest { office_id: office_id.to_string(), integration: integration.to_owned() };
            let answer = self.service.clone().resolve_secrets(question).await;
            let answer = answer.map_err(|status| from_status(&status))?.into_inner();
            Ok(Arc::new(answer.secrets.into_iter().map(|(name, secret)| (name, Secret::new(secret))).collect()))
        };
        let known = self.known.try_get_with((office_id, integration.to_owned()), ask).await;
        known.map_err(|error: Arc<Error>| error.again())
    }

    /// The headers that show a key to a provider; none: it wants to see none.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no key, or none that can be shown.
    pub(crate) async fn headers(
        &self,
        office_id: OfficeId,
        catalogue: &Catalogue,
        provider: &Provider,
    ) -> Result<Vec<(&'static str, HeaderValue)>> {
        // One that is no integration has no secrets.
        let secrets = match catalogue.integration("provider", &provider.name) {
            Ok(integration) => self.secrets(office_id, &integration.name).await?,
            Err(_) => Secrets::default(),
        };
        let own = secrets.get(API_KEY).filter(|key| !key.expose().trim().is_empty());
        let Some(key) = own.or(provider.key.as_ref()) else {
            if provider.open {
                return Ok(Vec::new());
            }
            let text =
                format!("there is no key for {:?}; the colony's owner sets it with its integration", provider.name);
            return Err(Error::precondition("INTEGRATION_NOT_CONFIGURED", text));
        };
        let key = key.expose().trim();
        let mut headers = vec![match provider.api {
            ModelApi::Anthropic => ("x-api-key", shown(key)?),
            ModelApi::OpenAi => ("authorization", shown(&format!("Bearer {key}"))?),
            ModelApi::Gemini => ("x-goog-api-key", shown(key)?),
        }];
        if let Some(organization) =
            secrets.get(ORGANIZATION).filter(|_| provider.api == ModelApi::OpenAi && own.is_some())
        {
            headers.push(("openai-organization", shown(organization.expose().trim())?));
        }
        Ok(headers)
    }
}

/// A secret as a header, which is never printed.
pub(crate) fn shown(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        let text = "a secret of the integration has characters that no key has, such as a line break; set it again";
        Error::precondition("INTEGRATION_NOT_CONFIGURED", text)
    })?;
    value.set_sensitive(true);
    Ok(value)
}
