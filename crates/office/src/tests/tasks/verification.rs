//! Work that somebody else has to accept.

use std::time::Duration;

use mi_kernel::{Actor, ApiKeyId};
use mi_proto::v1::{
    ClaimTasksRequest, CreateTaskRequest, GetTaskRequest, ListTasksRequest, OfficeSettings, Task, TaskKind, TaskStatus,
    UpdateOfficeSettingsRequest, Verification, VerifyTaskRequest,
};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, request};
use crate::tests::{retention::DAY, stage::Stage};

on_both! {
    a_reviewer_accepts,
    a_rejection_is_another_attempt,
    nobody_judges_what_they_did,
    peers_judge_when_the_office_wants_it,
    work_that_nobody_judges_fails_after_a_day,
    a_review_without_a_verdict_is_not_done,
    a_review_may_outlive_the_work,
    a_verdict_recalls_the_review,
    a_verdict_is_about_the_attempt_that_was_seen,
    a_review_is_found_by_whoever_may_judge,
}

fn checked(office: &str, title: &str) -> CreateTaskRequest {
    CreateTaskRequest { verification_required: true, ..request(office, title) }
}

/// Another key of the same account.
fn colleague(owner: &Actor) -> Actor {
    match owner {
        Actor::Operator { account_id, .. } => {
            Actor::Operator { account_id: *account_id, api_key_id: ApiKeyId::new(), administrator: false }
        }
        other => panic!("{other:?} is no operator"),
    }
}

impl Stage {
    /// Tasks that judge others, newest first.
    async fn reviews(&self, office: &str) -> Vec<Task> {
        let request = ListTasksRequest { office_id: office.into(), ..Default::default() };
        let tasks = self.tasks(&self.owner).list_tasks(request).await.expect("lists").into_inner().tasks;
        tasks.into_iter().filter(|task| !task.verifies_task_id.is_empty()).collect()
    }

    /// A task whose work waits to be judged, and the agent that did it.
    async fn submitted(&self, office: &str) -> (Task, Actor) {
        let worker = self.agent(office, "worker", false, &[]);
        self.create_task(&self.owner, checked(office, "task")).await.expect("creates");
        let held = self.claim(&worker, office).await.expect("one");
        (self.complete(&worker, office, &held, "work").await.expect("holds"), worker)
    }
}

async fn a_reviewer_accepts(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, worker) = stage.submitted(&office).await;
    assert_eq!((task.status(), task.result.as_str(), task.finished_at), (TaskStatus::Verifying, "work", None));
    let waits = CreateTaskRequest { depends_on: vec![task.id.clone()], ..request(&office, "next") };
    let next = stage.create_task(&stage.owner, waits).await.expect("creates");
    let review = stage.reviews(&office).await.remove(0);
    assert_eq!(
        (review.kind(), review.title.as_str(), review.created_by.as_str(), review.cause, review.depth),
        (TaskKind::Review, "Verify: task", "platform", format!("task/{}", task.id), 1)
    );
    assert!(review.description.contains("work") && review.description.contains(&task.id), "{}", review.description);
    // The worker does not get it.
    assert_eq!(stage.claim(&worker, &office).await, None);
    let peer = stage.agent(&office, "peer", false, &[]);
    let held = stage.claim(&peer, &office).await.expect("the review");
    assert_eq!(held.verifies_task_id, task.id);
    let done = stage.verify(&peer, &office, &task.id, true).await.expect("may");
    assert_eq!((done.status(), done.result.as_str(), done.worker.as_str()), (TaskStatus::Done, "work", "worker"));
    assert_eq!(stage.status_of(&office, &next.id).await, TaskStatus::Queued);
    assert_eq!(stage.complete(&peer, &office, &held, "it is good").await.expect("holds").status(), TaskStatus::Done);
    assert_refused(stage.verify(&peer, &office, &task.id, true).await, Code::FailedPrecondition, "TASK_STATE");
}

