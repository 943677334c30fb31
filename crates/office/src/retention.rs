//! What an office keeps no longer than its settings say: finished tasks, changes of the drive, messages.
//!
//! It is deleted in parts ([`mi_tenancy::retention`]). Offices take turns, a part each, so that one with a long history does
//! not hold up the others.

mod repo;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use mi_kernel::{Clock, Error, OfficeId, Result, Time};
use mi_store::{Db, OfficeConn, OfficeTx, lease::Lease};
use mi_tasks::TaskHistory;
use mi_tenancy::{LifecycleStep, Office, OfficePart, RoleContext, Settings, retention::History};
use tokio::{sync::Notify, time::MissedTickBehavior};

/// How often it is looked for offices whose turn it is.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a process is the only one that deletes, unless it goes on.
pub(crate) const LEASE: Duration = Duration::from_secs(300);
/// When an office is looked at again that keeps nothing too long.
const REST: Duration = Duration::from_secs(3600);
/// When one is looked at again that failed, or of which something may have stayed only because of what was deleted later.
const SOON: Duration = Duration::from_secs(300);
/// Offices that are looked at in one go.
const BATCH: i64 = 1000;

/// What offices have a history of.
const HISTORIES: [&dyn History; 3] = [&TaskHistory, &mi_drive::HISTORY, &mi_chat::HISTORY];

/// Deletes what is kept too long.
#[derive(Clone)]
pub(crate) struct Retention {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
}

/// Where the look at an office stands.
struct Turn {
    office_id: OfficeId,
    /// The place in each history up to which it was looked at; none: to its end.
    places: [Option<i64>; HISTORIES.len()],
    deleted: bool,
}

/// A removed office is looked at no longer.
#[async_trait]
impl OfficePart for Retention {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create | LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => Ok(repo::retention_delete(tx).await?),
        }
    }
}

impl Retention {
    pub(crate) fn new(context: RoleContext) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox }
    }

    /// Deletes for ever, in one process at a time. Ends only by cancellation.
    pub(crate) async fn sweep_forever(self, lease: Lease) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let swept = async {
                let now = self.now().await?;
                let due = repo::retention_due(&mut self.db.platform().read().await?, now, BATCH).await?;
                if !due.is_empty() && lease.held().await? {
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
        let fresh = |office_id| Turn { office_id, places: [Some(0); HISTORIES.len()], deleted: false };
        let mut turns: VecDeque<Turn> = offices.into_iter().map(fresh).collect();
        while let Some(mut turn) = turns.pop_front() {
            if self.clock.now() - begun > chrono::TimeDelta::from_std(LEASE / 2).unwrap_or_default() {
                return Ok(());
            }
            let again = match self.take(&mut turn).await {
                Ok(()) if turn.places.iter().any(Option::is_some) => {
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

    /// Deletes a part of each history.
    async fn take(&self, turn: &mut Turn) -> Result<()> {
        let mut deleted = 0;
        for (history, place) in HISTORIES.iter().zip(&mut turn.places) {
            let Some(after) = *place else { continue };
            let part = history.forget_some(&self.db, &*self.clock, turn.office_id, after).await?;
            deleted += part.deleted;
            *place = part.next;
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
