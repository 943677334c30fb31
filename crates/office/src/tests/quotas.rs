//! What an account and an office may have, also when two ask at once, and what of it is shown.

use futures::future::join_all;
use mi_kernel::Actor;
use mi_proto::v1::{
    BatchCreateTasksRequest, CancelTaskRequest, CreateAccountRequest, CreateApiKeyRequest, CreateOfficeRequest,
    CreateTaskRequest, GetOfficeStatusRequest, GetTaskStatsRequest, OfficeStatusReport, Quota, RetryTaskRequest,
    RevokeApiKeyRequest, SendMessageRequest, Task, TaskCount, TaskStatus, WhoAmIRequest,
};
use mi_testkit::on_both;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::{Harness, administrator};
use crate::Quotas;

on_both! {
    of_many_offices_at_once_those_are_created_that_fit,
    of_many_keys_at_once_those_are_created_that_fit,
    an_office_has_no_more_open_tasks_than_it_may,
    tasks_are_counted_as_they_move,
}

const FEW: Quotas = Quotas { offices: 3, api_keys: 3, open_tasks: 3 };

impl Harness {
    /// Goes on with few of everything.
    async fn with_few(mut self) -> Self {
        self.quotas = FEW;
        self.crash().await;
        self
    }

    async fn account_quotas(&self, actor: &Actor) -> Vec<(String, i64, i64)> {
        let answer = self.access(actor).who_am_i(WhoAmIRequest {}).await.expect("answers").into_inner();
        answer.quotas.into_iter().map(|Quota { name, used, limit }| (name, used, limit)).collect()
    }

    async fn report(&self, office: &str) -> OfficeStatusReport {
        let request = GetOfficeStatusRequest { office_id: office.into() };
        let answer = self.offices(&self.owner).get_office_status(request).await.expect("answers");
        answer.into_inner().status.expect("always there")
    }

    async fn open_tasks(&self, office: &str) -> (i64, i64) {
        let quotas = self.report(office).await.quotas;
        let found = quotas.iter().find(|quota| quota.name == "open_tasks").expect("always there");
        (found.used, found.limit)
    }

    async fn create_tasks(&self, office: &str, count: usize) -> Result<Vec<Task>, Status> {
        let task = |n| CreateTaskRequest { title: format!("task {n}"), ..Default::default() };
        let requests = (0..count).map(task).collect();
        let request = BatchCreateTasksRequest { office_id: office.into(), requests };
        Ok(self.tasks(&self.owner).batch_create_tasks(request).await?.into_inner().tasks)
    }
}

/// The refusal names quota and limit, and says when to come back.
fn assert_exceeded(status: &Status, quota: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(status.get_details_error_info().expect("always there").reason, "QUOTA_EXCEEDED");
    assert!(status.message().contains(&format!("the quota {quota} is 3")), "{status}");
    assert!(status.get_details_retry_info().is_some());
}

