//! Text that must not be printed, and fresh random ones.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text: `Debug` hides it, there is no `Display`, its memory is wiped when it goes, and comparing two takes as
/// long wherever they differ.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// A fresh secret: the prefix and 256 random bits in URL-safe base64.
    pub fn random(prefix: &str) -> Self {
        let mut bytes = Zeroizing::new([0u8; 32]);
        // Only fails where the operating system has no randomness at all; nothing is safe there.
        getrandom::fill(&mut *bytes).expect("the operating system provides randomness");
        Self::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(*bytes)))
    }

    /// Hands the text out: to a header, to its owner, to a hash.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_whole_texts_and_prints_none() {
        let secret = Secret::random("mi_");
        assert_eq!(secret, Secret::new(secret.expose()));
        for other in ["", "mi_", &secret.expose()[..20], &format!("{}x", secret.expose())] {
            assert_ne!(secret, Secret::new(other));
        }
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[secret] Some([secret])");
    }
}
