//! A creating call that is sent again.

use std::collections::BTreeSet;

use mi_proto::v1::{BatchCreateTasksRequest, CreateTaskRequest, GetTaskStatsRequest, ListTasksRequest, Task};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, field, request};
use crate::tests::stage::Stage;

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

impl Stage {
    async fn total(&self, office: &str) -> i32 {
        let request = GetTaskStatsRequest { office_id: office.into() };
        self.tasks(&self.owner).get_task_stats(request).await.expect("counts").into_inner().stats.expect("there").total
    }
}

async fn the_same_request_at_the_same_time_is_one_task(stage: Stage) {
    let office = stage.active("Work").await;
    let calls = (0..20).map(|_| stage.create_task(&stage.owner, named(&office, "once", "r1")));
    let tasks: Vec<Task> =
        futures::future::join_all(calls).await.into_iter().map(|task| task.expect("answers")).collect();
    assert_eq!(tasks.iter().map(|task| &task.id).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(stage.total(&office).await, 1);
    // It answers the task as it is now.
    stage.done(&office, &tasks[0].id).await;
    let again = stage.create_task(&stage.owner, named(&office, "once", "r1")).await.expect("answers");
    assert_eq!((again.id.as_str(), again.result.as_str()), (tasks[0].id.as_str(), "done"));
    assert_eq!(stage.total(&office).await, 1);
}

async fn a_request_id_is_good_for_one_request(stage: Stage) {
    let (office, other) = (stage.active("Work").await, stage.active("Other").await);
    let first = stage.create_task(&stage.owner, named(&office, "first", "r1")).await.expect("creates");
    for wrong in
        [named(&office, "second", "r1"), CreateTaskRequest { priority: Some(1), ..named(&office, "first", "r1") }]
    {
        assert_eq!(field(stage.create_task(&stage.owner, wrong).await), "request_id");
    }
    // The same in a batch, where tasks need not say their office.
    let same = stage.batch(&office, vec![named("", "first", "r1")]).await.expect("answers");
    assert_eq!(same[0].id, first.id);
    // Ids are their offices' own, and their callers'.
    let elsewhere = stage.batch(&other, vec![named("", "first", "r1")]).await.expect("creates");
    assert_ne!(elsewhere[0].id, first.id);
    let worker = stage.agent(&office, "worker", false, &[]);
    let own = stage.create_task(&worker, named(&office, "first", "r1")).await.expect("creates");
    assert_ne!(own.id, first.id);
    for wrong in ["x".repeat(129), "a\0b".into(), "a\nb".into()] {
        assert_eq!(field(stage.create_task(&stage.owner, named(&office, "x", &wrong)).await), "request_id");
    }
    assert_eq!((stage.total(&office).await, stage.total(&other).await), (2, 1));
}

async fn a_batch_that_is_sent_again_creates_what_is_missing(stage: Stage) {
    let office = stage.active("Work").await;
    let after = |n: usize| CreateTaskRequest {
        depends_on: vec![format!("#{}", n - 1)],
        ..named("", &format!("task {n}"), &format!("r{n}"))
    };
    let batch = |count: usize| BatchCreateTasksRequest {
        office_id: office.clone(),
        requests: std::iter::once(named("", "task 0", "r0")).chain((1..count).map(after)).collect(),
    };
    let create = async |count| {
        stage.tasks(&stage.owner).batch_create_tasks(batch(count)).await.expect("creates").into_inner().tasks
    };
    let (three, again, five) = (create(3).await, create(3).await, create(5).await);
    assert_eq!(three, again);
    assert_eq!(three, five[..3]);
    assert_eq!(
        (five[3].depends_on[0].as_str(), five[4].depends_on[0].as_str()),
        (three[2].id.as_str(), five[3].id.as_str())
    );
    assert_eq!(stage.total(&office).await, 5);

    let twice = vec![named("", "a", "same"), named("", "a", "same")];
    assert_eq!(field(stage.batch(&office, twice).await), "request_id");
    assert_eq!(stage.total(&office).await, 5);
    let wrong = ListTasksRequest { office_id: office, page_size: Some(0), ..Default::default() };
    assert_refused(stage.tasks(&stage.owner).list_tasks(wrong).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

async fn a_request_is_remembered_as_long_as_its_task(stage: Stage) {
    let office = stage.active("Work").await;
    let first = stage.create_task(&stage.owner, named(&office, "first", "r1")).await.expect("creates");
    let later = chrono::Utc::now() + chrono::TimeDelta::days(365);
    mi_store::idempotency::sweep(&stage.db().await, later).await.expect("sweeps");
    let again = stage.create_task(&stage.owner, named(&office, "first", "r1")).await.expect("answers");
    assert_eq!(again, first);
    assert_eq!(field(stage.create_task(&stage.owner, named(&office, "second", "r1")).await), "request_id");
    assert_eq!(stage.total(&office).await, 1);
}

async fn a_request_is_known_when_its_agent_is_gone(mut stage: Stage) {
    let office = stage.active("Work").await;
    stage.agent(&office, "worker", false, &[]);
    let kept = || CreateTaskRequest { assigned_agent: "worker".into(), ..named(&office, "kept", "r1") };
    let first = stage.create_task(&stage.owner, kept()).await.expect("creates");
    stage.scheduler.known().members.clear();
    // What it remembers of agents is gone with the process.
    stage.crash().await;
    let again = stage.create_task(&stage.owner, kept()).await.expect("answers");
    assert_eq!(again.id, first.id);
    let other = CreateTaskRequest { request_id: "r2".into(), ..kept() };
    assert_refused(stage.create_task(&stage.owner, other).await, Code::NotFound, "NOT_FOUND");
}
