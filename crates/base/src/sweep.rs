//! Removing what is due, of all offices: one that is in trouble holds up no other, and is tried again later and later.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use mi_kernel::{Error, OfficeId, Result, Time, backoff::Backoff};

/// Most that is read, and put off, with one statement.
pub const PAGE: usize = 100;
/// Removals at the same time.
const CONCURRENCY: usize = 8;
/// The longest that one may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this many failures an office is left alone until the next round: there is more wrong than one object.
const MOST_FAILURES: usize = 3;
/// When what failed is tried again.
pub const BACKOFF: Backoff = Backoff { first: Duration::from_secs(60), most: Duration::from_secs(3600) };

/// Something of an office that waits to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due<I> {
    /// Whose it is.
    pub office_id: OfficeId,
    /// What it is.
    pub id: I,
    /// How often it could not be removed, in a row.
    pub tries: i32,
}

/// What is due again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOff<I> {
    /// What it is.
    pub id: I,
    /// How often it could not be removed, in a row.
    pub tries: i32,
    /// When it is due.
    pub due_at: Time,
}

/// What can be swept: rows that say what is to be removed, and when.
pub trait Removals: Sync {
    /// Names one of them.
    type Id: Copy + Send + Sync;

    /// What is due by this time, the longest due first, at most so much. The time is that of the sweep, from which it puts
    /// off, too: by any other clock, what a slow sweep has put off would be due again before its end.
    ///
    /// # Errors
    /// When it cannot be read.
    fn due(&self, now: Time, limit: usize) -> impl Future<Output = Result<Vec<Due<Self::Id>>>> + Send;

    /// Removes it, and its row. Done already: nothing happens.
    ///
    /// # Errors
    /// When it cannot be removed now.
    fn remove(&self, office_id: OfficeId, id: Self::Id) -> impl Future<Output = Result<()>> + Send;

    /// Writes when these are due again, with one statement.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_off(&self, later: Vec<PutOff<Self::Id>>) -> impl Future<Output = Result<()>> + Send;
}

/// What went wrong in a round.
#[derive(Default)]
struct Troubles(Mutex<BTreeMap<OfficeId, usize>>);

impl Troubles {
    fn failures(&self, office_id: OfficeId) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&office_id).copied().unwrap_or_default()
    }

    fn add(&self, what: &'static str, office_id: OfficeId, error: &Error) {
        let failures = {
            let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let failures = troubles.entry(office_id).or_default();
            *failures += 1;
            *failures
        };
        if failures <= MOST_FAILURES {
            tracing::warn!(target: "mi::sweep", what, office = %office_id, error = %error.chain(), "not removed yet");
        }
    }
}

/// Removes all that is due, one page after the other. What fails is put off, with what else is due of an office in which
/// much fails; failures are logged, and no failure of a removal is one of the sweep.
///
/// # Errors
/// When rows cannot be read or written.
pub async fn sweep<R: Removals>(what: &'static str, removals: &R, now: Time) -> Result<()> {
    let troubles = Troubles::default();
    loop {
        let due = removals.due(now, PAGE).await?;
        let count = due.len();
        let tried = stream::iter(due)
            .map(|due| {
                let troubles = &troubles;
                async move {
                    if troubles.failures(due.office_id) >= MOST_FAILURES {
                        return Some(PutOff { id: due.id, tries: due.tries, due_at: now + BACKOFF.after(1) });
                    }
                    let removal = tokio::time::timeout(PATIENCE, removals.remove(due.office_id, due.id));
                    let late = |_| Err(Error::unavailable("it took too long"));
                    let error = removal.await.unwrap_or_else(late).err()?;
                    troubles.add(what, due.office_id, &error);
                    let tries = due.tries.saturating_add(1);
                    Some(PutOff { id: due.id, tries, due_at: now + BACKOFF.after(tries.unsigned_abs()) })
                }
            })
            .buffer_unordered(CONCURRENCY);
        let later: Vec<PutOff<R::Id>> = tried.filter_map(std::future::ready).collect().await;
        if !later.is_empty() {
            removals.put_off(later).await?;
        }
        if count < PAGE {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    /// Rows in memory; those of some offices cannot be removed.
    struct Fake {
        rows: Mutex<Vec<(Due<u32>, Time)>>,
        stuck: Vec<OfficeId>,
        tried: Mutex<BTreeMap<OfficeId, usize>>,
    }

    impl Fake {
        fn left(&self) -> BTreeMap<OfficeId, usize> {
            let mut left = BTreeMap::new();
            self.rows.lock().expect("whole").iter().for_each(|(due, _)| *left.entry(due.office_id).or_default() += 1);
            left
        }

        fn tries(&self, office_id: OfficeId) -> usize {
            self.tried.lock().expect("whole").get(&office_id).copied().unwrap_or_default()
        }
    }

    impl Removals for Fake {
        type Id = u32;

        async fn due(&self, now: Time, limit: usize) -> Result<Vec<Due<u32>>> {
            let rows = self.rows.lock().expect("whole");
            Ok(rows.iter().filter(|(_, at)| *at <= now).map(|(due, _)| *due).take(limit).collect())
        }

        async fn remove(&self, office_id: OfficeId, id: u32) -> Result<()> {
            *self.tried.lock().expect("whole").entry(office_id).or_default() += 1;
            if self.stuck.contains(&office_id) {
                return Err(Error::unavailable("as told"));
            }
            self.rows.lock().expect("whole").retain(|(due, _)| due.id != id);
            Ok(())
        }

        async fn put_off(&self, later: Vec<PutOff<u32>>) -> Result<()> {
            let mut rows = self.rows.lock().expect("whole");
            for put_off in later {
                let row = rows.iter_mut().find(|(due, _)| due.id == put_off.id).expect("is there");
                (row.0.tries, row.1) = (put_off.tries, put_off.due_at);
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_office_in_trouble_holds_up_nobody_and_is_tried_later_and_later() {
        let (stuck, well, now) = (OfficeId::new(), OfficeId::new(), SystemClock.now());
        // The stuck one's come first, and fill pages.
        let row = |id: u32, office_id| (Due { office_id, id, tries: 0 }, now);
        let rows = (0..250).map(|id| row(id, stuck)).chain((250..400).map(|id| row(id, well)));
        let mut fake = Fake { rows: Mutex::new(rows.collect()), stuck: vec![stuck], tried: Mutex::default() };
        sweep("things", &fake, now).await.expect("goes on");
        assert_eq!(fake.left(), BTreeMap::from([(stuck, 250)]));
        // Some are under way when it shows that much fails.
        let tried = fake.tries(stuck);
        assert!((MOST_FAILURES..MOST_FAILURES + CONCURRENCY).contains(&tried), "{tried}");

        // Nothing is due before its time, and what failed twice waits for longer.
        sweep("things", &fake, now).await.expect("goes on");
        assert_eq!(fake.tries(stuck), tried);
        sweep("things", &fake, now + BACKOFF.first).await.expect("goes on");
        assert!(fake.tries(stuck) > tried);
        let waits: Vec<(i32, i64)> =
            fake.rows.lock().expect("whole").iter().map(|(due, at)| (due.tries, (*at - now).num_seconds())).collect();
        assert!(waits.iter().all(|(tries, at)| matches!((tries, at), (0 | 1, 120) | (2, 180))), "{waits:?}");

        // Out of trouble.
        fake.stuck = Vec::new();
        sweep("things", &fake, now + BACKOFF.most).await.expect("goes on");
        assert_eq!(fake.left(), BTreeMap::new());
    }
}
