//! How much an account and an office may have: what whoever runs the platform allows. What is used is kept beside what it
//! is about, and changed in the transaction that checks it, so that two at once do not pass together.

use std::time::Duration;

use mi_kernel::Error;
use mi_proto::v1;

/// When it is worth trying again: somebody has to make room.
const RETRY: Duration = Duration::from_secs(60);

/// The most of everything that is counted. Sizes of drives are in a type of the drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Offices of an account; one counts until its deletion is complete.
    pub offices: u32,
    /// API keys of an account that are not revoked.
    pub api_keys: u32,
    /// Tasks of an office that are not finished.
    pub open_tasks: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { offices: 1000, api_keys: 100, open_tasks: 100_000 }
    }
}

/// The refusal of whatever would exceed a quota. `whose` begins the sentence, `hint` says how to make room.
pub fn exceeded(whose: &str, quota: &str, limit: u32, hint: &str) -> Error {
    let text = format!("{whose} has as much as it may: the quota {quota} is {limit}; {hint}");
    Error::exhausted("QUOTA_EXCEEDED", text, RETRY)
}

/// A quota for the wire.
pub fn to_wire(name: &str, used: i64, limit: i64) -> v1::Quota {
    v1::Quota { name: name.to_owned(), used, limit }
}
