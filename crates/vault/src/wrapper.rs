//! What holds master keys.

use std::fmt;

use async_trait::async_trait;
use mi_kernel::{OfficeId, Result};

use crate::DataKey;

/// Names a master key without telling anything of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for KeyId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Holds master keys and wraps data keys with them. A service that keeps its keys to itself fits behind this as well as
/// a file does.
///
/// # Guarantees
/// A wrapped key unwraps for the same office and under the same master key, and nowhere else.
///
/// # Assumptions
/// Whoever uses it keeps, beside each wrapped key, the id of the master key that wrapped it.
#[async_trait]
pub trait KeyWrapper: fmt::Debug + Send + Sync + 'static {
    /// Makes sure that there are keys, and answers the newest. `in_use` is the one that wraps by now; without one this is
    /// a first start, which may make a key.
    ///
    /// # Errors
    /// `FailedPrecondition`: `MASTER_KEY` when there is no usable key, `MASTER_KEY_UNKNOWN` when `in_use` is not here.
    async fn start(&self, in_use: Option<&KeyId>) -> Result<KeyId>;

    /// Wraps the data key of an office.
    ///
    /// # Errors
    /// As [`KeyWrapper::start`].
    async fn wrap(&self, key_id: &KeyId, office_id: OfficeId, data_key: &DataKey) -> Result<Vec<u8>>;

    /// The reverse of [`KeyWrapper::wrap`].
    ///
    /// # Errors
    /// As [`KeyWrapper::start`]; `Internal` when the wrapped key was altered or is another office's.
    async fn unwrap(&self, key_id: &KeyId, office_id: OfficeId, wrapped: &[u8]) -> Result<DataKey>;

    /// The key to go on to from `in_use`: one that is here and newer, else a fresh one. With `unfinished`, keys are still
    /// wrapped by others than `in_use`, so that is where the last rotation was going, and it is answered again.
    ///
    /// # Errors
    /// As [`KeyWrapper::start`]; `FailedPrecondition` with `MASTER_KEY_FIXED` when it cannot make keys and has no newer.
    async fn advance(&self, in_use: &KeyId, unfinished: bool) -> Result<KeyId>;

    /// Forgets every key but this one: nothing is wrapped by others any more.
    ///
    /// # Errors
    /// As [`KeyWrapper::start`].
    async fn retire(&self, keep: &KeyId) -> Result<()>;
}
