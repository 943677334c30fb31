//! A connection to either database, the scope it works in, and a transaction on one.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use mi_kernel::OfficeId;
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection, Transaction, pool::PoolConnection};

use crate::{
    DbResult,
    connection_eviction::ConnectionEviction,
    simulated::{self, Lent, Seam},
    writer::Turn,
};

/// A borrowed connection of either kind.
pub enum Arm<'a> {
    /// SQLite.
    Sqlite(&'a mut SqliteConnection),
    /// Postgres.
    Postgres(&'a mut PgConnection),
}

/// Runs sqlx's own query on whichever database the connection belongs to, where no [statement macro](crate::exec) fits.
///
/// `on!(conn, |c| sqlx::query("...").bind(x).execute(&mut *c).await)`: the body is compiled once for each database. What
/// it answers is looked at on the way: see [`ConnectionEviction`](crate::connection_eviction::ConnectionEviction).
#[macro_export]
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn.watched() {
            (eviction, arm) => eviction.heed(match arm {
                $crate::Arm::Sqlite($c) => $body,
                $crate::Arm::Postgres($c) => $body,
            }),
        }
    };
}

/// A connection, of whatever scope: what statements and helpers below the repositories work with.
pub struct Conn {
    pub(crate) inner: Inner,
    pub(crate) eviction: ConnectionEviction,
    /// In tests.
    seam: Option<Arc<dyn Seam>>,
    statements: u32,
}

pub(crate) enum Inner {
    SqlitePooled(PoolConnection<Sqlite>),
    SqliteTurn(Turn),
    PostgresPooled(PoolConnection<Postgres>),
    PostgresTx(Transaction<'static, Postgres>),
    Simulated(Lent),
}

/// Runs one statement, and heeds what it answers.
#[doc(hidden)]
pub struct Runner<'a> {
    eviction: &'a ConnectionEviction,
    seam: Option<&'a dyn Seam>,
}

impl Runner<'_> {
    /// See [`Runner`].
    pub async fn run<T>(self, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        self.eviction.heed(simulated::run(self.seam, statement).await)
    }
}

impl Conn {
    pub(crate) fn new(inner: Inner, eviction: ConnectionEviction, seam: Option<Arc<dyn Seam>>) -> Self {
        Self { inner, eviction, seam, statements: 0 }
    }

    /// How many statements were run on it since it was taken. What others wait for, such as a transaction with a lock,
    /// has few of them, however much there is.
    pub fn statements(&self) -> u32 {
        self.statements
    }

    /// The connection, by kind, for one statement.
    pub fn arm(&mut self) -> Arm<'_> {
        self.watched().1
    }

    /// The connection, by kind, and who is to hear how it does.
    #[doc(hidden)]
    pub fn watched(&mut self) -> (&ConnectionEviction, Arm<'_>) {
        let (runner, arm, _) = self.statement();
        (runner.eviction, arm)
    }

    /// The same for one of the [statement macros](crate::exec): no office comes before its values.
    #[doc(hidden)]
    pub fn statement(&mut self) -> (Runner<'_>, Arm<'_>, Option<OfficeId>) {
        self.statements += 1;
        let arm = match &mut self.inner {
            Inner::SqlitePooled(c) => Arm::Sqlite(c),
            Inner::SqliteTurn(c) => Arm::Sqlite(c.connection()),
            Inner::PostgresPooled(c) => Arm::Postgres(c),
            Inner::PostgresTx(c) => Arm::Postgres(c),
            Inner::Simulated(c) => Arm::Sqlite(c.connection()),
        };
        (Runner { eviction: &self.eviction, seam: self.seam.as_deref() }, arm, None)
    }

    /// The SQL text for this database, where the dialects differ.
    pub fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.inner {
            Inner::SqlitePooled(_) | Inner::SqliteTurn(_) | Inner::Simulated(_) => sqlite,
            Inner::PostgresPooled(_) | Inner::PostgresTx(_) => postgres,
        }
    }
}

/// A connection in the scope of one office. Repositories take the office of their queries from it, never from a
/// parameter of its own, so that a query for one office with the id of another cannot be written.
pub struct OfficeConn {
    pub(crate) conn: Conn,
    pub(crate) office_id: OfficeId,
}

impl OfficeConn {
    /// The office.
    pub fn office_id(&self) -> OfficeId {
        self.office_id
    }

    /// As [`Conn::statement`]: the office comes before the statement's values.
    #[doc(hidden)]
    pub fn statement(&mut self) -> (Runner<'_>, Arm<'_>, Option<OfficeId>) {
        let (runner, arm, _) = self.conn.statement();
        (runner, arm, Some(self.office_id))
    }
}

/// A connection in the scope of the platform: for what spans offices, or is there before an office is known.
///
/// A function that takes one says in its documentation why it does.
pub struct PlatformConn(pub(crate) OfficeConn);

impl PlatformConn {
    /// One office's part of work that spans several. The database itself goes on to allow every office; the
    /// repository's own predicates bind this one.
    pub fn within(&mut self, office_id: OfficeId) -> &mut OfficeConn {
        self.0.office_id = office_id;
        &mut self.0
    }
}

/// A write transaction; rolls back unless committed.
#[must_use = "a transaction that is not committed rolls back"]
pub struct Tx<C>(pub(crate) C);

/// A write transaction in the scope of one office.
pub type OfficeTx = Tx<OfficeConn>;
/// A write transaction in the scope of the platform.
pub type PlatformTx = Tx<PlatformConn>;

impl<C: Into<Conn>> Tx<C> {
    /// Makes everything durable that was written since the beginning.
    pub async fn commit(self) -> DbResult<()> {
        let Conn { inner, eviction, seam, .. } = self.0.into();
        let committed = match inner {
            Inner::SqliteTurn(turn) => turn.commit().await,
            Inner::PostgresTx(tx) => tx.commit().await,
            Inner::Simulated(lent) => match &seam {
                Some(seam) => lent.commit(&**seam).await,
                None => Ok(()),
            },
            Inner::SqlitePooled(_) | Inner::PostgresPooled(_) => Ok(()),
        };
        Ok(eviction.heed(committed)?)
    }
}

impl From<OfficeConn> for Conn {
    fn from(scoped: OfficeConn) -> Self {
        scoped.conn
    }
}

impl From<PlatformConn> for Conn {
    fn from(scoped: PlatformConn) -> Self {
        scoped.0.conn
    }
}

impl<C: Into<Conn>> Tx<C> {
    /// The connection alone, still inside the transaction.
    pub fn into_conn(self) -> Conn {
        self.0.into()
    }
}

impl Deref for OfficeConn {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for OfficeConn {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl Deref for PlatformConn {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.0.conn
    }
}

impl DerefMut for PlatformConn {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0.conn
    }
}

impl<C> Deref for Tx<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> DerefMut for Tx<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.0
    }
}
