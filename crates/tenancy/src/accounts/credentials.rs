//! `mi.internal.v1.CredentialService`: the gateway asks whose a key is.

use std::time::Duration;

use mi_kernel::Time;
use mi_proto::internal::v1::{
    ResolveApiKeyRequest, ResolveApiKeyResponse, WatchRevokedApiKeysRequest, WatchRevokedApiKeysResponse,
    credential_service_server::CredentialService,
};
use mi_rpc::{Polled, Reply, convert, handle, polled};
use tonic::Request;

use super::{Accounts, repo};

/// Other processes revoke too, and give no signal here.
const SHARED_INTERVAL: Duration = Duration::from_millis(300);
/// How long a transaction that revokes may take to become visible after its time.
const OVERLAP: Duration = Duration::from_secs(10);

impl Accounts {
    /// Keys that were revoked since a time, then each that is.
    fn watch_revoked(&self, since: Option<Time>) -> Polled<WatchRevokedApiKeysResponse> {
        let (accounts, mut since) = (self.clone(), since);
        let every = self.db.is_shared().then_some(SHARED_INTERVAL);
        let mut first = true;
        polled(self.revoked.subscribe(), every, move || {
            let (accounts, now) = (accounts.clone(), accounts.clock.now());
            let from = since.replace(now).unwrap_or(now) - OVERLAP;
            let told = std::mem::take(&mut first);
            async move {
                let ids = repo::key_revoked_since(&mut accounts.db.platform().read().await?, from).await?;
                let api_key_ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                let message = WatchRevokedApiKeysResponse { api_key_ids, time: Some(convert::timestamp(now)) };
                Ok((told || !ids.is_empty()).then_some(message))
            }
        })
    }
}

#[tonic::async_trait]
impl CredentialService for Accounts {
    async fn resolve_api_key(&self, request: Request<ResolveApiKeyRequest>) -> Reply<ResolveApiKeyResponse> {
        handle!(request, |body| {
            let actor = self.resolve(&body.sha256).await?;
            ResolveApiKeyResponse { principal: Some(convert::principal(&actor)) }
        })
    }

    type WatchRevokedApiKeysStream = Polled<WatchRevokedApiKeysResponse>;

    async fn watch_revoked_api_keys(
        &self,
        request: Request<WatchRevokedApiKeysRequest>,
    ) -> Reply<Self::WatchRevokedApiKeysStream> {
        handle!(request, |body| {
            let since = body.since.map(|since| convert::time("since", &since)).transpose()?;
            self.watch_revoked(since)
        })
    }
}
