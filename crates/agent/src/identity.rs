//! Becoming somebody: the agent makes its key itself and enrols it against its single-use token.

use std::{path::Path, sync::Arc, time::Duration};

use mi_client::{AgentKey, Client, ClientError, Credential, KeyRing, jittered, retry_while};
use mi_kernel::secret::Secret;
use mi_proto::v1::{Agent, EnrolAgentRequest, GetAgentRequest};
use tokio::fs;
use tonic::{Code, Status};

use crate::{
    blocking::blocking,
    config::{AgentConfig, EnrolToken},
    error::AgentError,
    logs::complain,
    retry::{BACKOFF, passes},
};

/// File of the key in the identity directory.
const KEY_FILE: &str = "identity.key";

/// Where the platform lays a token for a new key, in the identity directory.
const TOKEN_FILE: &str = "enrol-token";
/// How long to wait for it after the key was refused.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Between two looks at a file that somebody else writes a token into.
const LOOK_AT_FILE: Duration = Duration::from_secs(1);
/// How long to wait for another token there: a cluster takes its time to hand it on.
const PATIENCE_WITH_FILE: Duration = Duration::from_secs(300);
/// File in the identity directory with the instance that a new key was asked of, and that made one.
const RENEWED_FILE: &str = "renewed-by";

/// Enrols the agent's key; answers the agent, a client that signs with the key, over the same connection, and the key.
pub(crate) async fn enrol(
    config: &AgentConfig,
    anonymous: &Client,
) -> Result<(Agent, Client, Arc<KeyRing>), AgentError> {
    // On this thread, which has nothing else to do yet: an agent that only waits needs no other.
    let signing = |key: AgentKey| -> Result<(Client, Arc<KeyRing>), AgentError> {
        let ring = Arc::new(KeyRing::new(key));
        let credential = Credential::Agent { agent_id: config.agent_id, key: ring.clone() };
        Ok((anonymous.with_credential(credential)?, ring))
    };
    match &config.enrol_token {
        EnrolToken::Given(token) => {
            let key = key(&config.identity_dir, config.new_identity)?;
            let agent = register(config, anonymous, token, &key).await?;
            let (client, ring) = signing(key)?;
            Ok((agent, client, ring))
        }
        EnrolToken::File(file) => {
            // One that was enrolled before needs no token. One that was not, or that is dead, is worth none.
            if let Some(key) = existing_key(config)? {
                let (client, ring) = signing(key)?;
                if let Some(agent) = known(config, &client).await? {
                    return Ok((agent, client, ring));
                }
            }
            let key = AgentKey::generate(&config.identity_dir.join(KEY_FILE))?;
            let public_key = key.public_key();
            let (client, ring) = signing(key)?;
            let agent = register_from(config, anonymous, &client, file, &public_key).await?;
            Ok((agent, client, ring))
        }
    }
}

/// The key that is there already; not one that is to be replaced. That is done once for an instance, however often its
/// process is restarted.
fn existing_key(config: &AgentConfig) -> Result<Option<AgentKey>, AgentError> {
    let marker = config.identity_dir.join(RENEWED_FILE);
    if config.new_identity && std::fs::read_to_string(&marker).ok().as_ref() != Some(&config.instance_id) {
        let path = config.identity_dir.join(KEY_FILE);
        let _ = std::fs::remove_file(path);
        let written = std::fs::write(&marker, &config.instance_id);
        written.map_err(|source| ClientError::KeyFile { path: marker, source })?;
    }
    Ok(AgentKey::load(&config.identity_dir.join(KEY_FILE))?)
}

/// The agent, if the platform knows its key.
async fn known(config: &AgentConfig, client: &Client) -> Result<Option<Agent>, AgentError> {
    let request = GetAgentRequest { office_id: config.office_id.clone(), name: config.agent_name.clone() };
    let again = |status: &Status, failures| passes(status.code()).then(|| jittered(BACKOFF.after(failures)));
    match retry_while(async || client.agents().get_agent(request.clone()).await, again).await {
        Ok(answer) => Ok(answer.into_inner().agent),
        Err(status) if status.code() == Code::Unauthenticated => Ok(None),
        Err(status) => Err(AgentError::Enrolment(status.into())),
    }
}

