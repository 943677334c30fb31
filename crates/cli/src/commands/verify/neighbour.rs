//! The neighbour: a colony of the same account, made for the probes and deleted after them, with an agent whose key this
//! process holds.

use std::sync::Arc;

use mi_client::{AgentKey, Client, Credential, KeyRing, retry};
use mi_kernel::AgentId;
use mi_proto::v1::{CreateInviteRequest, CreateOfficeRequest, DeleteOfficeRequest, JoinOfficeRequest};
use tempfile::TempDir;
use tonic::Code;

use crate::{answer::resource, context::Context, failure::Failure};

/// Name of the colony and of the agent that joins it.
const NAME: &str = "isolation check";
const AGENT: &str = "isolation-check-outside";

pub(super) struct Neighbour {
    pub(super) office_id: String,
    pub(super) agent: String,
    pub(super) agent_id: AgentId,
    pub(super) key: Arc<KeyRing>,
    /// Calls as the agent.
    pub(super) client: Client,
    /// Calls as nobody.
    pub(super) anonymous: Client,
    /// The invite, which is used up.
    pub(super) code: String,
    _dir: TempDir,
}

impl Neighbour {
    pub(super) async fn open(context: &Context) -> Result<Self, Failure> {
        let request = CreateOfficeRequest { name: NAME.into(), ..CreateOfficeRequest::default() };
        let answer = context.client.offices().create_office(request).await?;
        let office_id = resource(answer, |answer| answer.office)?.id;
        match Self::employ(context, &office_id).await {
            Ok(neighbour) => Ok(neighbour),
            Err(failure) => {
                delete(context, &office_id).await?;
                Err(failure)
            }
        }
    }

    async fn employ(context: &Context, office_id: &str) -> Result<Self, Failure> {
        let invite = CreateInviteRequest { office_id: office_id.to_owned() };
        let answer = context.client.access().create_invite(invite).await?;
        let code = resource(answer, |answer| answer.invite)?.code;
        let dir = tempfile::tempdir().map_err(|error| Failure::io("no temporary directory", &error))?;
        let key = AgentKey::generate(&dir.path().join("identity.key"))?;
        let anonymous = context.client.with_credential(Credential::None)?;
        let join =
            JoinOfficeRequest { code: code.clone(), name: AGENT.into(), public_key: key.public_key().to_vec().into() };
        let agent = resource(anonymous.access().join_office(join).await?, |answer| answer.agent)?;
        let agent_id: AgentId = agent.id.parse().map_err(|_| Failure::new("the platform's agent has no id"))?;
        let key = Arc::new(KeyRing::new(key));
        let client = anonymous.with_credential(Credential::Agent { agent_id, key: key.clone() })?;
        let office_id = office_id.to_owned();
        Ok(Self { office_id, agent: agent.name, agent_id, key, client, anonymous, code, _dir: dir })
    }

    pub(super) async fn close(self, context: &Context) -> Result<(), Failure> {
        delete(context, &self.office_id).await
    }
}

async fn delete(context: &Context, office_id: &str) -> Result<(), Failure> {
    let request = DeleteOfficeRequest { office_id: office_id.to_owned() };
    match retry(async || context.client.offices().delete_office(request.clone()).await).await {
        Err(status) if status.code() != Code::NotFound => Err(status.into()),
        _ => Ok(()),
    }
}
