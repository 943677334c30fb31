//! Lists of tasks.

use mi_proto::v1::{AddTaskNoteRequest, CreateTaskRequest, ListTaskNotesRequest, ListTasksRequest, TaskStatus};
use mi_testkit::on_both;

use prost::Message;

use super::request;
use crate::tests::harness::Harness;

on_both! {
    a_list_is_of_what_was_asked_for_newest_first_page_by_page,
    a_page_fits_into_what_clients_take,
}

/// What is asked for: statuses, an agent, and whether of the parts of a task; and the titles of each page.
type Case<'a> = (&'a [TaskStatus], &'a str, bool, &'a [&'a [&'a str]]);

impl Harness {
    /// Titles of each page of a list.
    pub(super) async fn pages(&self, list: &ListTasksRequest) -> Vec<Vec<String>> {
        let (mut pages, mut list) = (Vec::new(), list.clone());
        loop {
            let page = self.tasks(&self.owner).list_tasks(list.clone()).await.expect("lists").into_inner();
            pages.push(page.tasks.into_iter().map(|task| task.title).collect());
            if page.next_page_token.is_empty() {
                return pages;
            }
            list.page_token = page.next_page_token;
        }
    }
}

async fn a_page_fits_into_what_clients_take(harness: Harness) {
    let office = harness.active("Work").await;
    // As long as they get: 256 KiB before, and 256 KiB after.
    let longest = "x".repeat(256 << 10);
    for n in 0..14 {
        let new = CreateTaskRequest { description: longest.clone(), ..request(&office, &n.to_string()) };
        let task = harness.create_task(&harness.owner, new).await.expect("creates");
        if n < 7 {
            harness.complete(&harness.owner, &office, &task, &longest).await.expect("completes");
        }
    }
    let list = ListTasksRequest { office_id: office.clone(), ..Default::default() };
    let pages = harness.pages(&list).await;
    // Seven of 256 KiB and two of twice that fit into 3 MiB, but no third; nor a sixth beside five.
    assert_eq!(pages, [&["13", "12", "11", "10", "9", "8", "7", "6", "5"][..], &["4", "3", "2", "1", "0"][..]]);

    let task = harness.new_task(&office, "noted").await.id;
    let note = AddTaskNoteRequest {
        office_id: office.clone(),
        task_id: task.clone(),
        body: "x".repeat(64 << 10),
        request_id: String::new(),
    };
    for _ in 0..50 {
        harness.tasks(&harness.owner).add_task_note(note.clone()).await.expect("adds");
    }
    let mut request = ListTaskNotesRequest { office_id: office, task_id: task, ..Default::default() };
    let mut pages = Vec::new();
    loop {
        let page = harness.tasks(&harness.owner).list_task_notes(request.clone()).await.expect("lists").into_inner();
        assert!(page.encoded_len() < 3 << 20, "{}", page.encoded_len());
        pages.push(page.notes.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [47, 3]);
}

async fn a_list_is_of_what_was_asked_for_newest_first_page_by_page(harness: Harness) {
    use TaskStatus::{Blocked, Cancelled, Done, Queued, Running};
    let office = harness.active("Work").await;
    for name in ["ann", "bob"] {
        harness.agent(&office, name, false, &[]);
    }
    let elsewhere = harness.active("Elsewhere").await;
    harness.new_task(&elsewhere, "not ours").await;

    let whole = harness.new_task(&office, "whole").await;
    let mut ids = Vec::new();
    for (title, agent, of_whole) in
        [("a1", "ann", false), ("b1", "bob", true), ("a2", "ann", true), ("free", "", true), ("a3", "ann", false)]
    {
        let parent_id = if of_whole { whole.id.clone() } else { String::new() };
        let new = CreateTaskRequest { assigned_agent: agent.into(), parent_id, ..request(&office, title) };
        ids.push(harness.create_task(&harness.owner, new).await.expect("creates").id);
    }
    let waits = CreateTaskRequest { depends_on: vec![ids[4].clone()], ..request(&office, "waits") };
    harness.create_task(&harness.owner, waits).await.expect("creates");
    harness.done(&office, &ids[0]).await;
    harness.done(&office, &ids[1]).await;
    harness.cancel(&harness.owner, &office, &ids[3]).await.expect("cancels");

    let cases: &[Case<'_>] = &[
        (&[], "", false, &[&["waits", "a3"], &["free", "a2"], &["b1", "a1"], &["whole"]]),
        (&[Queued], "", false, &[&["a3", "a2"], &["whole"]]),
        (&[Done, Queued, Done], "", false, &[&["a3", "a2"], &["b1", "a1"], &["whole"]]),
        (&[Blocked, Cancelled], "", false, &[&["waits", "free"]]),
        (&[Running], "", false, &[&[]]),
        (&[], "ann", false, &[&["a3", "a2"], &["a1"]]),
        (&[Queued, Blocked], "ann", false, &[&["a3", "a2"]]),
        (&[Done], "ann", false, &[&["a1"]]),
        (&[Queued, Done], "ANN", false, &[&["a3", "a2"], &["a1"]]),
        (&[], "", true, &[&["free", "a2"], &["b1"]]),
        (&[Queued, Done], "", true, &[&["a2", "b1"]]),
        (&[], "bob", true, &[&["b1"]]),
        (&[Queued], "bob", true, &[&[]]),
    ];
    for (statuses, agent, of_whole, expected) in cases {
        let list = ListTasksRequest {
            office_id: office.clone(),
            statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
            assigned_agent: (*agent).into(),
            parent_id: if *of_whole { whole.id.clone() } else { String::new() },
            page_size: Some(2),
            ..Default::default()
        };
        assert_eq!(harness.pages(&list).await, *expected, "{statuses:?} of {agent:?}, parts: {of_whole}");
    }
}
