//! Streams of what changes.

use std::collections::BTreeMap;

use mi_kernel::Actor;
use mi_proto::v1::{CreateTaskRequest, ListTasksRequest, Task, TaskStatus, WatchTasksRequest, WatchTasksResponse};
use mi_testkit::on_both;
use tonic::{Code, Status, Streaming};

use super::{assert_refused, field, many, request};
use crate::tests::harness::{Harness, LONG};

on_both! {
    whoever_resumes_anywhere_ends_up_with_the_same,
    one_task_only,
    from_now_on,
    little_is_held_for_who_does_not_read,
    what_cannot_be_watched,
}

impl Harness {
    async fn watch(
        &self,
        by: &Actor,
        office: &str,
        after: Option<i64>,
        task: &str,
    ) -> Result<Streaming<WatchTasksResponse>, Status> {
        let request = WatchTasksRequest { office_id: office.into(), after_cursor: after, task_id: task.into() };
        Ok(self.tasks(by).watch_tasks(request).await?.into_inner())
    }
}

async fn next(stream: &mut Streaming<WatchTasksResponse>) -> (i64, Task) {
    let message =
        tokio::time::timeout(LONG, stream.message()).await.expect("in time").expect("goes on").expect("goes on");
    (message.cursor, message.task.expect("always there"))
}

async fn whoever_resumes_anywhere_ends_up_with_the_same(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let mut live = harness.watch(&harness.owner, &office, Some(0), "").await.expect("opens");
    // More than are read at a time.
    let tasks = harness.batch(&office, many("", 130).requests).await.expect("creates");
    let mut cursors = vec![0];
    let mut seen: BTreeMap<String, Task> = BTreeMap::new();
    let mut take = async |stream: &mut Streaming<WatchTasksResponse>, count: usize| {
        for _ in 0..count {
            let (cursor, task) = next(stream).await;
            assert!(cursor > *cursors.last().expect("never empty"), "{cursor} after {cursors:?}");
            cursors.push(cursor);
            seen.insert(task.id.clone(), task);
        }
    };
    take(&mut live, 130).await;
    for n in 0..40 {
        let held = harness.claim(&worker, &office).await.expect("one");
        take(&mut live, 1).await;
        match n % 4 {
            0 => harness.complete(&worker, &office, &held, "done").await.expect("holds"),
            1 => harness.fail(&worker, &office, &held, false).await.expect("holds"),
            2 => harness.cancel(&harness.owner, &office, &held.id).await.expect("open"),
            _ => harness.complete(&harness.owner, &office, &held, "operator").await.expect("open"),
        };
        take(&mut live, 1).await;
    }
    let last = *cursors.last().expect("never empty");
    let mut finals = BTreeMap::new();
    for task in &tasks {
        finals.insert(task.id.clone(), harness.task(&office, &task.id).await);
    }
    assert_eq!(seen, finals);
    for cursor in cursors.iter().step_by(13).chain([&last]) {
        // One sentinel ends each of them.
        let mut stream = harness.watch(&harness.owner, &office, Some(*cursor), "").await.expect("opens");
        let sentinel = harness.new_task(&office, "sentinel").await.id;
        let mut resumed = BTreeMap::new();
        let mut before = *cursor;
        loop {
            let (at, task) = next(&mut stream).await;
            assert!(at > before);
            before = at;
            if task.id == sentinel {
                break;
            }
            if finals.contains_key(&task.id) {
                resumed.insert(task.id.clone(), task);
            }
        }
        // Everything that changed since, as it is now; and nothing else.
        assert!(resumed.iter().all(|(id, task)| finals[id] == *task));
        if *cursor == 0 {
            assert_eq!(resumed, finals);
        }
        assert_eq!(resumed.is_empty(), *cursor == last);
    }
}

async fn one_task_only(harness: Harness) {
    let office = harness.active("Work").await;
    let (first, second) = (harness.new_task(&office, "first").await, harness.new_task(&office, "second").await);
    let mut stream = harness.watch(&harness.owner, &office, Some(0), &second.id).await.expect("opens");
    assert_eq!(next(&mut stream).await.1, second);
    harness.done(&office, &first.id).await;
    let done = harness.done(&office, &second.id).await;
    assert_eq!(next(&mut stream).await.1, done);
}

async fn from_now_on(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "old").await;
    let mut own = harness.watch(&worker, &office, None, "").await.expect("opens");
    let mut foreign = harness.watch(&harness.owner, &office, None, "").await.expect("opens");
    let held = harness.claim(&worker, &office).await.expect("one");
    // A lease is shown to whoever holds it, and to nobody else.
    assert_eq!(next(&mut own).await.1, held);
    assert_eq!(next(&mut foreign).await.1, Task { lease_id: String::new(), ..held });
    let new = harness.create_task(&harness.owner, request(&office, "new")).await.expect("creates");
    assert_eq!((next(&mut own).await.1, next(&mut foreign).await.1), (new.clone(), new));
}

/// What is read after the changes shows them: only what was read, and held, before does not.
async fn little_is_held_for_who_does_not_read(harness: Harness) {
    const COUNT: usize = 40;
    let office = harness.active("Work").await;
    for n in 0..COUNT {
        let description = "x".repeat(200 << 10);
        let new = CreateTaskRequest { description, ..request(&office, &n.to_string()) };
        harness.create_task(&harness.owner, new).await.expect("creates");
    }
    let mut stream = harness.watch(&harness.owner, &office, Some(0), "").await.expect("opens");
    let first = next(&mut stream).await.1;
    assert_eq!((first.title.as_str(), first.status()), ("0", TaskStatus::Queued));
    let open = ListTasksRequest { office_id: office.clone(), page_size: Some(1), ..Default::default() };
    let mut page_token = String::new();
    loop {
        let request = ListTasksRequest { page_token, ..open.clone() };
        let page = harness.tasks(&harness.owner).list_tasks(request).await.expect("lists").into_inner();
        harness.cancel(&harness.owner, &office, &page.tasks[0].id).await.expect("open");
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let (mut old, mut cancelled) = (Vec::new(), Vec::new());
    while cancelled.len() < COUNT {
        let task = next(&mut stream).await.1;
        match task.status() {
            TaskStatus::Queued => old.push(task.title),
            _ => cancelled.push(task.title),
        }
    }
    // A mebibyte of them, and what was on its way.
    assert!(old.len() <= 8, "{old:?}");
    assert_eq!(cancelled, (0..COUNT).rev().map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn what_cannot_be_watched(harness: Harness) {
    let (office, other) = (harness.active("Work").await, harness.active("Other").await);
    let foreign = harness.new_task(&other, "foreign").await.id;
    assert_eq!(field(harness.watch(&harness.owner, &office, Some(-1), "").await), "after_cursor");
    assert_refused(harness.watch(&harness.owner, &office, None, &foreign).await, Code::NotFound, "NOT_FOUND");
    assert_refused(
        harness.watch(&harness.owner, &office, None, "nonsense").await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    let stranger = harness.account("Stranger").await.0;
    assert_refused(harness.watch(&stranger, &office, None, "").await, Code::NotFound, "NOT_FOUND");
}
