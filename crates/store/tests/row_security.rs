//! The second wall: on Postgres each transaction sees the rows of its own scope, and the scope ends with it.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::time::Duration;

use futures::FutureExt;
use mi_kernel::ErrorKind;
use mi_store::{Arm, Conn, Db, Migrations, Step};
use mi_testkit::{Backend, RowSecurity, TestDb, on_both, until};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

on_both! { a_table_of_offices_rows_without_a_wall_is_refused }

const LONG: Duration = Duration::from_secs(60);

const TABLE: &str = "CREATE TABLE things (id uuid PRIMARY KEY, office_id uuid NOT NULL)";
const MIGRATIONS: &Migrations = &[
    Step { version: 100, name: "things", sqlite: "SELECT 1", postgres: TABLE },
    Step { version: 101, name: "wall", sqlite: "SELECT 1", postgres: "SELECT office_wall('things', 'office_id')" },
];

async fn open(database: &TestDb) -> Db {
    Db::open(database.target(), MIGRATIONS).await.expect("opens")
}

async fn planted() -> (TestDb, Db, RowSecurity) {
    let database = TestDb::plain(Backend::Postgres).await;
    let db = open(&database).await;
    let walls = RowSecurity::plant(&database, &[]).await;
    (database, db, walls)
}

fn postgres(conn: &mut Conn) -> &mut PgConnection {
    match conn.arm() {
        Arm::Postgres(conn) => conn,
        Arm::Sqlite(_) => panic!("Postgres"),
    }
}

async fn a_table_of_offices_rows_without_a_wall_is_refused(database: TestDb) {
    let without = [Step {
        version: 100,
        name: "things",
        sqlite: "CREATE TABLE things (id BLOB PRIMARY KEY, office_id BLOB NOT NULL) STRICT",
        postgres: TABLE,
    }];
    let opened = Db::open(database.target(), &without).await;
    match database.backend() {
        Backend::Sqlite => drop(opened.expect("the repositories are its only wall")),
        Backend::Postgres => {
            let error = opened.expect_err("refused");
            assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "DATABASE_UNWALLED"));
            assert!(error.message.contains("in: things;"), "{error}");
        }
    }
}

#[tokio::test]
async fn rows_are_there_for_their_office_and_the_platform_alone() {
    let (_database, db, walls) = planted().await;
    assert_eq!(walls.holes(&db).await, Vec::<String>::new());
}

#[tokio::test]
async fn each_wall_that_is_taken_away_is_missed() {
    for (breach, restored) in [
        ("ALTER TABLE things DISABLE ROW LEVEL SECURITY", "ALTER TABLE things ENABLE ROW LEVEL SECURITY"),
        ("ALTER TABLE things NO FORCE ROW LEVEL SECURITY", "ALTER TABLE things FORCE ROW LEVEL SECURITY"),
        ("DROP POLICY office_wall ON things", "SELECT office_wall('things', 'office_id')"),
    ] {
        let (database, db, mut walls) = planted().await;
        walls.breach(breach).await;
        let found = walls.holes(&db).await;
        // The owner alone gains by what NO FORCE gives, and services are not the owner.
        assert_eq!(found.is_empty(), breach.contains("NO FORCE"), "{breach}: {found:#?}");
        assert!(found.iter().all(|hole| hole.starts_with("things: ")), "{found:#?}");
        let error = Db::open(database.target(), MIGRATIONS).await.expect_err(breach);
        assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "DATABASE_UNWALLED"));
        walls.breach(restored).await;
        assert_eq!(walls.holes(&open(&database).await).await, Vec::<String>::new(), "{breach}");
    }
}

/// What this connection sees without a scope, and whether it is inside a transaction.
async fn sees(conn: &mut Conn) -> (i64, Option<String>, bool) {
    let count = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(postgres(conn)).await.expect("counts");
    let (scope, began): (Option<String>, String) =
        sqlx::query_as("SELECT nullif(current_setting('mi.scope', true), ''), now()::text")
            .fetch_one(postgres(conn))
            .await
            .expect("reads");
    // The time stands still inside a transaction.
    let later: String = sqlx::query_scalar("SELECT now()::text").fetch_one(postgres(conn)).await.expect("reads");
    (count, scope, began == later)
}

async fn pid(conn: &mut Conn) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(postgres(conn)).await.expect("reads")
}

/// This very connection, once the pool has it again.
async fn again(db: &Db, wanted: i32) -> Conn {
    until("the connection is back in the pool", LONG, async || {
        let mut others = Vec::new();
        while let Some(conn) = db.unscoped().now_or_never() {
            let mut conn = conn.expect("connects");
            if pid(&mut conn).await == wanted {
                return Ok::<_, String>(Some(conn));
            }
            others.push(conn);
        }
        Err(format!("{} others are", others.len()))
    })
    .await
}