async fn of_many_offices_at_once_those_are_created_that_fit(harness: Harness) {
    let harness = harness.with_few().await;
    let create = async |name: String| {
        let request = CreateOfficeRequest { name: name.clone(), request_id: name };
        let created = harness.offices(&harness.owner).create_office(request).await;
        created.map(|answer| answer.into_inner().office.expect("always there").id)
    };
    let outcomes = join_all((0..8).map(|n| create(format!("office {n}")))).await;
    let (created, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((created.len(), refused.len()), (3, 5));
    refused.into_iter().for_each(|refused| assert_exceeded(&refused.expect_err("too many"), "offices"));
    let used = |offices| [("offices".to_owned(), offices, 3), ("api_keys".to_owned(), 1, 3)];
    assert_eq!(harness.account_quotas(&harness.owner).await, used(3));
    // Another account is not concerned.
    let (stranger, _) = harness.account("Stranger").await;
    assert_eq!(harness.account_quotas(&stranger).await[0], ("offices".to_owned(), 0, 3));

    let gone = created.into_iter().next().expect("three").expect("created");
    harness.delete(&gone).await;
    harness.until_status(&gone, None).await;
    assert_eq!(harness.account_quotas(&harness.owner).await, used(2));
    create("nine".into()).await.expect("there is room again");
    assert_exceeded(&create("ten".into()).await.expect_err("full again"), "offices");
}

async fn of_many_keys_at_once_those_are_created_that_fit(harness: Harness) {
    let harness = harness.with_few().await;
    let create = async || {
        let request = CreateApiKeyRequest { name: "laptop".into(), account_id: String::new() };
        let created = harness.access(&harness.owner).create_api_key(request).await;
        created.map(|answer| answer.into_inner().api_key.expect("always there").id)
    };
    // The account's first key is there already.
    let outcomes = join_all((0..6).map(|_| create())).await;
    let (created, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((created.len(), refused.len()), (2, 4));
    refused.into_iter().for_each(|refused| assert_exceeded(&refused.expect_err("too many"), "api_keys"));
    let revoked = created.into_iter().next().expect("two").expect("created");
    for _ in 0..2 {
        let request = RevokeApiKeyRequest { api_key_id: revoked.clone() };
        harness.access(&harness.owner).revoke_api_key(request).await.expect("revokes");
    }
    assert_eq!(harness.account_quotas(&harness.owner).await[1], ("api_keys".to_owned(), 2, 3));
    create().await.expect("there is room again");
    // A new account's first key is no question of quotas.
    let request = CreateAccountRequest { name: "Another".into() };
    harness.access(&administrator()).create_account(request).await.expect("creates");
}

async fn an_office_has_no_more_open_tasks_than_it_may(harness: Harness) {
    let harness = harness.with_few().await;
    let office = harness.create("Full").await.id;
    harness.agent(&office, "analyst", false, &[]);
    let two = harness.create_tasks(&office, 2).await.expect("fit");
    // All of a batch or nothing.
    assert_exceeded(&harness.create_tasks(&office, 2).await.expect_err("too many"), "open_tasks");
    assert_eq!(harness.open_tasks(&office).await, (2, 3));
    let cancel = async |task: &str| {
        let request =
            CancelTaskRequest { office_id: office.clone(), task_id: task.into(), ..CancelTaskRequest::default() };
        harness.tasks(&harness.owner).cancel_task(request).await.expect("cancels");
    };
    cancel(&two[0].id).await;
    assert_eq!(harness.open_tasks(&office).await, (1, 3));

    let twins = join_all((0..6).map(|_| harness.create_tasks(&office, 1))).await;
    assert_eq!(twins.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    // Neither a retry nor a message goes past it.
    let retry = RetryTaskRequest { office_id: office.clone(), task_id: two[0].id.clone() };
    let refused = harness.tasks(&harness.owner).retry_task(retry.clone()).await.expect_err("too many");
    assert_exceeded(&refused, "open_tasks");
    let message = SendMessageRequest {
        office_id: office.clone(),
        to_agent: "analyst".into(),
        body: "Good morning".into(),
        ..SendMessageRequest::default()
    };
    let refused = harness.chat(&harness.owner).send_message(message.clone()).await.expect_err("too many");
    assert_exceeded(&refused, "open_tasks");
    cancel(&two[1].id).await;
    harness.chat(&harness.owner).send_message(message).await.expect("there is room again");
    assert_eq!(harness.open_tasks(&office).await, (3, 3));
}

async fn tasks_are_counted_as_they_move(mut harness: Harness) {
    let office = harness.create("Counted").await.id;
    let counts = async |harness: &Harness| {
        let stats = GetTaskStatsRequest { office_id: office.clone() };
        let stats = harness.tasks(&harness.owner).get_task_stats(stats).await.expect("answers").into_inner();
        let stats = stats.stats.expect("always there");
        assert_eq!(stats.counts, harness.report(&office).await.tasks);
        stats.counts
    };
    let count = |status: TaskStatus, count| TaskCount { status: status.into(), count };
    assert_eq!(counts(&harness).await, []);
    let tasks = harness.create_tasks(&office, 3).await.expect("fit");
    assert_eq!(counts(&harness).await, [count(TaskStatus::Queued, 3)]);
    let cancel =
        CancelTaskRequest { office_id: office.clone(), task_id: tasks[0].id.clone(), ..CancelTaskRequest::default() };
    harness.tasks(&harness.owner).cancel_task(cancel).await.expect("cancels");
    let waiting = CreateTaskRequest {
        office_id: office.clone(),
        title: "waits".into(),
        depends_on: vec![tasks[1].id.clone()],
        ..CreateTaskRequest::default()
    };
    harness.tasks(&harness.owner).create_task(waiting).await.expect("creates");
    let expected = [count(TaskStatus::Blocked, 1), count(TaskStatus::Cancelled, 1), count(TaskStatus::Queued, 2)];
    assert_eq!(counts(&harness).await, expected);
    // What is counted is what is there.
    harness.crash().await;
    assert_eq!(counts(&harness).await, expected);
}
