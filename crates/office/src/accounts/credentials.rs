//! `mi.internal.v1.CredentialService`: the gateway asks whose a key is.

use mi_proto::internal::v1::{
    ResolveApiKeyRequest, ResolveApiKeyResponse, credential_service_server::CredentialService,
};
use mi_rpc::{convert, status};
use tonic::{Request, Response, Status};

use super::Accounts;

/// Serves the lookups.
pub(crate) struct Handler {
    accounts: Accounts,
}

impl Handler {
    pub(crate) fn new(accounts: Accounts) -> Self {
        Self { accounts }
    }
}

#[tonic::async_trait]
impl CredentialService for Handler {
    async fn resolve_api_key(
        &self,
        request: Request<ResolveApiKeyRequest>,
    ) -> Result<Response<ResolveApiKeyResponse>, Status> {
        let actor = self.accounts.resolve(&request.into_inner().sha256).await.map_err(status)?;
        Ok(Response::new(ResolveApiKeyResponse { principal: Some(convert::principal(&actor)) }))
    }
}
