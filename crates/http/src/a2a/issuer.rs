//! Who vouches for cards: the address under which the platform is known, and the key that signs them.
//!
//! A signature is a JWS over the card without its signatures, in the canonical form of RFC 8785.

use std::path::Path;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use mi_base::files;
use mi_kernel::{Error, Result, public_key::key_id};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tonic::Status;
use url::Url;

use super::KEYS;

/// Length of the secret that a key is made from, in bytes.
const SEED: usize = 32;

/// The key that cards are signed with, of Ed25519.
#[derive(Debug)]
pub struct CardKey(Ed25519KeyPair);

impl CardKey {
    /// Reads a key, the base64 of 32 bytes, or makes one where there is no such file. Processes that serve the same cards share it.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be read or written, or holds no key.
    pub fn from_file(path: &Path) -> Result<Self> {
        let wrong = |problem: &str| {
            Error::invalid(
                "card_key_file",
                format!("{problem}: {}; it holds the base64 of 32 random bytes", path.display()),
            )
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) if path.metadata().is_ok_and(|file| files::is_private(&file)) => text,
            Ok(_) => return Err(wrong("is open to others, chmod 600")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut seed = [0; SEED];
                SystemRandom::new().fill(&mut seed).map_err(|_| Error::internal("no randomness"))?;
                let text = STANDARD.encode(seed);
                files::write_private(path, text.as_bytes())
                    .map_err(|error| wrong("cannot be written").caused_by(error))?;
                text
            }
            Err(error) => return Err(wrong("cannot be read").caused_by(error)),
        };
        let seed = STANDARD.decode(text.trim()).map_err(|_| wrong("is not base64"))?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map(Self).map_err(|_| wrong("is no key"))
    }

    fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
}

/// Who vouches for cards.
#[derive(Debug)]
pub struct CardIssuer {
    /// Such as `https://mi.example`.
    url: Url,
    key: CardKey,
}

impl CardIssuer {
    /// An issuer that is reached at a URL.
    ///
    /// # Errors
    /// `Invalid` when it is no such URL.
    pub fn new(url: &str, key: CardKey) -> Result<Self> {
        let wrong = || Error::invalid("public_url", "must be like https://mi.example, without a path");
        let url = Url::parse(url).map_err(|_| wrong())?;
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty();
        if is_bare && is_http { Ok(Self { url, key }) } else { Err(wrong()) }
    }

    /// The URL of a path.
    pub(super) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.origin().ascii_serialization())
    }

    /// Where gRPC is, as its clients take it.
    pub(super) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        format!("{host}:{}", self.url.port_or_known_default().unwrap_or_default())
    }

    /// The public key in the form of JWK, with the name that signatures have for it.
    pub(super) fn keys(&self) -> Value {
        let mut key = public_jwk(self.key.public());
        key["use"] = "sig".into();
        key["alg"] = "EdDSA".into();
        json!({"keys": [key]})
    }

    /// A signature of a card that has none.
    pub(super) fn sign(&self, card: &Value) -> Result<Value, Status> {
        let canonical = serde_json_canonicalizer::to_vec(card).map_err(|error| Status::internal(error.to_string()))?;
        let header = json!({
            "alg": "EdDSA",
            "typ": "JOSE",
            "kid": key_name(self.key.public()),
            "jku": self.at(KEYS),
        });
        let protected = URL_SAFE_NO_PAD.encode(header.to_string());
        let signed = format!("{protected}.{}", URL_SAFE_NO_PAD.encode(canonical));
        let signature = URL_SAFE_NO_PAD.encode(self.key.0.sign(signed.as_bytes()));
        Ok(json!({"protected": protected, "signature": signature}))
    }
}

/// A raw public key of Ed25519, as JWK.
pub(super) fn public_jwk(raw: &[u8]) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(raw), "kid": key_name(raw)})
}

fn key_name(raw: &[u8]) -> String {
    key_id(raw)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn issuer(url: &str) -> Result<CardIssuer> {
        let dir = tempfile::tempdir().expect("temp dir");
        CardIssuer::new(url, CardKey::from_file(&dir.path().join("card.key"))?)
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("card.key");
        let first = CardKey::from_file(&path).expect("made");
        assert_eq!(CardKey::from_file(&path).expect("read").public(), first.public());
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        for wrong in ["", "not base64!", "c2hvcnQ="] {
            std::fs::write(&path, wrong).expect("writes");
            assert_eq!(CardKey::from_file(&path).expect_err(wrong).field, Some("card_key_file"));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("changes");
        assert!(CardKey::from_file(&path).expect_err("read by a group").message.contains("chmod 600"));
    }

    #[test]
    fn addresses() {
        for (url, at, authority) in [
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400/a2a", "127.0.0.1:7400"),
            ("https://mi.example/", "https://mi.example/a2a", "mi.example:443"),
            ("http://[::1]:7400", "http://[::1]:7400/a2a", "[::1]:7400"),
        ] {
            let issuer = issuer(url).expect(url);
            assert_eq!((issuer.at("/a2a"), issuer.authority()), (at.into(), authority.into()));
        }
        for wrong in
            ["mi.example", "ftp://mi.example", "https://mi.example/path", "https://a@mi.example", "https://x/?y"]
        {
            assert_eq!(issuer(wrong).expect_err(wrong).field, Some("public_url"));
        }
    }

    #[test]
    fn a_signature_is_over_the_canonical_form() {
        let issuer = issuer("https://mi.example").expect("issuer");
        let signature = issuer.sign(&json!({"b": "é", "a": [true]})).expect("signs");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let signed = format!("{}.{}", text(&signature["protected"]), URL_SAFE_NO_PAD.encode(r#"{"a":[true],"b":"é"}"#));
        let keys = issuer.keys();
        let public = URL_SAFE_NO_PAD.decode(text(&keys["keys"][0]["x"])).expect("base64");
        let raw = URL_SAFE_NO_PAD.decode(text(&signature["signature"])).expect("base64");
        UnparsedPublicKey::new(&ED25519, public).verify(signed.as_bytes(), &raw).expect("fits");
        let header = URL_SAFE_NO_PAD.decode(text(&signature["protected"])).expect("base64");
        let header: Value = serde_json::from_slice(&header).expect("JSON");
        assert_eq!(header["kid"], keys["keys"][0]["kid"]);
        assert_eq!(header["jku"], "https://mi.example/.well-known/jwks.json");
    }
}
