//! Events leave at least once, in order, and only delivered ones are forgotten.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mi_kernel::{Clock, Error, ErrorKind, EventId, OfficeId, event::Event};
use mi_store::{Db, OfficeConn, exec, lease::Lease, on, outbox};
use mi_testkit::{ManualClock, TestDb, on_both, until};
use tokio::{sync::Notify, task::JoinHandle};

on_both! {
    events_arrive_in_order_and_are_then_forgotten,
    events_wait_while_delivery_fails,
    a_crash_between_delivery_and_deletion_delivers_again,
    a_change_that_rolled_back_reports_nothing,
    more_than_a_batch_goes_out_without_further_signals,
    an_event_of_another_office_is_refused,
    an_event_that_no_feed_could_take_is_refused,
    what_is_delivered_together_has_its_limit_in_bytes,
    an_event_that_is_refused_for_good_holds_up_no_other,
    a_feed_that_refuses_everything_loses_nothing,
    events_that_are_pushed_together_are_one_row_and_one_of_them_holds_up_no_other,
    a_row_that_cannot_be_read_holds_up_no_other,
}

/// Relays that began in this test.
static STARTS: AtomicU64 = AtomicU64::new(0);
const LONG: Duration = Duration::from_secs(30);

/// The other end: what it took, and what it refused.
#[derive(Clone, Default)]
struct Feed {
    taken: Arc<Mutex<Vec<Event>>>,
    refusing: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Feed {
    fn taken(&self) -> Vec<EventId> {
        self.taken.lock().expect("test").iter().map(|event| event.id).collect()
    }

    fn take(&self, events: Vec<Event>) -> Result<(), Error> {
        if self.refusing.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Error::unavailable("as asked"));
        }
        self.taken.lock().expect("test").extend(events);
        Ok(())
    }

    /// Relays to this feed until aborted.
    fn relay(&self, db: &Db, wake: &Arc<Notify>) -> JoinHandle<()> {
        let (feed, db, wake) = (self.clone(), db.clone(), wake.clone());
        tokio::spawn(async move {
            outbox::relay(db.clone(), lease(&db), &wake, |events| {
                let outcome = feed.take(events);
                async move { outcome }
            })
            .await;
        })
    }

    async fn until_taken(&self, ids: &[EventId]) {
        until("all events arrived", LONG, async || {
            let taken = self.taken();
            if taken == ids { Ok(Some(())) } else { Err(format!("{} of {}", taken.len(), ids.len())) }
        })
        .await;
    }
}

/// That of a process which has nobody beside it: none of the tests here that begin anew waits for the one before.
fn lease(db: &Db) -> Lease {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(60 * STARTS.fetch_add(1, Ordering::SeqCst)));
    outbox::lease(db.clone(), clock.shared())
}

async fn open(database: &TestDb) -> Db {
    Db::open(database.target(), &[]).await.expect("opens")
}

async fn push(db: &Db, count: usize) -> Vec<EventId> {
    let office_id = OfficeId::new();
    let mut tx = db.office(office_id).begin().await.expect("begins");
    let mut ids = Vec::new();
    for n in 0..count {
        let event = Event::lifecycle(office_id, "a", "thing.happened", format!("{n} ünï"), ManualClock::new().now())
            .with(serde_json::json!({ "n": n, "deep": [null, { "a": 0.5 }] }));
        outbox::push(&mut tx, &event).await.expect("pushes");
        ids.push(event.id);
    }
    tx.commit().await.expect("commits");
    ids
}

/// Adds a row as it stands.
async fn insert(tx: &mut OfficeConn, row: &str) {
    let sql = tx.pick(
        "INSERT INTO outbox (office_id, event) VALUES ($1, $2)",
        "INSERT INTO outbox (office_id, event) VALUES ($1, $2::json)",
    );
    exec!(tx, sql, row).expect("inserts");
}

async fn waiting(db: &Db) -> i64 {
    let mut conn = db.platform().read().await.expect("connects");
    on!(conn, |c| sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut *c).await).expect("counts")
}

async fn until_empty(db: &Db) {
    until_left(db, 0).await;
}

async fn until_left(db: &Db, rows: i64) {
    until("the outbox has no other rows", LONG, async || match waiting(db).await {
        left if left == rows => Ok(Some(())),
        left => Err(format!("{left} left")),
    })
    .await;
}

async fn events_arrive_in_order_and_are_then_forgotten(database: TestDb) {
    let (db, feed, wake) = (open(&database).await, Feed::default(), Arc::default());
    let mut ids = push(&db, 5).await;
    let relay = feed.relay(&db, &wake);
    feed.until_taken(&ids).await;
    ids.extend(push(&db, 3).await);
    wake.notify_one();
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
    let events = feed.taken.lock().expect("test").clone();
    assert_eq!(events[4].summary, "4 ünï");
    assert_eq!(events[4].metadata, serde_json::json!({ "n": 4, "deep": [null, { "a": 0.5 }] }));
}

