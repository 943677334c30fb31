//! Lists of tasks.

use mi_proto::v1::{CreateTaskRequest, ListTasksRequest, TaskStatus};
use mi_testkit::on_both;

use super::request;
use crate::tests::stage::Stage;

on_both! { a_list_is_of_what_was_asked_for_newest_first_page_by_page }

/// What is asked for: statuses, an agent, and whether of the parts of a task; and the titles of each page.
type Case<'a> = (&'a [TaskStatus], &'a str, bool, &'a [&'a [&'a str]]);

impl Stage {
    /// Titles of each page of a list.
    async fn pages(&self, list: &ListTasksRequest) -> Vec<Vec<String>> {
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

async fn a_list_is_of_what_was_asked_for_newest_first_page_by_page(stage: Stage) {
    use TaskStatus::{Blocked, Cancelled, Done, Queued, Running};
    let office = stage.active("Work").await;
    for name in ["ann", "bob"] {
        stage.agent(&office, name, false, &[]);
    }
    let elsewhere = stage.active("Elsewhere").await;
    stage.new_task(&elsewhere, "not ours").await;

    let whole = stage.new_task(&office, "whole").await;
    let mut ids = Vec::new();
    for (title, agent, of_whole) in
        [("a1", "ann", false), ("b1", "bob", true), ("a2", "ann", true), ("free", "", true), ("a3", "ann", false)]
    {
        let parent_id = if of_whole { whole.id.clone() } else { String::new() };
        let new = CreateTaskRequest { assigned_agent: agent.into(), parent_id, ..request(&office, title) };
        ids.push(stage.create_task(&stage.owner, new).await.expect("creates").id);
    }
    let waits = CreateTaskRequest { depends_on: vec![ids[4].clone()], ..request(&office, "waits") };
    stage.create_task(&stage.owner, waits).await.expect("creates");
    stage.done(&office, &ids[0]).await;
    stage.done(&office, &ids[1]).await;
    stage.cancel(&stage.owner, &office, &ids[3]).await.expect("cancels");

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
        assert_eq!(stage.pages(&list).await, *expected, "{statuses:?} of {agent:?}, parts: {of_whole}");
    }
}
