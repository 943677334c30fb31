//! Migrations: repeated, raced, and refused over a newer or different database.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::time::Duration;

use mi_kernel::ErrorKind;
use mi_store::{Db, DbTarget, Migrations, Step, on};
use mi_testkit::{Backend, TestDb, on_both, until};
use sqlx::{Connection, PgConnection};

on_both! {
    opening_again_keeps_the_rows_and_adds_what_is_new,
    a_newer_database_is_refused,
    a_database_of_another_build_is_refused,
    a_step_that_fails_is_tried_again_as_a_whole,
}

const fn step(version: i64, sql: &'static str) -> Step {
    Step { version, name: "things", sqlite: sql, postgres: sql }
}

const FIRST: &Migrations = &[step(100, "CREATE TABLE things (id INTEGER NOT NULL)")];
const SECOND: &Migrations = &[FIRST[0], step(101, "CREATE TABLE more (id INTEGER NOT NULL)")];

async fn run(db: &Db, sql: &'static str) {
    let mut tx = db.platform().begin().await.expect("begins");
    on!(tx, |c| sqlx::query(sql).execute(&mut *c).await.map(drop)).expect("runs");
    tx.commit().await.expect("commits");
}

async fn count(db: &Db, sql: &'static str) -> sqlx::Result<i64> {
    let mut conn = db.platform().read().await.expect("connects");
    on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await)
}

async fn opening_again_keeps_the_rows_and_adds_what_is_new(database: TestDb) {
    let db = Db::open(database.target(), FIRST).await.expect("opens");
    run(&db, "INSERT INTO things VALUES (7)").await;
    db.close().await;
    for migrations in [FIRST, SECOND, SECOND] {
        let db = Db::open(database.target(), migrations).await.expect("opens again");
        assert_eq!(count(&db, "SELECT sum(id) FROM things").await.expect("kept"), 7);
        let more = count(&db, "SELECT count(*) FROM more").await;
        assert_eq!(more.ok(), (migrations.len() == 2).then_some(0));
        db.close().await;
    }
}

async fn a_newer_database_is_refused(database: TestDb) {
    let db = Db::open(database.target(), SECOND).await.expect("opens");
    run(&db, "INSERT INTO more VALUES (7)").await;
    let error = Db::open(database.target(), FIRST).await.expect_err("newer than the binary");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "DATABASE_NEWER"));
    assert!(error.message.contains("version 101"), "{error}");
    assert_eq!(count(&db, "SELECT sum(id) FROM more").await.expect("untouched"), 7);
}

async fn a_database_of_another_build_is_refused(database: TestDb) {
    Db::open(database.target(), FIRST).await.expect("opens").close().await;
    let other = [step(100, "CREATE TABLE things (id INTEGER NOT NULL, name TEXT)")];
    let error = Db::open(database.target(), &other).await.expect_err("other text under the same number");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "DATABASE_DIFFERS"));
}

async fn a_step_that_fails_is_tried_again_as_a_whole(database: TestDb) {
    let broken = [step(100, "CREATE TABLE things (id INTEGER NOT NULL); INSERT INTO nowhere VALUES (1)")];
    for _ in 0..2 {
        let error = Db::open(database.target(), &broken).await.expect_err("the second statement fails");
        assert_eq!(error.kind, ErrorKind::Internal);
    }
    let db = Db::open(database.target(), FIRST).await.expect("nothing of the broken step is left");
    assert_eq!(count(&db, "SELECT count(*) FROM things").await.expect("made"), 0);
}

/// Several processes start at once over one fresh Postgres database: each service twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openers_at_the_same_time_migrate_once() {
    let database = TestDb::plain(Backend::Postgres).await;
    let url = database.url().expect("Postgres").to_owned();
    let openers = ["one", "two", "one", "two", "one", "two"].map(|schema| {
        let target = DbTarget::Postgres { url: url.clone(), schema, process: None };
        tokio::spawn(async move { Db::open(&target, SECOND).await })
    });
    let mut dbs = Vec::new();
    for opener in openers {
        dbs.push(opener.await.expect("no panic").expect("opens"));
    }
    let mut owner = PgConnection::connect(&url).await.expect("connects");
    for sql in [
        "SELECT count(*) FROM one._sqlx_migrations WHERE success",
        "SELECT count(*) FROM two._sqlx_migrations WHERE success",
    ] {
        let applied: i64 = sqlx::query_scalar(sql).fetch_one(&mut owner).await.expect("counts");
        assert_eq!(applied, 7);
    }
    let own = count(&dbs[0], "SELECT count(*) FROM _sqlx_migrations").await;
    assert!(own.expect_err("not the services' business").to_string().contains("permission denied"));
    // Each schema has its own tables.
    run(&dbs[0], "INSERT INTO things VALUES (7)").await;
    let counts = [&dbs[0], &dbs[1], &dbs[2]].map(|db| count(db, "SELECT count(*) FROM things"));
    let counts: Vec<i64> = futures::future::try_join_all(counts).await.expect("counts");
    assert_eq!(counts, [1, 0, 1]);
}

/// A process of before holds a table: the migration waits for it, and whoever comes meanwhile does not wait for the migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_uses_a_table_does_not_wait_for_the_migration_that_waits_for_it() {
    const WIDER: &Migrations =
        &[FIRST[0], step(101, "ALTER TABLE things ADD COLUMN name TEXT NOT NULL DEFAULT 'none'")];
    let database = TestDb::plain(Backend::Postgres).await;
    let before = Db::open(database.target(), FIRST).await.expect("opens");
    run(&before, "INSERT INTO things VALUES (7)").await;
    let mut slow = before.platform().begin().await.expect("begins");
    let sum: i64 =
        on!(slow, |c| sqlx::query_scalar("SELECT sum(id) FROM things").fetch_one(&mut *c).await).expect("reads");
    assert_eq!(sum, 7);
    let target = database.target().clone();
    let opening = tokio::spawn(async move { Db::open(&target, WIDER).await });
    let mut watching = PgConnection::connect(database.url().expect("Postgres")).await.expect("connects");
    until("the migration waits", Duration::from_secs(30), async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let waits: i64 = sqlx::query_scalar(sql).fetch_one(&mut watching).await.expect("reads");
        Ok::<_, sqlx::Error>((waits == 1).then_some(()))
    })
    .await;
    // Behind the migration, and past it once that has given up for now.
    run(&before, "INSERT INTO things VALUES (8)").await;
    assert!(!opening.is_finished());
    slow.commit().await.expect("commits");
    let after = opening.await.expect("no panic").expect("opens");
    // The process of before goes on.
    run(&before, "INSERT INTO things VALUES (9)").await;
    assert_eq!(count(&before, "SELECT sum(id) FROM things").await.expect("reads"), 24);
    assert_eq!(count(&after, "SELECT count(*) FROM things WHERE name = 'none'").await.expect("reads"), 3);
}
