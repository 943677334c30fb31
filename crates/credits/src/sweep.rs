//! What moves on when nobody calls: reservations that nobody settled, budgets that the scheduler does not know of, agents that
//! wait and are gone, and what offices of an earlier version begin with.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures::{StreamExt, stream};
use mi_base::sweep::BACKOFF;
use mi_kernel::{AgentId, Error, ErrorKind, OfficeId, Result, Time};
use mi_store::lease::Lease;

use super::{
    Credits,
    model::Op,
    repo::{self, UsageKind},
};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(5);
/// Of several processes over one database one sweeps. When that one is gone, another one does within this time and an
/// interval.
pub const LEASE: Duration = Duration::from_secs(15);
/// What is looked at in one go.
const PAGE: i64 = 1000;
/// Offices that are worked on at the same time.
const CONCURRENCY: usize = 8;
/// How often it is looked whether agents that wait are still there.
const RECALL_INTERVAL: Duration = Duration::from_secs(60);
/// How long it is kept what was used.
const USAGE_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);
/// How often older usage is deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Offices that could not be worked on, and how often in a row: each is tried again later and later.
#[derive(Default)]
pub(super) struct Troubles(HashMap<OfficeId, (u32, Time)>);

impl Troubles {
    fn waits(&self, office_id: OfficeId, now: Time) -> bool {
        self.0.get(&office_id).is_some_and(|(_, until)| *until > now)
    }

    fn note(&mut self, office_id: OfficeId, failure: Option<&Error>, now: Time) {
        match failure {
            None => drop(self.0.remove(&office_id)),
            Some(error) => {
                tracing::warn!(target: "mi::credits", office = %office_id, error = %error.chain(), "what was set aside and is due could not be settled yet");
                let tries = self.0.get(&office_id).map_or(0, |(tries, _)| *tries).saturating_add(1);
                self.0.insert(office_id, (tries, now + BACKOFF.after(tries)));
            }
        }
    }
}

impl Credits {
    /// Sweeps until it is dropped, while the lease is this process's. Two processes at once do everything once all the same:
    /// each operation looks again under the lock.
    pub async fn sweep_forever(self, lease: Lease) {
        let (mut place, mut recalled) = ((OfficeId::MIN, AgentId::MIN), Some(tokio::time::Instant::now()));
        let mut forgot = None;
        loop {
            let now = tokio::time::Instant::now();
            let due = |last: &mut Option<tokio::time::Instant>, interval: Duration| {
                let due = last.is_none_or(|last| now - last >= interval);
                if due {
                    *last = Some(now);
                }
                due
            };
            let held = lease.held().await;
            let mut swept = Vec::new();
            if matches!(held, Ok(true)) {
                swept = vec![self.begin_all().await, self.expire_due().await, self.push_all().await];
                if due(&mut recalled, RECALL_INTERVAL) {
                    swept.push(self.recall_waiting(place).await.map(|next| place = next));
                }
                if due(&mut forgot, FORGET_INTERVAL) {
                    swept.push(self.forget_usage().await);
                }
            }
            swept.extend(held.err().map(|error| Err(error.into())));
            for error in swept.into_iter().filter_map(Result::err) {
                tracing::warn!(target: "mi::credits", error = %error.chain(), "the credits could not be swept; the next round tries again");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The time that all processes agree on, as in the transactions.
    async fn now(&self) -> Result<Time> {
        let told = repo::told(&mut self.db.platform().read().await?).await?;
        Ok(told.map_or_else(|| self.clock.now(), |told| self.clock.agreed(told)))
    }

    /// Settles what nobody settled in time, at what was set aside. An office in trouble holds up no other.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn expire_due(&self) -> Result<()> {
        let mut troubles = self.troubles.lock().await;
        let (now, mut after) = (self.now().await?, repo::BEFORE_ALL);
        loop {
            let due = repo::reservation_due(&mut self.db.platform().read().await?, now, after, PAGE).await?;
            let Some(last) = due.last() else { return Ok(()) };
            after = *last;
            let full = i64::try_from(due.len()) == Ok(PAGE);
            let tried = due.into_iter().filter(|(_, office_id, _)| !troubles.waits(*office_id, now));
            // All of a page at once, so that they share transactions.
            let expired = tried.map(async |(_, office_id, call_id)| {
                (office_id, self.submit(office_id, Op::Expire(call_id)).await.err())
            });
            let mut offices: BTreeMap<OfficeId, Option<Error>> = BTreeMap::new();
            for (office_id, failure) in futures::future::join_all(expired).await {
                // An office that is gone has nothing that is due any more.
                let failure = failure.filter(|error| error.kind != ErrorKind::NotFound);
                let known = offices.entry(office_id).or_default();
                *known = known.take().or(failure);
            }
            for (office_id, failure) in offices {
                troubles.note(office_id, failure.as_ref(), now);
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Gives offices of an earlier version what a new one begins with.
    ///
    /// # Errors
    /// The first of those of the database; offices without trouble have theirs all the same.
    pub async fn begin_all(&self) -> Result<()> {
        let (mut after, mut failed) = (OfficeId::MIN, None);
        loop {
            let offices = repo::office_unbegun(&mut self.db.platform().read().await?, after, PAGE).await?;
            let Some(last) = offices.last() else { return failed.map_or(Ok(()), Err) };
            after = *last;
            for office_id in offices {
                if let Err(error) = self.begin(office_id).await {
                    failed = failed.or(Some(error));
                }
            }
        }
    }

    /// Deletes what was used too long ago, office by office, in parts.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_usage(&self) -> Result<()> {
        let (before, mut after) = (self.now().await? - USAGE_KEPT, OfficeId::MIN);
        loop {
            let offices = repo::office_after(&mut self.db.platform().read().await?, after, PAGE).await?;
            let Some(last) = offices.last() else { return Ok(()) };
            after = *last;
            for office_id in offices {
                for kind in [UsageKind::Agent, UsageKind::Model, UsageKind::Task] {
                    loop {
                        let mut tx = self.db.office(office_id).begin().await?;
                        let deleted = repo::usage_delete(&mut tx, kind, before, PAGE).await?;
                        tx.commit().await?;
                        if deleted < PAGE {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Tells the scheduler of what it does not know, in all offices: one in trouble holds up no other.
    pub(super) async fn push_all(&self) -> Result<()> {
        let mut offices = repo::office_untold(&mut self.db.platform().read().await?, PAGE).await?;
        offices.dedup();
        let pushed = stream::iter(offices).map(|office_id| self.push_budgets(office_id)).buffer_unordered(CONCURRENCY);
        let failed = pushed.filter_map(async |outcome| outcome.err()).collect::<Vec<_>>().await;
        failed.into_iter().next().map_or(Ok(()), Err)
    }
}
