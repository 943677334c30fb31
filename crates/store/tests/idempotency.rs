//! A creating request that is sent again, changed, raced or forgotten.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::time::Duration;

use mi_kernel::{Clock, ErrorKind, Result};
use mi_store::{
    Db,
    idempotency::{self, Request},
};
use mi_testkit::{ManualClock, TestDb, on_both};
use uuid::Uuid;

on_both! {
    a_request_answers_what_it_created_until_it_is_forgotten,
    another_content_is_refused_and_another_scope_is_another_request,
    a_creation_that_rolled_back_never_happened,
    concurrent_twins_create_once,
    many_are_forgotten_and_none_before_its_time,
}

fn request(scope: &str, id: &str, content: &str) -> Request {
    Request::new(scope.into(), id, content.as_bytes()).expect("valid").expect("has an id")
}

/// Creates as services do; answers what was created, now or before.
async fn create(db: &Db, request: &Request, clock: &ManualClock) -> Result<Uuid> {
    let mut tx = db.platform().begin().await?;
    if let Some(known) = request.replayed(&mut tx).await? {
        return Ok(known);
    }
    let fresh = Uuid::new_v4();
    request.remember(&mut tx, fresh, clock.now()).await?;
    tx.commit().await?;
    Ok(fresh)
}

async fn open(database: &TestDb) -> Db {
    Db::open(database.target(), &[]).await.expect("opens")
}

async fn a_request_answers_what_it_created_until_it_is_forgotten(database: TestDb) {
    let (db, clock) = (open(&database).await, ManualClock::new());
    let asked = request("account:1/Create", "r-1", "content");
    let first = create(&db, &asked, &clock).await.expect("creates");
    assert_eq!(create(&db, &asked, &clock).await.expect("replays"), first);

    let forget = async |clock: &ManualClock| {
        idempotency::sweep(&db, clock.now()).await.expect("sweeps");
    };
    clock.advance(idempotency::RETENTION);
    forget(&clock).await;
    assert_eq!(create(&db, &asked, &clock).await.expect("replays at the last moment"), first);
    clock.advance(Duration::from_secs(1));
    forget(&clock).await;
    assert_ne!(create(&db, &asked, &clock).await.expect("creates"), first);
}

async fn another_content_is_refused_and_another_scope_is_another_request(database: TestDb) {
    let (db, clock) = (open(&database).await, ManualClock::new());
    let first = create(&db, &request("account:1/Create", "r-1", "content"), &clock).await.expect("creates");
    let error = create(&db, &request("account:1/Create", "r-1", "other"), &clock).await.expect_err("reused");
    assert_eq!((error.kind, error.field), (ErrorKind::Invalid, Some("request_id")));
    let mut all = vec![first];
    for (scope, id) in [("account:2/Create", "r-1"), ("account:1/Other", "r-1"), ("account:1/Create", "r-2")] {
        all.push(create(&db, &request(scope, id, "content"), &clock).await.expect("another request"));
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4);
    assert_eq!(create(&db, &request("account:1/Create", "r-1", "content"), &clock).await.expect("replays"), first);
}

async fn a_creation_that_rolled_back_never_happened(database: TestDb) {
    let (db, clock) = (open(&database).await, ManualClock::new());
    let asked = request("account:1/Create", "r-1", "content");
    let lost = Uuid::new_v4();
    let mut tx = db.platform().begin().await.expect("begins");
    assert_eq!(asked.replayed(&mut tx).await.expect("reads"), None);
    asked.remember(&mut tx, lost, clock.now()).await.expect("remembers");
    drop(tx);
    assert_ne!(create(&db, &asked, &clock).await.expect("creates"), lost);
}

async fn concurrent_twins_create_once(database: TestDb) {
    let db = open(&database).await;
    let twins = (0..12).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            let asked = request("account:1/Create", "r-1", "content");
            create(&db, &asked, &ManualClock::new()).await
        })
    });
    let mut answers = Vec::new();
    for twin in futures::future::join_all(twins).await {
        answers.push(twin.expect("no panic").expect("answers"));
    }
    assert_eq!(answers, vec![answers[0]; 12]);
}

#[test]
fn ids_are_optional_and_bounded() {
    let new = |id: &str| Request::new("scope".into(), id, b"");
    assert!(new("").expect("allowed").is_none());
    assert!(new(&"x".repeat(128)).expect("allowed").is_some());
    for bad in ["x".repeat(129), "a\nb".into(), "a\0".into()] {
        assert_eq!(new(&bad).expect_err("refused").field, Some("request_id"));
    }
}

async fn many_are_forgotten_and_none_before_its_time(database: TestDb) {
    let (db, clock) = (open(&database).await, ManualClock::new());
    let mut tx = db.platform().begin().await.expect("begins");
    for number in 0..2001 {
        let old = request("account:1/Create", &format!("old-{number}"), "content");
        old.remember(&mut tx, Uuid::new_v4(), clock.now()).await.expect("remembers");
    }
    tx.commit().await.expect("commits");
    clock.advance(Duration::from_secs(1));
    let asked = request("account:1/Create", "young", "content");
    let young = create(&db, &asked, &clock).await.expect("creates");
    clock.advance(idempotency::RETENTION);
    idempotency::sweep(&db, clock.now()).await.expect("sweeps");
    let mut conn = db.platform().read().await.expect("reads");
    let sql = "SELECT count(*) FROM idempotency";
    let left: i64 = mi_store::on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("counts");
    assert_eq!(left, 1);
    assert_eq!(create(&db, &asked, &clock).await.expect("replays"), young);
}
