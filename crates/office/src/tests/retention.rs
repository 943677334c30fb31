//! History that is kept for as long as the settings say, and what whoever reads on from before it is told.

use std::{sync::Arc, time::Duration};

use mi_kernel::{Clock, OfficeId, SystemClock};
use mi_proto::v1::{
    ListChangesRequest, ListMessagesRequest, OfficeSettings, UpdateOfficeSettingsRequest, WatchChangesRequest,
    WatchMessagesRequest,
};
use mi_store::on;
use mi_testkit::{Backend, OnBackend, SkewedClock, on_both};
use tonic::{Code, Status};

use super::{
    chat::to_group,
    drive::refusal,
    harness::{Harness, LONG},
};
use crate::retention::Retention;

on_both! {
    changes_of_the_drive_go_and_files_stay,
    messages_go_from_the_oldest_on,
    without_a_setting_everything_is_kept,
    an_office_that_keeps_no_longer_all_is_found_by_the_sweep,
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

impl Harness {
    /// Has the office keep all of its history for three days.
    pub(super) async fn keep_three_days(&self, office: &str) {
        let three_days = Some(prost_types::Duration { seconds: 3 * 24 * 3600, nanos: 0 });
        let settings = OfficeSettings {
            finished_task_retention: three_days,
            drive_change_retention: three_days,
            message_retention: three_days,
            ..OfficeSettings::default()
        };
        let paths = ["finished_task_retention", "driveChangeRetention", "message_retention"];
        let request = UpdateOfficeSettingsRequest {
            office_id: office.into(),
            settings: Some(settings),
            update_mask: Some(prost_types::FieldMask { paths: paths.map(str::to_owned).to_vec() }),
        };
        self.offices(&self.owner).update_office_settings(request).await.expect("updates");
    }

    /// What the sweep of any process does for the office.
    pub(super) async fn forget(&self, office: &str) {
        self.forget_by(self.clock.shared(), office).await;
    }

    /// The same, by a clock of its own.
    async fn forget_by(&self, clock: Arc<dyn Clock>, office: &str) {
        let office = office.parse().expect("an id");
        Retention::new(self.context(clock).await).sweep(vec![office]).await.expect("sweeps");
    }

    /// The parts of the office's history whose deletion the feed tells of.
    pub(super) async fn forgotten(&self, office: &str) -> Vec<(String, i64)> {
        // What was written before is told before.
        let marker = self.say(&self.owner, to_group(office, "until here")).await.expect("sends").id;
        let told = async || {
            let known = self.activity.known();
            let of_office = known.events.iter().filter(|event| event.office_id.to_string() == office);
            let all: Vec<_> = of_office.cloned().collect();
            Ok::<_, String>(all.iter().any(|event| event.metadata["id"] == *marker).then_some(all))
        };
        let events = mi_testkit::until("the feed has everything", LONG, told).await;
        let deleted = events.iter().filter(|event| event.kind == "office.history_deleted");
        deleted
            .map(|event| {
                let what = event.metadata["what"].as_str().expect("a word").to_owned();
                (what, event.metadata["count"].as_i64().expect("a number"))
            })
            .collect()
    }
}

fn expired<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    let (code, reason, message) = refusal(outcome);
    assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "CURSOR_EXPIRED"), "{message}");
    message
}

async fn changes_of_the_drive_go_and_files_stay(harness: Harness) {
    let office = harness.create("Drive").await.id;
    for path in ["a", "b", "c"] {
        harness.put(&office, path, path.as_bytes()).await;
    }
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    harness.put(&office, "d", b"d").await;
    harness.forget(&office).await;

    let list = async |cursor| {
        let request = ListChangesRequest { office_id: office.clone(), cursor, page_size: None };
        let answer = harness.drive(&harness.owner).list_changes(request).await?.into_inner();
        let paths: Vec<String> = answer.changes.into_iter().map(|change| change.path).collect();
        Ok::<_, Status>((paths, answer.next_cursor, answer.kept_after))
    };
    assert_eq!(list(0).await.expect("all that are kept"), (vec!["d".into()], 4, 3));
    assert_eq!(list(3).await.expect("complete"), (vec!["d".into()], 4, 0));
    assert!(expired(list(2).await).contains("up to cursor 3"));
    for path in ["a", "b", "c", "d"] {
        assert_eq!(harness.content(&office, path).await.expect("kept"), path.as_bytes());
    }
    let watch = async |after| {
        let request = WatchChangesRequest { office_id: office.clone(), after_cursor: Some(after) };
        let mut stream = harness.drive(&harness.owner).watch_changes(request).await?.into_inner();
        let first = tokio::time::timeout(LONG, stream.message()).await.expect("in time")?;
        Ok::<_, Status>(first.expect("goes on").change.expect("always there").path)
    };
    assert_eq!(watch(3).await.expect("complete"), "d");
    for after in [0, 1] {
        expired(watch(after).await);
    }
    assert_eq!(harness.forgotten(&office).await, [("changes of the drive".to_owned(), 3)]);

    // When the last one goes, too, a place before it is refused all the same.
    harness.clock.advance(4 * DAY);
    harness.forget(&office).await;
    assert_eq!(list(0).await.expect("none is kept"), (Vec::new(), 4, 4));
    assert_eq!(list(4).await.expect("complete"), (Vec::new(), 4, 0));
    expired(list(3).await);
}