/// Enrols a key with whatever token the file has, now or later. A token that is refused is told of once and waited out: the
/// next one may be on its way.
async fn register_from(
    config: &AgentConfig,
    anonymous: &Client,
    client: &Client,
    file: &Path,
    public_key: &[u8],
) -> Result<Agent, AgentError> {
    let mut refused: Option<Secret> = None;
    loop {
        let read = fs::read_to_string(file).await.unwrap_or_default();
        let token = read.trim();
        if !token.is_empty() && refused.as_ref().is_none_or(|refused| refused.expose() != token) {
            let request = EnrolAgentRequest {
                office_id: config.office_id.clone(),
                token: token.to_owned(),
                public_key: public_key.to_vec().into(),
            };
            match anonymous.access().enrol_agent(request).await {
                Ok(answer) => {
                    let nobody = || AgentError::Enrolment(Status::internal("the answer names no agent").into());
                    return answer.into_inner().agent.ok_or_else(nobody);
                }
                // It is read again before it is shown again.
                Err(status) if passes(status.code()) => {}
                Err(status) => {
                    // The answer to the try before may have got lost.
                    if let Some(agent) = known(config, client).await? {
                        return Ok(agent);
                    }
                    complain(&format!("enrolment was refused, another token is waited for: {}", status.message()));
                    refused = Some(Secret::new(token.to_owned()));
                }
            }
        }
        tokio::time::sleep(jittered(LOOK_AT_FILE)).await;
    }
}

/// Makes and enrols a new key, once the platform has laid a token for it: the old one was revoked. False: it lays none,
/// and this instance is no longer wanted.
pub(crate) async fn renew(config: &AgentConfig, anonymous: &Client, ring: &Arc<KeyRing>) -> Result<bool, AgentError> {
    if let EnrolToken::File(file) = &config.enrol_token {
        return renew_from(config, anonymous, ring, file).await;
    }
    let file = config.identity_dir.join(TOKEN_FILE);
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(token) = fs::read_to_string(&file).await {
                return Secret::new(token);
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    let Ok(token) = waited.await else {
        return Ok(false);
    };
    // It works once; what is left of it could only confuse.
    let _ = fs::remove_file(&file).await;
    let path = config.identity_dir.join(KEY_FILE);
    let fresh = blocking(move || AgentKey::generate(&path)).await?;
    register(config, anonymous, &token, &fresh).await?;
    ring.replace(fresh);
    Ok(true)
}

/// The same, where the token comes in a file that is not the agent's own.
async fn renew_from(
    config: &AgentConfig,
    anonymous: &Client,
    ring: &Arc<KeyRing>,
    file: &Path,
) -> Result<bool, AgentError> {
    let path = config.identity_dir.join(KEY_FILE);
    let fresh = blocking(move || AgentKey::generate(&path)).await?;
    let public_key = fresh.public_key();
    ring.replace(fresh);
    let credential = Credential::Agent { agent_id: config.agent_id, key: ring.clone() };
    let client = anonymous.with_credential(credential)?;
    let enrolled = register_from(config, anonymous, &client, file, &public_key);
    match tokio::time::timeout(PATIENCE_WITH_FILE, enrolled).await {
        Ok(enrolled) => enrolled.map(|_| true),
        Err(_) => Ok(false),
    }
}

async fn register(
    config: &AgentConfig,
    anonymous: &Client,
    token: &Secret,
    key: &AgentKey,
) -> Result<Agent, AgentError> {
    let request = EnrolAgentRequest {
        office_id: config.office_id.clone(),
        token: token.expose().to_owned(),
        public_key: key.public_key().to_vec().into(),
    };
    // A platform that is starting; the token outlives that, and the same key may enrol with it again.
    let again =
        |status: &Status, failures| (status.code() == Code::Unavailable).then(|| jittered(BACKOFF.after(failures)));
    let enrolled = retry_while(async || anonymous.access().enrol_agent(request.clone()).await, again).await;
    let answer = enrolled.map_err(|status| AgentError::Enrolment(status.into()))?.into_inner();
    let nobody = || AgentError::Enrolment(Status::internal("the answer names no agent").into());
    answer.agent.ok_or_else(nobody)
}

fn key(dir: &Path, new: bool) -> Result<AgentKey, ClientError> {
    let path = dir.join(KEY_FILE);
    if !new && let Some(key) = AgentKey::load(&path)? {
        return Ok(key);
    }
    AgentKey::generate(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_until_a_new_one_is_asked_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = key(dir.path(), false).expect("made").public_key();
        assert_eq!(key(dir.path(), false).expect("loaded").public_key(), first);
        assert_ne!(key(dir.path(), true).expect("made anew").public_key(), first);
    }
}
