//! What a platform writes to its databases, as seen from outside.
//!
//! On SQLite the log tells each commit and each page that it wrote; it is emptied first, so that all in it is new. On
//! Postgres the server counts rows by table, and the transactions that were given a number, which are those that write:
//! of the whole server, which nobody else should use meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mi_testkit::Platform;
use sqlx::{Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::Result;

/// Each service has a file.
const FILES: &[&str] = &["office", "scheduler", "activity"];
/// How long another may write.
const PATIENCE: Duration = Duration::from_secs(10);
const ROWS: &str = "SELECT schemaname || '.' || relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables";
const NUMBERED: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
/// Tables have indexes, which are pages of theirs, too.
const PAGES: &str = "SELECT pageno, coalesce(tbl_name, dbstat.name) FROM dbstat
    LEFT JOIN sqlite_schema ON sqlite_schema.name = dbstat.name";

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) transactions: u64,
    /// Rows by table; of SQLite, pages.
    pub(crate) tables: BTreeMap<String, u64>,
}

/// What is written from a beginning on.
pub(crate) enum Writes {
    Sqlite(Vec<File>),
    Postgres { connection: PgConnection, transactions: u64, rows: BTreeMap<String, u64> },
}

/// One database of SQLite.
pub(crate) struct File {
    name: &'static str,
    log: PathBuf,
    connection: SqliteConnection,
}

impl Writes {
    pub(crate) async fn open(platform: &Platform) -> Result<Self> {
        if let Some(url) = platform.database_url() {
            let connection = PgConnection::connect(url).await?;
            return Ok(Self::Postgres { connection, transactions: 0, rows: BTreeMap::new() });
        }
        let mut files = Vec::new();
        for name in FILES {
            let options = SqliteConnectOptions::new().filename(platform.data_dir().join(format!("{name}.db")));
            let connection = SqliteConnection::connect_with(&options.busy_timeout(PATIENCE)).await?;
            files.push(File { name, log: platform.data_dir().join(format!("{name}.db-wal")), connection });
        }
        Ok(Self::Sqlite(files))
    }

    /// Counts from now on.
    pub(crate) async fn begin(&mut self) -> Result {
        match self {
            Self::Sqlite(files) => {
                for file in files {
                    let emptied = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut file.connection);
                    let (busy, _, _): (i64, i64, i64) = emptied.await?;
                    if busy != 0 {
                        return Err(format!("the log of {} is in use", file.name).into());
                    }
                }
            }
            Self::Postgres { connection, transactions, rows } => (*transactions, *rows) = counted(connection).await?,
        }
        Ok(())
    }

    /// What was written since the beginning.
    pub(crate) async fn since(&mut self) -> Result<Written> {
        let mut written = Written::default();
        match self {
            Self::Sqlite(files) => {
                for file in files {
                    let (commits, pages) = log(&file.log)?;
                    written.transactions += commits;
                    let names: Vec<(i64, String)> = sqlx::query_as(PAGES).fetch_all(&mut file.connection).await?;
                    let names: HashMap<i64, String> = names.into_iter().collect();
                    for page in pages {
                        let table = names.get(&i64::from(page)).map_or("its own pages", String::as_str);
                        *written.tables.entry(format!("{}.{table}", file.name)).or_default() += 1;
                    }
                }
            }
            Self::Postgres { connection, transactions, rows } => {
                let (number, counts) = counted(connection).await?;
                written.transactions = number - *transactions;
                let changes = counts.into_iter().map(|(table, count)| {
                    let before = rows.get(&table).copied().unwrap_or_default();
                    (table, count - before)
                });
                written.tables = changes.filter(|(_, count)| *count > 0).collect();
            }
        }
        Ok(written)
    }
}

async fn counted(connection: &mut PgConnection) -> Result<(u64, BTreeMap<String, u64>)> {
    let number: i64 = sqlx::query_scalar(NUMBERED).fetch_one(&mut *connection).await?;
    let rows: Vec<(String, i64)> = sqlx::query_as(ROWS).fetch_all(connection).await?;
    let rows = rows.into_iter().map(|(table, count)| Ok((table, u64::try_from(count)?))).collect::<Result<_>>()?;
    Ok((u64::try_from(number)?, rows))
}

/// Commits in a log of SQLite, and the pages that they wrote, in the format of sqlite.org/fileformat.html#walformat.
fn log(path: &Path) -> Result<(u64, Vec<u32>)> {
    const HEADER: usize = 32;
    const FRAME: usize = 24;
    let bytes = fs::read(path)?;
    let (mut commits, mut pages) = (0, Vec::new());
    if bytes.len() < HEADER {
        return Ok((commits, pages));
    }
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (page_size, salts) = (usize::try_from(number(8))?, &bytes[16..24]);
    let frames = (HEADER..).step_by(FRAME + page_size).take_while(|at| at + FRAME + page_size <= bytes.len());
    // Behind the last frame of this log there may be some of one before.
    for at in frames.take_while(|at| bytes[at + 8..at + 16] == *salts) {
        pages.push(number(at));
        commits += u64::from(number(at + 4) != 0);
    }
    Ok((commits, pages))
}

#[cfg(test)]
mod tests {
    use sqlx::Executor;

    use super::*;

    #[tokio::test]
    async fn a_log_tells_commits_and_tables() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("office.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let options = options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let mut writer = SqliteConnection::connect_with(&options).await.expect("opens");
        writer.execute("CREATE TABLE one (n INTEGER); CREATE TABLE other (n INTEGER UNIQUE)").await.expect("made");
        let connection = SqliteConnection::connect_with(&options).await.expect("opens");
        let log = dir.path().join("office.db-wal");
        let mut writes = Writes::Sqlite(vec![File { name: "office", log, connection }]);

        writes.begin().await.expect("begins");
        assert_eq!(writes.since().await.expect("reads"), Written::default());
        writer.execute("INSERT INTO one VALUES (1)").await.expect("written");
        writer.execute("INSERT INTO other VALUES (1)").await.expect("written");
        writer.execute("UPDATE one SET n = 2").await.expect("written");
        let tables = BTreeMap::from([("office.one".to_owned(), 2), ("office.other".to_owned(), 2)]);
        assert_eq!(writes.since().await.expect("reads"), Written { transactions: 3, tables });

        writes.begin().await.expect("begins");
        assert_eq!(writes.since().await.expect("reads"), Written::default());
    }
}
