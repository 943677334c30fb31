//! What the scheduler asks of the office role.

use std::{collections::HashMap, time::Duration};

use mi_kernel::{OfficeId, Result, secret::Secret};
use mi_proto::internal::v1::{
    GetHireTermsRequest, ResolveSecretsRequest, metering_service_client::MeteringServiceClient,
    secret_service_client::SecretServiceClient,
};
use mi_rpc::{RoleClient, Transport, status::from_status};
use tonic::{Code, Status};

/// The office role of one process is there a moment after its scheduler: so many times it is waited for, and so long.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// The office role.
pub(crate) struct OfficeRole {
    metering: MeteringServiceClient<RoleClient>,
    secrets: SecretServiceClient<RoleClient>,
}

impl OfficeRole {
    pub(crate) fn new(transport: Transport) -> Self {
        let client = RoleClient::new(transport, "scheduler");
        Self { metering: MeteringServiceClient::new(client.clone()), secrets: SecretServiceClient::new(client) }
    }

    /// The integrations that the office has every required secret of, by name.
    pub(crate) async fn configured(&self, office_id: OfficeId) -> Result<Vec<String>> {
        let request = GetHireTermsRequest { office_id: office_id.to_string() };
        let terms = patiently(async || self.metering.clone().get_hire_terms(request.clone()).await).await?;
        Ok(terms.into_inner().configured)
    }

    /// The office's secrets of an integration, by name.
    pub(crate) async fn secrets(&self, office_id: OfficeId, integration: &str) -> Result<HashMap<String, Secret>> {
        let request =
            ResolveSecretsRequest { office_id: office_id.to_string(), integration: integration.to_owned() };
        let answer = patiently(async || self.secrets.clone().resolve_secrets(request.clone()).await).await?;
        Ok(answer.into_inner().secrets.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
    }
}

async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T> {
    let mut tries = 1;
    loop {
        match call().await {
            Err(status) if status.code() == Code::Unavailable && tries < TRIES => tries += 1,
            answer => return answer.map_err(|status| from_status(&status)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
