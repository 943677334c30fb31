//! Text that must not be printed, and fresh random ones.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// A secret text: `Debug` hides it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A fresh secret: the prefix and 256 random bits in URL-safe base64.
    pub fn random(prefix: &str) -> Self {
        let mut bytes = [0u8; 32];
        // Only fails where the operating system has no randomness at all; nothing is safe there.
        getrandom::fill(&mut bytes).expect("the operating system provides randomness");
        Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Hands the text out: to a header, to its owner, to a hash.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
