//! Schema changes: numbered, applied in order under a lock, never by an older binary over a newer schema. Older processes go on
//! working meanwhile and after it.

use std::{borrow::Cow, time::Duration};

use mi_kernel::{Error, Result};
use sqlx::{
    Database, Pool, SqlStr,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};
use tokio::time::sleep;

/// How often it is tried to get what others have: the lock of another process that migrates, or a table. With the time of each
/// try this makes ten minutes.
const MAX_TRIES: u32 = 200;
/// Between two tries, for those who wait behind them.
const PAUSE: Duration = Duration::from_secs(1);

/// One schema change, written for both databases under one number.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Grows; the services' own numbers start at 100.
    pub version: i64,
    /// What it does, in two words.
    pub name: &'static str,
    /// Text for SQLite.
    pub sqlite: &'static str,
    /// Text for Postgres.
    pub postgres: &'static str,
}

/// Pairs the two files of a schema change: `step!(100, "agents")` is `migrations/{sqlite,postgres}/0100_agents.sql`.
#[macro_export]
macro_rules! step {
    ($version:literal, $file:literal, $name:literal) => {
        $crate::Step {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../migrations/sqlite/", $file, "_", $name, ".sql")),
            postgres: include_str!(concat!("../migrations/postgres/", $file, "_", $name, ".sql")),
        }
    };
}

/// A service's schema changes.
pub type Migrations = [Step];

const COMMON: &Migrations = &[
    step!(1, "0001", "common"),
    step!(2, "0002", "outbox_office"),
    step!(3, "0003", "office_wall"),
    step!(4, "0004", "outbox_json"),
    step!(5, "0005", "outbox_rows"),
];

/// Brings the database of this pool up to date.
pub(crate) async fn run<D>(pool: &Pool<D>, own: &Migrations, text: fn(&Step) -> &'static str) -> Result<()>
where
    D: Database,
    D::Connection: Migrate,
{
    let migrations = COMMON.iter().chain(own).map(|step| {
        let sql = text(step);
        Migration::new(step.version, Cow::Borrowed(step.name), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    let mut tries = 1;
    let outcome = loop {
        match migrator.run(pool).await {
            Err(error) if waited(&error) && tries < MAX_TRIES => {
                tracing::info!(target: "mi::store", %error, tries, "the schema cannot be changed yet; others use it");
                tries += 1;
                sleep(PAUSE).await;
            }
            outcome => break outcome,
        }
    };
    outcome.map_err(|error| match error {
        MigrateError::VersionMissing(version) => Error::precondition(
            "DATABASE_NEWER",
            format!("the database is at version {version}, which this binary does not know; use the newer binary"),
        ),
        MigrateError::VersionMismatch(version) => Error::precondition(
            "DATABASE_DIFFERS",
            format!("migration {version} of the database differs from this binary's; it was made by another build"),
        ),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => crate::DbError::from(error).into(),
        other => Error::internal(other),
    })
}

/// Whether a lock was not to be had in time.
fn waited(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return false };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
