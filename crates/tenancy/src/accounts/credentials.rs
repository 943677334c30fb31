//! `mi.internal.v1.CredentialService`: the gateway asks whose a key is.

use std::{collections::HashSet, time::Duration};

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

/// How long after its time a revocation may become visible: it may wait for a connection, a lock and a statement, as long as
/// the store lets each of them last, which makes 90 seconds, and clocks of processes differ.
const OVERLAP: Duration = Duration::from_secs(180);

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
        let (accounts, mut first, mut told) = (self.clone(), true, HashSet::new());
        self.db.listen(revocations()).follow(async move || {
            let now = accounts.clock.now();
            // A clock that was set back stamps what comes next with times of before.
            let from = since.replace(now).unwrap_or(now).min(now) - OVERLAP;
            let ids = repo::key_revoked_since(&mut accounts.db.platform().read().await?, from).await?;
            let fresh = ids.iter().filter(|id| !told.contains(*id));
            let api_key_ids: Vec<String> = fresh.map(ToString::to_string).collect();
            told = ids.into_iter().collect();
            // The first one says from when on keys are told, whether there are any or not.
            let tells = std::mem::take(&mut first) || !api_key_ids.is_empty();
            let message = WatchRevokedApiKeysResponse { api_key_ids, time: Some(convert::timestamp(now)) };
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
