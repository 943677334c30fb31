//! Finished tasks that are kept no longer, and those that something still needs.

use mi_proto::v1::{
    AddTaskNoteRequest, CreateTaskRequest, GetTaskStatsRequest, ListTasksRequest, TaskCount, TaskStatus,
    WatchTasksRequest,
};
use mi_testkit::on_both;
use tonic::{Code, Status};

use super::{assert_refused, many, request};
use crate::tests::{
    harness::{Harness, LONG},
    retention::DAY,
};

on_both! {
    finished_tasks_go_when_nothing_needs_them,
    a_long_history_goes_in_parts,
    who_watches_from_before_what_is_gone_is_told,
}

impl Harness {
    /// Titles of the office's tasks, in their order.
    async fn titles(&self, office: &str) -> Vec<String> {
        let request = ListTasksRequest { office_id: office.into(), page_size: Some(200), ..Default::default() };
        let tasks = self.tasks(&self.owner).list_tasks(request).await.expect("lists").into_inner().tasks;
        let mut titles: Vec<String> = tasks.into_iter().map(|task| task.title).collect();
        titles.sort();
        titles
    }

    async fn counted(&self, office: &str) -> Vec<TaskCount> {
        let request = GetTaskStatsRequest { office_id: office.into() };
        let answer = self.tasks(&self.owner).get_task_stats(request).await.expect("answers").into_inner();
        answer.stats.expect("always there").counts
    }

    async fn new_after(&self, office: &str, title: &str, depends_on: &[&str], parent: &str) -> String {
        let request = CreateTaskRequest {
            depends_on: depends_on.iter().map(ToString::to_string).collect(),
            parent_id: parent.into(),
            ..request(office, title)
        };
        self.create_task(&self.owner, request).await.expect("creates").id
    }
}

fn count(status: TaskStatus, count: i32) -> TaskCount {
    TaskCount { status: status.into(), count }
}

async fn finished_tasks_go_when_nothing_needs_them(harness: Harness) {
    let office = harness.active("Work").await;
    // Goes, with its notes.
    let plain = harness.new_after(&office, "gone: plain", &[], "").await;
    let note = AddTaskNoteRequest {
        office_id: office.clone(),
        task_id: plain.clone(),
        body: "a note".into(),
        ..AddTaskNoteRequest::default()
    };
    harness.tasks(&harness.owner).add_task_note(note).await.expect("adds");
    harness.done(&office, &plain).await;
    // Stays, since an open task depends on it; what that one depended on through it goes.
    let first = harness.new_after(&office, "gone: first of a chain", &[], "").await;
    let second = harness.new_after(&office, "kept: an open task depends on it", &[&first], "").await;
    harness.done(&office, &first).await;
    harness.done(&office, &second).await;
    let other = harness.new_after(&office, "kept: open dependency", &[], "").await;
    harness.new_after(&office, "kept: open", &[&second, &other], "").await;
    // Stays, since what depends on it failed and may be tried again.
    let needed = harness.new_after(&office, "kept: what may be tried again depends on it", &[], "").await;
    harness.done(&office, &needed).await;
    let failed = harness.new_after(&office, "kept: failed lately", &[&needed], "").await;
    // A part stays while its parent is open; a parent that was cancelled goes with its parts.
    let parent = harness.new_after(&office, "kept: open parent", &[], "").await;
    let part = harness.new_after(&office, "kept: part of an open parent", &[], &parent).await;
    harness.done(&office, &part).await;
    let cancelled = harness.new_after(&office, "gone: cancelled parent", &[], "").await;
    harness.new_after(&office, "gone: cancelled part", &[], &cancelled).await;
    harness.cancel(&harness.owner, &office, &cancelled).await.expect("cancels");

    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    harness.cancel(&harness.owner, &office, &failed).await.expect("cancels");
    harness.new_after(&office, "kept: young", &[], "").await;
    let young = harness.new_after(&office, "kept: done lately", &[], "").await;
    harness.done(&office, &young).await;
    let before = harness.counted(&office).await;
    assert_eq!(before.iter().map(|count| count.count).sum::<i32>(), 13);

    // What stayed only because of what goes goes with the next look.
    harness.forget(&office).await;
    harness.forget(&office).await;
    let kept = [
        "kept: an open task depends on it",
        "kept: done lately",
        "kept: failed lately",
        "kept: open",
        "kept: open dependency",
        "kept: open parent",
        "kept: part of an open parent",
        "kept: what may be tried again depends on it",
        "kept: young",
    ];
    assert_eq!(harness.titles(&office).await, kept);
    let expected = [
        count(TaskStatus::Blocked, 1),
        count(TaskStatus::Cancelled, 1),
        count(TaskStatus::Done, 4),
        count(TaskStatus::Queued, 3),
    ];
    assert_eq!(harness.counted(&office).await, expected);
    let gone: i64 = harness
        .forgotten(&office)
        .await
        .into_iter()
        .map(|(what, count)| {
            assert_eq!(what, "finished tasks");
            count
        })
        .sum();
    assert_eq!(gone, 4);
    // What is left works as before.
    harness.done(&office, &other).await;
    assert_eq!(
        harness.retry(&harness.owner, &office, &failed).await.expect("its dependency is there").status(),
        TaskStatus::Queued
    );
    harness.done(&office, &failed).await;
    harness.done(&office, &parent).await;
}

