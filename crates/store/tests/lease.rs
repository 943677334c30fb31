//! Of several processes one holds the lease.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::{pin::pin, time::Duration};

use chrono::TimeDelta;
use futures::future::{Either, select};
use mi_store::{
    Db, DbTarget,
    lease::{self, Lease},
};
use mi_testkit::{Backend, ManualClock, SkewedClock, TestDb, on_both};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

on_both! { one_holds_until_it_expires_and_a_holder_comes_back_at_once, of_many_one_gets_it }

const TTL: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(3600);

async fn one_holds_until_it_expires_and_a_holder_comes_back_at_once(database: TestDb) {
    let (db, clock) = (Db::open(database.target(), &[]).await.expect("opens"), ManualClock::new());
    let hold = async |name: &str, holder: &str| lease::hold(&db, name, holder, &clock, TTL).await.expect("asks");
    assert!(hold("reconciler", "one").await);
    assert!(!hold("reconciler", "two").await);
    assert!(hold("other", "two").await, "another lease");
    clock.advance(TTL);
    assert!(!hold("reconciler", "two").await, "still in its last moment");
    assert!(hold("reconciler", "one").await, "renews");
    clock.advance(TTL);
    assert!(!hold("reconciler", "two").await, "was renewed");
    clock.advance(Duration::from_micros(1));
    assert!(hold("reconciler", "two").await, "expired");
    assert!(!hold("reconciler", "one").await, "lost");
    // A process that crashed and is started again under its name does not wait for itself.
    assert!(hold("reconciler", "two").await);
}

async fn of_many_one_gets_it(database: TestDb) {
    let (db, clock) = (Db::open(database.target(), &[]).await.expect("opens"), ManualClock::new());
    let asking = (0..8).map(|holder| {
        let (db, clock) = (db.clone(), clock.clone());
        tokio::spawn(async move { lease::hold(&db, "reconciler", &format!("holder-{holder}"), &clock, TTL).await })
    });
    let mut won = 0;
    for answer in futures::future::join_all(asking).await {
        won += usize::from(answer.expect("no panic").expect("asks"));
    }
    assert_eq!(won, 1);
}

/// A process that is started again does not wait for itself, and others wait for it.
#[tokio::test]
async fn a_process_that_was_killed_goes_on_with_its_leases() {
    let database = TestDb::plain(Backend::Postgres).await;
    let DbTarget::Postgres { url, schema, .. } = database.target().clone() else { panic!("Postgres") };
    let start = async |process: &str| {
        let target = DbTarget::Postgres { url: url.clone(), schema, process: Some(process.to_owned()) };
        let db = Db::open(&target, &[]).await.expect("opens");
        Lease::new(db, ManualClock::new().shared(), "reconciler", LONG)
    };
    assert!(start("one").await.held().await.expect("asks"));
    assert!(!start("two").await.held().await.expect("asks"), "it still lasts");
    assert!(start("one").await.held().await.expect("asks"), "it is its own");
}

/// Whose clock is ahead has no lease sooner, and whose is behind keeps none longer.
#[tokio::test]
async fn processes_go_by_the_databases_clock() {
    let database = TestDb::plain(Backend::Postgres).await;
    let db = Db::open(database.target(), &[]).await.expect("opens");
    let clock = |hours| SkewedClock::new(TimeDelta::hours(hours)).shared();
    let hold =
        async |holder: &str, hours| lease::hold(&db, "reconciler", holder, &*clock(hours), LONG).await.expect("asks");
    assert!(hold("behind", -5).await);
    assert!(!hold("ahead", 5).await, "it still lasts");
    assert!(hold("behind", -5).await);
    // The other way round.
    let hold = async |holder: &str, hours| {
        lease::hold(&db, "other", holder, &*clock(hours), Duration::ZERO).await.expect("asks")
    };
    assert!(hold("ahead", 5).await);
    assert!(hold("behind", -5).await, "it has run out");
}

/// Who is dropped while the database makes its lease durable gives up that one too.
#[tokio::test]
async fn a_lease_that_was_being_had_is_given_up() {
    let database = TestDb::plain(Backend::Postgres).await;
    let DbTarget::Postgres { url, schema, .. } = database.target().clone() else { panic!("Postgres") };
    let db = Db::open(database.target(), &[]).await.expect("opens");
    let lease = || Lease::new(db.clone(), ManualClock::new().shared(), "sweep", LONG);
    let (one, other) = (lease(), lease());
    one.clone().until_end(async {}, async |lease| assert!(lease.held().await.expect("asks"))).await;
    // A commit of a lease waits for as long as this connection has the lock.
    let mut holds = PgConnection::connect(&url).await.expect("connects");
    let sql = format!(
        "CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT OR UPDATE ON {schema}.leases DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION {schema}.wait();
         SELECT pg_advisory_lock(1)"
    );
    holds.execute(AssertSqlSafe(sql)).await.expect("locks");
    let waits_for = async |what: &'static str| {
        let mut watching = PgConnection::connect(&url).await.expect("connects");
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1";
        while sqlx::query_scalar::<_, i64>(sql).bind(what).fetch_one(&mut watching).await.expect("asks") == 0 {
            tokio::task::yield_now().await;
        }
    };
    let asks =
        one.until_end(waits_for("advisory"), async |lease| panic!("nobody answers, but {:?}", lease.held().await));
    let (mut asks, waits) = (pin!(asks), pin!(waits_for("transactionid")));
    // It waits for what becomes of the commit, before it takes back what there is.
    if matches!(select(&mut asks, waits).await, Either::Left(_)) {
        panic!("it went by what was there before");
    }
    holds.execute("SELECT pg_advisory_unlock(1)").await.expect("unlocks");
    asks.await;
    assert!(other.held().await.expect("asks"), "no time has passed");
}

/// Who asks as it goes holds the lease for as long as it does, and gives it up when it ends.
#[tokio::test]
async fn whoever_asks_as_it_goes_keeps_it_until_its_end() {
    let database = TestDb::plain(Backend::Postgres).await;
    let (db, clock) = (Db::open(database.target(), &[]).await.expect("opens"), ManualClock::new());
    let lease = || Lease::new(db.clone(), clock.shared(), "sweep", TTL);
    let (one, two) = (lease(), lease());
    assert!(one.held().await.expect("asks"));
    assert!(!two.held().await.expect("asks"));
    assert!(one.clone().held().await.expect("asks"), "the same holder");
    one.clone().until_end(async {}, |_| std::future::pending()).await;
    assert!(two.held().await.expect("asks"), "no time has passed");
    assert!(!one.held().await.expect("asks"));
    // Who is dropped while it asks may have got it: that is given up as well, whenever it was.
    for micros in (0..4000).step_by(100) {
        let asking = lease();
        let end = tokio::time::sleep(Duration::from_micros(micros));
        two.clone().until_end(async {}, |_| std::future::pending()).await;
        asking
            .until_end(end, async |lease| {
                while lease.held().await.is_ok() {
                    tokio::task::yield_now().await
                }
            })
            .await;
        assert!(two.held().await.expect("asks"), "after {micros} us");
    }
    // What was lost is not given up a second time.
    one.until_end(async {}, |_| std::future::pending()).await;
    assert!(!lease().held().await.expect("asks"), "it is two's");
    // A process that stood still for long asks again, by its own time.
    clock.advance(TTL * 2);
    assert!(lease().held().await.expect("asks"));
}
