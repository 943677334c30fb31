//! Notes, lists and counts.

use mi_proto::v1::{
    AddTaskNoteRequest, CreateTaskRequest, GetTaskStatsRequest, ListTaskNotesRequest, ListTasksRequest, TaskCount,
    TaskNote, TaskStatus,
};
use mi_testkit::on_both;

use super::{field, many, request};
use crate::tests::harness::Harness;

on_both! { notes_are_kept_in_order, lists_are_filtered_and_paged, stats_count_each_status }

async fn notes_are_kept_in_order(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let (task, other) = (harness.new_task(&office, "task").await, harness.new_task(&office, "other").await);
    let note = |body: &str, request_id: &str| AddTaskNoteRequest {
        office_id: office.clone(),
        task_id: task.id.clone(),
        body: body.into(),
        request_id: request_id.into(),
    };
    let add = async |by: &mi_kernel::Actor, note: AddTaskNoteRequest| {
        Ok::<_, tonic::Status>(harness.tasks(by).add_task_note(note).await?.into_inner().note.expect("always there"))
    };
    let first = add(&harness.owner, note("first", "n1")).await.expect("adds");
    let second = add(&worker, note("zweite: ✓ '); DROP TABLE tasks; --", "n1")).await.expect("adds");
    assert_eq!((first.author.as_str(), second.author.as_str()), ("operator", "worker"));
    let again: Vec<TaskNote> = futures::future::join_all((0..5).map(|_| add(&harness.owner, note("first", "n1"))))
        .await
        .into_iter()
        .map(|note| note.expect("answers"))
        .collect();
    assert!(again.iter().all(|note| *note == first));
    assert_eq!(field(add(&harness.owner, note("another", "n1")).await), "request_id");
    for wrong in ["", " \n\t", "a\0b", &"x".repeat(65537)] {
        assert_eq!(field(add(&harness.owner, note(wrong, "")).await), "body");
    }
    let longest = add(&worker, note(&"x".repeat(65536), "")).await.expect("fits");
    let list = async |task_id: &str, page_size, page_token: &str| {
        let request = ListTaskNotesRequest {
            office_id: office.clone(),
            task_id: task_id.into(),
            page_size,
            page_token: page_token.into(),
        };
        harness.tasks(&worker).list_task_notes(request).await.expect("lists").into_inner()
    };
    let page = list(&task.id, Some(2), "").await;
    assert_eq!(page.notes, [first, second]);
    let rest = list(&task.id, Some(2), &page.next_page_token).await;
    assert_eq!((rest.notes, rest.next_page_token.as_str()), (vec![longest], ""));
    assert_eq!(list(&other.id, None, "").await.notes, []);
}

async fn lists_are_filtered_and_paged(harness: Harness) {
    let office = harness.active("Work").await;
    harness.agent(&office, "worker", false, &[]);
    let whole = harness.new_task(&office, "whole").await.id;
    let mut requests = many("", 7).requests;
    requests[2].assigned_agent = "worker".into();
    requests[3].parent_id = whole.clone();
    requests[4] =
        CreateTaskRequest { parent_id: whole.clone(), assigned_agent: "worker".into(), ..request("", "both") };
    let tasks = harness.batch(&office, requests).await.expect("creates");
    harness.done(&office, &tasks[0].id).await;
    harness.cancel(&harness.owner, &office, &tasks[1].id).await.expect("open");
    let list = async |request: ListTasksRequest| {
        let request = ListTasksRequest { office_id: office.clone(), ..request };
        let page = harness.tasks(&harness.owner).list_tasks(request).await.expect("lists").into_inner();
        (page.tasks.into_iter().map(|task| task.title).collect::<Vec<_>>(), page.next_page_token)
    };
    let all = ["task 6", "task 5", "both", "task 3", "task 2", "task 1", "task 0", "whole"];
    assert_eq!(list(ListTasksRequest::default()).await, (all.map(String::from).to_vec(), String::new()));
    let (mut paged, mut page_token) = (Vec::new(), String::new());
    loop {
        let (titles, next) = list(ListTasksRequest { page_size: Some(3), page_token, ..Default::default() }).await;
        paged.extend(titles);
        page_token = next;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all);
    let statuses = vec![TaskStatus::Done.into(), TaskStatus::Cancelled.into()];
    assert_eq!(list(ListTasksRequest { statuses, ..Default::default() }).await.0, ["task 1", "task 0"]);
    let of_agent = ListTasksRequest { assigned_agent: "WORKER".into(), ..Default::default() };
    assert_eq!(list(of_agent.clone()).await.0, ["both", "task 2"]);
    let of_parent = ListTasksRequest { parent_id: whole.clone(), ..Default::default() };
    assert_eq!(list(of_parent).await.0, ["both", "task 3"]);
    let statuses = vec![TaskStatus::Queued.into()];
    assert_eq!(list(ListTasksRequest { statuses, parent_id: whole, ..of_agent }).await.0, ["both"]);
}

async fn stats_count_each_status(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let stats = async || {
        let request = GetTaskStatsRequest { office_id: office.clone() };
        harness.tasks(&worker).get_task_stats(request).await.expect("counts").into_inner().stats.expect("there")
    };
    assert_eq!(stats().await, mi_proto::v1::TaskStats::default());
    let tasks = harness.batch(&office, many("", 6).requests).await.expect("creates");
    harness.done(&office, &tasks[5].id).await;
    harness.cancel(&harness.owner, &office, &tasks[4].id).await.expect("open");
    harness.claim(&worker, &office).await.expect("one");
    let held = harness.claim(&worker, &office).await.expect("one");
    harness.fail(&worker, &office, &held, false).await.expect("holds");
    let waits = CreateTaskRequest { depends_on: vec![held.id], ..request(&office, "waits") };
    harness.create_task(&harness.owner, waits).await.expect("creates");
    let counted = stats().await;
    let mut counts: Vec<(TaskStatus, i32)> = counted
        .counts
        .iter()
        .map(|TaskCount { status, count }| ((*status).try_into().expect("known"), *count))
        .collect();
    counts.sort();
    assert_eq!(
        (counted.total, counts),
        (
            7,
            vec![
                (TaskStatus::Blocked, 1),
                (TaskStatus::Queued, 2),
                (TaskStatus::Running, 1),
                (TaskStatus::Done, 1),
                (TaskStatus::Failed, 1),
                (TaskStatus::Cancelled, 1),
            ]
        )
    );
}
