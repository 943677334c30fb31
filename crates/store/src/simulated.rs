//! A database as a simulation of several processes has it: one SQLite file, over which each process has a [`Db`] of its
//! own. A statement is done when it is first polled: no thread decides what comes first, and time that a test holds does
//! not go on meanwhile. Before each step a [`Seam`] of the test may hold it up or fail it. What else is under test is the
//! code that ships. There is nothing of it in a process that ships but a variant that nobody makes.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{executor::block_on, future::BoxFuture};
use sqlx::{
    ConnectOptions, Executor, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};

use crate::{Db, Topic};

/// A step of the way to a database and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A connection for reads is asked for.
    Read,
    /// A write transaction is to begin.
    Begin,
    /// A statement is to run, in a transaction or without one.
    Statement,
    /// What was written is to be made durable.
    Commit,
    /// It is durable, and nobody knows yet: who fails this loses the answer.
    Answer,
}

/// What a test does to a simulated database.
pub trait Seam: fmt::Debug + Send + Sync {
    /// Before a step: it is held up for as long as this takes, and fails with its error.
    fn before(&self, step: Step) -> BoxFuture<'_, sqlx::Result<()>>;

    /// Something was made durable, at this moment.
    fn committed(&self);
}

/// What simulated processes share: a file that is there and has its tables.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: SqliteConnectOptions,
    free: Mutex<Vec<SqliteConnection>>,
    /// Who may write: one at a time, in the order in which they asked.
    writer: Arc<Gate<()>>,
}

impl Disk {
    /// The database in this file. It is not made to outlive the machine.
    pub fn open(path: PathBuf) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Off)
            .foreign_keys(true);
        Self(Arc::new(Shared { options, free: Mutex::default(), writer: Arc::default() }))
    }

    fn free(&self) -> MutexGuard<'_, Vec<SqliteConnection>> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self) -> sqlx::Result<Lent> {
        let free = self.free().pop();
        let connection = match free {
            Some(connection) => connection,
            None => block_on(self.0.options.connect())?,
        };
        Ok(Lent { connection: Some(connection), turn: None, disk: self.clone() })
    }
}

/// The way of one simulated process to the disk.
#[derive(Debug, Clone)]
pub(crate) struct Simulated {
    disk: Disk,
    pub(crate) seam: Arc<dyn Seam>,
}

impl Simulated {
    pub(crate) async fn read(&self) -> sqlx::Result<Lent> {
        self.seam.before(Step::Read).await?;
        self.disk.lend()
    }

    pub(crate) async fn begin(&self) -> sqlx::Result<Lent> {
        self.seam.before(Step::Begin).await?;
        let turn = self.disk.0.writer.clone().lock_owned().await;
        let mut lent = self.disk.lend()?;
        block_on(lent.connection().execute("BEGIN IMMEDIATE"))?;
        lent.turn = Some(turn);
        Ok(lent)
    }
}

/// A connection until it is given back; what it has written and not committed is undone then.
pub(crate) struct Lent {
    /// Until it is given back.
    connection: Option<SqliteConnection>,
    /// In a write transaction.
    turn: Option<OwnedMutexGuard<()>>,
    disk: Disk,
}

impl Lent {
    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("is there until it is dropped")
    }

    pub(crate) async fn commit(mut self, seam: &dyn Seam) -> sqlx::Result<()> {
        seam.before(Step::Commit).await?;
        block_on(self.connection().execute("COMMIT"))?;
        self.turn = None;
        seam.committed();
        seam.before(Step::Answer).await
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.turn.is_none() || block_on(connection.execute("ROLLBACK")).is_ok() {
            self.disk.free().push(connection);
        }
    }
}

/// Runs a statement: on the spot where there is a seam.
pub(crate) async fn run<T>(
    seam: Option<&dyn Seam>,
    statement: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    match seam {
        None => statement.await,
        Some(seam) => {
            seam.before(Step::Statement).await?;
            block_on(statement)
        }
    }
}

impl Db {
    /// The database of a simulated process. It counts as shared with others.
    pub fn simulated(disk: &Disk, seam: Arc<dyn Seam>) -> Self {
        Self::over(Simulated { disk: disk.clone(), seam })
    }

    /// What a simulated process has still to tell others of.
    pub fn untold(&self) -> Vec<Topic> {
        self.changes.take()
    }

    /// A simulated process is told of something by another; none: that it may have missed anything.
    pub fn tell(&self, topic: Option<Topic>) {
        self.changes.told(topic.unwrap_or_else(Topic::everything));
    }
}
