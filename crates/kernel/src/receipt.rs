//! Receipts: what a worker says that it did, signed with its own key (JWS compact serialisation, EdDSA, RFC 7515 and
//! RFC 8037), so that anybody who has the public key can check it, without the platform.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest receipt, in bytes.
pub const MAX_RECEIPT: usize = 256 << 10;
/// The `typ` of a receipt's header, which keeps receipts and credentials apart: one never passes for the other.
pub const TYPE: &str = "mi-receipt";

/// What a receipt is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Id of the agent that did the work.
    pub iss: String,
    /// The task.
    pub task_id: String,
    /// Which attempt at it.
    pub attempt: i32,
    /// SHA-256 of the result, lower-case hex.
    pub result_sha256: String,
    /// What was made, as it stood in the drive.
    pub artifacts: Vec<Artifact>,
    /// What was run.
    pub commands: Vec<Command>,
    /// When it was signed, in Unix seconds.
    pub iat: i64,
}

/// A file of the drive at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Path in the drive.
    pub path: String,
    /// The file's revision.
    pub revision: i64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
}

/// A command that was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// SHA-256 of the script, lower-case hex.
    pub sha256: String,
    /// How it ended; 128 and the number of the signal when one ended it.
    pub exit_code: i32,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
}

/// SHA-256 in lower-case hex, as receipts and files carry it.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

/// Reads a receipt and checks that the holder of this raw Ed25519 key signed exactly it.
///
/// # Errors
/// `Invalid`, naming the field `receipt` and what is wrong with it.
pub fn verify(text: &str, public_key: &[u8]) -> Result<Receipt> {
    let wrong = |problem: &str| Error::invalid("receipt", problem);
    if text.len() > MAX_RECEIPT {
        return Err(wrong("is larger than 262144 bytes"));
    }
    let shape = || wrong("is not a JWS in compact form: three parts in base64url without padding");
    let (signed, signature) = text.rsplit_once('.').ok_or_else(shape)?;
    let (header, payload) = signed.split_once('.').ok_or_else(shape)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| shape());
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| wrong("has a header without alg and typ"))?;
    if header.alg != "EdDSA" || header.typ != TYPE {
        return Err(wrong("must have alg EdDSA and typ mi-receipt in its header"));
    }
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| wrong("is not signed by the worker's key"))?;
    serde_json::from_slice(&decode(payload)?)
        .map_err(|error| wrong(&format!("does not say what a receipt has to: {error}")))
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn signed(header: &str, payload: &str) -> (String, Vec<u8>) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes");
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes()));
        (format!("{text}.{signature}"), pair.public_key().as_ref().to_vec())
    }

    fn receipt() -> Receipt {
        Receipt {
            iss: "a".into(),
            task_id: "t".into(),
            attempt: 2,
            result_sha256: sha256_hex(b"done"),
            artifacts: vec![Artifact { path: "out/a".into(), revision: 7, sha256: sha256_hex(b"") }],
            commands: vec![Command { sha256: sha256_hex(b"true"), exit_code: 0 }],
            iat: 1,
        }
    }

    const HEADER: &str = r#"{"alg":"EdDSA","typ":"mi-receipt","kid":"k"}"#;

    #[test]
    fn what_was_signed_is_what_is_read() {
        let (text, key) = signed(HEADER, &serde_json::to_string(&receipt()).expect("JSON"));
        assert_eq!(verify(&text, &key).expect("valid"), receipt());
    }

    #[test]
    fn anything_else_is_refused() {
        let payload = serde_json::to_string(&receipt()).expect("JSON");
        let (text, key) = signed(HEADER, &payload);
        let mut other = key.clone();
        other[0] ^= 1;
        let more = payload.replace("\"attempt\":2", "\"attempt\":3");
        let swapped = text.replace(&URL_SAFE_NO_PAD.encode(&payload), &URL_SAFE_NO_PAD.encode(more));
        let token = signed(r#"{"alg":"EdDSA","typ":"JWT"}"#, &payload).0;
        let none = signed(r#"{"alg":"none","typ":"mi-receipt"}"#, &payload).0;
        let empty = signed(HEADER, "{}").0;
        for (text, key, word) in [
            (text.as_str(), &other, "signed by"),
            (&swapped, &key, "signed by"),
            (&token, &key, "typ"),
            (&none, &key, "alg"),
            (&empty, &key, "missing field"),
            ("", &key, "three parts"),
            ("a.b", &key, "three parts"),
            ("é.é.é", &key, "three parts"),
            (&"x".repeat(MAX_RECEIPT + 1), &key, "262144"),
        ] {
            let error = verify(text, key).expect_err(word);
            assert_eq!(error.field, Some("receipt"));
            assert!(error.message.contains(word), "{}", error.message);
        }
    }
}
