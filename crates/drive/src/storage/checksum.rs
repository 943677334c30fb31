//! The checksum of what is uploaded.

use bytes::Bytes;
use mi_kernel::{Error, Result};
use ring::digest::{Context, SHA256};
use tokio::task::JoinHandle;

/// The checksum of what arrives, made on another thread while the next piece is received.
pub(super) struct Checksum(Hashing);

enum Hashing {
    Rests(Box<Context>),
    Works(JoinHandle<Context>),
}

impl Checksum {
    pub(super) fn new() -> Self {
        Self(Hashing::Rests(Box::new(Context::new(&SHA256))))
    }

    /// The state after all that was added.
    async fn rest(self) -> Result<Context> {
        match self.0 {
            Hashing::Rests(hash) => Ok(*hash),
            Hashing::Works(work) => work.await.map_err(Error::internal),
        }
    }

    pub(super) async fn add(self, piece: Bytes) -> Result<Self> {
        let mut hash = self.rest().await?;
        // For little another thread is not worth the way.
        if piece.len() < 64 << 10 {
            hash.update(&piece);
            return Ok(Self(Hashing::Rests(Box::new(hash))));
        }
        Ok(Self(Hashing::Works(tokio::task::spawn_blocking(move || {
            hash.update(&piece);
            hash
        }))))
    }

    /// Lower-case hex.
    pub(super) async fn finish(self) -> Result<String> {
        Ok(hex::encode(self.rest().await?.finish().as_ref()))
    }
}
