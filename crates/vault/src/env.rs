//! Master keys from the environment.

use std::fmt;

use async_trait::async_trait;
use mi_kernel::{Error, OfficeId, Result, secret::Secret};

use crate::{DataKey, KeyId, KeyWrapper, keyring::Keyring};

const SOURCE: &str = "MI_MASTER_KEY";

/// Master keys that the process was started with. It makes none itself: to rotate, it is started with `NEW OLD`, told to
/// rotate, and from the next start on needs `NEW` alone.
pub struct EnvKeys(Keyring);

impl EnvKeys {
    /// Reads keys: the base64 of 32 bytes each, the newest first, separated by white space.
    ///
    /// # Errors
    /// `FailedPrecondition` with `MASTER_KEY` when that is not what stands there.
    pub fn new(text: &Secret) -> Result<Self> {
        Keyring::parse(text.expose(), SOURCE).map(Self)
    }
}

impl fmt::Debug for EnvKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvKeys").field("newest", self.0.newest()).finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyWrapper for EnvKeys {
    async fn start(&self, in_use: Option<&KeyId>) -> Result<KeyId> {
        in_use.map_or(Ok(()), |id| self.0.require(id, SOURCE))?;
        Ok(self.0.newest().clone())
    }

    async fn wrap(&self, key_id: &KeyId, office_id: OfficeId, data_key: &DataKey) -> Result<Vec<u8>> {
        self.0.wrap(key_id, office_id, data_key, SOURCE)
    }

    async fn unwrap(&self, key_id: &KeyId, office_id: OfficeId, wrapped: &[u8]) -> Result<DataKey> {
        self.0.unwrap(key_id, office_id, wrapped, SOURCE)
    }

    async fn advance(&self, in_use: &KeyId, unfinished: bool) -> Result<KeyId> {
        self.0.require(in_use, SOURCE)?;
        if unfinished || self.0.newest() != in_use {
            return Ok(self.0.newest().clone());
        }
        Err(Error::precondition(
            "MASTER_KEY_FIXED",
            format!(
                "the master key comes from {SOURCE}, which the platform cannot change: start it with the new key and the old one there, in this order, and call again"
            ),
        ))
    }

    async fn retire(&self, _: &KeyId) -> Result<()> {
        // Nothing to forget: the next start decides.
        Ok(())
    }
}
