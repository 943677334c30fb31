//! The pools of one service's database.

use std::{
    path::PathBuf,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use mi_kernel::{Error, OfficeId, Result};
use sqlx::{
    AssertSqlSafe, Connection, PgPool, Postgres, SqlitePool, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::runtime::Handle;

use crate::{
    Conn, DbError, DbResult, Migrations, OfficeConn, OfficeTx, PlatformConn, PlatformTx, Tx, change_bus::ChangeBus,
    conn::Inner, connection_eviction::ConnectionEviction, migrate, service_role, simulated::Simulated, writer::Writer,
};

/// How long a call waits for a connection before it answers Unavailable.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// A Postgres connection idle for longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// What is asked for goes by an index and ends at a limit. On a table that was empty when a plan was made, and has no
/// statistics yet, Postgres would for long read all there is, or sort it. A query that has to sort all the same seems so
/// expensive then that it would be compiled first, for a second. Plans that know what is bound stay: a rare status of a
/// task goes by another index than a common one. The tests of plans hold the first two against every statement: many
/// need the one over a table that was empty when statistics were gathered, and many pages of lists need the other.
const PLANNING: [(&str, &str); 3] = [("enable_seqscan", "off"), ("enable_sort", "off"), ("jit", "off")];
/// What a service waits for ends, also when whoever is in the way does not: a process that was frozen, or whose host is
/// gone without a word, with a row locked. Statements are short, and no transaction waits for a client or for another
/// role. The last ones are for the server's side of the connection; sqlx has no such settings for ours. A URL that sets
/// one of them itself, as in `?options[lock_timeout]=2s`, has its way.
const LIMITS: [(&str, &str); 7] = [
    ("lock_timeout", "10s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "30s"),
    ("tcp_keepalives_interval", "10s"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "60s"),
];
/// A migration takes what it takes. For a table that older processes use it waits no longer than this at a time, since they
/// wait behind it meanwhile, for ten seconds at most; then it lets them pass and tries again.
const MIGRATION_LIMITS: [(&str, &str); 2] = [("lock_timeout", "2s"), ("statement_timeout", "0")];
/// The schema is the first entry of the search path; it has to be there before the migration table.
const CREATE_SCHEMA: &str = "DO $$ BEGIN EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', current_setting('search_path')); \
     EXCEPTION WHEN unique_violation OR duplicate_schema THEN NULL; END $$";
/// What stands for the office of a connection that has none yet.
const NO_OFFICE: OfficeId = OfficeId(uuid::Uuid::nil());

/// Where one service keeps its tables.
#[derive(Debug, Clone)]
pub enum DbTarget {
    /// A file of its own.
    Sqlite {
        /// The file; created when missing.
        path: PathBuf,
    },
    /// A schema of its own.
    Postgres {
        /// `postgres://...`
        url: String,
        /// The schema; created when missing.
        schema: &'static str,
        /// Who this process is among those over the tables: the same after a restart, so that it goes on with its leases at once.
        /// None: nobody that was there before.
        process: Option<String>,
    },
}

/// One service's database.
#[derive(Debug, Clone)]
pub struct Db {
    pools: Pools,
    eviction: ConnectionEviction,
    pub(crate) changes: Arc<ChangeBus>,
    /// Who this process is among those over the tables, if that is known.
    pub(crate) process: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
enum Pools {
    /// SQLite takes one writer at a time: they queue here, in order, instead of failing busy.
    Sqlite {
        read: SqlitePool,
        write: Writer,
    },
    Postgres(PgPool),
    /// In tests.
    Simulated(Simulated),
}

/// What a transaction may see, in the words of the policies on Postgres.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Office(OfficeId),
    Platform,
}

impl Scope {
    /// Begins a transaction, sets its scope and runs the first statement, if there is one, in one round trip. The setting
    /// ends with the transaction.
    fn begin(self, begin: &str, first: &'static str) -> AssertSqlSafe<String> {
        // Made of our own words and of a UUID as we print it.
        AssertSqlSafe(match self {
            Self::Office(id) => format!("{begin}; SET LOCAL mi.scope = '{id}'; {first}"),
            Self::Platform => format!("{begin}; SET LOCAL mi.scope = 'platform'; {first}"),
        })
    }
}

type Begun = sqlx::Result<Transaction<'static, Postgres>>;

/// A transaction's beginning, which is brought to its end also when the caller is cancelled meanwhile: sqlx would give
/// the connection back to the pool inside a transaction that it does not know of, and the next user would work in that.
struct Begin(Option<Pin<Box<dyn Future<Output = Begun> + Send>>>);

impl Begin {
    fn new(pool: &PgPool, begin: AssertSqlSafe<String>) -> Self {
        let pool = pool.clone();
        Self(Some(Box::pin(async move { pool.begin_with(begin).await })))
    }
}

impl Future for Begin {
    type Output = Begun;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Begun> {
        let Some(begin) = &mut self.0 else {
            return Poll::Ready(Err(sqlx::Error::PoolClosed));
        };
        let begun = ready!(begin.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(begun)
    }
}

impl Drop for Begin {
    fn drop(&mut self) {
        // The transaction is dropped there as soon as it has begun. Without a runtime the process is ending.
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}

/// A database in the scope of one office.
#[derive(Debug, Clone, Copy)]
pub struct OfficeDb<'a> {
    db: &'a Db,
    office_id: OfficeId,
}

impl OfficeDb<'_> {
    /// A connection for reads.
    pub async fn read(self) -> DbResult<OfficeConn> {
        Ok(OfficeConn { conn: self.db.read(Scope::Office(self.office_id)).await?, office_id: self.office_id })
    }

    /// A connection for statements each of which is a transaction of its own, and makes on Postgres the office its scope
    /// itself: there others see and change no row. On SQLite it is for reads.
    pub async fn bare(self) -> DbResult<OfficeConn> {
        Ok(OfficeConn { conn: self.db.unscoped().await?, office_id: self.office_id })
    }

    /// A write transaction.
    pub async fn begin(self) -> DbResult<OfficeTx> {
        let conn = self.db.begin(Scope::Office(self.office_id), "", false).await?;
        Ok(Tx(OfficeConn { conn, office_id: self.office_id }))
    }

    /// A write transaction for whoever answers nothing, not even from what it reads, before its commit has returned: on SQLite
    /// it may share that with others, of any office, that wait to write. So it waits for nothing but its own statements, and is
    /// not committed after one that failed by anything but a constraint. On Postgres it has locked what this statement names,
    /// without a round trip more: what it reads then was committed by whoever had the lock before.
    /// `current_setting('mi.scope')` is the office, and what the statement answers is not looked at.
    pub async fn begin_sharing(self, lock: &'static str) -> DbResult<OfficeTx> {
        let conn = self.db.begin(Scope::Office(self.office_id), lock, true).await?;
        Ok(Tx(OfficeConn { conn, office_id: self.office_id }))
    }
}

/// A database in the scope of the platform.
#[derive(Debug, Clone, Copy)]
pub struct PlatformDb<'a>(&'a Db);

impl PlatformDb<'_> {
    /// A connection for reads.
    pub async fn read(self) -> DbResult<PlatformConn> {
        Ok(PlatformConn(OfficeConn { conn: self.0.read(Scope::Platform).await?, office_id: NO_OFFICE }))
    }

    /// A write transaction.
    pub async fn begin(self) -> DbResult<PlatformTx> {
        let conn = self.0.begin(Scope::Platform, "", false).await?;
        Ok(Tx(PlatformConn(OfficeConn { conn, office_id: NO_OFFICE })))
    }
}

impl Db {
    /// Opens the database and brings it up to date.
    ///
    /// # Errors
    /// `FailedPrecondition` when the database was migrated by a newer binary or does not keep offices apart, `Unavailable`
    /// when it cannot be reached.
    pub async fn open(target: &DbTarget, migrations: &Migrations) -> Result<Self> {
        match target {
            DbTarget::Sqlite { path } => Self::sqlite(path, migrations).await,
            DbTarget::Postgres { url, schema, process } => {
                let db = Self::postgres(url, schema, migrations).await?;
                Ok(Self { process: process.as_deref().map(Arc::from), ..db })
            }
        }
    }

    async fn sqlite(path: &std::path::Path, migrations: &Migrations) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .pragma("journal_size_limit", "16777216")
            .pragma("cache_size", "-1024")
            // Else a statement that changes more than a few pages makes a file for its own journal, and removes it again.
            .pragma("temp_store", "MEMORY");
        // A file has no connection that may be lost: none is asked whether it still lives.
        let pool = SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
        let pool = pool.idle_timeout(None).max_lifetime(None);
        let open = |error| {
            Error::unavailable(format!(
                "cannot open the database {}; check that the directory exists and is writable",
                path.display()
            ))
            .caused_by(DbError::from(error))
        };
        let write = pool.clone().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
        migrate::run(&write, migrations, |step| step.sqlite).await?;
        let write = Writer::new(write);
        let read = pool.max_connections(4).connect_lazy_with(options.read_only(true));
        Ok(Self {
            pools: Pools::Sqlite { read, write },
            eviction: ConnectionEviction::default(),
            changes: Arc::new(ChangeBus::new("")),
            process: None,
        })
    }

    async fn postgres(url: &str, schema: &'static str, migrations: &Migrations) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::invalid("database", "is not a valid postgres:// URL").caused_by(error))?
            .options([("search_path", schema)])
            .application_name(schema);
        let unreachable = |error| {
            Error::unavailable("cannot reach the Postgres database of --database").caused_by(DbError::from(error))
        };
        let pool = PgPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
        // The walls hold the owner, too: a migration that changes rows works for the platform.
        let as_owner = options.clone().options([("mi.scope", "platform")]).options(MIGRATION_LIMITS);
        let owner = pool.clone().max_connections(1).connect_with(as_owner).await.map_err(unreachable)?;
        sqlx::query(CREATE_SCHEMA).execute(&owner).await.map_err(DbError::from)?;
        service_role::ensure(&owner).await?;
        migrate::run(&owner, migrations, |step| step.postgres).await?;
        service_role::grant(&owner).await?;
        owner.close().await;

        let given = options.get_options().unwrap_or_default().to_owned();
        let limits = LIMITS.into_iter().filter(|(name, _)| !given.contains(&format!("{name}=")));
        let eviction = ConnectionEviction::default();
        let kept = eviction.clone();
        let pool = pool
            .max_connections(16)
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let keeps = kept.keeps(meta.age);
                Box::pin(async move {
                    // A busy connection skips the round trip; one that slept may have lost its server.
                    Ok(keeps && (meta.idle_for < TRUSTED_IDLE || connection.ping().await.is_ok()))
                })
            })
            .connect_with(options.options(limits).options(PLANNING).options([("role", service_role::NAME)]))
            .await
            .map_err(unreachable)?;
        service_role::verify(&pool).await?;
        let changes = Arc::new(ChangeBus::new(schema));
        Ok(Self { pools: Pools::Postgres(pool), eviction, changes, process: None })
    }

    pub(crate) fn over(process: Simulated) -> Self {
        let (eviction, changes) = (ConnectionEviction::default(), Arc::new(ChangeBus::new("")));
        Self { pools: Pools::Simulated(process), eviction, changes, process: None }
    }

    /// The database in the scope of one office: the other offices' rows are not there.
    pub fn office(&self, office_id: OfficeId) -> OfficeDb<'_> {
        OfficeDb { db: self, office_id }
    }

    /// The database in the scope of the platform: every office's rows, and those of none.
    pub fn platform(&self) -> PlatformDb<'_> {
        PlatformDb(self)
    }

    /// A connection without a scope: on Postgres it sees and changes no row of any office.
    pub async fn unscoped(&self) -> DbResult<Conn> {
        let inner = match &self.pools {
            Pools::Sqlite { read, .. } => read.acquire().await.map(Inner::SqlitePooled),
            Pools::Postgres(pool) => pool.acquire().await.map(Inner::PostgresPooled),
            Pools::Simulated(process) => process.read().await.map(Inner::Simulated),
        };
        self.conn(inner)
    }

    async fn read(&self, scope: Scope) -> DbResult<Conn> {
        let inner = match &self.pools {
            Pools::Sqlite { read, .. } => read.acquire().await.map(Inner::SqlitePooled),
            Pools::Postgres(pool) => Begin::new(pool, scope.begin("BEGIN READ ONLY", "")).await.map(Inner::PostgresTx),
            Pools::Simulated(process) => process.read().await.map(Inner::Simulated),
        };
        self.conn(inner)
    }

    async fn begin(&self, scope: Scope, first: &'static str, shares: bool) -> DbResult<Conn> {
        let inner = match &self.pools {
            Pools::Sqlite { write, .. } => write.begin(shares).await.map(Inner::SqliteTurn),
            Pools::Postgres(pool) => Begin::new(pool, scope.begin("BEGIN", first)).await.map(Inner::PostgresTx),
            Pools::Simulated(process) => process.begin().await.map(Inner::Simulated),
        };
        self.conn(inner)
    }

    fn conn(&self, inner: sqlx::Result<Inner>) -> DbResult<Conn> {
        let seam = match &self.pools {
            Pools::Simulated(process) => Some(process.seam.clone()),
            Pools::Sqlite { .. } | Pools::Postgres(_) => None,
        };
        Ok(Conn::new(self.eviction.heed(inner)?, self.eviction.clone(), seam))
    }

    pub(crate) fn eviction(&self) -> &ConnectionEviction {
        &self.eviction
    }

    pub(crate) fn postgres_pool(&self) -> Option<&PgPool> {
        match &self.pools {
            Pools::Sqlite { .. } | Pools::Simulated(_) => None,
            Pools::Postgres(pool) => Some(pool),
        }
    }

    /// Whether other processes may write to the same tables, so that in-process signals are not enough.
    pub fn is_shared(&self) -> bool {
        matches!(self.pools, Pools::Postgres(_) | Pools::Simulated(_))
    }

    /// Whether the database answers, for whoever asks whether this process is ready.
    pub async fn answers(self) -> bool {
        self.platform().read().await.is_ok()
    }

    /// Closes all connections; SQLite's log is folded into its file.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
            Pools::Simulated(_) => {}
        }
    }
}
