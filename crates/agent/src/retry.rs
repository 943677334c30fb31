//! What is worth trying again, and when.

use std::time::Duration;

use mi_kernel::backoff::Backoff;
use tonic::Code;

/// Waits between tries to reach the platform, before jitter.
pub(crate) const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// Whether a call may be answered better in a moment: what a lost connection looks like, depending on where it broke, and
/// what passes by itself.
pub(crate) fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
    )
}

/// Whether the platform is away for a moment only. A key that was revoked is replaced by the session, or ends it.
pub(crate) fn soon(code: Code) -> bool {
    passes(code) || code == Code::Unauthenticated
}
