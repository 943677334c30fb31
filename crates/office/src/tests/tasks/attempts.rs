//! Attempts and leases: every way out of a claim.

use std::time::Duration;

use mi_proto::v1::{ClaimTasksRequest, CreateTaskRequest, Task, TaskStatus};
use mi_testkit::{Backend, OnBackend, on_both};
use tonic::Code;

use super::{assert_refused, request, seconds};
use crate::tests::harness::Harness;

on_both! {
    attempts_are_counted_until_they_are_used_up,
    a_report_that_is_repeated_is_answered_as_before,
    nobody_reports_on_what_is_no_longer_theirs,
    a_renewed_lease_lasts,
    operators_report_without_a_lease,
    operators_hold_leases_like_anybody,
}

fn shown(task: &Task) -> (TaskStatus, i32, &str) {
    (task.status(), task.attempt, task.error.as_str())
}

async fn attempts_are_counted_until_they_are_used_up(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let create = CreateTaskRequest { max_attempts: Some(2), ..request(&office, "hard") };
    let id = harness.create_task(&harness.owner, create).await.expect("creates").id;
    // Given back: no attempt was used.
    let claimed = harness.claim(&worker, &office).await.expect("one");
    assert_eq!(shown(&harness.release(&worker, &office, &claimed).await.expect("holds")), (TaskStatus::Queued, 1, ""));
    let claimed = harness.claim(&worker, &office).await.expect("one");
    let failed = harness.fail(&worker, &office, &claimed, true).await.expect("holds");
    assert_eq!((shown(&failed), failed.finished_at), ((TaskStatus::Queued, 2, "it broke"), None));
    let claimed = harness.claim(&worker, &office).await.expect("one");
    assert_eq!((claimed.attempt, claimed.worker.as_str()), (2, "worker"));
    let failed = harness.fail(&worker, &office, &claimed, true).await.expect("holds");
    assert_eq!(shown(&failed), (TaskStatus::Failed, 2, "it broke"));
    assert!(failed.finished_at.is_some() && failed.lease_expires_at.is_none());
    assert_eq!(harness.claim(&worker, &office).await, None);

    let again = harness.retry(&harness.owner, &office, &id).await.expect("failed");
    assert_eq!(shown(&again), (TaskStatus::Queued, 3, "it broke"));
    for expected in [(TaskStatus::Queued, 4, "it broke"), (TaskStatus::Failed, 4, "it broke")] {
        let claimed = harness.claim(&worker, &office).await.expect("one");
        let failed = harness.fail(&worker, &office, &claimed, true).await.expect("holds");
        assert_eq!(shown(&failed), expected);
    }
    // No use to try again, said the worker.
    harness.retry(&harness.owner, &office, &id).await.expect("failed");
    let claimed = harness.claim(&worker, &office).await.expect("one");
    let failed = harness.fail(&worker, &office, &claimed, false).await.expect("holds");
    assert_eq!(shown(&failed), (TaskStatus::Failed, 5, "it broke"));
    harness.retry(&harness.owner, &office, &id).await.expect("failed");
    let claimed = harness.claim(&worker, &office).await.expect("one");
    let done = harness.complete(&worker, &office, &claimed, "easy").await.expect("holds");
    assert_eq!((shown(&done), done.result.as_str()), ((TaskStatus::Done, 6, ""), "easy"));
    assert_refused(harness.retry(&harness.owner, &office, &id).await, Code::FailedPrecondition, "TASK_STATE");
}

async fn a_report_that_is_repeated_is_answered_as_before(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "task").await;
    let first = harness.claim(&worker, &office).await.expect("one");
    let released = harness.release(&worker, &office, &first).await.expect("holds");
    assert_eq!(harness.release(&worker, &office, &first).await.expect("the same again"), released);
    assert_refused(harness.fail(&worker, &office, &first, true).await, Code::Aborted, "LEASE_LOST");
    let second = harness.claim(&worker, &office).await.expect("one");
    let failed = harness.fail(&worker, &office, &second, true).await.expect("holds");
    assert_eq!(harness.fail(&worker, &office, &second, true).await.expect("the same again"), failed);
    assert_refused(harness.fail(&worker, &office, &second, false).await, Code::Aborted, "LEASE_LOST");
    assert_refused(harness.complete(&worker, &office, &second, "no, done").await, Code::Aborted, "LEASE_LOST");
    let third = harness.claim(&worker, &office).await.expect("one");
    // A completion whose answer got lost, sent again many times at once, is one.
    let again = (0..8).map(|_| harness.complete(&worker, &office, &third, "done"));
    let answers: Vec<_> =
        futures::future::join_all(again).await.into_iter().map(|answer| answer.expect("holds")).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_refused(harness.renew(&worker, &office, &third).await, Code::Aborted, "LEASE_LOST");
    assert_refused(harness.release(&worker, &office, &third).await, Code::Aborted, "LEASE_LOST");
    harness
        .until_events(
            &office,
            &[
                "office.created",
                "credit.granted",
                "office.activated",
                "task.created",
                "task.claimed",
                "task.released",
                "task.claimed",
                "task.attempt_failed",
                "task.claimed",
                "task.completed",
            ],
        )
        .await;
}

