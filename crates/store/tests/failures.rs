//! A full disk, a database that goes away, and clashes: each answers its own kind of error, and passes.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::time::{Duration, Instant};

use mi_kernel::{Error, ErrorKind};
use mi_store::{Db, DbResult, Step, on};
use mi_testkit::{Backend, TestDb, on_both, until};
use sqlx::{Connection, Executor, PgConnection};
use url::Url;

const MIGRATIONS: &[Step] = &[Step {
    version: 100,
    name: "things",
    sqlite: "CREATE TABLE things (id INTEGER PRIMARY KEY, content TEXT NOT NULL)",
    postgres: "CREATE TABLE things (id INTEGER PRIMARY KEY, content TEXT NOT NULL)",
}];
const LONG: Duration = Duration::from_secs(60);

on_both! { a_violated_uniqueness_is_the_callers_to_name, writers_take_turns }

async fn open(database: &TestDb) -> Db {
    Db::open(database.target(), MIGRATIONS).await.expect("opens")
}

async fn insert(db: &Db, id: i32, content: &str) -> DbResult<()> {
    let mut tx = db.platform().begin().await?;
    on!(tx, |c| {
        sqlx::query("INSERT INTO things VALUES ($1, $2)").bind(id).bind(content).execute(&mut *c).await.map(drop)
    })?;
    tx.commit().await
}

async fn ids(db: &Db) -> DbResult<Vec<i32>> {
    let mut conn = db.platform().read().await?;
    Ok(on!(conn, |c| sqlx::query_scalar("SELECT id FROM things ORDER BY id").fetch_all(&mut *c).await)?)
}

async fn a_violated_uniqueness_is_the_callers_to_name(database: TestDb) {
    let db = open(&database).await;
    insert(&db, 1, "first").await.expect("inserts");
    let named = || Error::already_exists("thing", 1);
    let error = insert(&db, 1, "second").await.expect_err("doubled").unique_or(named);
    assert_eq!((error.kind, error.resource), (ErrorKind::AlreadyExists, Some(("thing", "1".into()))));
    let unnamed: Error = insert(&db, 1, "second").await.expect_err("doubled").into();
    assert_eq!(unnamed.kind, ErrorKind::Internal);
    assert!(!unnamed.message.contains("things"), "{unnamed}");
    let mut conn = db.platform().read().await.expect("connects");
    let broken = on!(conn, |c| sqlx::query("SELECT nonsense").execute(&mut *c).await.map(drop));
    let other = mi_store::DbError::from(broken.expect_err("no such column")).unique_or(named);
    assert_eq!(other.kind, ErrorKind::Internal);
}

