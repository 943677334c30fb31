//! Tests of the queue as a whole.

mod order;
pub(crate) mod registry;
mod simulation;
mod streams;

use mi_kernel::{AccountId, OfficeId, Time};
use mi_tenancy::{Office, Settings, State};

/// An office in use.
pub(crate) fn active_office(id: OfficeId, account_id: AccountId, now: Time) -> Office {
    Office {
        id,
        account_id,
        name: "Work".into(),
        state: State::Active,
        settings: Settings::default(),
        version: 1,
        applied_version: 1,
        conditions: Vec::new(),
        created_at: now,
        updated_at: now,
    }
}