async fn a_rejection_is_another_attempt(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let create = CreateTaskRequest { max_attempts: Some(2), ..checked(&office, "task") };
    let id = stage.create_task(&stage.owner, create).await.expect("creates").id;
    for (attempt, then) in [(1, (TaskStatus::Queued, 2)), (2, (TaskStatus::Failed, 2))] {
        let held = stage.claim(&worker, &office).await.expect("one");
        assert_eq!((held.id.as_str(), held.attempt), (id.as_str(), attempt));
        stage.complete(&worker, &office, &held, "work").await.expect("holds");
        let rejected = stage.verify(&stage.owner, &office, &id, false).await.expect("may");
        assert_eq!((rejected.status(), rejected.attempt), then);
        assert_eq!((rejected.error.as_str(), rejected.result.as_str()), ("rejected: not good", ""));
    }
    let reviews: Vec<_> = stage.reviews(&office).await.iter().map(Task::status).collect();
    assert_eq!(reviews, [TaskStatus::Cancelled, TaskStatus::Cancelled]);
}

async fn nobody_judges_what_they_did(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, worker) = stage.submitted(&office).await;
    for approve in [true, false] {
        let own = stage.verify(&worker, &office, &task.id, approve).await;
        assert_refused(own, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    stage.verify(&stage.owner, &office, &task.id, true).await.expect("may");
    // An operator is known by the key.
    let id = stage.create_task(&stage.owner, checked(&office, "task")).await.expect("creates").id;
    let held = stage.claim(&stage.owner, &office).await.expect("one");
    let submitted = stage.complete(&stage.owner, &office, &held, "work").await.expect("holds");
    assert_eq!(submitted.status(), TaskStatus::Verifying);
    let own = stage.verify(&stage.owner, &office, &id, true).await;
    assert_refused(own, Code::PermissionDenied, "PERMISSION_DENIED");
    let done = stage.verify(&colleague(&stage.owner), &office, &id, true).await.expect("another key");
    assert_eq!(done.status(), TaskStatus::Done);
    // Whoever needs no lease has judged already.
    let id = stage.create_task(&stage.owner, checked(&office, "task")).await.expect("creates").id;
    assert_eq!(stage.done(&office, &id).await.status(), TaskStatus::Done);
    // But not of what is held by the very key that reports.
    let id = stage.create_task(&stage.owner, checked(&office, "task")).await.expect("creates").id;
    stage.claim(&stage.owner, &office).await.filter(|held| held.id == id).expect("this one");
    assert_eq!(stage.done(&office, &id).await.status(), TaskStatus::Verifying);
}

async fn peers_judge_when_the_office_wants_it(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let update = UpdateOfficeSettingsRequest {
        office_id: office.clone(),
        settings: Some(OfficeSettings { verification: Verification::Peer.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["verification".into()] }),
    };
    stage.offices(&stage.owner).update_office_settings(update).await.expect("updates");
    let task = stage.new_task(&office, "task").await;
    assert!(!task.verification_required);
    let held = stage.claim(&worker, &office).await.expect("one");
    let submitted = stage.complete(&worker, &office, &held, "work").await.expect("holds");
    assert_eq!(submitted.status(), TaskStatus::Verifying);
    // The review itself is not reviewed.
    let peer = stage.agent(&office, "peer", false, &[]);
    let review = stage.claim(&peer, &office).await.expect("the review");
    stage.verify(&peer, &office, &task.id, true).await.expect("may");
    assert_eq!(stage.complete(&peer, &office, &review, "good").await.expect("holds").status(), TaskStatus::Done);
}

async fn work_that_nobody_judges_fails_after_a_day(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, _) = stage.submitted(&office).await;
    stage.pass(Duration::from_secs(24 * 3600 - 1)).await;
    assert_eq!(stage.status_of(&office, &task.id).await, TaskStatus::Verifying);
    stage.pass(Duration::from_secs(1)).await;
    let failed = stage.until_task(&office, &task.id, TaskStatus::Failed).await;
    assert_eq!(failed.error, "nobody verified the work in time");
    assert_eq!(stage.reviews(&office).await[0].status(), TaskStatus::Cancelled);
    assert_eq!(stage.retry(&stage.owner, &office, &task.id).await.expect("failed").status(), TaskStatus::Queued);
}

async fn a_review_without_a_verdict_is_not_done(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, _) = stage.submitted(&office).await;
    let peer = stage.agent(&office, "peer", false, &[]);
    let review = stage.claim(&peer, &office).await.expect("the review");
    let early = stage.complete(&peer, &office, &review, "looks fine").await;
    assert_refused(early, Code::FailedPrecondition, "VERDICT_MISSING");
    stage.verify(&peer, &office, &task.id, false).await.expect("may");
    stage.complete(&peer, &office, &review, "was bad").await.expect("there is a verdict");
}

