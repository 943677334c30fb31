//! The principal token: how the gateway tells a role on another machine who calls.
//!
//! `base64url(claims).base64url(HMAC-SHA256)`, valid for a minute. Inside one process the actor travels as a request
//! extension instead, which nothing from the wire can set.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mi_kernel::{Actor, Error, Result, Time};
use ring::hmac;
use serde::{Deserialize, Serialize};

/// Header of the token.
pub const PRINCIPAL_HEADER: &str = "mi-principal";
const LIFETIME_SECONDS: i64 = 60;
const SKEW_SECONDS: i64 = 30;
const MIN_KEY_BYTES: usize = 32;

/// The key that all roles of one platform share.
#[derive(Clone)]
pub struct PrincipalKey(hmac::Key);

#[derive(Serialize, Deserialize)]
struct Claims {
    actor: Actor,
    exp: i64,
}

impl PrincipalKey {
    /// A key for one process, gone with it.
    pub fn random() -> Self {
        let mut bytes = [0u8; MIN_KEY_BYTES];
        // Only fails where the operating system has no randomness at all; nothing is safe there.
        getrandom::fill(&mut bytes).expect("the operating system provides randomness");
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    /// The key in a file, at least 32 bytes.
    ///
    /// # Errors
    /// `Invalid` when it cannot be read or is too short.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|error| {
            Error::invalid("internal_key_file", format!("cannot be read: {}", path.display())).caused_by(error)
        })?;
        if bytes.len() < MIN_KEY_BYTES {
            return Err(Error::invalid(
                "internal_key_file",
                format!("must hold at least {MIN_KEY_BYTES} random bytes, the same for all roles"),
            ));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// A token for this actor.
    pub fn sign(&self, actor: &Actor, now: Time) -> String {
        let claims = Claims { actor: actor.clone(), exp: now.timestamp() + LIFETIME_SECONDS };
        // Actors are ids, names and flags: their JSON cannot fail.
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let tag = hmac::sign(&self.0, body.as_bytes());
        format!("{body}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// The actor of a token.
    ///
    /// # Errors
    /// `Unauthenticated` when it is not ours or has expired.
    pub fn verify(&self, token: &str, now: Time) -> Result<Actor> {
        let bad = || Error::unauthenticated("the call does not come from the gateway");
        let (body, tag) = token.split_once('.').ok_or_else(bad)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| bad())?;
        hmac::verify(&self.0, body.as_bytes(), &tag).map_err(|_| bad())?;
        let claims = URL_SAFE_NO_PAD.decode(body).map_err(|_| bad())?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| bad())?;
        if claims.exp + SKEW_SECONDS < now.timestamp() {
            return Err(bad());
        }
        Ok(claims.actor)
    }
}

impl std::fmt::Debug for PrincipalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrincipalKey")
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    #[test]
    fn only_own_fresh_tokens_are_good() {
        let (key, other, now) = (PrincipalKey::random(), PrincipalKey::random(), SystemClock.now());
        let actor = Actor::Service { role: "gateway".into() };
        let token = key.sign(&actor, now);
        assert_eq!(key.verify(&token, now).expect("own"), actor);
        let later = now + std::time::Duration::from_secs(91);
        let forged = format!("{}.{}", token.split_once('.').expect("two parts").0, "AAAA");
        for (verifier, token, at) in
            [(&other, &token, now), (&key, &token, later), (&key, &forged, now), (&key, &String::new(), now)]
        {
            assert!(verifier.verify(token, at).is_err());
        }
    }
}
