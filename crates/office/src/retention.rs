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

use crate::{
    chat::retention as chat,
    drive::retention as drive,
    offices::{Settings, repo::office_get},
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

/// Commits the deletion of a part, with the event that tells of it.
pub(crate) async fn record(mut tx: OfficeTx, what: &str, count: usize, before: Time, now: Time) -> Result<()> {
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
                let now = self.clock.now();
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
            let mut tx = self.db.office(turn.office_id).begin().await?;
            repo::retention_next(&mut tx, self.clock.now() + again).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Deletes a part of each kind.
    async fn take(&self, turn: &mut Turn) -> Result<()> {
        let (db, id, now) = (&self.db, turn.office_id, self.clock.now());
        let Some(office) = office_get(&mut db.office(id).read().await?).await? else {
            (turn.tasks, turn.changes, turn.messages) = (None, false, false);
            return Ok(());
        };
        let settings = office.settings;
        let before = |seconds: i64| (seconds > 0).then(|| now - Duration::from_secs(seconds.unsigned_abs()));
        let mut deleted = 0;
        turn.tasks = match (turn.tasks, before(settings.finished_task_retention_seconds)) {
            (Some(after), Some(before)) => {
                let part = tasks::forget_some(db, id, after, before, now).await?;
                deleted += part.deleted;
                part.next
            }
            _ => None,
        };
        turn.changes = match before(settings.drive_change_retention_seconds).filter(|_| turn.changes) {
            Some(before) => {
                let (count, more) = drive::forget_some(db, id, before, now).await?;
                deleted += count;
                more
            }
            None => false,
        };
        turn.messages = match before(settings.message_retention_seconds).filter(|_| turn.messages) {
            Some(before) => {
                let (count, more) = chat::forget_some(db, id, before, now).await?;
                deleted += count;
                more
            }
            None => false,
        };
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
