//! `mi.internal.v1.CredentialService`: the gateway asks whose a key is.

use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use mi_kernel::{Result, Time};
use mi_proto::internal::v1::{
    ResolveApiKeyRequest, ResolveApiKeyResponse, WatchRevokedApiKeysRequest, WatchRevokedApiKeysResponse,
    credential_service_server::CredentialService,
};
use mi_rpc::{Reply, convert, handle, status};
use mi_store::{Batch, Topic};
use tonic::{Request, codegen::BoxStream};

use super::{Accounts, repo};

/// How long a transaction that revokes may take to become visible after its time.
const OVERLAP: Duration = Duration::from_secs(10);

/// What the change bus tells of when a key was revoked.
pub(super) fn revocations() -> Topic {
    Topic::platform("revoked_api_keys")
}

impl Accounts {
    /// Keys that were revoked since a time, then each that is.
    fn watch_revoked(
        &self,
        mut since: Option<Time>,
    ) -> impl Stream<Item = Result<WatchRevokedApiKeysResponse>> + use<> {
        let (accounts, mut first) = (self.clone(), true);
        self.db.listen(revocations()).follow(async move || {
            let now = accounts.clock.now();
            let from = since.replace(now).unwrap_or(now) - OVERLAP;
            let ids = repo::key_revoked_since(&mut accounts.db.platform().read().await?, from).await?;
            let api_key_ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let message = WatchRevokedApiKeysResponse { api_key_ids, time: Some(convert::timestamp(now)) };
            // The first one says from when on keys are told, whether there are any or not.
            let tells = std::mem::take(&mut first) || !ids.is_empty();
            Ok(Batch { found: tells.then_some(message).into_iter().collect(), more: false })
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

    type WatchRevokedApiKeysStream = BoxStream<WatchRevokedApiKeysResponse>;

    async fn watch_revoked_api_keys(
        &self,
        request: Request<WatchRevokedApiKeysRequest>,
    ) -> Reply<Self::WatchRevokedApiKeysStream> {
        handle!(request, |body| {
            let since = body.since.map(|since| convert::time("since", &since)).transpose()?;
            self.watch_revoked(since).map_err(status).boxed()
        })
    }
}
