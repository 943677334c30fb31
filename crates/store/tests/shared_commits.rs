//! Transactions that wait for SQLite's one writer share a commit, where they may: none is answered before it is durable, and
//! none has a part in what becomes of another.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn")]

use std::pin::pin;

use futures::{future::join_all, poll};
use mi_kernel::{Error, ErrorKind, OfficeId};
use mi_store::{Db, DbResult, OfficeTx, Step, on};
use mi_testkit::{Backend, TestDb};

const MIGRATIONS: &[Step] = &[Step {
    version: 100,
    name: "things",
    sqlite: "CREATE TABLE things (id INTEGER PRIMARY KEY, content TEXT NOT NULL)",
    postgres: "",
}];

async fn begin(db: &Db) -> DbResult<OfficeTx> {
    db.office(OfficeId::new()).begin_sharing("").await
}

async fn insert(tx: &mut OfficeTx, id: i32, content: &str) -> DbResult<()> {
    Ok(on!(tx, |c| {
        sqlx::query("INSERT INTO things VALUES ($1, $2)").bind(id).bind(content).execute(&mut *c).await.map(drop)
    })?)
}

/// Takes a while.
async fn count(tx: &mut OfficeTx) -> DbResult<i64> {
    let sql =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n";
    Ok(on!(tx, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await)?)
}

/// What anybody else sees.
async fn ids(db: &Db) -> Vec<i32> {
    let mut conn = db.platform().read().await.expect("connects");
    on!(conn, |c| sqlx::query_scalar("SELECT id FROM things ORDER BY id").fetch_all(&mut *c).await).expect("reads")
}

async fn open() -> (TestDb, Db) {
    let database = TestDb::plain(Backend::Sqlite).await;
    let db = Db::open(database.target(), MIGRATIONS).await.expect("opens");
    (database, db)
}

#[tokio::test]
async fn what_waits_has_one_commit_and_what_is_given_up_has_none() {
    let (_database, db) = open().await;
    let mut first = begin(&db).await.expect("begins");
    insert(&mut first, 1, "first").await.expect("inserts");
    let (mut second, mut third, mut fourth) = (pin!(begin(&db)), pin!(begin(&db)), pin!(begin(&db)));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());

    let mut first = pin!(first.commit());
    assert!(poll!(&mut first).is_pending());
    let mut second = second.await.expect("has its turn");
    insert(&mut second, 2, "second").await.expect("inserts");
    insert(&mut second, 1, "clash").await.expect_err("sees what is before it");
    let mut second = pin!(second.commit());
    assert!(poll!(&mut second).is_pending());
    let mut third = third.await.expect("has its turn");
    insert(&mut third, 3, "given up").await.expect("inserts");
    assert!(poll!(&mut first).is_pending(), "is not durable yet");
    drop(third);
    let mut fourth = fourth.await.expect("has its turn");
    insert(&mut fourth, 4, "fourth").await.expect("inserts");
    assert_eq!(ids(&db).await, [0; 0]);
    fourth.commit().await.expect("commits");
    assert_eq!(ids(&db).await, [1, 2, 4]);
    first.await.expect("commits");
    second.await.expect("commits");
}

#[tokio::test]
async fn whoever_does_not_share_finds_what_is_before_it_durable() {
    let (_database, db) = open().await;
    let mut first = begin(&db).await.expect("begins");
    insert(&mut first, 1, "first").await.expect("inserts");
    let mut second = pin!(begin(&db));
    assert!(poll!(&mut second).is_pending());
    let platform = db.platform();
    let mut alone = pin!(platform.begin());
    assert!(poll!(&mut alone).is_pending());
    let mut first = pin!(first.commit());
    assert!(poll!(&mut first).is_pending());
    drop(second.await.expect("has its turn"));
    let _alone = alone.await.expect("has its turn");
    assert_eq!(ids(&db).await, [1]);
    first.await.expect("commits");
}