const NOTHING: (i64, Option<String>, bool) = (0, None, false);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_served_an_office_serves_nobody_afterwards() {
    let (database, db, walls) = planted().await;
    let [office, _] = walls.offices();

    let mut tx = db.office(office).begin().await.expect("begins");
    let served = pid(&mut tx).await;
    tx.commit().await.expect("commits");
    assert_eq!(sees(&mut again(&db, served).await).await, NOTHING, "committed");

    let mut read = db.platform().read().await.expect("begins");
    let served = pid(&mut read).await;
    drop(read);
    assert_eq!(sees(&mut again(&db, served).await).await, NOTHING, "read and dropped");

    let mut tx = db.office(office).begin().await.expect("begins");
    let served = pid(&mut tx).await;
    postgres(&mut tx).execute("SELECT 1 / 0").await.expect_err("aborts");
    drop(tx);
    assert_eq!(sees(&mut again(&db, served).await).await, NOTHING, "aborted");

    // Cancelled in the middle of a statement, which waits for a lock that somebody else has.
    let mut other = PgConnection::connect(database.url().expect("Postgres")).await.expect("connects");
    other.execute("SELECT pg_advisory_lock(7)").await.expect("locks");
    let mut tx = db.office(office).begin().await.expect("begins");
    let served = pid(&mut tx).await;
    let waiting = tokio::spawn(async move { postgres(&mut tx).execute("SELECT pg_advisory_xact_lock(7)").await });
    until("the statement waits", LONG, async || {
        let waits = "SELECT TRUE FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, bool>(waits).bind(served).fetch_optional(&mut other).await
    })
    .await;
    waiting.abort();
    assert!(waiting.await.expect_err("aborted").is_cancelled());
    other.execute("SELECT pg_advisory_unlock(7)").await.expect("unlocks");
    assert_eq!(sees(&mut again(&db, served).await).await, NOTHING, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_is_cancelled_leaves_no_scope_behind() {
    let (_database, db, walls) = planted().await;
    let [office, _] = walls.offices();
    // So that acquiring a connection is not what is cancelled.
    let open: Vec<Conn> = futures::future::try_join_all((0..8).map(|_| db.unscoped())).await.expect("connects");
    drop(open);
    for _ in 0..400 {
        let begin = db.office(office).read();
        tokio::select! {
            biased;
            _ = begin => {}
            // The BEGIN is on its way by then, and its answer is not there yet.
            () = tokio::task::yield_now() => {}
        }
    }
    let mut all = futures::future::try_join_all((0..16).map(|_| db.unscoped())).await.expect("connects");
    for conn in &mut all {
        assert_eq!(sees(conn).await, NOTHING);
    }
}

#[tokio::test]
async fn an_owner_that_may_not_make_the_role_says_what_an_administrator_has_to_run() {
    let database = TestDb::plain(Backend::Postgres).await;
    let mut url = url::Url::parse(database.url().expect("Postgres")).expect("a URL");
    let mut admin = PgConnection::connect(url.as_str()).await.expect("connects");
    let user = format!("mi_test_{}", uuid::Uuid::new_v4().simple());
    let name = url.path().trim_start_matches('/').to_owned();
    let make = format!("CREATE ROLE {user} LOGIN PASSWORD 'test'; GRANT CREATE ON DATABASE {name} TO {user}");
    admin.execute(AssertSqlSafe(make)).await.expect("makes a user");
    url.set_username(&user).expect("a user");
    url.set_password(Some("test")).expect("a password");
    let target = mi_store::DbTarget::Postgres { url: url.to_string(), schema: "mi_test", process: None };

    let error = Db::open(&target, MIGRATIONS).await.expect_err("may not");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "DATABASE_ROLE"), "{}", error.chain());
    let asked = error.message.split_once("must run once: ").expect("says what").1.to_owned();
    assert_eq!(asked, format!("CREATE ROLE mi_service NOLOGIN NOSUPERUSER NOBYPASSRLS; GRANT mi_service TO {user};"));
    let (_, grant) = asked.split_once("; ").expect("two statements");
    until("the role is granted, whoever else does", LONG, async || {
        admin.execute(AssertSqlSafe(grant.to_owned())).await.map(Some)
    })
    .await;

    // Its migrations run, the walls hold it, and it starts again.
    for _ in 0..2 {
        let db = Db::open(&target, MIGRATIONS).await.expect("opens");
        let mut conn = db.unscoped().await.expect("connects");
        let role: String =
            sqlx::query_scalar("SELECT current_user::text").fetch_one(postgres(&mut conn)).await.expect("reads");
        assert_eq!(role, "mi_service");
        drop(conn);
        db.close().await;
    }
    let mut owner = PgConnection::connect(url.as_str()).await.expect("connects");
    owner
        .execute("SET mi.scope = 'platform'; INSERT INTO mi_test.things SELECT gen_random_uuid(), gen_random_uuid()")
        .await
        .expect("plants");
    owner.execute("RESET mi.scope").await.expect("resets");
    let count = "SELECT count(*) FROM mi_test.things";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut owner).await.expect("counts"), 0);
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut admin).await.expect("counts"), 1);
    owner.close().await.expect("closes");
    let away = format!("DROP OWNED BY {user} CASCADE; DROP ROLE {user}");
    admin.execute(AssertSqlSafe(away)).await.expect("removes the user");
}

#[tokio::test]
async fn a_working_role_that_owns_the_tables_is_refused() {
    let (database, _db, mut walls) = planted().await;
    walls.breach("ALTER TABLE things OWNER TO mi_service").await;
    let error = Db::open(database.target(), MIGRATIONS).await.expect_err("owns");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "DATABASE_ROLE"));
    assert!(error.message.contains("mi_service owns tables"), "{error}");
}

#[tokio::test]
async fn services_do_not_change_the_schema_or_the_list_of_migrations() {
    let (_database, db, _walls) = planted().await;
    for sql in [
        "CREATE TABLE more (id uuid)",
        "ALTER TABLE things DISABLE ROW LEVEL SECURITY",
        "DROP POLICY office_wall ON things",
        "TRUNCATE things",
        "SELECT * FROM _sqlx_migrations",
        "DELETE FROM _sqlx_migrations",
    ] {
        let mut tx = db.platform().begin().await.expect("begins");
        let error = postgres(&mut tx).execute(sql).await.expect_err(sql);
        assert_eq!(
            error.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("42501"),
            "{sql}: {error}"
        );
    }
}
