//! Whoever listens hears of what it listens to, here and in other processes, and of nothing else.

#![expect(clippy::disallowed_methods, reason = "tests join what they spawn, or end with it")]

use std::time::Duration;

use futures::{FutureExt, StreamExt, stream::BoxStream};
use mi_kernel::{Error, OfficeId, Result};
use mi_store::{Batch, Changes, Db, Topic};
use mi_testkit::{Backend, TestDb, on_both};
use tokio::{sync::broadcast::error::RecvError, time::timeout};

on_both! {
    a_change_is_heard_by_those_whom_it_concerns,
    what_is_found_is_handed_on_in_order_and_looked_for_again,
}

const LONG: Duration = Duration::from_secs(30);

async fn heard(changes: &mut Changes) {
    timeout(LONG, changes.changed()).await.expect("heard in time");
}

fn silent(changes: &mut Changes) -> bool {
    changes.changed().now_or_never().is_none()
}

async fn open(database: &TestDb) -> Db {
    Db::open(database.target(), &[]).await.expect("opens")
}

async fn a_change_is_heard_by_those_whom_it_concerns(database: TestDb) {
    let (db, [office, other]) = (open(&database).await, [OfficeId::new(), OfficeId::new()]);
    let mut chat = db.listen(Topic::of(office, "chat"));
    let mut log = db.listen(Topic::named(office, "logs", "ann"));
    let mut longer = db.listen(Topic::named(office, "logs", "ann-2"));
    let mut foreign = db.listen(Topic::of(other, "chat"));
    let mut platform = db.listen(Topic::platform("keys"));

    db.notify(Topic::of(office, "chat"));
    assert_eq!([silent(&mut log), silent(&mut longer), silent(&mut foreign), silent(&mut platform)], [true; 4]);
    heard(&mut chat).await;
    assert!(silent(&mut chat), "heard once");

    db.notify(Topic::named(office, "logs", "ann"));
    assert_eq!([silent(&mut chat), silent(&mut longer)], [true; 2]);
    heard(&mut log).await;

    db.notify(Topic::platform("keys"));
    heard(&mut platform).await;

    // Changes that nobody took in between are one.
    db.notify_office(office);
    db.notify_office(office);
    for changes in [&mut chat, &mut log, &mut longer] {
        heard(changes).await;
        assert!(silent(changes), "heard once");
    }
    assert_eq!([silent(&mut foreign), silent(&mut platform)], [true; 2]);

    // One of two who listen goes; the other still hears.
    let gone = db.listen(Topic::of(office, "chat"));
    drop(gone);
    db.notify(Topic::of(office, "chat"));
    heard(&mut chat).await;
}

async fn what_is_found_is_handed_on_in_order_and_looked_for_again(database: TestDb) {
    let (db, office) = (open(&database).await, OfficeId::new());
    let changes = db.listen(Topic::of(office, "chat"));
    let mut batches = vec![
        Err(Error::not_found("office", office)),
        Ok(Batch { found: vec![4], more: false }),
        Ok(Batch { found: vec![], more: true }),
        Ok(Batch { found: vec![2, 3], more: false }),
        Ok(Batch { found: vec![1], more: true }),
    ];
    let look = async move || batches.pop().expect("looks no more after an error");
    let mut found: BoxStream<'_, Result<i32>> = changes.follow(look).boxed();
    for expected in [1, 2, 3] {
        assert_eq!(found.next().await.expect("goes on").expect("no error"), expected);
    }
    // Nothing more until it is told of; a look that finds nothing to show and more behind it goes on by itself.
    assert!(found.next().now_or_never().is_none());
    db.notify(Topic::of(office, "chat"));
    let next = timeout(LONG, found.next()).await.expect("in time");
    assert_eq!(next.expect("goes on").expect("no error"), 4);
    assert!(found.next().now_or_never().is_none());
    db.notify(Topic::of(office, "chat"));
    let end = timeout(LONG, found.next()).await.expect("in time").expect("an error").expect_err("the office is gone");
    assert_eq!(end.to_string(), Error::not_found("office", office).to_string());
    assert!(found.next().await.is_none());
}

#[tokio::test]
async fn another_process_is_told_of_each_topic_and_does_not_hear_itself() {
    let database = TestDb::plain(Backend::Postgres).await;
    let (here, there) = (open(&database).await, open(&database).await);
    let office = OfficeId::new();
    let (mut heard_here, mut heard_there) = (here.heard(), there.heard());
    let exchanging = [&here, &there].map(|db| tokio::spawn(db.clone().exchange_changes()));
    // Each listens as soon as it says that anything may have changed before.
    for heard in [&mut heard_here, &mut heard_there] {
        assert!(timeout(LONG, heard.recv()).await.expect("in time").expect("told").is_everything());
    }
    // More than one notification holds.
    let names: Vec<String> = (0..500).map(|number| format!("agent-{number:03}")).collect();
    names.iter().for_each(|name| here.notify(Topic::named(office, "logs", name)));
    let mut told = Vec::new();
    while told.len() < names.len() {
        told.push(timeout(LONG, heard_there.recv()).await.expect("in time").expect("told"));
    }
    told.sort();
    assert_eq!(told, names.iter().map(|name| Topic::named(office, "logs", name)).collect::<Vec<_>>());

    let mut tasks = here.listen(Topic::of(office, "tasks"));
    there.notify(Topic::of(office, "tasks"));
    heard(&mut tasks).await;
    let topic = timeout(LONG, heard_here.recv()).await.expect("in time").expect("told");
    assert_eq!((topic.office_of("tasks"), topic.office_of("chat")), (Some(office), None));
    assert!(heard_here.try_recv().is_err(), "what it told itself does not come back");
    exchanging.into_iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn whoever_cannot_keep_up_is_told_so() {
    let database = TestDb::plain(Backend::Sqlite).await;
    let db = open(&database).await;
    let (mut heard, office) = (db.heard(), OfficeId::new());
    (0..2000).for_each(|_| db.notify_office(office));
    assert!(matches!(heard.recv().await, Err(RecvError::Lagged(_))));
    assert_eq!(heard.recv().await.expect("told").office_of("anything"), Some(office));
}
