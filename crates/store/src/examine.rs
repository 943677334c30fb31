//! A database looked at from outside, as it was given, before anything is kept there.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use mi_kernel::{Error, Result};
use sqlx::{Connection, PgConnection, SqliteConnection, postgres::PgConnectOptions, sqlite::SqliteConnectOptions};
use tokio::time::timeout;

use crate::DbError;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Round trips that are measured; the fastest one counts.
const ROUNDS: usize = 5;
/// What a service needs: schemas of its own, and the role that it works as.
const LACKING: &str = "SELECT CASE
    WHEN NOT has_database_privilege(current_database(), 'CREATE')
        THEN 'the user may not make schemas in this database (CREATE)'
    WHEN NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mi_service')
        AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole))
        THEN 'the user may not make the role mi_service (CREATEROLE)'
    END";

/// What was found.
#[derive(Debug)]
pub struct Examined {
    /// Which database it is, and of which version.
    pub version: String,
    /// How long a round trip takes.
    pub latency: Duration,
    /// A right that is not there.
    pub lacking: Option<String>,
}

/// Looks at the database of this `postgres://` URL; none: at SQLite as it is built in. A row is written, read and
/// deleted in a table that nobody else sees and that is gone afterwards.
///
/// # Errors
/// `Invalid` when it is no such URL, `Unavailable` when the server does not answer or refuses.
pub async fn examine(url: Option<&str>) -> Result<Examined> {
    let looked = async {
        match url {
            None => sqlite().await,
            Some(url) => postgres(url).await,
        }
    };
    match timeout(LIMIT, looked).await {
        Ok(found) => found,
        Err(_) => Err(Error::unavailable(format!("the database did not answer within {} s", LIMIT.as_secs()))),
    }
}

async fn sqlite() -> Result<Examined> {
    let options = SqliteConnectOptions::new().in_memory(true);
    let mut conn = SqliteConnection::connect_with(&options).await.map_err(DbError::from)?;
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut conn).await.map_err(DbError::from)?;
    let ask = async || sqlx::query_scalar("SELECT 1").fetch_one(&mut conn).await;
    let latency = fastest(ask).await.map_err(DbError::from)?;
    conn.close().await.map_err(DbError::from)?;
    Ok(Examined { version: format!("SQLite {version}"), latency, lacking: None })
}

async fn postgres(url: &str) -> Result<Examined> {
    let invalid =
        || Error::invalid("database", "must be a postgres:// URL; leave it out for SQLite in the data directory");
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(invalid());
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| invalid().caused_by(error))?;
    let unreachable =
        |error| Error::unavailable("cannot reach the Postgres database of --database").caused_by(DbError::from(error));
    let options = options.application_name("mi_doctor");
    let mut conn = PgConnection::connect_with(&options).await.map_err(unreachable)?;
    let version: String =
        sqlx::query_scalar("SHOW server_version").fetch_one(&mut conn).await.map_err(DbError::from)?;
    let lacking = sqlx::query_scalar(LACKING).fetch_one(&mut conn).await.map_err(DbError::from)?;
    round_trip(&mut conn).await.map_err(DbError::from)?;
    let ask = async || sqlx::query_scalar("SELECT 1").fetch_one(&mut conn).await;
    let latency = fastest(ask).await.map_err(DbError::from)?;
    conn.close().await.map_err(DbError::from)?;
    Ok(Examined { version: format!("Postgres {version}"), latency, lacking })
}

/// How long the fastest of a few round trips takes.
async fn fastest(mut ask: impl AsyncFnMut() -> sqlx::Result<i32>) -> sqlx::Result<Duration> {
    let mut fastest = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        ask().await?;
        fastest = fastest.min(started.elapsed());
    }
    Ok(fastest)
}

async fn round_trip(conn: &mut PgConnection) -> sqlx::Result<()> {
    let mut tx = conn.begin().await?;
    sqlx::query("CREATE TEMPORARY TABLE mi_doctor (n integer) ON COMMIT DROP").execute(&mut *tx).await?;
    sqlx::query("INSERT INTO mi_doctor VALUES (42)").execute(&mut *tx).await?;
    let found: i32 = sqlx::query_scalar("SELECT n FROM mi_doctor").fetch_one(&mut *tx).await?;
    sqlx::query("DELETE FROM mi_doctor WHERE n = $1").bind(found).execute(&mut *tx).await?;
    tx.rollback().await
}