async fn writers_take_turns(database: TestDb) {
    let db = open(&database).await;
    let writers = (0..24).map(|id| {
        let db = db.clone();
        tokio::spawn(async move { insert(&db, id, "x").await })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("no panic").expect("no writer fails busy");
    }
    assert_eq!(ids(&db).await.expect("reads"), (0..24).collect::<Vec<_>>());
}

/// Forbids the writer's connection to let the file grow.
async fn fill_up(db: &Db) {
    let mut tx = db.platform().begin().await.expect("begins");
    // Below what is in use already: SQLite takes the size in use.
    on!(tx, |c| sqlx::query("PRAGMA max_page_count = 1").execute(&mut *c).await.map(drop)).expect("sets");
    tx.commit().await.expect("commits");
}

async fn insert_both(db: &Db, rows: [(i32, &str); 2]) -> DbResult<()> {
    let mut tx = db.platform().begin().await?;
    for (id, content) in rows {
        on!(tx, |c| {
            sqlx::query("INSERT INTO things VALUES ($1, $2)").bind(id).bind(content).execute(&mut *c).await.map(drop)
        })?;
    }
    tx.commit().await
}

#[tokio::test]
async fn a_full_sqlite_says_so_changes_nothing_and_recovers() {
    let database = TestDb::plain(Backend::Sqlite).await;
    let db = open(&database).await;
    insert(&db, 1, "fits").await.expect("inserts");
    let large = "x".repeat(1 << 20);
    let mut kept = vec![1];
    for round in 10..13 {
        fill_up(&db).await;
        let error: Error = insert_both(&db, [(2, "small"), (3, &large)]).await.expect_err("full").into();
        assert_eq!((error.kind, error.reason), (ErrorKind::Exhausted, "STORAGE_FULL"), "{round}: {}", error.chain());
        assert!(error.retry_after.is_some());
        assert_eq!(ids(&db).await.expect("reads work"), kept);
        // There is room again: nothing of the failure is left, and the writer works.
        insert(&db, round, &large).await.expect("inserts");
        kept.push(round);
        assert_eq!(ids(&db).await.expect("reads"), kept);
    }
}

/// Takes a Postgres database away from everybody, and gives it back.
struct Switch {
    server: PgConnection,
    name: String,
}

impl Switch {
    async fn of(database: &TestDb) -> Self {
        let mut url = Url::parse(database.url().expect("Postgres")).expect("a URL");
        let name = url.path().trim_start_matches('/').to_owned();
        url.set_path("/postgres");
        let server = PgConnection::connect(url.as_str()).await.expect("connects");
        Self { server, name }
    }

    async fn turn(&mut self, on: bool) {
        let name = &self.name;
        let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {on}");
        self.server.execute(sqlx::AssertSqlSafe(allow)).await.expect("alters");
        if !on {
            let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
            self.server.execute(sqlx::AssertSqlSafe(end)).await.expect("ends");
        }
    }

    /// From now on new connections, and only they, write or do not: a failover as a proxy in front of two servers
    /// shows it.
    async fn fail_over(&mut self, writable: bool) {
        let (name, only) = (&self.name, if writable { "off" } else { "on" });
        let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = {only}");
        self.server.execute(sqlx::AssertSqlSafe(set)).await.expect("alters");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_gone_answers_unavailable_in_time_and_is_found_again() {
    let database = TestDb::plain(Backend::Postgres).await;
    let db = open(&database).await;
    insert(&db, 1, "before").await.expect("inserts");
    // Several connections that do not know yet that they are dead.
    futures::future::join_all((0..6).map(|_| ids(&db))).await;
    let mut switch = Switch::of(&database).await;
    switch.turn(false).await;
    for round in 0..3 {
        let started = Instant::now();
        let (read, write) = tokio::join!(ids(&db), insert(&db, 2, "meanwhile"));
        let errors: [Error; 2] = [read.expect_err("gone").into(), write.expect_err("gone").into()];
        for error in errors {
            assert_eq!(error.kind, ErrorKind::Unavailable, "round {round}: {}", error.chain());
            assert!(error.retryable());
        }
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
    let error = Db::open(database.target(), MIGRATIONS).await.expect_err("gone at the start, too");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());

    switch.turn(true).await;
    let back = until("the same pool works again", LONG, async || ids(&db).await.map(Some)).await;
    assert_eq!(back, [1]);
    insert(&db, 2, "after").await.expect("inserts");
    assert_eq!(ids(&db).await.expect("reads"), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_takes_no_writes_answers_unavailable_and_its_connections_are_given_up() {
    let database = TestDb::plain(Backend::Postgres).await;
    let db = open(&database).await;
    insert(&db, 1, "before").await.expect("inserts");
    let mut switch = Switch::of(&database).await;
    switch.fail_over(false).await;
    switch.turn(false).await;
    switch.turn(true).await;
    let read_only = async || match insert(&db, 2, "meanwhile").await {
        Ok(()) => panic!("the database is read-only"),
        Err(error) => {
            let error = Error::from(error);
            assert_eq!((error.kind, error.reason), (ErrorKind::Unavailable, "UNAVAILABLE"), "{}", error.chain());
            assert!(error.retry_after.is_some() && error.retryable());
            // Before, the connections are told that their server ended.
            Ok::<_, Error>(error.chain().contains("read-only transaction").then_some(()))
        }
    };
    until("writes meet the read-only server", LONG, read_only).await;
    assert_eq!(ids(&db).await.expect("reads work"), [1]);
    let error = Db::open(database.target(), MIGRATIONS).await.expect_err("a start has to write");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());

    // Connections that are open stay read-only for good.
    switch.fail_over(true).await;
    until("the same pool writes again", LONG, async || insert(&db, 2, "after").await.map(Some)).await;
    assert_eq!(ids(&db).await.expect("reads"), [1, 2]);
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let target = mi_store::DbTarget::Sqlite { path: "/nonexistent/mi/test.db".into() };
    let error = Db::open(&target, MIGRATIONS).await.expect_err("no directory");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("/nonexistent/mi/test.db"), "{error}");
    let target = mi_store::DbTarget::Postgres { url: "nonsense".into(), schema: "mi", process: None };
    let error = Db::open(&target, MIGRATIONS).await.expect_err("no URL");
    assert_eq!((error.kind, error.field), (ErrorKind::Invalid, Some("database")));
}

/// How long `work` takes, which must answer UNAVAILABLE.
async fn unavailable_after<T: std::fmt::Debug>(work: impl Future<Output = DbResult<T>>) -> Duration {
    let started = Instant::now();
    let error: Error = work.await.expect_err("held up").into();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_nobody_waits_for_ever_for_whoever_holds_a_row() {
    let database = TestDb::plain(Backend::Postgres).await.set("lock_timeout", "300ms").set("statement_timeout", "3s");
    let db = open(&database).await;
    insert(&db, 1, "kept").await.expect("inserts");
    // A process that is frozen in the middle of a transaction.
    let mut frozen = PgConnection::connect(database.url().expect("Postgres")).await.expect("connects");
    frozen.execute("SET search_path = mi_test; SET mi.scope = 'platform'; BEGIN").await.expect("begins");
    frozen.execute("UPDATE things SET content = 'held' WHERE id = 1").await.expect("locks");
    let update = async || {
        let mut tx = db.platform().begin().await?;
        on!(tx, |c| sqlx::query("UPDATE things SET content = 'new'").execute(&mut *c).await.map(drop))?;
        tx.commit().await
    };
    let waited = unavailable_after(update()).await;
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    let sleep = async || {
        let mut conn = db.platform().read().await?;
        Ok(on!(conn, |c| sqlx::query("SELECT pg_sleep(60)").execute(&mut *c).await.map(drop))?)
    };
    let waited = unavailable_after(sleep()).await;
    assert!((Duration::from_secs(3)..Duration::from_secs(30)).contains(&waited), "{waited:?}");
    insert(&db, 2, "others go on").await.expect("inserts");
    frozen.execute("ROLLBACK").await.expect("wakes");
    update().await.expect("updates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_transaction_that_does_nothing_is_ended_by_the_server() {
    let database = TestDb::plain(Backend::Postgres).await.set("idle_in_transaction_session_timeout", "1s");
    let db = open(&database).await;
    insert(&db, 1, "kept").await.expect("inserts");
    let mut idle = db.platform().begin().await.expect("begins");
    on!(idle, |c| sqlx::query("UPDATE things SET content = 'held'").execute(&mut *c).await.map(drop)).expect("locks");
    // Waits for the lock until the other one is ended.
    let mut tx = db.platform().begin().await.expect("begins");
    on!(tx, |c| sqlx::query("UPDATE things SET content = 'new'").execute(&mut *c).await.map(drop)).expect("updates");
    tx.commit().await.expect("commits");
    let late = on!(idle, |c| sqlx::query("SELECT 1").execute(&mut *c).await.map(drop));
    let error: Error = mi_store::DbError::from(late.expect_err("ended")).into();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    drop(idle);
    assert_eq!(ids(&db).await.expect("reads"), [1]);
}

#[tokio::test]
async fn on_postgres_connections_have_limits_and_a_migration_takes_its_time() {
    const SLOW: &[Step] = &[Step { version: 100, name: "slow", sqlite: "SELECT 1", postgres: "SELECT pg_sleep(0.5)" }];
    let database = TestDb::plain(Backend::Postgres).await.set("statement_timeout", "100ms");
    let db = Db::open(database.target(), SLOW).await.expect("a migration takes its time");
    let mut conn = db.platform().read().await.expect("connects");
    let sql = "SELECT array_agg(current_setting(name) ORDER BY place) FROM unnest(ARRAY['lock_timeout',
        'statement_timeout', 'idle_in_transaction_session_timeout', 'tcp_keepalives_idle', 'tcp_keepalives_interval',
        'tcp_keepalives_count', 'tcp_user_timeout']) WITH ORDINALITY AS s (name, place)";
    let mi_store::Arm::Postgres(c) = conn.arm() else { panic!("Postgres") };
    let settings: Vec<String> = sqlx::query_scalar(sql).fetch_one(c).await.expect("answers");
    assert_eq!(settings, ["10s", "100ms", "30s", "30", "10", "3", "60000"]);
}
