//! AES-256-GCM: keys, and what they seal.
//!
//! Sealed bytes are a version (1), a nonce of 12 bytes, the ciphertext, and a tag of 16 bytes. A random nonce is safe for
//! 2^32 sealings under one key; an office stays far below that.

use std::fmt;

use mi_kernel::{Error, OfficeId, Result, secret::Secret};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

/// Bytes of a key.
pub(crate) const KEY_LEN: usize = 32;
const VERSION: u8 = 1;
const HEAD: usize = 1 + NONCE_LEN;

/// A key of 256 bits.
pub(crate) struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    pub(crate) fn random() -> Self {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        fill(&mut *key);
        Self(key)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &*self.0
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*self.0).expect("the length is that of the algorithm"))
    }

    /// Seals; what `bound` says must be said again to open it.
    pub(crate) fn seal(&self, bound: &[&[u8]], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce);
        // All room at once: a buffer that grew would leave a copy of the plain text behind.
        let mut sealed = Vec::with_capacity(HEAD + plain.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.cipher().seal_in_place_separate_tag(nonce, associated(bound), &mut sealed[HEAD..]);
        sealed.extend_from_slice(tag.expect("a secret is shorter than 64 GiB").as_ref());
        sealed
    }

    /// Opens what this key sealed under the same `bound`; none: it did not.
    pub(crate) fn open(&self, bound: &[&[u8]], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (head, body) = sealed.split_at_checked(HEAD)?;
        let (version, nonce) = head.split_first()?;
        if *version != VERSION {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self.cipher().open_in_place(nonce, associated(bound), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

/// Each part with its length before it, so that no two lists of parts are the same bytes.
fn associated(parts: &[&[u8]]) -> Aad<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    Aad::from(bytes)
}

fn fill(bytes: &mut [u8]) {
    // Only fails where the operating system has no randomness at all; nothing is safe there.
    SystemRandom::new().fill(bytes).expect("the operating system provides randomness");
}

/// Where a secret belongs; it opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose it is.
    pub office_id: OfficeId,
    /// What it is for.
    pub integration: &'a str,
    /// Which one of those.
    pub name: &'a str,
}

impl Place<'_> {
    fn bound(&self) -> [&[u8]; 4] {
        [b"mi secret", self.office_id.0.as_bytes(), self.integration.as_bytes(), self.name.as_bytes()]
    }
}

/// The key that seals the secrets of one office.
pub struct DataKey(pub(crate) Key);

impl DataKey {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Key::random())
    }

    /// Seals a secret for its place.
    pub fn seal(&self, place: Place<'_>, secret: &Secret) -> Vec<u8> {
        self.0.seal(&place.bound(), secret.expose().as_bytes())
    }

    /// Opens a secret that was sealed for this place.
    ///
    /// # Errors
    /// `Internal` when it was altered, moved here from another place, or sealed by another key.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Secret> {
        let plain = self.0.open(&place.bound(), sealed).ok_or_else(|| {
            let Place { office_id, integration, name } = place;
            Error::internal(format!(
                "the secret {name} of {integration} in office {office_id} does not open: it was altered or moved"
            ))
        })?;
        let text = std::str::from_utf8(&plain).map_err(|_| Error::internal("an opened secret is no text"))?;
        Ok(Secret::new(text))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[data key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_place_and_nowhere_else() {
        let (key, office_id) = (DataKey::random(), OfficeId::new());
        let place = Place { office_id, integration: "github", name: "token" };
        let secret = Secret::new("a secret of some length, ünïcode and all");
        let sealed = key.seal(place, &secret);
        assert_eq!(key.open(place, &sealed).expect("own place"), secret);
        let elsewhere = [
            Place { office_id: OfficeId::new(), ..place },
            Place { integration: "gitlab", ..place },
            Place { name: "other", ..place },
            // The same letters, cut elsewhere.
            Place { integration: "githubt", name: "oken", ..place },
        ];
        for place in elsewhere {
            let error = key.open(place, &sealed).expect_err("elsewhere");
            assert!(error.chain().contains("altered or moved"), "{}", error.chain());
        }
        assert!(DataKey::random().open(place, &sealed).is_err(), "another key");
    }

    #[test]
    fn no_two_sealings_are_alike_and_each_bit_counts() {
        let (key, place) = (DataKey::random(), Place { office_id: OfficeId::new(), integration: "a", name: "b" });
        let secret = Secret::new("value");
        let sealed = key.seal(place, &secret);
        assert_eq!(sealed.len(), 1 + 12 + 5 + 16);
        assert_ne!(sealed[1..13], key.seal(place, &secret)[1..13], "a fresh nonce each time");
        assert!(!sealed.windows(5).any(|window| window == b"value"));
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(place, &altered).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.open(place, &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn keys_do_not_print() {
        assert_eq!(format!("{:?}", DataKey::random()), "[data key]");
    }
}
