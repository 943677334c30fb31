//! What a caller proves itself with, and how that gets onto each call.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use mi_kernel::{AgentId, Clock, SystemClock, Time, secret::Secret};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::{
    AgentKey, ClientError, Result,
    identity::{KeyRing, RENEW_BEFORE, TOKEN_LIFE},
};

/// What a caller proves itself with.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing, for the few calls that need nothing.
    None,
    /// An operator's API key, `mi_...`.
    ApiKey(Secret),
    /// An agent's key pair: each call carries a short-lived token signed with it.
    Agent {
        /// The agent.
        agent_id: AgentId,
        /// Its key, which may be replaced while calls go on.
        key: Arc<KeyRing>,
    },
}

/// Adds `authorization: Bearer ...` to each call.
#[derive(Clone)]
pub struct Bearer(Kind);

#[derive(Clone)]
enum Kind {
    None,
    Fixed(MetadataValue<Ascii>),
    Signed(Arc<Signed>),
}

struct Signed {
    agent_id: AgentId,
    key: Arc<KeyRing>,
    current: Mutex<Option<Current>>,
}

/// A token in use.
struct Current {
    value: MetadataValue<Ascii>,
    renew_at: Time,
    key: Arc<AgentKey>,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

impl Bearer {
    pub(crate) fn new(credential: Credential) -> Result<Self> {
        Ok(Self(match credential {
            Credential::None => Kind::None,
            Credential::ApiKey(key) => Kind::Fixed(header(key.expose()).ok_or(ClientError::Credential)?),
            Credential::Agent { agent_id, key } => {
                Kind::Signed(Arc::new(Signed { agent_id, key, current: Mutex::default() }))
            }
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = match &self.0 {
            Kind::None => return Ok(request),
            Kind::Fixed(value) => value.clone(),
            Kind::Signed(signed) => signed.value(SystemClock.now())?,
        };
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

impl Signed {
    /// The token in use, or a fresh one when it is about to expire.
    fn value(&self, now: Time) -> Result<MetadataValue<Ascii>, Status> {
        // A poisoned lock still holds a whole value: the worst is a token that is signed anew.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key.current();
        if let Some(current) = &*current
            && now < current.renew_at
            && Arc::ptr_eq(&current.key, &key)
        {
            return Ok(current.value.clone());
        }
        let signed = key.token(self.agent_id, now).ok().and_then(|token| header(&token));
        let value = signed
            .ok_or_else(|| Status::unauthenticated("the agent's key cannot sign; rotate the agent's identity"))?;
        *current = Some(Current { value: value.clone(), renew_at: now + (TOKEN_LIFE - RENEW_BEFORE), key });
        Ok(value)
    }
}

fn header(token: &str) -> Option<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok()?;
    // Keeps it out of debug output and out of HPACK's tables.
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_is_signed_once_until_it_nears_its_end() {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = AgentKey::generate(&dir.path().join("identity.key")).expect("key");
        let ring = Arc::new(KeyRing::new(key));
        let signed = Signed { agent_id: AgentId::new(), key: ring.clone(), current: Mutex::default() };
        let start = SystemClock.now();
        let first = signed.value(start).expect("token");
        let last = start + (TOKEN_LIFE - RENEW_BEFORE);
        assert_eq!(signed.value(last - Duration::from_secs(1)).expect("token"), first);
        let second = signed.value(last).expect("token");
        assert_ne!(second, first);
        ring.replace(AgentKey::generate(&dir.path().join("identity.key")).expect("key"));
        assert_ne!(signed.value(last).expect("token"), second, "an old key signs nothing any more");
    }

    #[test]
    fn a_key_with_a_line_break_is_refused() {
        let refused = Bearer::new(Credential::ApiKey(Secret::new("mi_a\nb")));
        assert!(matches!(refused, Err(ClientError::Credential)));
    }
}