async fn a_long_history_goes_in_parts(harness: Harness) {
    let office = harness.active("Long").await;
    // More than a part looks at, with open ones among them.
    let mut ids = Vec::new();
    for _ in 0..3 {
        let created = harness.batch(&office, many("", 100).requests).await.expect("creates");
        ids.extend(created.into_iter().map(|task| task.id));
    }
    for id in ids.iter().enumerate().filter(|(place, _)| place % 10 != 0).map(|(_, id)| id) {
        harness.cancel(&harness.owner, &office, id).await.expect("cancels");
    }
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    harness.forget(&office).await;
    assert_eq!(harness.counted(&office).await, [count(TaskStatus::Queued, 30)]);
    let parts = harness.forgotten(&office).await;
    assert!(parts.len() >= 2, "{parts:?}");
    assert_eq!(parts.iter().map(|(_, count)| count).sum::<i64>(), 270);
}

async fn who_watches_from_before_what_is_gone_is_told(harness: Harness) {
    let office = harness.active("Watched").await;
    let mut ids = Vec::new();
    for title in ["kept", "gone", "gone as well"] {
        ids.push(harness.new_task(&office, title).await.id);
    }
    for id in &ids[1..] {
        harness.done(&office, id).await;
    }
    let one = WatchTasksRequest { office_id: office.clone(), task_id: ids[1].clone(), after_cursor: Some(0) };
    let mut of_one = harness.tasks(&harness.owner).watch_tasks(one).await.expect("watches").into_inner();
    of_one.message().await.expect("no error").expect("its last change");
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    harness.forget(&office).await;
    assert_eq!(harness.titles(&office).await, ["kept"]);
    // Who watches one task alone hears of its end with the next change of the queue.
    harness.new_task(&office, "new").await;
    let end = tokio::time::timeout(LONG, of_one.message()).await.expect("in time").expect_err("the task is gone");
    assert_eq!(end.code(), Code::NotFound);

    let watch = async |after: i64| {
        let request =
            WatchTasksRequest { office_id: office.clone(), after_cursor: Some(after), ..WatchTasksRequest::default() };
        let mut stream = harness.tasks(&harness.owner).watch_tasks(request).await?.into_inner();
        let first = tokio::time::timeout(LONG, stream.message()).await.expect("in time")?.expect("goes on");
        Ok::<_, Status>((first.cursor, first.task.expect("always there").title))
    };
    assert_eq!(watch(0).await.expect("every task there is"), (1, "kept".into()));
    // Three creations and two completions: the fifth change is the last one of a task that is gone.
    // The last place is of a database that was restored since.
    for after in [1, 4, 7] {
        assert_refused(watch(after).await, Code::FailedPrecondition, "CURSOR_EXPIRED");
    }
    assert_eq!(watch(5).await.expect("complete"), (6, "new".into()));
}