async fn events_wait_while_delivery_fails(database: TestDb) {
    let (db, feed, wake) = (open(&database).await, Feed::default(), Arc::default());
    feed.refusing.store(true, Ordering::SeqCst);
    let ids = push(&db, 3).await;
    let relay = feed.relay(&db, &wake);
    until("some refusals", LONG, async || Ok::<_, Error>((feed.refused.load(Ordering::SeqCst) >= 3).then_some(())))
        .await;
    assert_eq!((waiting(&db).await, feed.taken()), (3, vec![]));
    feed.refusing.store(false, Ordering::SeqCst);
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
    assert_eq!(feed.taken(), ids);
}

async fn a_crash_between_delivery_and_deletion_delivers_again(database: TestDb) {
    let db = open(&database).await;
    let ids = push(&db, 2).await;
    let first = Feed::default();
    // The first process dies while the other end has the events and has not answered.
    let dying = {
        let (db, first) = (db.clone(), first.clone());
        tokio::spawn(async move {
            outbox::relay(db.clone(), lease(&db), &Notify::new(), |events| {
                let taken = first.take(events);
                async move {
                    taken?;
                    std::future::pending().await
                }
            })
            .await;
        })
    };
    first.until_taken(&ids).await;
    dying.abort();
    assert_eq!(waiting(&db).await, 2);
    let second = Feed::default();
    let relay = second.relay(&db, &Arc::default());
    second.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
}

async fn a_change_that_rolled_back_reports_nothing(database: TestDb) {
    let (db, feed) = (open(&database).await, Feed::default());
    let office_id = OfficeId::new();
    let mut tx = db.office(office_id).begin().await.expect("begins");
    let event = Event::lifecycle(office_id, "a", "thing.undone", "never", ManualClock::new().now());
    outbox::push(&mut tx, &event).await.expect("pushes");
    drop(tx);
    let ids = push(&db, 1).await;
    let relay = feed.relay(&db, &Arc::default());
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
    assert_eq!(feed.taken(), ids);
}

async fn more_than_a_batch_goes_out_without_further_signals(database: TestDb) {
    let (db, feed) = (open(&database).await, Feed::default());
    let ids = push(&db, 1_203).await;
    let relay = feed.relay(&db, &Arc::default());
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
    assert_eq!(feed.taken(), ids);
}

async fn an_event_of_another_office_is_refused(database: TestDb) {
    let db = open(&database).await;
    let (own, other) = (OfficeId::new(), OfficeId::new());
    let mut tx = db.office(own).begin().await.expect("begins");
    let event = Event::lifecycle(other, "a", "thing.happened", "elsewhere", ManualClock::new().now());
    let error: Error = outbox::push(&mut tx, &event).await.expect_err("foreign").into();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(
        error.chain().contains(&format!("an event of office {other} in a transaction of office {own}")),
        "{error:?}"
    );
    tx.commit().await.expect("commits");
    assert_eq!(waiting(&db).await, 0);
}

async fn an_event_that_no_feed_could_take_is_refused(database: TestDb) {
    let (db, office) = (open(&database).await, OfficeId::new());
    let event = |summary: &str| Event::lifecycle(office, "ann", "thing.happened", summary, ManualClock::new().now());
    let mut tx = db.office(office).begin().await.expect("begins");
    for summary in ["a\0b", "\\\0"] {
        let error: Error = outbox::push(&mut tx, &event(summary)).await.expect_err("NUL").into();
        assert_eq!(error.kind, ErrorKind::Internal, "{summary:?}");
    }
    let long = Event { metadata: serde_json::json!({ "text": "x".repeat(1 << 20) }), ..event("long") };
    let error: Error = outbox::push_all(&mut tx, &[event("short"), long]).await.expect_err("too long").into();
    assert!(error.chain().contains("is too long"), "{}", error.chain());
    // These only look like it.
    for summary in [r"a\u0000b", r"\\u0000"] {
        outbox::push(&mut tx, &event(summary)).await.expect("takes");
    }
    tx.commit().await.expect("commits");
    assert_eq!(waiting(&db).await, 2);
}

async fn what_is_delivered_together_has_its_limit_in_bytes(database: TestDb) {
    let (db, office) = (open(&database).await, OfficeId::new());
    let mut tx = db.office(office).begin().await.expect("begins");
    let mut ids = Vec::new();
    for n in 0..10 {
        let event = Event::lifecycle(office, "ann", "thing.happened", "é".repeat(450_000), ManualClock::new().now())
            .with(serde_json::json!({ "n": n }));
        outbox::push(&mut tx, &event).await.expect("pushes");
        ids.push(event.id);
    }
    tx.commit().await.expect("commits");
    let (feed, batches) = (Feed::default(), Arc::new(Mutex::new(Vec::new())));
    let relay = {
        let (feed, db, batches) = (feed.clone(), db.clone(), batches.clone());
        tokio::spawn(async move {
            outbox::relay(db.clone(), lease(&db), &Notify::new(), |events| {
                batches.lock().expect("test").push(events.len());
                let outcome = feed.take(events);
                async move { outcome }
            })
            .await;
        })
    };
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
    assert_eq!(*batches.lock().expect("test"), [5, 5]);
}

