//! Streams of what changes.

use std::collections::BTreeMap;

use mi_kernel::Actor;
use mi_proto::v1::{CreateTaskRequest, ListTasksRequest, Task, TaskStatus, WatchTasksRequest, WatchTasksResponse};
use mi_testkit::on_both;
use tonic::{Code, Status, Streaming};

use super::{assert_refused, field, many, request};
use crate::tests::stage::{LONG, Stage};

on_both! {
    whoever_resumes_anywhere_ends_up_with_the_same,
    one_task_only,
    from_now_on,
    little_is_held_for_who_does_not_read,
    what_cannot_be_watched,
}

impl Stage {
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

async fn whoever_resumes_anywhere_ends_up_with_the_same(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let mut live = stage.watch(&stage.owner, &office, Some(0), "").await.expect("opens");
    // More than are read at a time.
    let tasks = stage.batch(&office, many("", 130).requests).await.expect("creates");
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
        let held = stage.claim(&worker, &office).await.expect("one");
        take(&mut live, 1).await;
        match n % 4 {
            0 => stage.complete(&worker, &office, &held, "done").await.expect("holds"),
            1 => stage.fail(&worker, &office, &held, false).await.expect("holds"),
            2 => stage.cancel(&stage.owner, &office, &held.id).await.expect("open"),
            _ => stage.complete(&stage.owner, &office, &held, "operator").await.expect("open"),
        };
        take(&mut live, 1).await;
    }
    let last = *cursors.last().expect("never empty");
    let mut finals = BTreeMap::new();
    for task in &tasks {
        finals.insert(task.id.clone(), stage.task(&office, &task.id).await);
    }
    assert_eq!(seen, finals);
    for cursor in cursors.iter().step_by(13).chain([&last]) {
        // One sentinel ends each of them.
        let mut stream = stage.watch(&stage.owner, &office, Some(*cursor), "").await.expect("opens");
        let sentinel = stage.new_task(&office, "sentinel").await.id;
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

async fn one_task_only(stage: Stage) {
    let office = stage.active("Work").await;
    let (first, second) = (stage.new_task(&office, "first").await, stage.new_task(&office, "second").await);
    let mut stream = stage.watch(&stage.owner, &office, Some(0), &second.id).await.expect("opens");
    assert_eq!(next(&mut stream).await.1, second);
    stage.done(&office, &first.id).await;
    let done = stage.done(&office, &second.id).await;
    assert_eq!(next(&mut stream).await.1, done);
}

async fn from_now_on(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    stage.new_task(&office, "old").await;
    let mut own = stage.watch(&worker, &office, None, "").await.expect("opens");
    let mut foreign = stage.watch(&stage.owner, &office, None, "").await.expect("opens");
    let held = stage.claim(&worker, &office).await.expect("one");
    // A lease is shown to whoever holds it, and to nobody else.
    assert_eq!(next(&mut own).await.1, held);
    assert_eq!(next(&mut foreign).await.1, Task { lease_id: String::new(), ..held });
    let new = stage.create_task(&stage.owner, request(&office, "new")).await.expect("creates");
    assert_eq!((next(&mut own).await.1, next(&mut foreign).await.1), (new.clone(), new));
}

/// What is read after the changes shows them: only what was read, and held, before does not.
async fn little_is_held_for_who_does_not_read(stage: Stage) {
    const COUNT: usize = 40;
    let office = stage.active("Work").await;
    for n in 0..COUNT {
        let description = "x".repeat(200 << 10);
        let new = CreateTaskRequest { description, ..request(&office, &n.to_string()) };
        stage.create_task(&stage.owner, new).await.expect("creates");
    }
    let mut stream = stage.watch(&stage.owner, &office, Some(0), "").await.expect("opens");
    let first = next(&mut stream).await.1;
    assert_eq!((first.title.as_str(), first.status()), ("0", TaskStatus::Queued));
    let open = ListTasksRequest { office_id: office.clone(), page_size: Some(1), ..Default::default() };
    let mut page_token = String::new();
    loop {
        let request = ListTasksRequest { page_token, ..open.clone() };
        let page = stage.tasks(&stage.owner).list_tasks(request).await.expect("lists").into_inner();
        stage.cancel(&stage.owner, &office, &page.tasks[0].id).await.expect("open");
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

async fn what_cannot_be_watched(stage: Stage) {
    let (office, other) = (stage.active("Work").await, stage.active("Other").await);
    let foreign = stage.new_task(&other, "foreign").await.id;
    assert_eq!(field(stage.watch(&stage.owner, &office, Some(-1), "").await), "after_cursor");
    assert_refused(stage.watch(&stage.owner, &office, None, &foreign).await, Code::NotFound, "NOT_FOUND");
    assert_refused(
        stage.watch(&stage.owner, &office, None, "nonsense").await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    let stranger = stage.account("Stranger").await.0;
    assert_refused(stage.watch(&stranger, &office, None, "").await, Code::NotFound, "NOT_FOUND");
}
