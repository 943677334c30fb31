//! A fresh database for one test, on either backend.

use std::{env, thread};

use mi_kernel::OfficeId;
use mi_store::DbTarget;
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

/// Names the Postgres server; `cargo xtask test` sets it.
const SERVER: &str = "MI_TEST_POSTGRES";
/// The schema of the tests of [`on_both!`](crate::on_both).
const SCHEMA: &str = "mi_test";

/// The databases that tests run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backend {
    /// SQLite, in a file of its own.
    #[default]
    Sqlite,
    /// A database on the server of `MI_TEST_POSTGRES`.
    Postgres,
}

/// An empty database of its own, gone with this value.
///
/// SQLite is a file and never `:memory:`, which would belong to one connection and so hide what readers see of writers.
#[derive(Debug)]
pub struct TestDb {
    target: DbTarget,
    keep: Keep,
}

/// What has to be removed at the end.
#[derive(Debug)]
enum Keep {
    File(#[expect(dead_code, reason = "removes the directory when dropped")] TempDir),
    Database { server: Url, name: String, url: Url },
}

impl TestDb {
    /// An empty database; on Postgres its tables go into this schema.
    ///
    /// # Panics
    /// When it cannot be made. On Postgres that includes a missing `MI_TEST_POSTGRES`: a test that skipped itself
    /// would count as passed.
    pub async fn new(backend: Backend, schema: &'static str) -> Self {
        match backend {
            Backend::Sqlite => {
                let dir = TempDir::with_prefix("mi-test-").expect("a temporary directory can be made");
                let target = DbTarget::Sqlite { path: dir.path().join("test.db") };
                Self { target, keep: Keep::File(dir) }
            }
            Backend::Postgres => Self::on_server(&server(env::var(SERVER).ok()), schema).await,
        }
    }

    /// As [`TestDb::new`], with a schema that has no meaning.
    pub async fn plain(backend: Backend) -> Self {
        Self::new(backend, SCHEMA).await
    }

    /// An empty database on the Postgres server at this URL; its tables go into this schema.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn on_server(server: &str, schema: &'static str) -> Self {
        let server = Url::parse(server).unwrap_or_else(|error| panic!("{server:?} is not a URL: {error}"));
        let name = format!("mi_test_{}", Uuid::new_v4().simple());
        // template0: nobody can be connected to it, so that tests may create databases at the same time.
        execute(&server, format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap_or_else(|error| panic!("cannot create a database on {server}: {error}"));
        let mut url = server.clone();
        url.set_path(&name);
        Self {
            target: DbTarget::Postgres { url: url.to_string(), schema, process: None },
            keep: Keep::Database { server, name, url },
        }
    }

    /// The same database, with a setting of its own for the connections of whoever opens it from now on; nothing on SQLite.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        if let DbTarget::Postgres { url, .. } = &mut self.target {
            let separator = if url.contains('?') { '&' } else { '?' };
            *url = format!("{url}{separator}options[{name}]={value}");
        }
        self
    }

    /// From now on the database refuses to delete rows of this office from the table.
    ///
    /// # Panics
    /// When there is no such table yet.
    pub async fn refuse_deletes(&self, table: &str, office_id: OfficeId) {
        let made = match &self.target {
            DbTarget::Sqlite { path } => {
                let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display()))
                    .await
                    .expect("the database can be opened");
                let sql = format!(
                    "CREATE TRIGGER refuse_{table} BEFORE DELETE ON {table} WHEN OLD.office_id = x'{}'
                     BEGIN SELECT RAISE(ABORT, 'as told'); END",
                    office_id.0.simple()
                );
                connection.execute(sqlx::AssertSqlSafe(sql)).await.map(drop)
            }
            DbTarget::Postgres { url, schema, .. } => {
                let sql = format!(
                    "SET search_path TO {schema};
                     CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS
                         $$ BEGIN RAISE EXCEPTION 'as told'; END $$;
                     CREATE TRIGGER refuse_{table} BEFORE DELETE ON {table} FOR EACH ROW
                         WHEN (OLD.office_id = '{office_id}') EXECUTE FUNCTION refuse_{table}()"
                );
                execute(&Url::parse(url).expect("its own URL"), sql).await
            }
        };
        made.unwrap_or_else(|error| panic!("deletes from {table} cannot be refused: {error}"));
    }

    /// Where it is, for `Db::open`.
    pub fn target(&self) -> &DbTarget {
        &self.target
    }

    /// Which kind it is.
    pub fn backend(&self) -> Backend {
        match self.target {
            DbTarget::Sqlite { .. } => Backend::Sqlite,
            DbTarget::Postgres { .. } => Backend::Postgres,
        }
    }

    /// `postgres://...` of a Postgres database, for `--database`.
    pub fn url(&self) -> Option<&str> {
        match &self.keep {
            Keep::File(_) => None,
            Keep::Database { url, .. } => Some(url.as_str()),
        }
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let Keep::Database { server, name, .. } = &self.keep else {
            return;
        };
        let (server, drop) = (server.clone(), format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        // A thread with its own runtime: this one may be in the middle of a test's runtime, which cannot be blocked on.
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(execute(&server, drop)))
        });
        // Best effort: what stays behind goes with the server of the test run.
        if let Ok(Ok(Err(error))) = dropping.join() {
            eprintln!("the test database {name} stays behind: {error}");
        }
    }
}

