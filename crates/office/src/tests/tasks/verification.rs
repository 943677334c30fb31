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
use crate::tests::{harness::Harness, retention::DAY};

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

impl Harness {
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

async fn a_reviewer_accepts(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, worker) = harness.submitted(&office).await;
    assert_eq!((task.status(), task.result.as_str(), task.finished_at), (TaskStatus::Verifying, "work", None));
    let waits = CreateTaskRequest { depends_on: vec![task.id.clone()], ..request(&office, "next") };
    let next = harness.create_task(&harness.owner, waits).await.expect("creates");
    let review = harness.reviews(&office).await.remove(0);
    assert_eq!(
        (review.kind(), review.title.as_str(), review.created_by.as_str(), review.cause, review.depth),
        (TaskKind::Review, "Verify: task", "platform", format!("task/{}", task.id), 1)
    );
    assert!(review.description.contains("work") && review.description.contains(&task.id), "{}", review.description);
    // The worker does not get it.
    assert_eq!(harness.claim(&worker, &office).await, None);
    let peer = harness.agent(&office, "peer", false, &[]);
    let held = harness.claim(&peer, &office).await.expect("the review");
    assert_eq!(held.verifies_task_id, task.id);
    let done = harness.verify(&peer, &office, &task.id, true).await.expect("may");
    assert_eq!((done.status(), done.result.as_str(), done.worker.as_str()), (TaskStatus::Done, "work", "worker"));
    assert_eq!(harness.status_of(&office, &next.id).await, TaskStatus::Queued);
    assert_eq!(harness.complete(&peer, &office, &held, "it is good").await.expect("holds").status(), TaskStatus::Done);
    assert_refused(harness.verify(&peer, &office, &task.id, true).await, Code::FailedPrecondition, "TASK_STATE");
}

async fn a_rejection_is_another_attempt(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let create = CreateTaskRequest { max_attempts: Some(2), ..checked(&office, "task") };
    let id = harness.create_task(&harness.owner, create).await.expect("creates").id;
    for (attempt, then) in [(1, (TaskStatus::Queued, 2)), (2, (TaskStatus::Failed, 2))] {
        let held = harness.claim(&worker, &office).await.expect("one");
        assert_eq!((held.id.as_str(), held.attempt), (id.as_str(), attempt));
        harness.complete(&worker, &office, &held, "work").await.expect("holds");
        let rejected = harness.verify(&harness.owner, &office, &id, false).await.expect("may");
        assert_eq!((rejected.status(), rejected.attempt), then);
        assert_eq!((rejected.error.as_str(), rejected.result.as_str()), ("rejected: not good", ""));
    }
    let reviews: Vec<_> = harness.reviews(&office).await.iter().map(Task::status).collect();
    assert_eq!(reviews, [TaskStatus::Cancelled, TaskStatus::Cancelled]);
}

async fn nobody_judges_what_they_did(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, worker) = harness.submitted(&office).await;
    for approve in [true, false] {
        let own = harness.verify(&worker, &office, &task.id, approve).await;
        assert_refused(own, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    harness.verify(&harness.owner, &office, &task.id, true).await.expect("may");
    // An operator is known by the key.
    let id = harness.create_task(&harness.owner, checked(&office, "task")).await.expect("creates").id;
    let held = harness.claim(&harness.owner, &office).await.expect("one");
    let submitted = harness.complete(&harness.owner, &office, &held, "work").await.expect("holds");
    assert_eq!(submitted.status(), TaskStatus::Verifying);
    let own = harness.verify(&harness.owner, &office, &id, true).await;
    assert_refused(own, Code::PermissionDenied, "PERMISSION_DENIED");
    let done = harness.verify(&colleague(&harness.owner), &office, &id, true).await.expect("another key");
    assert_eq!(done.status(), TaskStatus::Done);
    // Whoever needs no lease has judged already.
    let id = harness.create_task(&harness.owner, checked(&office, "task")).await.expect("creates").id;
    assert_eq!(harness.done(&office, &id).await.status(), TaskStatus::Done);
    // But not of what is held by the very key that reports.
    let id = harness.create_task(&harness.owner, checked(&office, "task")).await.expect("creates").id;
    harness.claim(&harness.owner, &office).await.filter(|held| held.id == id).expect("this one");
    assert_eq!(harness.done(&office, &id).await.status(), TaskStatus::Verifying);
}

async fn peers_judge_when_the_office_wants_it(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let update = UpdateOfficeSettingsRequest {
        office_id: office.clone(),
        settings: Some(OfficeSettings { verification: Verification::Peer.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["verification".into()] }),
    };
    harness.offices(&harness.owner).update_office_settings(update).await.expect("updates");
    let task = harness.new_task(&office, "task").await;
    assert!(!task.verification_required);
    let held = harness.claim(&worker, &office).await.expect("one");
    let submitted = harness.complete(&worker, &office, &held, "work").await.expect("holds");
    assert_eq!(submitted.status(), TaskStatus::Verifying);
    // The review itself is not reviewed.
    let peer = harness.agent(&office, "peer", false, &[]);
    let review = harness.claim(&peer, &office).await.expect("the review");
    harness.verify(&peer, &office, &task.id, true).await.expect("may");
    assert_eq!(harness.complete(&peer, &office, &review, "good").await.expect("holds").status(), TaskStatus::Done);
}

async fn work_that_nobody_judges_fails_after_a_day(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, _) = harness.submitted(&office).await;
    harness.pass(Duration::from_secs(24 * 3600 - 1)).await;
    assert_eq!(harness.status_of(&office, &task.id).await, TaskStatus::Verifying);
    harness.pass(Duration::from_secs(1)).await;
    let failed = harness.until_task(&office, &task.id, TaskStatus::Failed).await;
    assert_eq!(failed.error, "nobody verified the work in time");
    assert_eq!(harness.reviews(&office).await[0].status(), TaskStatus::Cancelled);
    assert_eq!(harness.retry(&harness.owner, &office, &task.id).await.expect("failed").status(), TaskStatus::Queued);
}

