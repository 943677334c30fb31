//! A connection to either database, and a transaction on one.

use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection, Transaction, pool::PoolConnection};

use crate::DbResult;

/// A borrowed connection of either kind: what [`on!`](crate::on) matches on.
pub enum Arm<'a> {
    /// SQLite.
    Sqlite(&'a mut SqliteConnection),
    /// Postgres.
    Postgres(&'a mut PgConnection),
}

/// Runs the same query on whichever database the connection belongs to.
///
/// `on!(conn, |c| sqlx::query("...").bind(x).execute(&mut *c).await)`: the body is compiled once for each database.
#[macro_export]
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn.arm() {
            $crate::Arm::Sqlite($c) => $body,
            $crate::Arm::Postgres($c) => $body,
        }
    };
}

/// A connection.
pub struct Conn(pub(crate) Inner);

pub(crate) enum Inner {
    SqlitePooled(PoolConnection<Sqlite>),
    SqliteTx(Transaction<'static, Sqlite>),
    PostgresPooled(PoolConnection<Postgres>),
    PostgresTx(Transaction<'static, Postgres>),
}

impl Conn {
    /// The connection, by kind.
    pub fn arm(&mut self) -> Arm<'_> {
        match &mut self.0 {
            Inner::SqlitePooled(c) => Arm::Sqlite(c),
            Inner::SqliteTx(c) => Arm::Sqlite(c),
            Inner::PostgresPooled(c) => Arm::Postgres(c),
            Inner::PostgresTx(c) => Arm::Postgres(c),
        }
    }

    /// The SQL text for this database, where the dialects differ.
    pub fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self.0 {
            Inner::SqlitePooled(_) | Inner::SqliteTx(_) => sqlite,
            Inner::PostgresPooled(_) | Inner::PostgresTx(_) => postgres,
        }
    }
}

/// A write transaction; rolls back unless committed.
#[must_use = "a transaction that is not committed rolls back"]
pub struct Tx(pub(crate) Conn);

impl Tx {
    /// Makes everything durable that was written since the beginning.
    pub async fn commit(self) -> DbResult<()> {
        match self.0.0 {
            Inner::SqliteTx(tx) => tx.commit().await?,
            Inner::PostgresTx(tx) => tx.commit().await?,
            Inner::SqlitePooled(_) | Inner::PostgresPooled(_) => {}
        }
        Ok(())
    }
}

impl Deref for Tx {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}
