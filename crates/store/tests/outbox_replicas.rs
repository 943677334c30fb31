//! The outbox of several processes over one Postgres: one delivers, the others tell it, and one of them goes on when it is gone.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mi_kernel::{Clock, Error, EventId, OfficeId, SystemClock, event::Event};
use mi_store::{Db, on, outbox};
use mi_testkit::{Backend, ManualClock, TestDb, until};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

const LONG: Duration = Duration::from_secs(30);
/// Longer than the lease of who delivers.
const EXPIRED: Duration = Duration::from_secs(6);

/// The other end: what it was told, in order, and how often.
type Told = Arc<Mutex<Vec<(OfficeId, EventId)>>>;

/// A process with a relay.
struct Process {
    db: Db,
    wake: Arc<Notify>,
    relay: JoinHandle<()>,
    exchange: JoinHandle<()>,
    /// Ends it in order.
    end: oneshot::Sender<()>,
}

impl Process {
    async fn start(database: &TestDb, clock: Arc<dyn Clock>, told: &Told) -> Self {
        let db = Db::open(database.target(), &[]).await.expect("opens");
        let (wake, told, relayed) = (Arc::new(Notify::new()), told.clone(), db.clone());
        let (end, ends) = oneshot::channel::<()>();
        let exchange = tokio::spawn(db.clone().exchange_changes());
        let (woken, lease) = (wake.clone(), outbox::lease(db.clone(), clock));
        let ends = async move { drop(ends.await) };
        let relay = tokio::spawn(lease.until_end(ends, async move |lease| {
            outbox::relay(relayed, lease, &woken, |events| {
                let told = told.clone();
                async move {
                    // Long enough for another relay to read the same.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    told.lock().expect("test").extend(events.iter().map(|event| (event.office_id, event.id)));
                    Ok::<_, Error>(())
                }
            })
            .await;
        }));
        Self { db, wake, relay, exchange, end }
    }

    /// Commits an event, and wakes its own relay.
    async fn push(&self, office_id: OfficeId) -> EventId {
        let mut tx = self.db.office(office_id).begin().await.expect("begins");
        let event = Event::lifecycle(office_id, "a", "thing.happened", "", ManualClock::new().now());
        outbox::push(&mut tx, &event).await.expect("pushes");
        tx.commit().await.expect("commits");
        self.wake.notify_one();
        event.id
    }

    /// It is gone without a word.
    fn kill(self) {
        self.relay.abort();
        self.exchange.abort();
    }
}

async fn until_told(told: &Told, id: EventId) -> Duration {
    let begun = Instant::now();
    until("the event arrives", LONG, async || {
        Ok::<_, Error>(told.lock().expect("test").iter().any(|(_, known)| *known == id).then_some(()))
    })
    .await;
    begun.elapsed()
}

async fn until_forgotten(db: &Db) {
    until("the outbox is empty", LONG, async || {
        let mut conn = db.platform().read().await.expect("connects");
        let sql = "SELECT count(*) FROM outbox";
        let left: i64 = on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("counts");
        Ok::<_, Error>((left == 0).then_some(()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_all_processes_arrive_once_in_order_and_at_once() {
    let (database, told) = (TestDb::plain(Backend::Postgres).await, Told::default());
    let one = Process::start(&database, SystemClock::shared(), &told).await;
    until_told(&told, one.push(OfficeId::new()).await).await;
    let two = Process::start(&database, SystemClock::shared(), &told).await;
    // What is committed where nobody delivers is told of at once, long before anybody would look by itself.
    for _ in 0..5 {
        let id = two.push(OfficeId::new()).await;
        let waited = until_told(&told, id).await;
        assert!(waited < Duration::from_secs(1), "{waited:?}");
    }
    until_forgotten(&one.db).await;
    told.lock().expect("test").clear();

    // Each office's events come from both in turns.
    let both = [&one, &two];
    let offices: Vec<OfficeId> = (0..8).map(|_| OfficeId::new()).collect();
    let pushing = offices.iter().map(async |office| {
        let mut pushed = Vec::new();
        for n in 0..40 {
            pushed.push(both[n % 2].push(*office).await);
        }
        (*office, pushed)
    });
    let pushed: BTreeMap<OfficeId, Vec<EventId>> = futures::future::join_all(pushing).await.into_iter().collect();
    until_forgotten(&one.db).await;
    let mut arrived: BTreeMap<OfficeId, Vec<EventId>> = BTreeMap::new();
    for (office, id) in told.lock().expect("test").iter() {
        arrived.entry(*office).or_default().push(*id);
    }
    assert_eq!(arrived, pushed);
    one.kill();
    two.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_delivers_is_replaced_at_once_when_it_ends_and_in_time_when_it_dies() {
    let (database, told, clock) = (TestDb::plain(Backend::Postgres).await, Told::default(), ManualClock::new());
    let one = Process::start(&database, clock.shared(), &told).await;
    until_told(&told, one.push(OfficeId::new()).await).await;
    let two = Process::start(&database, clock.shared(), &told).await;
    // It ends in order: no time passes by this clock.
    one.end.send(()).expect("runs");
    one.relay.await.expect("no panic");
    one.exchange.abort();
    until_told(&told, two.push(OfficeId::new()).await).await;
    until_forgotten(&two.db).await;

    let three = Process::start(&database, clock.shared(), &told).await;
    two.kill();
    let id = three.push(OfficeId::new()).await;
    clock.advance(EXPIRED);
    until_told(&told, id).await;
    until_forgotten(&three.db).await;
    let mut ids: Vec<EventId> = told.lock().expect("test").iter().map(|(_, id)| *id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    three.kill();
}