async fn nobody_reports_on_what_is_no_longer_theirs(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    let id = harness.new_task(&office, "task").await.id;
    let held = harness.claim(&worker, &office).await.expect("one");
    let all = async |by: &mi_kernel::Actor, task: &Task, why: &str, code: Code| {
        assert_refused(harness.complete(by, &office, task, "x").await, code, why);
        assert_refused(harness.fail(by, &office, task, true).await, code, why);
        assert_refused(harness.release(by, &office, task).await, code, why);
        assert_refused(harness.renew(by, &office, task).await, code, why);
    };
    let with = |lease_id: &str| Task { lease_id: lease_id.into(), ..held.clone() };
    all(&other, &held, "LEASE_LOST", Code::Aborted).await;
    all(&worker, &with(&mi_kernel::LeaseId::new().to_string()), "LEASE_LOST", Code::Aborted).await;
    all(&worker, &with(""), "INVALID_ARGUMENT", Code::InvalidArgument).await;
    all(&worker, &with("nonsense"), "INVALID_ARGUMENT", Code::InvalidArgument).await;
    let unknown = Task { id: mi_kernel::TaskId::new().to_string(), ..held.clone() };
    all(&worker, &unknown, "NOT_FOUND", Code::NotFound).await;
    assert_eq!(harness.task(&office, &id).await.updated_at, held.updated_at, "nothing of it counts");
    // Exactly at its end a lease is over, as soon as that is noticed.
    harness.pass(Duration::from_secs(30)).await;
    harness.until_task(&office, &id, TaskStatus::Queued).await;
    all(&worker, &held, "LEASE_LOST", Code::Aborted).await;
    let mine = harness.claim(&other, &office).await.expect("one");
    all(&worker, &held, "LEASE_LOST", Code::Aborted).await;
    harness.cancel(&harness.owner, &office, &id).await.expect("open");
    all(&other, &mine, "LEASE_LOST", Code::Aborted).await;
    all(&worker, &held, "LEASE_LOST", Code::Aborted).await;
}

async fn a_renewed_lease_lasts(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let id = harness.new_task(&office, "task").await.id;
    let claim = ClaimTasksRequest { office_id: office.clone(), lease: seconds(10), ..Default::default() };
    let held = harness.claim_with(&worker, claim).await.expect("claims").pop().expect("one");
    for _ in 0..5 {
        harness.pass(Duration::from_secs(9)).await;
        let renewed = harness.renew(&worker, &office, &held).await.expect("holds");
        let end = renewed.lease_expires_at.expect("runs").seconds;
        assert_eq!(
            (end, renewed.lease_id),
            (mi_kernel::Clock::now(&harness.clock).timestamp() + 30, held.lease_id.clone())
        );
        harness.pass(Duration::from_secs(20)).await;
        harness.renew(&worker, &office, &held).await.expect("holds");
    }
    harness.crash_free_sweep(&office).await;
    assert_eq!(shown(&harness.task(&office, &id).await), (TaskStatus::Running, 1, ""));
    harness.complete(&worker, &office, &held, "done").await.expect("holds");
}

impl Harness {
    /// Waits until deadlines were looked at: a lease of another task that is over has ended.
    pub(super) async fn crash_free_sweep(&self, office: &str) {
        let create = CreateTaskRequest { priority: Some(0), ..request(office, "canary") };
        let other = self.create_task(&self.owner, create).await.expect("creates");
        let claim = ClaimTasksRequest { office_id: office.into(), lease: seconds(1), ..Default::default() };
        self.claim_with(&self.owner, claim).await.expect("claims");
        self.pass(Duration::from_secs(1)).await;
        self.until_task(office, &other.id, TaskStatus::Queued).await;
    }
}

