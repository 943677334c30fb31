//! SQLite's one writer. Whoever writes waits for its turn here, in order, and those that may share a commit with others
//! that wait: a commit waits for the disk, which costs more than most of what is written.
//!
//! What was written by the ones before is not durable yet, and is undone with all others' when the commit fails. So a
//! transaction shares only where its caller answers nothing, not even from what it read, before its commit has returned.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMutexGuard, oneshot},
    time::timeout,
};

use crate::{class::Class, db::ACQUIRE_TIMEOUT};

/// Transactions that share a commit at most: each is a savepoint within the one before it.
const MAX_SHARING: u32 = 64;

/// The way to the connection that writes. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    desk: Arc<Mutex<Desk>>,
    /// Transactions that wait for their turn and may share a commit.
    waiting: Arc<AtomicUsize>,
}

/// What one has at a time.
#[derive(Debug)]
struct Desk {
    /// Of one connection.
    pool: SqlitePool,
    /// It stays here: a pool would ask it between two transactions whether it still lives.
    connection: Option<PoolConnection<Sqlite>>,
    open: Option<Group>,
}

/// Transactions that have one commit.
#[derive(Debug)]
struct Group {
    /// Each transaction after the first begins with one, which has its number.
    savepoints: u32,
    /// The last transaction was given up and is to be undone.
    undo: bool,
    /// Whom to tell when those that have ended are durable.
    ended: Vec<oneshot::Sender<sqlx::Result<()>>>,
}

impl Group {
    fn undoing(&self) -> String {
        if self.undo { format!("ROLLBACK TO mi_{}; ", self.savepoints) } else { String::new() }
    }
}

impl Desk {
    /// Runs what begins or ends transactions. After a failure the connection is another one: a full disk makes SQLite roll
    /// back by itself, and whoever was cancelled does not know how far it came.
    async fn run(&mut self, sql: String) -> sqlx::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.pool.acquire().await?),
        };
        let statements = sql.split(';').count();
        // Made of our own words and of numbers.
        let answers = sqlx::raw_sql(AssertSqlSafe(sql)).execute_many(&mut **connection);
        let done = match answers.try_fold(0, async |count, _| Ok(count + 1)).await {
            // The thread that works for the connection ended before it had answered.
            Ok(count) if count < statements => Err(sqlx::Error::WorkerCrashed),
            done => done.map(drop),
        };
        if done.is_err()
            && let Some(mut connection) = self.connection.take()
        {
            connection.close_on_drop();
        }
        done
    }

    /// Begins a transaction, in the group that is open, else in one of its own.
    async fn begin(&mut self) -> sqlx::Result<()> {
        if let Some(group) = &self.open {
            let next = group.savepoints + 1;
            // Whatever makes SQLite roll back by itself takes this one, too: after it there would be a new transaction.
            let outermost = if next == 1 { "SAVEPOINT mi_0; " } else { "" };
            let joined = self.run(format!("{}{outermost}SAVEPOINT mi_{next}", group.undoing())).await;
            // Those that have ended hear that nothing became of them.
            self.open.take_if(|_| joined.is_err());
            if let Some(group) = &mut self.open {
                (group.savepoints, group.undo) = (next, false);
                return Ok(());
            }
        }
        self.open = Some(Group { savepoints: 0, undo: true, ended: Vec::new() });
        let begun = self.run("BEGIN IMMEDIATE".to_owned()).await;
        match &begun {
            Ok(()) => self.open.iter_mut().for_each(|group| group.undo = false),
            Err(_) => self.open = None,
        }
        begun
    }

    /// Makes durable what has ended, and undoes what has not.
    async fn settle(&mut self) {
        let Some(group) = &mut self.open else { return };
        let sql = match (group.ended.is_empty(), group.savepoints) {
            (true, _) => "ROLLBACK".to_owned(),
            (false, 0) => "COMMIT".to_owned(),
            (false, _) => format!("{}RELEASE mi_0; COMMIT", group.undoing()),
        };
        // Without them it is one that was given up, should this be cancelled.
        let ended = mem::take(&mut group.ended);
        let done = self.run(sql).await;
        self.open = None;
        for sender in ended {
            // Nobody hears it who was cancelled meanwhile.
            let _ = sender.send(done.as_ref().map_or_else(|error| Err(again(error)), |()| Ok(())));
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // Without a runtime it would not find back to its pool.
        if let Some(connection) = self.connection.take_if(|_| Handle::try_current().is_err()) {
            drop(connection.leak());
        }
    }
}

