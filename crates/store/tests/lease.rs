//! Of several processes one holds the lease.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::time::Duration;

use mi_kernel::Clock;
use mi_store::{Db, lease};
use mi_testkit::{ManualClock, TestDb, on_both};

on_both! { one_holds_until_it_expires_and_a_holder_comes_back_at_once, of_many_one_gets_it }

const TTL: Duration = Duration::from_secs(10);

async fn one_holds_until_it_expires_and_a_holder_comes_back_at_once(database: TestDb) {
    let (db, clock) = (Db::open(database.target(), &[]).await.expect("opens"), ManualClock::new());
    let hold = async |name: &str, holder: &str| lease::hold(&db, name, holder, clock.now(), TTL).await.expect("asks");
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
        let (db, now) = (db.clone(), clock.now());
        tokio::spawn(async move { lease::hold(&db, "reconciler", &format!("holder-{holder}"), now, TTL).await })
    });
    let mut won = 0;
    for answer in futures::future::join_all(asking).await {
        won += usize::from(answer.expect("no panic").expect("asks"));
    }
    assert_eq!(won, 1);
}
