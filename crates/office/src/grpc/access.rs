//! `mi.v1.AccessService`.

use std::sync::Arc;

use mi_integrations::DataKeys;
use mi_kernel::{Error, OfficeId, page::Page, public_key};
use mi_proto::{
    internal::v1::{
        RecordHeartbeatRequest, RegisterAgentKeyRequest, agent_registry_service_client::AgentRegistryServiceClient,
    },
    v1::{self, access_service_server::AccessService},
};
use mi_rpc::{Caller, Reply, RoleClient, convert, handle, status};
use mi_tenancy::{
    Offices,
    accounts::{Account, Accounts, ApiKey},
    invites::Invites,
};
use ring::digest;
use tonic::{Request, Response};

/// Data keys that a rotation wraps anew in one transaction.
const REWRAPPED_TOGETHER: i64 = 100;

/// Serves accounts and keys itself; identities of agents are the scheduler's, and it is asked.
pub(crate) struct Handler {
    accounts: Accounts,
    keys: DataKeys,
    offices: Offices,
    invites: Arc<Invites>,
    registry: AgentRegistryServiceClient<RoleClient>,
}

impl Handler {
    pub(crate) fn new(
        accounts: Accounts,
        keys: DataKeys,
        offices: Offices,
        invites: Arc<Invites>,
        registry: AgentRegistryServiceClient<RoleClient>,
    ) -> Self {
        Self { accounts, keys, offices, invites, registry }
    }
}

fn account_to_wire(account: Account) -> v1::Account {
    v1::Account {
        id: account.id.to_string(),
        name: account.name,
        created_at: Some(convert::timestamp(account.created_at)),
    }
}

fn key_to_wire(key: ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id.to_string(),
        name: key.name,
        account_id: key.account_id.to_string(),
        prefix: key.prefix,
        created_at: Some(convert::timestamp(key.created_at)),
        revoked_at: key.revoked_at.map(convert::timestamp),
    }
}

#[tonic::async_trait]
impl AccessService for Handler {
    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Reply<v1::WhoAmIResponse> {
        handle!(request, |caller, _| {
            let quotas = self.accounts.quotas(&caller.actor).await?;
            v1::WhoAmIResponse { principal: Some(convert::principal(&caller.actor)), quotas }
        })
    }

    async fn create_account(&self, request: Request<v1::CreateAccountRequest>) -> Reply<v1::CreateAccountResponse> {
        handle!(request, |body| {
            let (account, secret) = self.accounts.create(&body.name).await?;
            v1::CreateAccountResponse { account: Some(account_to_wire(account)), secret: secret.expose().to_owned() }
        })
    }

    async fn list_accounts(&self, request: Request<v1::ListAccountsRequest>) -> Reply<v1::ListAccountsResponse> {
        handle!(request, |body| {
            let page = Page::parse(body.page_size, &body.page_token)?;
            let (accounts, next_page_token) = self.accounts.list(&page).await?;
            v1::ListAccountsResponse { accounts: accounts.into_iter().map(account_to_wire).collect(), next_page_token }
        })
    }

    async fn create_api_key(&self, request: Request<v1::CreateApiKeyRequest>) -> Reply<v1::CreateApiKeyResponse> {
        handle!(request, |caller, body| {
            let (key, secret) = self.accounts.create_key(&caller, &body.account_id, &body.name).await?;
            v1::CreateApiKeyResponse { api_key: Some(key_to_wire(key)), secret: secret.expose().to_owned() }
        })
    }

    async fn list_api_keys(&self, request: Request<v1::ListApiKeysRequest>) -> Reply<v1::ListApiKeysResponse> {
        handle!(request, |caller, body| {
            let page = Page::parse(body.page_size, &body.page_token)?;
            let (keys, next_page_token) = self.accounts.list_keys(&caller.actor, &body.account_id, &page).await?;
            v1::ListApiKeysResponse { api_keys: keys.into_iter().map(key_to_wire).collect(), next_page_token }
        })
    }

    async fn revoke_api_key(&self, request: Request<v1::RevokeApiKeyRequest>) -> Reply<v1::RevokeApiKeyResponse> {
        handle!(request, |caller, body| {
            let revoked = self.accounts.revoke_key(&caller, &body.api_key_id).await?;
            v1::RevokeApiKeyResponse { api_key: Some(key_to_wire(revoked)) }
        })
    }

    async fn enrol_agent(&self, request: Request<v1::EnrolAgentRequest>) -> Reply<v1::EnrolAgentResponse> {
        let body = request.into_inner();
        OfficeId::parse(&body.office_id).map_err(status)?;
        public_key::check("public_key", &body.public_key).map_err(status)?;
        let register = RegisterAgentKeyRequest {
            office_id: body.office_id,
            token_sha256: digest::digest(&digest::SHA256, body.token.as_bytes()).as_ref().to_vec().into(),
            public_key: body.public_key,
        };
        let registered = self.registry.clone().register_agent_key(register).await?.into_inner();
        Ok(Response::new(v1::EnrolAgentResponse { agent: registered.agent }))
    }

    async fn create_invite(&self, request: Request<v1::CreateInviteRequest>) -> Reply<v1::CreateInviteResponse> {
        handle!(request, |caller, body| {
            let (invite, code) = self.invites.create(&caller, &body.office_id).await?;
            v1::CreateInviteResponse {
                invite: Some(v1::Invite {
                    code: code.expose().to_owned(),
                    expires_at: Some(convert::timestamp(invite.expires_at)),
                    id: invite.id.to_string(),
                }),
            }
        })
    }

    async fn join_office(&self, request: Request<v1::JoinOfficeRequest>) -> Reply<v1::JoinOfficeResponse> {
        let source = mi_rpc::source_of(&request).to_owned();
        Ok(Response::new(self.invites.join(&source, request.into_inner()).await?))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Reply<v1::HeartbeatResponse> {
        let caller = Caller::of(&request)?;
        let body = request.into_inner();
        let office_id = OfficeId::parse(&body.office_id).map_err(status)?;
        // An agent exists for as long as its office does: this frequent call need not ask whose that is.
        let Some(agent) = caller.actor.member(office_id) else {
            self.offices.get(&caller, &body.office_id).await.map_err(status)?;
            return Err(status(Error::denied("only agents send heartbeats")));
        };
        let record =
            RecordHeartbeatRequest { office_id: agent.office_id.to_string(), agent_id: agent.agent_id.to_string() };
        self.registry.clone().record_heartbeat(record).await?;
        Ok(Response::new(v1::HeartbeatResponse {}))
    }

    async fn rotate_master_key(&self, _: Request<v1::RotateMasterKeyRequest>) -> Reply<v1::RotateMasterKeyResponse> {
        let rotation = self.keys.rotate(REWRAPPED_TOGETHER).await.map_err(status)?;
        Ok(Response::new(v1::RotateMasterKeyResponse {
            master_key_id: rotation.key_id.as_str().to_owned(),
            rewrapped: rotation.rewrapped,
        }))
    }
}
