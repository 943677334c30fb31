//! Conversations: tasks that go on with others, and lists by the last change.

use mi_proto::v1::{CreateTaskRequest, ListTasksRequest, Task, TaskStatus};
use mi_rpc::convert::time;
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, many, request};
use crate::tests::harness::Harness;

on_both! {
    a_task_goes_on_with_a_conversation_or_begins_one,
    what_changed_last_is_listed_first,
    a_page_by_change_looks_at_a_thousand,
}

impl Harness {
    async fn task_of(&self, office: &str, title: &str, context: &str) -> Task {
        let new = CreateTaskRequest { context_id: context.into(), ..request(office, title) };
        self.create_task(&self.owner, new).await.expect("creates")
    }
}

async fn a_task_goes_on_with_a_conversation_or_begins_one(harness: Harness) {
    let office = harness.active("Work").await;
    let first = harness.task_of(&office, "first", "").await;
    assert_eq!(first.context_id, first.id);
    let second = harness.task_of(&office, "second", &first.id).await;
    assert_eq!(second.context_id, first.id);
    let (word, longest) = ("日本 word", "x".repeat(128));
    for (title, context) in [("a", word), ("b", word), ("long", longest.as_str()), ("third", &first.id)] {
        assert_eq!(harness.task_of(&office, title, context).await.context_id, context);
    }
    harness.done(&office, &first.id).await;
    // That of another office is another one.
    let elsewhere = harness.active("Elsewhere").await;
    harness.task_of(&elsewhere, "not ours", &first.id).await;

    let list = |context: &str, statuses: &[TaskStatus]| ListTasksRequest {
        office_id: office.clone(),
        context_id: context.into(),
        statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
        page_size: Some(2),
        ..Default::default()
    };
    for (context, statuses, expected) in [
        (first.id.as_str(), &[][..], &[&["third", "second"][..], &["first"]][..]),
        (&first.id, &[TaskStatus::Done], &[&["first"]]),
        (&first.id, &[TaskStatus::Queued], &[&["third", "second"]]),
        (word, &[], &[&["b", "a"]]),
        (&longest, &[], &[&["long"]]),
        // It goes on with another, and began none.
        (&second.id, &[], &[&[]]),
        ("nothing", &[], &[&[]]),
    ] {
        assert_eq!(harness.pages(&list(context, statuses)).await, *expected, "{context}");
        let by_change = ListTasksRequest { order_by: "updated_at desc".into(), ..list(context, statuses) };
        let mut titles = harness.pages(&by_change).await.concat();
        let mut expected = expected.concat();
        titles.sort_unstable();
        expected.sort_unstable();
        assert_eq!(titles, expected, "{context}");
    }
    for wrong in ["x".repeat(129), "a\nb".into()] {
        let new = CreateTaskRequest { context_id: wrong, ..request(&office, "never") };
        assert_refused(harness.create_task(&harness.owner, new).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}

async fn what_changed_last_is_listed_first(harness: Harness) {
    let office = harness.active("Work").await;
    harness.agent(&office, "ann", false, &[]);
    let mut tasks = Vec::new();
    for title in ["a", "b", "c", "d"] {
        tasks.push(harness.new_task(&office, title).await);
    }
    let for_ann = CreateTaskRequest { assigned_agent: "ann".into(), ..request(&office, "ann's") };
    harness.create_task(&harness.owner, for_ann).await.expect("creates");
    harness.clock.advance(std::time::Duration::from_secs(60));
    harness.done(&office, &tasks[1].id).await;
    harness.cancel(&harness.owner, &office, &tasks[0].id).await.expect("cancels");
    let list = ListTasksRequest {
        office_id: office.clone(),
        order_by: "updated_at desc".into(),
        page_size: Some(3),
        ..Default::default()
    };
    assert_eq!(harness.pages(&list).await, [&["a", "b", "ann's"][..], &["d", "c"]]);
    let of_ann = ListTasksRequest { assigned_agent: "ANN".into(), ..list.clone() };
    assert_eq!(harness.pages(&of_ann).await, [["ann's"]]);
    let done = ListTasksRequest { statuses: vec![TaskStatus::Done.into()], ..list.clone() };
    assert_eq!(harness.pages(&done).await, [["b"]]);
    let cancelled = harness.task(&office, &tasks[0].id).await;
    let at = cancelled.updated_at.expect("changed");
    assert_ne!(time("updated_at", &at).expect("is one"), time("", &tasks[3].updated_at.expect("new")).expect("is one"));
    let late = ListTasksRequest { updated_after: Some(at), page_size: Some(1), ..list };
    assert_eq!(harness.pages(&late).await, [["a"], ["b"]]);
}

async fn a_page_by_change_looks_at_a_thousand(harness: Harness) {
    let office = harness.active("Work").await;
    harness.agent(&office, "ann", false, &[]);
    let for_ann = CreateTaskRequest { assigned_agent: "ann".into(), ..request(&office, "ann's") };
    harness.create_task(&harness.owner, for_ann).await.expect("creates");
    harness.tasks(&harness.owner).batch_create_tasks(many(&office, 1000)).await.expect("creates");
    let list = ListTasksRequest {
        office_id: office.clone(),
        assigned_agent: "ann".into(),
        order_by: "updated_at desc".into(),
        ..Default::default()
    };
    assert_eq!(harness.pages(&list).await, [&[][..], &["ann's"]]);
}
