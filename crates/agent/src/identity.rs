//! Becoming somebody: the agent makes its key itself and enrols it against its single-use token.

use std::{path::Path, sync::Arc};

use mi_client::{AgentKey, Client, ClientError, Credential, jittered};
use mi_proto::v1::{Agent, EnrolAgentRequest};
use tonic::{Code, Status};

use crate::{AgentConfig, AgentError, BACKOFF};

/// File of the key in the identity directory.
const KEY_FILE: &str = "identity.key";

/// Enrols the agent's key; answers the agent and a client that signs with the key, over the same connection.
pub(crate) async fn enrol(config: &AgentConfig, anonymous: &Client) -> Result<(Agent, Client), AgentError> {
    let key = Arc::new(key(&config.identity_dir, config.new_identity)?);
    let request = EnrolAgentRequest {
        office_id: config.office_id.clone(),
        token: config.enrol_token.expose().to_owned(),
        public_key: key.public_key().to_vec().into(),
    };
    let mut failures = 0;
    let answer = loop {
        match anonymous.access().enrol_agent(request.clone()).await {
            Ok(answer) => break answer.into_inner(),
            // A platform that is starting; the token outlives that, and the same key may enrol with it again.
            Err(status) if status.code() == Code::Unavailable => {
                failures += 1;
                tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
            }
            Err(status) => return Err(AgentError::Enrolment(status.into())),
        }
    };
    let agent_id = config.agent_id;
    let client = anonymous.with_credential(Credential::Agent { agent_id, key })?;
    let nobody = || AgentError::Enrolment(Status::internal("the answer names no agent").into());
    Ok((answer.agent.ok_or_else(nobody)?, client))
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