async fn a_review_without_a_verdict_is_not_done(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, _) = harness.submitted(&office).await;
    let peer = harness.agent(&office, "peer", false, &[]);
    let review = harness.claim(&peer, &office).await.expect("the review");
    let early = harness.complete(&peer, &office, &review, "looks fine").await;
    assert_refused(early, Code::FailedPrecondition, "VERDICT_MISSING");
    harness.verify(&peer, &office, &task.id, false).await.expect("may");
    harness.complete(&peer, &office, &review, "was bad").await.expect("there is a verdict");
}

async fn a_review_may_outlive_the_work(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, _) = harness.submitted(&office).await;
    let peer = harness.agent(&office, "peer", false, &[]);
    let review = harness.claim(&peer, &office).await.expect("the review");
    harness.verify(&peer, &office, &task.id, true).await.expect("may");
    harness.fail(&peer, &office, &review, false).await.expect("holds");
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    // Changed lately, and not open: it stays, and does not keep the work.
    harness.retry(&harness.owner, &office, &review.id).await.expect("failed");
    harness.cancel(&harness.owner, &office, &review.id).await.expect("open");
    harness.forget(&office).await;
    let gone = GetTaskRequest { office_id: office.clone(), task_id: task.id };
    assert_eq!(harness.tasks(&harness.owner).get_task(gone).await.expect_err("gone").code(), Code::NotFound);

    harness.retry(&harness.owner, &office, &review.id).await.expect("cancelled");
    let review = harness.claim(&peer, &office).await.expect("the review");
    let done = harness.complete(&peer, &office, &review, "was good").await.expect("nothing is left to judge");
    assert_eq!(done.status(), TaskStatus::Done);
}

async fn a_verdict_recalls_the_review(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, worker) = harness.submitted(&office).await;
    harness.verify(&harness.owner, &office, &task.id, false).await.expect("may");
    let review = harness.reviews(&office).await.remove(0);
    assert_eq!((review.status(), review.error.as_str()), (TaskStatus::Cancelled, "the work was judged otherwise"));
    // Rejected and done again: there is a new one, for the new work.
    let held = harness.claim(&worker, &office).await.expect("one");
    harness.complete(&worker, &office, &held, "better work").await.expect("holds");
    let reviews: Vec<_> = harness.reviews(&office).await.iter().map(Task::status).collect();
    assert_eq!(reviews, [TaskStatus::Queued, TaskStatus::Cancelled]);
    harness.cancel(&harness.owner, &office, &task.id).await.expect("open");
    let reviews: Vec<_> = harness.reviews(&office).await.iter().map(Task::status).collect();
    assert_eq!(reviews, [TaskStatus::Cancelled, TaskStatus::Cancelled]);
}

async fn a_verdict_is_about_the_attempt_that_was_seen(harness: Harness) {
    let office = harness.active("Work").await;
    let (task, worker) = harness.submitted(&office).await;
    let peer = harness.agent(&office, "peer", false, &[]);
    let review = harness.claim(&peer, &office).await.expect("the review");
    harness.verify(&harness.owner, &office, &task.id, false).await.expect("may");
    // Whoever was about to judge it is told that this is over.
    assert_refused(harness.renew(&peer, &office, &review).await, Code::Aborted, "LEASE_LOST");
    let held = harness.claim(&worker, &office).await.expect("one");
    harness.complete(&worker, &office, &held, "better work").await.expect("holds");
    let verdict = |attempt| VerifyTaskRequest {
        office_id: office.clone(),
        task_id: task.id.clone(),
        approve: true,
        attempt: Some(attempt),
        ..Default::default()
    };
    let late = harness.tasks(&peer).verify_task(verdict(1)).await;
    assert_refused(late, Code::FailedPrecondition, "TASK_STATE");
    let done = harness.tasks(&peer).verify_task(verdict(2)).await.expect("may").into_inner().task.expect("there");
    assert_eq!((done.status(), done.result.as_str()), (TaskStatus::Done, "better work"));
}

async fn a_review_is_found_by_whoever_may_judge(harness: Harness) {
    let office = harness.active("Work").await;
    let (_, worker) = harness.submitted(&office).await;
    // In one transaction, however they come: of two who look, one may not.
    let wait = prost_types::Duration { seconds: 5, nanos: 0 };
    let waiting = ClaimTasksRequest { office_id: office.clone(), wait: Some(wait), ..Default::default() };
    for _ in 0..10 {
        let (own, review) =
            tokio::join!(harness.claim(&worker, &office), harness.claim_with(&harness.owner, waiting.clone()));
        assert_eq!(own, None);
        let review = review.expect("claims").pop().expect("the review");
        harness.release(&harness.owner, &office, &review).await.expect("holds");
    }
}
