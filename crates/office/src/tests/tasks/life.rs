//! One task from its creation to its end.

use mi_proto::v1::{ClaimTasksRequest, RenewLeaseRequest, TaskKind, TaskStatus};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, request, seconds};
use crate::tests::stage::Stage;

on_both! { created_claimed_completed, a_lease_runs_out }

async fn created_claimed_completed(stage: Stage) {
    let office = stage.active("Work").await;
    let (worker, other) = (stage.agent(&office, "worker", false, &[]), stage.agent(&office, "other", false, &[]));
    let created = stage.new_task(&office, "Count the words").await;
    assert_eq!(
        (created.status(), created.kind(), created.priority, created.attempt, created.max_attempts),
        (TaskStatus::Queued, TaskKind::General, 50, 0, 3)
    );
    assert_eq!((created.created_by.as_str(), created.lease_id.as_str()), ("operator", ""));

    let claimed = stage.claim(&worker, &office).await.expect("one is there");
    assert_eq!((claimed.id.as_str(), claimed.status(), claimed.attempt), (created.id.as_str(), TaskStatus::Running, 1));
    assert_eq!((claimed.worker.as_str(), claimed.lease_id.len()), ("worker", 36));
    assert_eq!(stage.task(&office, &created.id).await.lease_id, "", "a lease is its holder's");
    assert_eq!(stage.claim(&other, &office).await, None);

    let renew = RenewLeaseRequest {
        office_id: office.clone(),
        task_id: claimed.id.clone(),
        lease_id: claimed.lease_id.clone(),
        lease: seconds(60),
    };
    let renewed =
        stage.tasks(&worker).renew_lease(renew.clone()).await.expect("holds").into_inner().task.expect("there");
    assert!(renewed.lease_expires_at.expect("runs").seconds > claimed.lease_expires_at.expect("runs").seconds);
    assert_refused(stage.tasks(&other).renew_lease(renew).await, Code::Aborted, "LEASE_LOST");

    assert_refused(stage.complete(&worker, &office, &claimed, " \n").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_refused(stage.complete(&other, &office, &claimed, "7").await, Code::Aborted, "LEASE_LOST");
    let done = stage.complete(&worker, &office, &claimed, "7").await.expect("completes");
    assert_eq!((done.status(), done.result.as_str(), done.error.as_str()), (TaskStatus::Done, "7", ""));
    assert_eq!(stage.complete(&worker, &office, &claimed, "7").await.expect("the same again"), done);
    assert_refused(stage.complete(&worker, &office, &claimed, "8").await, Code::Aborted, "LEASE_LOST");
    assert_eq!(stage.task(&office, &created.id).await, done);
    stage
        .until_events(
            &office,
            &["office.created", "office.activated", "task.created", "task.claimed", "task.completed"],
        )
        .await;
}

async fn a_lease_runs_out(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let mut create = request(&office, "Slow");
    create.max_attempts = Some(2);
    let task = stage.create_task(&stage.owner, create).await.expect("creates");
    for (attempt, then) in [(1, TaskStatus::Queued), (2, TaskStatus::Failed)] {
        let claim = ClaimTasksRequest { office_id: office.clone(), lease: seconds(1), ..Default::default() };
        let claimed = stage.claim_with(&worker, claim).await.expect("claims").pop().expect("one");
        assert_eq!(claimed.attempt, attempt);
        stage.pass(std::time::Duration::from_secs(2)).await;
        mi_testkit::until("the sweep notices", crate::tests::stage::LONG, async || {
            let status = stage.status_of(&office, &task.id).await;
            if status == then { Ok(Some(())) } else { Err(status.as_str_name()) }
        })
        .await;
        assert_refused(stage.complete(&worker, &office, &claimed, "late").await, Code::Aborted, "LEASE_LOST");
    }
    let failed = stage.task(&office, &task.id).await;
    assert_eq!((failed.attempt, failed.error.as_str()), (2, "the lease ran out"));
}