/// Relays to a feed that refuses what holds an event of this kind.
fn relay_refusing(feed: &Feed, db: &Db, wake: &Arc<Notify>, kind: &'static str) -> JoinHandle<()> {
    let (feed, db, wake) = (feed.clone(), db.clone(), wake.clone());
    tokio::spawn(async move {
        outbox::relay(db.clone(), lease(&db), &wake, |events| {
            let outcome = match events.iter().any(|event| event.kind == kind) {
                true => {
                    feed.refused.fetch_add(1, Ordering::SeqCst);
                    Err(Error::invalid("events", "are too long"))
                }
                false => feed.take(events),
            };
            async move { outcome }
        })
        .await;
    })
}

async fn an_event_that_is_refused_for_good_holds_up_no_other(database: TestDb) {
    let (db, feed, wake) = (open(&database).await, Feed::default(), Arc::default());
    let mut ids = push(&db, 30).await;
    let office = OfficeId::new();
    let poison = Event::lifecycle(office, "ann", "thing.poisoned", "refused", ManualClock::new().now());
    let mut tx = db.office(office).begin().await.expect("begins");
    outbox::push(&mut tx, &poison).await.expect("pushes");
    tx.commit().await.expect("commits");
    ids.extend(push(&db, 600).await);
    let relay = relay_refusing(&feed, &db, &wake, "thing.poisoned");
    feed.until_taken(&ids).await;
    ids.extend(push(&db, 2).await);
    wake.notify_one();
    feed.until_taken(&ids).await;
    until_left(&db, 1).await;
    relay.abort();
    // It was kept: whoever starts next tries it again.
    let relay = feed.relay(&db, &wake);
    ids.push(poison.id);
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
}

async fn a_feed_that_refuses_everything_loses_nothing(database: TestDb) {
    let (db, feed, wake) = (open(&database).await, Feed::default(), Arc::default());
    let ids = push(&db, 1_100).await;
    let relay = relay_refusing(&feed, &db, &wake, "thing.happened");
    // Each that is passed over is refused once alone; then the relay waits.
    until("it waits", LONG, async || Ok::<_, Error>((feed.refused.load(Ordering::SeqCst) >= 1_012).then_some(())))
        .await;
    relay.abort();
    assert_eq!((waiting(&db).await, feed.taken()), (1_100, vec![]));
    let relay = feed.relay(&db, &wake);
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
}

async fn events_that_are_pushed_together_are_one_row_and_one_of_them_holds_up_no_other(database: TestDb) {
    let (db, feed, wake) = (open(&database).await, Feed::default(), Arc::default());
    let (office, now) = (OfficeId::new(), ManualClock::new().now());
    let event = |kind: &str| Event::lifecycle(office, "ann", kind, "told", now);
    let together = [
        event("thing.happened"),
        event("thing.happened"),
        event("thing.poisoned"),
        event("thing.happened"),
        event("thing.happened"),
    ];
    // As rows were when each event had its own.
    let alone = event("thing.happened");
    let mut tx = db.office(office).begin().await.expect("begins");
    outbox::push_all(&mut tx, &together).await.expect("pushes");
    outbox::push_all(&mut tx, &[]).await.expect("pushes nothing");
    insert(&mut tx, &serde_json::to_string(&alone).expect("is JSON")).await;
    tx.commit().await.expect("commits");
    assert_eq!(waiting(&db).await, 2);

    let of_all = together.iter().map(|event| event.id);
    let mut ids: Vec<EventId> = of_all.clone().filter(|id| *id != together[2].id).chain([alone.id]).collect();
    let relay = relay_refusing(&feed, &db, &wake, "thing.poisoned");
    feed.until_taken(&ids).await;
    until_left(&db, 1).await;
    relay.abort();
    // It was kept with those that went with it, which the feed knows: whoever starts next tries them again.
    let relay = feed.relay(&db, &wake);
    ids.extend(of_all);
    feed.until_taken(&ids).await;
    until_empty(&db).await;
    relay.abort();
}

async fn a_row_that_cannot_be_read_holds_up_no_other(database: TestDb) {
    let (db, feed, wake) = (open(&database).await, Feed::default(), Arc::default());
    let mut ids = push(&db, 2).await;
    let mut tx = db.office(OfficeId::new()).begin().await.expect("begins");
    for row in [r#""nonsense""#, r#"[{"id": 7}]"#] {
        insert(&mut tx, row).await;
    }
    tx.commit().await.expect("commits");
    ids.extend(push(&db, 2).await);
    let relay = feed.relay(&db, &wake);
    feed.until_taken(&ids).await;
    until_left(&db, 2).await;
    relay.abort();
}