async fn execute(server: &Url, sql: String) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(server.as_str()).await?;
    connection.execute(sqlx::AssertSqlSafe(sql)).await?;
    connection.close().await
}

/// The server to use.
fn server(setting: Option<String>) -> String {
    setting.unwrap_or_else(|| {
        panic!(
            "this test needs Postgres: run it with `cargo xtask test`, which starts a server, \
             or set {SERVER}=postgres://USER@HOST:PORT/postgres to a server where databases may be created"
        )
    })
}

/// What a test of [`on_both!`](crate::on_both) can ask for.
pub trait OnBackend: Sized {
    /// Makes it on this database.
    fn on(backend: Backend) -> impl Future<Output = Self>;
}

impl OnBackend for Backend {
    async fn on(backend: Backend) -> Self {
        backend
    }
}

impl OnBackend for TestDb {
    async fn on(backend: Backend) -> Self {
        Self::plain(backend).await
    }
}

/// One test of [`on_both!`](crate::on_both) on this database.
#[doc(hidden)]
pub async fn run_on<D: OnBackend>(backend: Backend, test: impl AsyncFnOnce(D)) {
    test(D::on(backend).await).await;
}

/// Runs each test on both databases: of `async fn name(db: TestDb)`, it makes `name::sqlite` and `name::postgres`.
///
/// A test that makes its own database, or starts a [`Platform`](crate::Platform), takes a [`Backend`] instead.
///
/// ```ignore
/// mi_testkit::on_both! { a_change_is_there_afterwards, two_writers_take_turns }
/// ```
#[macro_export]
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        $(
            mod $test {
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    $crate::run_on($crate::Backend::Sqlite, super::$test).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    $crate::run_on($crate::Backend::Postgres, super::$test).await;
                }
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    use mi_store::{Db, Migrations, Step, on};

    use super::*;

    on_both! { keeps_what_is_written, is_nobody_elses, a_test_may_take_the_backend }

    const ROWS: &str = "SELECT count(*) FROM things";

    const MIGRATIONS: &Migrations = &[Step {
        version: 100,
        name: "things",
        sqlite: "CREATE TABLE things (id INTEGER)",
        postgres: "CREATE TABLE things (id INTEGER)",
    }];

    /// Opens it as a service with a table does, and adds a row.
    async fn with_a_row(db: &TestDb) -> Db {
        let open = Db::open(db.target(), MIGRATIONS).await.expect("opens");
        let mut tx = open.platform().begin().await.expect("begins");
        on!(tx, |c| sqlx::query("INSERT INTO things VALUES (1)").execute(&mut *c).await.map(drop)).expect("writes");
        tx.commit().await.expect("commits");
        open
    }

    async fn rows(db: &Db) -> sqlx::Result<i64> {
        let mut conn = db.platform().read().await.expect("connects");
        on!(conn, |c| sqlx::query_scalar(ROWS).fetch_one(&mut *c).await)
    }

    async fn keeps_what_is_written(db: TestDb) {
        with_a_row(&db).await.close().await;
        let again = Db::open(db.target(), MIGRATIONS).await.expect("opens again");
        assert_eq!(rows(&again).await.expect("the table is there"), 1);
        assert_eq!(db.url().is_some(), db.backend() == Backend::Postgres);
    }

    async fn a_test_may_take_the_backend(backend: Backend) {
        assert_eq!(TestDb::new(backend, "office").await.backend(), backend);
    }

    async fn is_nobody_elses(db: TestDb) {
        let open = with_a_row(&db).await;
        let other = TestDb::plain(db.backend()).await;
        let other = Db::open(other.target(), &[]).await.expect("opens");
        assert!(rows(&other).await.is_err(), "the other database has the table of this one");
        assert_eq!(rows(&open).await.expect("the table is there"), 1);
    }

    #[tokio::test]
    async fn a_postgres_database_goes_with_its_value_even_while_connected() {
        let db = TestDb::plain(Backend::Postgres).await;
        let url = db.url().expect("Postgres").to_owned();
        let _connected = Db::open(db.target(), &[]).await.expect("opens");
        drop(db);
        let error = PgConnection::connect(&url).await.expect_err("the database is gone");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }

    #[test]
    fn without_a_server_the_test_fails_and_says_how_to_run_it() {
        let panic = std::panic::catch_unwind(|| server(None)).expect_err("panics");
        let text = panic.downcast::<String>().expect("panics with a text");
        assert!(text.contains("`cargo xtask test`"), "{text}");
    }
}
