//! A fault of the platform's own in work that callers share.

use mi_proto::v1::{BatchCompleteTasksRequest, ClaimTasksRequest, CompleteTaskRequest, Task, TaskStatus};
use mi_store::on;
use mi_testkit::on_both;
use sqlx::types::Json;
use tonic::Code;
use uuid::Uuid;

use super::{many, seconds};
use crate::tests::harness::Harness;

on_both! {
    a_task_that_cannot_be_read_fails_alone,
    a_queued_task_that_cannot_be_read_is_in_the_way_of_no_report,
}

/// Puts nonsense into the row of a task, and has what is remembered of the queue forgotten.
async fn spoil(harness: &Harness, task: &Task) {
    let mut tx = harness.db().await.platform().begin().await.expect("begins");
    on!(tx, |c| { sqlx::query("UPDATE task_queues SET cursor = cursor + 1").execute(&mut *c).await.map(drop) })
        .expect("moves on");
    on!(tx, |c| {
        sqlx::query("UPDATE tasks SET spec = $1 WHERE id = $2")
            .bind(Json("nonsense"))
            .bind(task.id.parse::<Uuid>().expect("an id"))
            .execute(&mut *c)
            .await
            .map(drop)
    })
    .expect("spoils");
    tx.commit().await.expect("commits");
}

async fn a_task_that_cannot_be_read_fails_alone(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let created =
        harness.tasks(&harness.owner).batch_create_tasks(many(&office, 7)).await.expect("creates").into_inner();
    let mut claimed = Vec::new();
    while let Some(task) = harness.claim(&worker, &office).await {
        claimed.push(task);
    }
    assert_eq!(claimed.len(), created.tasks.len());
    spoil(&harness, &claimed[3]).await;

    let requests = claimed.iter().map(|task| CompleteTaskRequest {
        task_id: task.id.clone(),
        lease_id: task.lease_id.clone(),
        result: "done".into(),
        ..Default::default()
    });
    let batch = BatchCompleteTasksRequest { claim_next: None, office_id: office.clone(), requests: requests.collect() };
    // Who waits for work shares the transaction, and goes on waiting.
    let waiter = harness.agent(&office, "waiter", false, &[]);
    let claim = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let working = async {
        let done = harness.tasks(&worker).batch_complete_tasks(batch).await.expect("answered").into_inner();
        (done.results, harness.new_task(&office, "Next").await)
    };
    let (waited, (results, next)) = tokio::join!(harness.claim_with(&waiter, claim), working);
    let reasons: Vec<&str> = results.iter().map(|result| result.reason.as_str()).collect();
    assert_eq!(reasons, ["", "", "", "INTERNAL", "", "", ""]);
    for (place, task) in claimed.iter().enumerate().filter(|(place, _)| *place != 3) {
        assert_eq!(harness.status_of(&office, &task.id).await, TaskStatus::Done, "{place}");
    }
    assert_eq!(waited.expect("goes on").pop().expect("woken").id, next.id);
    let again = harness.complete(&worker, &office, &claimed[3], "done").await.expect_err("still nonsense");
    assert_eq!(again.code(), Code::Internal, "and not that the platform is shutting down: {again:?}");
}

async fn a_queued_task_that_cannot_be_read_is_in_the_way_of_no_report(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for title in ["first", "second", "third"] {
        harness.new_task(&office, title).await;
    }
    let first = harness.claim(&worker, &office).await.expect("claims");
    let second = harness.claim(&worker, &office).await.expect("claims");
    let queued = harness.new_task(&office, "fourth").await;
    spoil(&harness, &queued).await;
    harness.renew(&worker, &office, &first).await.expect("renews");
    harness.complete(&worker, &office, &first, "done").await.expect("completes");
    harness.new_task(&office, "fifth").await;
    harness.complete(&worker, &office, &second, "done").await.expect("completes");
    for task in [first, second] {
        assert_eq!(harness.status_of(&office, &task.id).await, TaskStatus::Done, "{}", task.title);
    }
}
