//! A creating call that is sent again.

use std::collections::BTreeSet;

use mi_proto::v1::{BatchCreateTasksRequest, CreateTaskRequest, GetTaskStatsRequest, ListTasksRequest, Task};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, field, request};
use crate::tests::harness::Harness;

on_both! {
    the_same_request_at_the_same_time_is_one_task,
    a_request_id_is_good_for_one_request,
    a_batch_that_is_sent_again_creates_what_is_missing,
    a_request_is_remembered_as_long_as_its_task,
    a_request_is_known_when_its_agent_is_gone,
}

fn named(office: &str, title: &str, request_id: &str) -> CreateTaskRequest {
    CreateTaskRequest { request_id: request_id.into(), ..request(office, title) }
}

impl Harness {
    async fn total(&self, office: &str) -> i32 {
        let request = GetTaskStatsRequest { office_id: office.into() };
        self.tasks(&self.owner).get_task_stats(request).await.expect("counts").into_inner().stats.expect("there").total
    }
}

async fn the_same_request_at_the_same_time_is_one_task(harness: Harness) {
    let office = harness.active("Work").await;
    let calls = (0..20).map(|_| harness.create_task(&harness.owner, named(&office, "once", "r1")));
    let tasks: Vec<Task> =
        futures::future::join_all(calls).await.into_iter().map(|task| task.expect("answers")).collect();
    assert_eq!(tasks.iter().map(|task| &task.id).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(harness.total(&office).await, 1);
    // It answers the task as it is now.
    harness.done(&office, &tasks[0].id).await;
    let again = harness.create_task(&harness.owner, named(&office, "once", "r1")).await.expect("answers");
    assert_eq!((again.id.as_str(), again.result.as_str()), (tasks[0].id.as_str(), "done"));
    assert_eq!(harness.total(&office).await, 1);
}

async fn a_request_id_is_good_for_one_request(harness: Harness) {
    let (office, other) = (harness.active("Work").await, harness.active("Other").await);
    let first = harness.create_task(&harness.owner, named(&office, "first", "r1")).await.expect("creates");
    for wrong in
        [named(&office, "second", "r1"), CreateTaskRequest { priority: Some(1), ..named(&office, "first", "r1") }]
    {
        assert_eq!(field(harness.create_task(&harness.owner, wrong).await), "request_id");
    }
    // The same in a batch, where tasks need not say their office.
    let same = harness.batch(&office, vec![named("", "first", "r1")]).await.expect("answers");
    assert_eq!(same[0].id, first.id);
    // Ids are their offices' own, and their callers'.
    let elsewhere = harness.batch(&other, vec![named("", "first", "r1")]).await.expect("creates");
    assert_ne!(elsewhere[0].id, first.id);
    let worker = harness.agent(&office, "worker", false, &[]);
    let own = harness.create_task(&worker, named(&office, "first", "r1")).await.expect("creates");
    assert_ne!(own.id, first.id);
    for wrong in ["x".repeat(129), "a\0b".into(), "a\nb".into()] {
        assert_eq!(field(harness.create_task(&harness.owner, named(&office, "x", &wrong)).await), "request_id");
    }
    assert_eq!((harness.total(&office).await, harness.total(&other).await), (2, 1));
}

async fn a_batch_that_is_sent_again_creates_what_is_missing(harness: Harness) {
    let office = harness.active("Work").await;
    let after = |n: usize| CreateTaskRequest {
        depends_on: vec![format!("#{}", n - 1)],
        ..named("", &format!("task {n}"), &format!("r{n}"))
    };
    let batch = |count: usize| BatchCreateTasksRequest {
        office_id: office.clone(),
        requests: std::iter::once(named("", "task 0", "r0")).chain((1..count).map(after)).collect(),
    };
    let create = async |count| {
        harness.tasks(&harness.owner).batch_create_tasks(batch(count)).await.expect("creates").into_inner().tasks
    };
    let (three, again, five) = (create(3).await, create(3).await, create(5).await);
    assert_eq!(three, again);
    assert_eq!(three, five[..3]);
    assert_eq!(
        (five[3].depends_on[0].as_str(), five[4].depends_on[0].as_str()),
        (three[2].id.as_str(), five[3].id.as_str())
    );
    assert_eq!(harness.total(&office).await, 5);

    let twice = vec![named("", "a", "same"), named("", "a", "same")];
    assert_eq!(field(harness.batch(&office, twice).await), "request_id");
    assert_eq!(harness.total(&office).await, 5);
    let wrong = ListTasksRequest { office_id: office, page_size: Some(0), ..Default::default() };
    assert_refused(harness.tasks(&harness.owner).list_tasks(wrong).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

async fn a_request_is_remembered_as_long_as_its_task(harness: Harness) {
    let office = harness.active("Work").await;
    let first = harness.create_task(&harness.owner, named(&office, "first", "r1")).await.expect("creates");
    let later = chrono::Utc::now() + chrono::TimeDelta::days(365);
    mi_store::idempotency::sweep(&harness.db().await, later).await.expect("sweeps");
    let again = harness.create_task(&harness.owner, named(&office, "first", "r1")).await.expect("answers");
    assert_eq!(again, first);
    assert_eq!(field(harness.create_task(&harness.owner, named(&office, "second", "r1")).await), "request_id");
    assert_eq!(harness.total(&office).await, 1);
}

async fn a_request_is_known_when_its_agent_is_gone(mut harness: Harness) {
    let office = harness.active("Work").await;
    harness.agent(&office, "worker", false, &[]);
    let kept = || CreateTaskRequest { assigned_agent: "worker".into(), ..named(&office, "kept", "r1") };
    let first = harness.create_task(&harness.owner, kept()).await.expect("creates");
    harness.scheduler.known().members.clear();
    // What it remembers of agents is gone with the process.
    harness.crash().await;
    let again = harness.create_task(&harness.owner, kept()).await.expect("answers");
    assert_eq!(again.id, first.id);
    let other = CreateTaskRequest { request_id: "r2".into(), ..kept() };
    assert_refused(harness.create_task(&harness.owner, other).await, Code::NotFound, "NOT_FOUND");
}
