//! The identity of an agent: an Ed25519 key pair that never leaves the agent's own storage.

use std::{
    fmt, fs,
    io::Write,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mi_kernel::{
    AgentId, Time,
    public_key::key_id,
    receipt::{self, Receipt},
};
use ring::{
    rand::SystemRandom,
    signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair},
};
use serde::Serialize;
use uuid::Uuid;

use crate::{ClientError, Result, eddsa};

/// How long a token is good for; the platform takes none that lives longer than 5 minutes.
pub const TOKEN_LIFE: Duration = Duration::from_secs(240);
/// How long before its end a token is replaced: more than clocks and a call may differ by.
pub const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// Who tokens are for.
const AUDIENCE: &str = "mi";

/// An agent's key pair.
pub struct AgentKey {
    signing: EncodingKey,
    public: [u8; ED25519_PUBLIC_KEY_LEN],
    kid: String,
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentKey").field(&self.kid).finish()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: AgentId,
    sub: AgentId,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: Uuid,
}

impl AgentKey {
    /// Makes a new key and stores it at the path, readable by its owner only. A key that is there already is replaced.
    ///
    /// # Errors
    /// `KeyFile` when the directory cannot be written to.
    pub fn generate(path: &Path) -> Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| ClientError::Key {
            path: path.to_owned(),
            problem: "the operating system gave no randomness",
        })?;
        store(path, pkcs8.as_ref()).map_err(|source| ClientError::KeyFile { path: path.to_owned(), source })?;
        Self::parse(path, pkcs8.as_ref())
    }

    /// Loads the key at the path; none: there is no such file.
    ///
    /// # Errors
    /// `KeyFile` when it cannot be read, `Key` when it is no Ed25519 key.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        match fs::read(path) {
            Ok(pkcs8) => Self::parse(path, &pkcs8).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ClientError::KeyFile { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, pkcs8: &[u8]) -> Result<Self> {
        let bad = |problem| ClientError::Key { path: path.to_owned(), problem };
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| bad("it holds no Ed25519 key in PKCS#8"))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| bad("its public key is not 32 bytes"))?;
        Ok(Self { signing: EncodingKey::from_ed_der(pkcs8), public, kid: key_id(&public) })
    }

    /// The raw public key.
    pub fn public_key(&self) -> [u8; ED25519_PUBLIC_KEY_LEN] {
        self.public
    }

    /// A fresh token for this agent.
    ///
    /// # Errors
    /// `Sign` when the key cannot sign.
    pub fn token(&self, agent_id: AgentId, now: Time) -> Result<String> {
        self.token_for(agent_id, AUDIENCE, now)
    }

    /// A fresh token for somebody else than the platform, which must take no such one.
    ///
    /// # Errors
    /// `Sign` when the key cannot sign.
    pub fn token_for(&self, agent_id: AgentId, audience: &str, now: Time) -> Result<String> {
        eddsa::install();
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let claims = Claims {
            iss: agent_id,
            sub: agent_id,
            aud: audience,
            iat: now.timestamp(),
            exp: (now + TOKEN_LIFE).timestamp(),
            jti: Uuid::new_v4(),
        };
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(ClientError::Sign)
    }
}

impl AgentKey {
    /// A receipt over work that this agent did, for `mi.v1.TaskService.CompleteTask`.
    ///
    /// # Errors
    /// `Sign` when the key cannot sign.
    pub fn receipt(&self, receipt: &Receipt) -> Result<String> {
        eddsa::install();
        let header = Header {
            kid: Some(self.kid.clone()),
            typ: Some(receipt::TYPE.to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, receipt, &self.signing).map_err(ClientError::Sign)
    }
}

/// The key that an agent signs with at the moment.
#[derive(Debug)]
pub struct KeyRing(RwLock<Arc<AgentKey>>);

impl KeyRing {
    /// With this key, until it is replaced.
    pub fn new(key: AgentKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    /// The key in use.
    pub fn current(&self) -> Arc<AgentKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs with another key from now on.
    pub fn replace(&self, key: AgentKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

/// Written aside (created anew, mode 0600) and renamed, so that a crash leaves the old file or the new one.
fn store(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jsonwebtoken::{DecodingKey, Validation};
    use mi_kernel::{Clock, SystemClock};
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_key_survives_a_restart_and_is_private() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("identity.key");
        assert!(AgentKey::load(&path).expect("no file is no error").is_none());
        let made = AgentKey::generate(&path).expect("made");
        let loaded = AgentKey::load(&path).expect("readable").expect("there");
        assert_eq!(made.public_key(), loaded.public_key());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let fresh = AgentKey::generate(&path).expect("replaced");
        assert_ne!(fresh.public_key(), made.public_key());
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1);
    }

    #[test]
    fn a_broken_key_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("identity.key");
        fs::write(&path, b"nonsense").expect("written");
        let error = AgentKey::load(&path).expect_err("refused").to_string();
        assert!(error.contains("identity.key"), "{error}");
    }

    #[test]
    fn a_token_says_what_the_platform_expects() {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = AgentKey::generate(&dir.path().join("identity.key")).expect("made");
        let (agent_id, now) = (AgentId::new(), SystemClock.now());
        let token = key.token(agent_id, now).expect("signed");
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&["mi"]);
        rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let public = DecodingKey::from_ed_der(&key.public_key());
        let decoded = jsonwebtoken::decode::<Value>(&token, &public, &rules).expect("valid");
        assert_eq!(decoded.header.kid, Some(key_id(&key.public_key())));
        assert_eq!(decoded.header.typ.as_deref(), Some("JWT"));
        assert_eq!(decoded.claims["iss"], agent_id.to_string());
        assert_eq!(decoded.claims["sub"], agent_id.to_string());
        assert_eq!(decoded.claims["iat"], now.timestamp());
        assert_eq!(decoded.claims["exp"], now.timestamp() + 240);
        assert_ne!(token, key.token(agent_id, now).expect("signed"));
    }

    #[test]
    fn a_receipt_is_checked_with_nothing_but_the_public_key() {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = AgentKey::generate(&dir.path().join("identity.key")).expect("made");
        let said = Receipt {
            iss: AgentId::new().to_string(),
            task_id: "task".into(),
            attempt: 1,
            result_sha256: receipt::sha256_hex(b"done"),
            artifacts: Vec::new(),
            commands: Vec::new(),
            iat: 7,
        };
        let text = key.receipt(&said).expect("signed");
        assert_eq!(receipt::verify(&text, &key.public_key()).expect("valid"), said);
        let token = key.token(AgentId::new(), SystemClock.now()).expect("signed");
        assert!(receipt::verify(&token, &key.public_key()).is_err());
    }
}