async fn a_review_may_outlive_the_work(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, _) = stage.submitted(&office).await;
    let peer = stage.agent(&office, "peer", false, &[]);
    let review = stage.claim(&peer, &office).await.expect("the review");
    stage.verify(&peer, &office, &task.id, true).await.expect("may");
    stage.fail(&peer, &office, &review, false).await.expect("holds");
    stage.keep_three_days(&office).await;
    stage.clock.advance(4 * DAY);
    // Changed lately, and not open: it stays, and does not keep the work.
    stage.retry(&stage.owner, &office, &review.id).await.expect("failed");
    stage.cancel(&stage.owner, &office, &review.id).await.expect("open");
    stage.forget(&office).await;
    let gone = GetTaskRequest { office_id: office.clone(), task_id: task.id };
    assert_eq!(stage.tasks(&stage.owner).get_task(gone).await.expect_err("gone").code(), Code::NotFound);

    stage.retry(&stage.owner, &office, &review.id).await.expect("cancelled");
    let review = stage.claim(&peer, &office).await.expect("the review");
    let done = stage.complete(&peer, &office, &review, "was good").await.expect("nothing is left to judge");
    assert_eq!(done.status(), TaskStatus::Done);
}

async fn a_verdict_recalls_the_review(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, worker) = stage.submitted(&office).await;
    stage.verify(&stage.owner, &office, &task.id, false).await.expect("may");
    let review = stage.reviews(&office).await.remove(0);
    assert_eq!((review.status(), review.error.as_str()), (TaskStatus::Cancelled, "the work was judged otherwise"));
    // Rejected and done again: there is a new one, for the new work.
    let held = stage.claim(&worker, &office).await.expect("one");
    stage.complete(&worker, &office, &held, "better work").await.expect("holds");
    let reviews: Vec<_> = stage.reviews(&office).await.iter().map(Task::status).collect();
    assert_eq!(reviews, [TaskStatus::Queued, TaskStatus::Cancelled]);
    stage.cancel(&stage.owner, &office, &task.id).await.expect("open");
    let reviews: Vec<_> = stage.reviews(&office).await.iter().map(Task::status).collect();
    assert_eq!(reviews, [TaskStatus::Cancelled, TaskStatus::Cancelled]);
}

async fn a_verdict_is_about_the_attempt_that_was_seen(stage: Stage) {
    let office = stage.active("Work").await;
    let (task, worker) = stage.submitted(&office).await;
    let peer = stage.agent(&office, "peer", false, &[]);
    let review = stage.claim(&peer, &office).await.expect("the review");
    stage.verify(&stage.owner, &office, &task.id, false).await.expect("may");
    // Whoever was about to judge it is told that this is over.
    assert_refused(stage.renew(&peer, &office, &review).await, Code::Aborted, "LEASE_LOST");
    let held = stage.claim(&worker, &office).await.expect("one");
    stage.complete(&worker, &office, &held, "better work").await.expect("holds");
    let verdict = |attempt| VerifyTaskRequest {
        office_id: office.clone(),
        task_id: task.id.clone(),
        approve: true,
        attempt: Some(attempt),
        ..Default::default()
    };
    let late = stage.tasks(&peer).verify_task(verdict(1)).await;
    assert_refused(late, Code::FailedPrecondition, "TASK_STATE");
    let done = stage.tasks(&peer).verify_task(verdict(2)).await.expect("may").into_inner().task.expect("there");
    assert_eq!((done.status(), done.result.as_str()), (TaskStatus::Done, "better work"));
}

async fn a_review_is_found_by_whoever_may_judge(stage: Stage) {
    let office = stage.active("Work").await;
    let (_, worker) = stage.submitted(&office).await;
    // In one transaction, however they come: of two who look, one may not.
    let wait = prost_types::Duration { seconds: 5, nanos: 0 };
    let waiting = ClaimTasksRequest { office_id: office.clone(), wait: Some(wait), ..Default::default() };
    for _ in 0..10 {
        let (own, review) =
            tokio::join!(stage.claim(&worker, &office), stage.claim_with(&stage.owner, waiting.clone()));
        assert_eq!(own, None);
        let review = review.expect("claims").pop().expect("the review");
        stage.release(&stage.owner, &office, &review).await.expect("holds");
    }
}
