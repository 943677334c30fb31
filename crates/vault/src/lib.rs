//! Envelope encryption of what must not be read from a database, a backup of it, or a stolen disk.
//!
//! Each office has a data key of its own, which seals its secrets. Data keys are kept wrapped by a master key that lives
//! outside the database: in a file, in the environment, or in a key service ([`KeyWrapper`]). To rotate the master key
//! is to wrap the data keys anew; no secret is touched. To destroy an office's data key is to destroy its secrets,
//! wherever copies of them are.
//!
//! # Guarantees
//! Everything is sealed by AES-256-GCM under a fresh random nonce, bound to its place: a secret to its office and name, a
//! data key to its office and its master key. What was altered or moved does not open.
//!
//! # Caveats
//! Keys are wiped from our memory when they go, but the cipher's own copy of one is not.

mod env;
mod file;
mod key;
mod keyring;
mod wrapper;

pub use env::EnvKeys;
pub use file::FileKeys;
pub use key::{DataKey, Place};
pub use wrapper::{KeyId, KeyWrapper};
