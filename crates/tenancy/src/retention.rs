//! History that an office keeps no longer than its settings say, and how a resource deletes its own.
//!
//! It is deleted in parts, each in a transaction of its own with an event that says how much it was. Who reads on from a
//! place before what is kept is told so ([`expired`]): nothing is left out silently.

mod repo;

use std::time::Duration;

use async_trait::async_trait;
use mi_kernel::{Clock, Error, OfficeId, Result, Time, event::Event};
use mi_store::{Db, OfficeTx, outbox};
use serde_json::json;

use self::repo::Held;
use crate::{Settings, State};

/// The refusal of a place to go on from, before which something was deleted.
pub fn expired(problem: String) -> Error {
    Error::precondition("CURSOR_EXPIRED", problem)
}

/// What came of deleting a part of a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Entries that were deleted.
    pub deleted: usize,
    /// Where to go on; none: what follows is kept.
    pub next: Option<i64>,
}

/// Entries of an office that are kept for as long as its settings say.
#[async_trait]
pub trait History: Send + Sync {
    /// Deletes a bounded number of entries after a place that are kept no longer, in a transaction of its own.
    ///
    /// # Errors
    /// Those of the database; nothing was deleted then.
    async fn forget_some(&self, db: &Db, clock: &dyn Clock, office_id: OfficeId, after: i64) -> Result<Forgotten>;
}

/// A history whose oldest entries go first, so that a place to go on from is complete or refused.
pub struct Log {
    /// What its entries are called in an event.
    pub entries: &'static str,
    /// For how many seconds they are kept; 0: for ever.
    pub kept_for: fn(&Settings) -> i64,
    /// Answers place and time of at most `$2` entries of the office `$1`, the oldest first.
    pub oldest: &'static str,
    /// Deletes the entries of the office `$1` up to the place `$2`.
    pub delete: &'static str,
}

#[async_trait]
impl History for Log {
    async fn forget_some(&self, db: &Db, clock: &dyn Clock, office_id: OfficeId, _: i64) -> Result<Forgotten> {
        /// Entries that one transaction deletes.
        const PART: i64 = 1000;
        let mut tx = db.office(office_id).begin().await?;
        let Some(bound) = bound(&mut tx, clock, self.kept_for).await? else { return Ok(Forgotten::default()) };
        let oldest = repo::log_oldest(&mut tx, self.oldest, PART).await?;
        let full = i64::try_from(oldest.len()) == Ok(PART);
        let old: Vec<i64> = oldest.iter().take_while(|(_, at)| *at < bound.before).map(|(place, _)| *place).collect();
        let Some(last) = old.last() else { return Ok(Forgotten::default()) };
        let deleted = usize::try_from(repo::log_delete(&mut tx, self.delete, *last).await?).unwrap_or_default();
        let next = (full && old.len() == oldest.len()).then_some(*last);
        // Another process may have been faster, and has told of it.
        if deleted > 0 {
            record(tx, self.entries, deleted, bound).await?;
        }
        Ok(Forgotten { deleted, next })
    }
}

/// What a transaction that deletes goes by.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// What is older is deleted.
    pub before: Time,
    now: Time,
}

/// What may be deleted in this transaction, before its other locks; none: nothing. The settings do not change until it
/// ends, so that nothing is deleted once it is acknowledged that it is kept; and the time is the one that all processes
/// agree on, since what a clock that is ahead deletes is gone.
///
/// # Errors
/// Those of the database.
pub async fn bound(tx: &mut OfficeTx, clock: &dyn Clock, kept_for: fn(&Settings) -> i64) -> Result<Option<Bound>> {
    let Some(Held { office, told }) = repo::office_hold(tx).await? else { return Ok(None) };
    let now = told.map_or_else(|| clock.now(), |told| clock.agreed(told));
    let seconds = kept_for(&office.settings);
    // One that is being deleted has its queue locked before its row.
    let some = seconds > 0 && office.state != State::Deleting;
    Ok(some.then(|| Bound { before: now - Duration::from_secs(seconds.unsigned_abs()), now }))
}

/// Commits the deletion of a part, with the event that tells of it.
///
/// # Errors
/// Those of the database; nothing was deleted then.
pub async fn record(mut tx: OfficeTx, what: &str, count: usize, bound: Bound) -> Result<()> {
    let Bound { before, now } = bound;
    let summary = format!("{count} {what} from before {} deleted, as the settings say", before.format("%F %R UTC"));
    let event = Event::lifecycle(tx.office_id(), "", "office.history_deleted", summary, now)
        .with(json!({ "what": what, "count": count, "before": before }));
    outbox::push(&mut tx, &event).await?;
    Ok(tx.commit().await?)
}
