//! The tokens that agents sign for themselves: JWT with EdDSA and nothing else.
//!
//! jsonwebtoken reads the parts. The signature is checked here over `ring`, since the crate would take the verifier and
//! the time from the process instead of from the caller.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, dangerous};
use mi_kernel::{AgentId, Time};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;

/// Who tokens must be for.
const AUDIENCE: &str = "mi";
/// The longest that a token may live.
const MAX_LIFE_SECONDS: f64 = 300.0;
/// How far clocks may be apart.
const LEEWAY_SECONDS: f64 = 30.0;

/// A token whose claims are in order. Nobody has vouched for them until [`Token::signed_by`] says so.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    /// Who says that it signed it.
    pub(crate) agent_id: AgentId,
    /// Which of its keys it says to have used.
    pub(crate) key_id: String,
    /// Unix seconds after which it is worth nothing, leeway included.
    pub(crate) expires: f64,
    signed: &'a str,
    signature: Vec<u8>,
}

/// Numbers are seconds, which some libraries send with fractions.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    iat: f64,
    exp: f64,
    nbf: Option<f64>,
    jti: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl<'a> Token<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// What is wrong with it, for the operator's log.
    pub(crate) fn parse(text: &'a str, now: Time) -> Result<Self, &'static str> {
        let data = dangerous::insecure_decode::<Claims>(text).map_err(|_| "it does not parse")?;
        let (header, claims) = (data.header, data.claims);
        if header.alg != Algorithm::EdDSA {
            return Err("alg is not EdDSA");
        }
        if header.crit.is_some() {
            return Err("crit names something unknown");
        }
        let key_id = header.kid.filter(|kid| well_formed(kid)).ok_or("kid is missing or malformed")?;
        let agent_id = AgentId::parse(&claims.iss).map_err(|_| "iss is no agent id")?;
        let for_us = match &claims.aud {
            Audience::One(one) => one == AUDIENCE,
            Audience::Many(many) => many.iter().any(|one| one == AUDIENCE),
        };
        if !for_us {
            return Err("aud is not mi");
        }
        if claims.jti.is_empty() {
            return Err("jti is empty");
        }
        let now = now.timestamp_millis() as f64 / 1000.0;
        let starts = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
        if starts > now + LEEWAY_SECONDS {
            return Err("it is not valid yet");
        }
        if claims.exp - claims.iat > MAX_LIFE_SECONDS {
            return Err("it lives longer than 5 minutes");
        }
        let expires = claims.exp + LEEWAY_SECONDS;
        if expires < now {
            return Err("it has expired");
        }
        let (signed, signature) = text.rsplit_once('.').ok_or("it does not parse")?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "the signature does not parse")?;
        Ok(Self { agent_id, key_id, expires, signed, signature })
    }

    /// Whether the holder of this key signed it.
    pub(crate) fn signed_by(&self, public_key: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, public_key);
        key.verify(self.signed.as_bytes(), &self.signature).is_ok()
    }
}

/// The agent that a text names which may be a token, whatever else is wrong with it. Nobody has vouched for it.
pub(crate) fn claimed_agent(text: &str) -> Option<AgentId> {
    #[derive(Deserialize)]
    struct Claim {
        iss: String,
    }
    let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
    let claim: Claim = serde_json::from_slice(&claims).ok()?;
    AgentId::parse(&claim.iss).ok()
}

/// `k` and 16 hex digits.
fn well_formed(kid: &str) -> bool {
    kid.strip_prefix('k')
        .is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}
