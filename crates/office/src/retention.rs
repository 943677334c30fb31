//! What an office keeps no longer than its settings say: finished tasks, changes of the drive, messages.
//!
//! It is deleted in parts, each in a transaction of its own with an event that says how much it was. Offices take turns, a
//! part each, so that one with a long history does not hold up the others. Who reads on from a place before what is kept is
//! told so ([`expired`]): nothing is left out silently.

pub(crate) mod repo;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use mi_kernel::{Clock, Error, OfficeId, Result, Time, event::Event};
use mi_store::{Db, OfficeTx, lease, outbox};
use serde_json::json;
use tokio::{sync::Notify, time::MissedTickBehavior};
use uuid::Uuid;

use self::repo::Held;
use crate::{
    chat::retention as chat,
    drive::retention as drive,
    offices::{Settings, State},
    tasks::retention as tasks,
};

/// How often it is looked for offices whose turn it is.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a process is the only one that deletes, unless it goes on.
const LEASE: Duration = Duration::from_secs(300);
/// When an office is looked at again that keeps nothing too long.
const REST: Duration = Duration::from_secs(3600);
/// When one is looked at again that failed, or of which something may have stayed only because of what was deleted later.
const SOON: Duration = Duration::from_secs(300);
/// Offices that are looked at in one go.
const BATCH: i64 = 1000;

/// The refusal of a place to go on from, before which something was deleted.
pub(crate) fn expired(problem: String) -> Error {
    Error::precondition("CURSOR_EXPIRED", problem)
}

/// Deletes what is kept too long.
#[derive(Clone)]
pub(crate) struct Retention {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) outbox: Arc<Notify>,
}

/// Where the look at an office stands.
struct Turn {
    office_id: OfficeId,
    /// The place in the queue's history up to which it was looked at; none: to its end.
    tasks: Option<i64>,
    changes: bool,
    messages: bool,
    deleted: bool,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.tasks.is_none() && !self.changes && !self.messages
    }
}

/// What a transaction that deletes goes by.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// What is older is deleted.
    pub(crate) before: Time,
    now: Time,
}

/// What may be deleted in this transaction, before its other locks; none: nothing. The settings do not change until it
/// ends, so that nothing is deleted once it is acknowledged that it is kept; and the time is the one that all processes
/// agree on, since what a clock that is ahead deletes is gone.
pub(crate) async fn bound(
    tx: &mut OfficeTx,
    clock: &dyn Clock,
    kept_for: fn(&Settings) -> i64,
) -> Result<Option<Bound>> {
    let Some(Held { office, told }) = repo::office_hold(tx).await? else { return Ok(None) };
    let now = told.map_or_else(|| clock.now(), |told| clock.agreed(told));
    let seconds = kept_for(&office.settings);
    // One that is being deleted has its queue locked before its row.
    let some = seconds > 0 && office.state != State::Deleting;
    Ok(some.then(|| Bound { before: now - Duration::from_secs(seconds.unsigned_abs()), now }))
}

/// Commits the deletion of a part, with the event that tells of it.
pub(crate) async fn record(mut tx: OfficeTx, what: &str, count: usize, bound: Bound) -> Result<()> {
    let Bound { before, now } = bound;
    let summary = format!("{count} {what} from before {} deleted, as the settings say", before.format("%F %R UTC"));
    let event = Event::lifecycle(tx.office_id(), "", "office.history_deleted", summary, now)
        .with(json!({ "what": what, "count": count, "before": before }));
    outbox::push(&mut tx, &event).await?;
    Ok(tx.commit().await?)
}

impl Retention {
    /// Deletes for ever, in one process at a time. Ends only by cancellation.
    pub(crate) async fn sweep_forever(self) {
        let holder = Uuid::now_v7().to_string();
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let swept = async {
                let now = self.now().await?;
                let due = repo::retention_due(&mut self.db.platform().read().await?, now, BATCH).await?;
                if !due.is_empty() && lease::hold(&self.db, "retention", &holder, now, LEASE).await? {
                    self.sweep(due).await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = swept.await {
                tracing::warn!(target: "mi::office", error = %error.chain(), "what is kept too long could not be deleted yet");
            }
        }
    }

    /// Looks at these offices until nothing is left in any of them, or the lease may be somebody else's.
    pub(crate) async fn sweep(&self, offices: Vec<OfficeId>) -> Result<()> {
        let begun = self.clock.now();
        let fresh = |office_id| Turn { office_id, tasks: Some(0), changes: true, messages: true, deleted: false };
        let mut turns: VecDeque<Turn> = offices.into_iter().map(fresh).collect();
        while let Some(mut turn) = turns.pop_front() {
            if self.clock.now() - begun > chrono::TimeDelta::from_std(LEASE / 2).unwrap_or_default() {
                return Ok(());
            }
            let again = match self.take(&mut turn).await {
                Ok(()) if !turn.is_over() => {
                    turns.push_back(turn);
                    continue;
                }
                Ok(()) if turn.deleted => SOON,
                Ok(()) => REST,
                Err(error) => {
                    tracing::warn!(target: "mi::office", office = %turn.office_id, error = %error.chain(), "an office's history could not be shortened");
                    SOON
                }
            };
            let next = self.now().await? + again;
            let mut tx = self.db.office(turn.office_id).begin().await?;
            repo::retention_next(&mut tx, next).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// The time that all processes agree on.
    async fn now(&self) -> Result<Time> {
        let told = repo::told(&mut self.db.platform().read().await?).await?;
        Ok(told.map_or_else(|| self.clock.now(), |told| self.clock.agreed(told)))
    }

    /// Deletes a part of each kind.
    async fn take(&self, turn: &mut Turn) -> Result<()> {
        let (db, id, clock) = (&self.db, turn.office_id, &*self.clock);
        let mut deleted = 0;
        if let Some(after) = turn.tasks {
            let part = tasks::forget_some(db, id, after, clock).await?;
            deleted += part.deleted;
            turn.tasks = part.next;
        }
        if turn.changes {
            let (count, more) = drive::forget_some(db, id, clock).await?;
            deleted += count;
            turn.changes = more;
        }
        if turn.messages {
            let (count, more) = chat::forget_some(db, id, clock).await?;
            deleted += count;
            turn.messages = more;
        }
        if deleted > 0 {
            turn.deleted = true;
            self.outbox.notify_one();
        }
        Ok(())
    }
}

/// Has the office looked at from now on, or no longer, in the transaction that changes its settings.
pub(crate) async fn schedule(tx: &mut OfficeTx, settings: &Settings, now: Time) -> Result<()> {
    match settings.keeps_all() {
        true => repo::retention_delete(tx).await?,
        false => repo::retention_put(tx, now).await?,
    }
    Ok(())
}
