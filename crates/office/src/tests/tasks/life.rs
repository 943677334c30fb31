//! One task from its creation to its end.

use mi_proto::v1::{ClaimTasksRequest, RenewLeaseRequest, TaskKind, TaskStatus};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, request, seconds};
use crate::tests::harness::Harness;

on_both! { created_claimed_completed, a_lease_runs_out }

async fn created_claimed_completed(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    let created = harness.new_task(&office, "Count the words").await;
    assert_eq!(
        (created.status(), created.kind(), created.priority, created.attempt, created.max_attempts),
        (TaskStatus::Queued, TaskKind::General, 50, 0, 3)
    );
    assert_eq!((created.created_by.as_str(), created.lease_id.as_str()), ("operator", ""));

    let claimed = harness.claim(&worker, &office).await.expect("one is there");
    assert_eq!((claimed.id.as_str(), claimed.status(), claimed.attempt), (created.id.as_str(), TaskStatus::Running, 1));
    assert_eq!((claimed.worker.as_str(), claimed.lease_id.len()), ("worker", 36));
    assert_eq!(harness.task(&office, &created.id).await.lease_id, "", "a lease is its holder's");
    assert_eq!(harness.claim(&other, &office).await, None);

    let renew = RenewLeaseRequest {
        office_id: office.clone(),
        task_id: claimed.id.clone(),
        lease_id: claimed.lease_id.clone(),
        lease: seconds(60),
    };
    let renewed =
        harness.tasks(&worker).renew_lease(renew.clone()).await.expect("holds").into_inner().task.expect("there");
    assert!(renewed.lease_expires_at.expect("runs").seconds > claimed.lease_expires_at.expect("runs").seconds);
    assert_refused(harness.tasks(&other).renew_lease(renew).await, Code::Aborted, "LEASE_LOST");

    assert_refused(
        harness.complete(&worker, &office, &claimed, " \n").await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    assert_refused(harness.complete(&other, &office, &claimed, "7").await, Code::Aborted, "LEASE_LOST");
    let done = harness.complete(&worker, &office, &claimed, "7").await.expect("completes");
    assert_eq!((done.status(), done.result.as_str(), done.error.as_str()), (TaskStatus::Done, "7", ""));
    assert_eq!(harness.complete(&worker, &office, &claimed, "7").await.expect("the same again"), done);
    assert_refused(harness.complete(&worker, &office, &claimed, "8").await, Code::Aborted, "LEASE_LOST");
    assert_eq!(harness.task(&office, &created.id).await, done);
    harness
        .until_events(
            &office,
            &["office.created", "credit.granted", "office.activated", "task.created", "task.claimed", "task.completed"],
        )
        .await;
}

async fn a_lease_runs_out(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let mut create = request(&office, "Slow");
    create.max_attempts = Some(2);
    let task = harness.create_task(&harness.owner, create).await.expect("creates");
    for (attempt, then) in [(1, TaskStatus::Queued), (2, TaskStatus::Failed)] {
        let claim = ClaimTasksRequest { office_id: office.clone(), lease: seconds(1), ..Default::default() };
        let claimed = harness.claim_with(&worker, claim).await.expect("claims").pop().expect("one");
        assert_eq!(claimed.attempt, attempt);
        harness.pass(std::time::Duration::from_secs(2)).await;
        mi_testkit::until("the sweep notices", crate::tests::harness::LONG, async || {
            let status = harness.status_of(&office, &task.id).await;
            if status == then { Ok(Some(())) } else { Err(status.as_str_name()) }
        })
        .await;
        assert_refused(harness.complete(&worker, &office, &claimed, "late").await, Code::Aborted, "LEASE_LOST");
    }
    let failed = harness.task(&office, &task.id).await;
    assert_eq!((failed.attempt, failed.error.as_str()), (2, "the lease ran out"));
}