/// The failure of a commit, for each of those that shared it.
fn again(error: &sqlx::Error) -> sqlx::Error {
    let kind = match Class::of(error) {
        Class::Full => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    sqlx::Error::Io(io::Error::new(kind, format!("the commit that it shared with others failed: {error}")))
}

/// Counts among those that wait for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Writer {
    /// Writes over the only connection of this pool.
    pub(crate) fn new(pool: SqlitePool) -> Self {
        Self { desk: Arc::new(Mutex::new(Desk { pool, connection: None, open: None })), waiting: Arc::default() }
    }

    /// A write transaction, when its turn has come. `shares`: see the module.
    pub(crate) async fn begin(&self, shares: bool) -> sqlx::Result<Turn> {
        let waiting = shares.then(|| Waiting::new(&self.waiting));
        let desk = timeout(ACQUIRE_TIMEOUT, self.desk.clone().lock_owned()).await;
        drop(waiting);
        let mut desk = desk.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let joins = |group: &Group| shares && !group.ended.is_empty() && group.savepoints < MAX_SHARING;
        if desk.open.as_ref().is_some_and(|group| !joins(group)) {
            // Also when whoever waits for that is cancelled.
            #[expect(clippy::disallowed_methods, reason = "it ends with the commit that others wait for")]
            let settled = tokio::spawn(async move {
                desk.settle().await;
                desk
            });
            desk = settled.await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        }
        let mut turn = Turn { desk, writer: self.clone(), shares, stage: Stage::Begins };
        turn.desk.begin().await?;
        turn.stage = Stage::Writes;
        Ok(turn)
    }

    /// Settles what is open, after those that wait for their turn now. Without a runtime the process is ending, and what is
    /// not durable then is undone by the next one.
    fn settle_soon(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let desk = self.desk.clone();
        runtime.spawn(async move { desk.lock_owned().await.settle().await });
    }

    /// Closes the connection; SQLite's log is folded into its file.
    pub(crate) async fn close(&self) {
        let mut desk = self.desk.lock().await;
        desk.settle().await;
        desk.connection = None;
        desk.pool.close().await;
    }
}

/// A write transaction; what it has written is undone when it is dropped without a commit.
pub(crate) struct Turn {
    desk: OwnedMutexGuard<Desk>,
    writer: Writer,
    shares: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begins,
    Writes,
    /// Others make it durable.
    Ended,
}

impl Turn {
    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        self.desk.connection.as_mut().expect("is there since the transaction has begun")
    }

    /// Makes it durable, at once or with those that wait for their turn.
    pub(crate) async fn commit(mut self) -> sqlx::Result<()> {
        let others_wait = self.shares && self.writer.waiting.load(Ordering::Relaxed) > 0;
        let Some(group) = &mut self.desk.open else { return Err(sqlx::Error::WorkerCrashed) };
        if group.ended.is_empty() && !others_wait {
            // Until it is known to be done.
            group.undo = true;
            let done = self.desk.run("COMMIT".to_owned()).await;
            self.desk.open = None;
            return done;
        }
        let (sender, done) = oneshot::channel();
        group.ended.push(sender);
        let is_first = group.ended.len() == 1;
        self.stage = Stage::Ended;
        let writer = self.writer.clone();
        drop(self);
        if is_first {
            writer.settle_soon();
        }
        let lost = || sqlx::Error::Io(io::Error::other("a transaction that it shared its commit with failed"));
        done.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(group) = self.desk.open.as_mut().filter(|_| self.stage != Stage::Ended) else { return };
        // What only begins changes nothing in a group: what is last there is another's.
        group.undo |= self.stage == Stage::Writes;
        // Else that is on its way.
        if group.ended.is_empty() {
            self.writer.settle_soon();
        }
    }
}