async fn operators_report_without_a_lease(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let none = |id: &str| Task { id: id.into(), ..Task::default() };
    // Queued, running and blocked work is completed, and the worker told so.
    let queued = harness.new_task(&office, "queued").await;
    assert_eq!(shown(&harness.done(&office, &queued.id).await), (TaskStatus::Done, 0, ""));
    assert_eq!(harness.done(&office, &queued.id).await.result, "done");
    let other = harness.complete(&harness.owner, &office, &none(&queued.id), "another").await;
    assert_refused(other, Code::FailedPrecondition, "TASK_FINISHED");
    let running = harness.new_task(&office, "running").await;
    let held = harness.claim(&worker, &office).await.expect("one");
    assert_eq!(shown(&harness.done(&office, &running.id).await), (TaskStatus::Done, 1, ""));
    assert_refused(harness.complete(&worker, &office, &held, "done").await, Code::Aborted, "LEASE_LOST");

    let task = harness.new_task(&office, "failing").await;
    let blocked = CreateTaskRequest { depends_on: vec![task.id.clone()], ..request(&office, "blocked") };
    let blocked = harness.create_task(&harness.owner, blocked).await.expect("creates");
    let failed = harness.fail(&harness.owner, &office, &none(&blocked.id), true).await.expect("open");
    assert_eq!(shown(&failed), (TaskStatus::Blocked, 2, "it broke"));
    assert_eq!(shown(&harness.done(&office, &blocked.id).await), (TaskStatus::Done, 2, ""));
    let failed = harness.fail(&harness.owner, &office, &none(&task.id), false).await.expect("open");
    assert_eq!(shown(&failed), (TaskStatus::Failed, 0, "it broke"));
    assert_eq!(harness.fail(&harness.owner, &office, &none(&task.id), false).await.expect("the same again"), failed);
    let other = harness.fail(&harness.owner, &office, &none(&task.id), true).await;
    assert_refused(other, Code::FailedPrecondition, "TASK_FINISHED");

    // One that hangs is taken from its worker.
    let hangs = harness.new_task(&office, "hangs").await;
    let held = harness.claim(&worker, &office).await.expect("one");
    let released = harness.release(&harness.owner, &office, &none(&hangs.id)).await.expect("open");
    assert_eq!(shown(&released), (TaskStatus::Queued, 1, ""));
    assert_refused(harness.renew(&worker, &office, &held).await, Code::Aborted, "LEASE_LOST");
}

async fn operators_hold_leases_like_anybody(harness: Harness) {
    let office = harness.active("Work").await;
    let id = harness.new_task(&office, "task").await.id;
    let held = harness.claim(&harness.owner, &office).await.expect("one");
    assert_eq!((held.worker.as_str(), held.lease_id.len()), ("operator", 36));
    harness.pass(Duration::from_secs(30)).await;
    harness.until_task(&office, &id, TaskStatus::Queued).await;
    assert_refused(harness.complete(&harness.owner, &office, &held, "late").await, Code::Aborted, "LEASE_LOST");
    let held = harness.claim(&harness.owner, &office).await.expect("one");
    let done = harness.complete(&harness.owner, &office, &held, "done").await.expect("holds");
    assert_eq!(shown(&done), (TaskStatus::Done, 2, ""));
}

#[tokio::test]
async fn an_office_that_is_locked_does_not_hold_up_the_deadlines_of_others() {
    let harness = Harness::on(Backend::Postgres).await;
    let mut held = Vec::new();
    for name in ["Locked", "Other"] {
        let office = harness.active(name).await;
        let worker = harness.agent(&office, "worker", false, &[]);
        harness.new_task(&office, "task").await;
        held.push((harness.claim(&worker, &office).await.expect("one").id, office));
    }
    let [(locked, locked_office), (other, other_office)] = &held[..] else { panic!("two") };
    let (db, queues) = (harness.db().await, harness.resources().await.tasks);
    let mut tx = db.office(locked_office.parse().expect("an id")).begin().await.expect("begins");
    queues.lock(&mut tx).await.expect("locks");
    harness.pass(Duration::from_secs(31)).await;
    harness.until_task(other_office, other, TaskStatus::Queued).await;
    assert_eq!(harness.status_of(locked_office, locked).await, TaskStatus::Running);
    drop(tx);
    harness.until_task(locked_office, locked, TaskStatus::Queued).await;
}
