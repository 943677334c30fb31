//! What is stored under zstd: lines of logs, and events.

use mi_kernel::{Error, Result};

/// Speed counts where something comes in.
pub(crate) const FAST: i32 = 1;
/// Size counts where it stays.
pub(crate) const SMALL: i32 = 3;

pub(crate) fn compress(raw: &[u8], level: i32) -> Result<Vec<u8>> {
    zstd::bulk::compress(raw, level).map_err(Error::internal)
}

/// The other way round; the size before is needed.
///
/// # Errors
/// `Internal` when it is damaged.
pub(crate) fn decompress(data: &[u8], raw_bytes: i64) -> Result<Vec<u8>> {
    let capacity = usize::try_from(raw_bytes).map_err(Error::internal)?;
    zstd::bulk::decompress(data, capacity).map_err(Error::internal)
}

/// Sizes in memory fit.
pub(crate) fn int(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