async fn messages_go_from_the_oldest_on(harness: Harness) {
    let office = harness.create("Chat").await.id;
    let mut sent = Vec::new();
    for body in ["one", "two", "three"] {
        sent.push(harness.say(&harness.owner, to_group(&office, body)).await.expect("sends").id);
    }
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    sent.push(harness.say(&harness.owner, to_group(&office, "four")).await.expect("sends").id);
    harness.forget(&office).await;

    let list = async |before: &str| {
        let request = ListMessagesRequest {
            office_id: office.clone(),
            before_id: before.into(),
            ..ListMessagesRequest::default()
        };
        let answer = harness.chat(&harness.owner).list_messages(request).await?.into_inner();
        Ok::<_, Status>(answer.messages.into_iter().map(|message| message.body).collect::<Vec<_>>())
    };
    assert_eq!(list("").await.expect("lists"), ["four"]);
    // There is nothing before what is kept, and nothing before what is gone.
    for before in [&sent[3], &sent[1]] {
        assert_eq!(list(before).await.expect("lists"), [""; 0]);
    }
    let unknown = refusal(list(&uuid::Uuid::max().to_string()).await);
    assert_eq!((unknown.0, unknown.1.as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));

    let watch = async |after: &str| {
        let request = WatchMessagesRequest { office_id: office.clone(), after_id: Some(after.into()) };
        let mut stream = harness.chat(&harness.owner).watch_messages(request).await?.into_inner();
        let first = tokio::time::timeout(LONG, stream.message()).await.expect("in time")?;
        Ok::<_, Status>(first.expect("goes on").message.expect("always there").body)
    };
    assert_eq!(watch("").await.expect("from the oldest"), "four");
    expired(watch(&sent[1]).await);
    assert_eq!(harness.forgotten(&office).await, [("messages".to_owned(), 3)]);

    harness.clock.advance(4 * DAY);
    harness.forget(&office).await;
    assert_eq!(list("").await.expect("lists"), [""; 0]);
    expired(watch(&sent[3]).await);
}

async fn without_a_setting_everything_is_kept(harness: Harness) {
    let office = harness.create("Keeps").await.id;
    harness.put(&office, "a", b"a").await;
    harness.say(&harness.owner, to_group(&office, "one")).await.expect("sends");
    harness.clock.advance(5000 * DAY);
    harness.forget(&office).await;
    let changes = ListChangesRequest { office_id: office.clone(), ..ListChangesRequest::default() };
    let changes = harness.drive(&harness.owner).list_changes(changes).await.expect("lists").into_inner();
    assert_eq!((changes.changes.len(), changes.kept_after), (1, 0));
    let messages = ListMessagesRequest { office_id: office.clone(), ..ListMessagesRequest::default() };
    let messages = harness.chat(&harness.owner).list_messages(messages).await.expect("lists").into_inner().messages;
    assert_eq!(messages.len(), 1);
    assert_eq!(harness.forgotten(&office).await, []);
}

async fn an_office_that_keeps_no_longer_all_is_found_by_the_sweep(mut harness: Harness) {
    let (office, other) = (harness.create("Found").await.id, harness.create("Other").await.id);
    for id in [&office, &other] {
        harness.put(id, "a", b"a").await;
    }
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    // A process looks when it starts.
    harness.crash().await;
    let kept_after = async |office: &str| {
        let request = ListChangesRequest { office_id: office.into(), ..ListChangesRequest::default() };
        harness.drive(&harness.owner).list_changes(request).await.expect("lists").into_inner().kept_after
    };
    mi_testkit::until("the change is deleted", LONG, async || {
        let kept_after = kept_after(&office).await;
        if kept_after == 1 { Ok(Some(())) } else { Err(format!("{kept_after}")) }
    })
    .await;
    assert_eq!(kept_after(&other).await, 0);
    // Its row is no obstacle to its deletion.
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
}

/// An office with a change that is four days old and kept for three.
async fn old_change(harness: &Harness) -> String {
    let office = harness.create("Old").await.id;
    harness.put(&office, "a", b"a").await;
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    office
}

async fn kept_after(harness: &Harness, office: &str) -> i64 {
    let request = ListChangesRequest { office_id: office.into(), ..ListChangesRequest::default() };
    harness.drive(&harness.owner).list_changes(request).await.expect("lists").into_inner().kept_after
}

#[tokio::test]
async fn a_process_whose_clock_is_ahead_deletes_nothing_too_soon() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = old_change(&harness).await;
    // By this clock it is as old as by the one that the test turns; by the database's it has not even begun.
    let ahead = harness.clock.now() - SystemClock.now();
    harness.forget_by(SkewedClock::new(ahead).shared(), &office).await;
    assert_eq!(kept_after(&harness, &office).await, 0);
    harness.forget(&office).await;
    assert_eq!(kept_after(&harness, &office).await, 1);
}

#[tokio::test]
async fn nothing_is_deleted_once_everything_is_kept() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = old_change(&harness).await;
    let id: OfficeId = office.parse().expect("an id");
    let mut tx = harness.tables().await.office(id).begin().await.expect("begins");
    let keep_all = "UPDATE offices SET settings = settings - 'drive_change_retention_seconds' WHERE id = $1";
    on!(tx, |c| sqlx::query(keep_all).bind(id.0).execute(&mut *c).await.map(drop)).expect("updates");
    // A sweep that began before waits for the settings, and goes by the new ones.
    let mut postgres = harness.postgres().await;
    let change = async {
        mi_testkit::until("the sweep waits", LONG, async || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut postgres).await.expect("counts");
            if count > 0 { Ok(Some(())) } else { Err(count) }
        })
        .await;
        tx.commit().await.expect("commits");
    };
    tokio::join!(harness.forget(&office), change);
    assert_eq!(kept_after(&harness, &office).await, 0);
}
