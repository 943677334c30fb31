//! Becoming somebody: the agent makes its key itself and enrols it against its single-use token.

use std::{path::Path, sync::Arc, time::Duration};

use mi_client::{AgentKey, Client, ClientError, Credential, KeyRing, jittered, retry_while};
use mi_kernel::secret::Secret;
use mi_proto::v1::{Agent, EnrolAgentRequest};
use tokio::fs;
use tonic::{Code, Status};

use crate::{blocking::blocking, config::AgentConfig, error::AgentError, retry::BACKOFF};

/// File of the key in the identity directory.
const KEY_FILE: &str = "identity.key";

/// Where the platform lays a token for a new key, in the identity directory.
const TOKEN_FILE: &str = "enrol-token";
/// How long to wait for it after the key was refused.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Enrols the agent's key; answers the agent, a client that signs with the key, over the same connection, and the key.
pub(crate) async fn enrol(
    config: &AgentConfig,
    anonymous: &Client,
) -> Result<(Agent, Client, Arc<KeyRing>), AgentError> {
    // On this thread, which has nothing else to do yet: an agent that only waits needs no other.
    let key = key(&config.identity_dir, config.new_identity)?;
    let agent = register(config, anonymous, &config.enrol_token, &key).await?;
    let key = Arc::new(KeyRing::new(key));
    let credential = Credential::Agent { agent_id: config.agent_id, key: key.clone() };
    Ok((agent, anonymous.with_credential(credential)?, key))
}

/// Makes and enrols a new key, once the platform has laid a token for it: the old one was revoked. False: it lays none,
/// and this instance is no longer wanted.
pub(crate) async fn renew(config: &AgentConfig, anonymous: &Client, ring: &KeyRing) -> Result<bool, AgentError> {
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