#[tokio::test]
async fn whoever_is_cancelled_keeps_no_other_from_its_commit() {
    let (_database, db) = open().await;
    // It waits for its turn and goes away.
    let mut first = begin(&db).await.expect("begins");
    insert(&mut first, 1, "first").await.expect("inserts");
    {
        let mut waits = Box::pin(begin(&db));
        assert!(poll!(&mut waits).is_pending());
        let mut first = pin!(first.commit());
        assert!(poll!(&mut first).is_pending());
        drop(waits);
        first.await.expect("commits");
    }
    assert_eq!(ids(&db).await, [1]);
    // It goes away while it waits for the commit, or in the middle of a statement, or while it begins.
    let mut second = begin(&db).await.expect("begins");
    insert(&mut second, 2, "second").await.expect("inserts");
    let (mut third, mut fourth) = (pin!(begin(&db)), Box::pin(begin(&db)));
    assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
    {
        let mut second = pin!(second.commit());
        assert!(poll!(&mut second).is_pending());
    }
    let mut third = third.await.expect("has its turn");
    insert(&mut third, 3, "third").await.expect("inserts");
    {
        let mut long = pin!(count(&mut third));
        assert!(poll!(&mut long).is_pending());
    }
    let mut third = pin!(third.commit());
    assert!(poll!(&mut third).is_pending());
    assert!(poll!(&mut fourth).is_pending(), "its savepoint is on its way, behind the long statement");
    drop(fourth);
    third.await.expect("commits");
    assert_eq!(ids(&db).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_full_disk_fails_all_that_share_a_commit_and_nothing_is_left_of_them() {
    let (_database, db) = open().await;
    let mut first = begin(&db).await.expect("begins");
    insert(&mut first, 1, "first").await.expect("inserts");
    let mut second = pin!(begin(&db));
    assert!(poll!(&mut second).is_pending());
    let mut first = pin!(first.commit());
    assert!(poll!(&mut first).is_pending());
    let mut second = second.await.expect("has its turn");
    // Below what is in use already: SQLite takes the size in use.
    on!(second, |c| sqlx::query("PRAGMA max_page_count = 1").execute(&mut *c).await.map(drop)).expect("sets");
    let error: Error = insert(&mut second, 2, &"x".repeat(1 << 20)).await.expect_err("full").into();
    assert_eq!((error.kind, error.reason), (ErrorKind::Exhausted, "STORAGE_FULL"));
    drop(second);
    let error: Error = first.await.expect_err("SQLite has rolled back all of it").into();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    assert_eq!(ids(&db).await, [0; 0]);
    let mut next = begin(&db).await.expect("begins");
    insert(&mut next, 3, &"x".repeat(1 << 20)).await.expect("there is room again");
    next.commit().await.expect("commits");
    assert_eq!(ids(&db).await, [3]);
}

#[tokio::test]
async fn whoever_commits_after_a_failure_of_the_disk_brings_nobody_back() {
    let (_database, db) = open().await;
    let mut first = begin(&db).await.expect("begins");
    insert(&mut first, 1, "first").await.expect("inserts");
    let (mut second, mut third) = (pin!(begin(&db)), pin!(begin(&db)));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
    let mut first = pin!(first.commit());
    assert!(poll!(&mut first).is_pending());
    let mut second = second.await.expect("has its turn");
    on!(second, |c| sqlx::query("PRAGMA max_page_count = 1").execute(&mut *c).await.map(drop)).expect("sets");
    insert(&mut second, 2, &"x".repeat(1 << 20)).await.expect_err("full");
    let mut second = pin!(second.commit());
    assert!(poll!(&mut second).is_pending());
    let mut third = third.await.expect("has its turn");
    insert(&mut third, 3, "third").await.expect("inserts");
    let third: Error = third.commit().await.expect_err("is none of that transaction").into();
    for error in [third, first.await.expect_err("is lost").into(), second.await.expect_err("is lost").into()] {
        assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    }
    assert_eq!(ids(&db).await, [0; 0]);
}

#[test]
fn a_database_may_be_dropped_without_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (database, db) = runtime.block_on(async {
        let (database, db) = open().await;
        let mut tx = begin(&db).await.expect("begins");
        insert(&mut tx, 1, "first").await.expect("inserts");
        tx.commit().await.expect("commits");
        (database, db)
    });
    drop(db);
    runtime.block_on(async move { drop(database) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_everything_that_was_answered_is_there_and_nothing_else() {
    let (_database, db) = open().await;
    let writers = (0..400).map(|id| {
        let db = db.clone();
        tokio::spawn(async move {
            let begun = if id % 8 == 7 { db.office(OfficeId::new()).begin().await } else { begin(&db).await };
            let mut tx = begun.expect("begins");
            insert(&mut tx, id, "one of many").await.expect("inserts");
            // Every third is given up.
            if id % 3 > 0 {
                tx.commit().await.expect("commits");
                let mut conn = db.platform().read().await.expect("connects");
                let found: i64 = on!(conn, |c| {
                    sqlx::query_scalar("SELECT count(*) FROM things WHERE id = $1").bind(id).fetch_one(&mut *c).await
                })
                .expect("reads");
                assert_eq!(found, 1, "{id} was answered");
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("no panic");
    }
    assert_eq!(ids(&db).await, (0..400).filter(|id| id % 3 > 0).collect::<Vec<_>>());
}
