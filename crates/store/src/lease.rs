//! A named lease in the database: of several processes over the same tables one does a job at a time.
//!
//! It saves work, and orders nothing: a holder that stood still may go on for a moment while another one has begun. So what
//! is done under a lease has to be right when two do it at once. What has to be one process's alone is written in a
//! transaction that keeps its right to it, as the scheduler's shards are.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{Clock, Time};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Db, DbResult, exec, scalar_one};

/// Takes or renews the lease; false: somebody else holds it. A holder that comes back under its own name gets it at once.
/// All go by the database's clock: theirs may be apart by more than a lease lasts.
pub async fn hold(db: &Db, name: &str, holder: &str, clock: &dyn Clock, ttl: Duration) -> DbResult<bool> {
    let mut tx = db.platform().begin().await?;
    let told: Option<Time> = scalar_one!(tx, tx.pick("SELECT NULL", "SELECT clock_timestamp()"))?;
    let now = told.map_or_else(|| clock.now(), |told| clock.agreed(told));
    let sql = "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE leases.holder = excluded.holder OR leases.expires_at < $4";
    let held = exec!(tx, sql, name, holder, now + ttl, now)? == 1;
    tx.commit().await?;
    Ok(held)
}

/// A lease that this process asks for whenever it comes to the job. Clones are the same holder.
#[derive(Clone)]
pub struct Lease(Arc<Inner>);

struct Inner {
    db: Db,
    clock: Arc<dyn Clock>,
    name: &'static str,
    holder: String,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until when it is relied on without asking.
    until: Option<Instant>,
    /// Whether it may be this process's in the database: also while that is asked, since who asks may be dropped.
    mine: bool,
}

impl Lease {
    /// One that lasts so long when its holder is gone without a word.
    pub fn new(db: Db, clock: Arc<dyn Clock>, name: &'static str, ttl: Duration) -> Self {
        let holder = db.process.as_deref().map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        Self(Arc::new(Inner { db, clock, name, holder, ttl, state: Mutex::default() }))
    }

    // Whole between any two statements.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the job is this process's. The database is asked when a third of the time has passed, so that an idle platform
    /// writes little; a database of this process alone is not asked at all.
    pub async fn held(&self) -> DbResult<bool> {
        let Inner { db, clock, name, holder, ttl, .. } = &*self.0;
        if !db.is_shared() {
            return Ok(true);
        }
        // Before the database sets the time: it ends the lease no earlier than this process.
        let asked = Instant::now();
        if self.state().until.is_some_and(|until| asked < until) {
            return Ok(true);
        }
        *self.state() = State { until: None, mine: true };
        let held = hold(db, name, holder, &**clock, *ttl).await?;
        *self.state() = State { until: held.then(|| asked + *ttl / 3), mine: held };
        Ok(held)
    }

    /// Does what asks for the lease as it goes, until `ends`, and gives the lease up then: whoever goes on need not wait.
    pub async fn until_end<F>(self, ends: impl Future<Output = ()>, work: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()>,
    {
        tokio::select! {
            biased;
            () = ends => {}
            () = work(self.clone()) => {}
        }
        if let Err(error) = self.give_up().await {
            tracing::debug!(target: "mi::store", lease = self.0.name, %error, "others wait until the lease has run out");
        }
    }

    async fn give_up(&self) -> DbResult<()> {
        if !std::mem::take(&mut *self.state()).mine {
            return Ok(());
        }
        let mut tx = self.0.db.platform().begin().await?;
        // A conflict is found by the name alone: so this waits for the commit of one of ours that was dropped in the middle,
        // where an UPDATE of what is ours would go by the row before it and find nothing.
        let sql = "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at WHERE leases.holder = excluded.holder";
        exec!(tx, sql, self.0.name, &self.0.holder, Time::UNIX_EPOCH)?;
        tx.commit().await
    }
}
