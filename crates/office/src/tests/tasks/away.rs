//! Time in which the platform was away: it does not count.

use std::time::Duration;

use mi_kernel::{Clock, SystemClock};
use mi_proto::v1::{
    ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, GetTaskRequest, RenewLeaseRequest, Task, TaskStatus,
};
use mi_testkit::{Backend, OnBackend, SkewedClock, on_both, until};
use tonic::Code;

use super::{assert_refused, request, seconds};
use crate::tests::{
    chat::direct,
    harness::{Harness, LONG},
};

on_both! {
    a_holder_has_its_task_after_the_platform_was_away,
    what_nobody_holds_any_more_comes_back_when_the_platform_was_there_for_a_lease,
    a_platform_that_keeps_crashing_puts_nothing_off_for_ever,
    a_renewal_that_comes_first_after_a_start_counts,
    a_day_to_answer_or_to_judge_is_one_in_which_the_platform_is_there,
}

impl Harness {
    /// A task with one attempt, claimed for so long by a worker.
    async fn held(&self, office: &str, lease: i64) -> (mi_kernel::Actor, Task) {
        let worker = self.agent(office, "worker", false, &[]);
        let create = CreateTaskRequest { max_attempts: Some(1), ..request(office, "held") };
        self.create_task(&self.owner, create).await.expect("creates");
        let claim = ClaimTasksRequest { office_id: office.into(), lease: seconds(lease), ..Default::default() };
        let held = self.claim_with(&worker, claim).await.expect("claims").pop().expect("one");
        (worker, held)
    }

    /// Time passes in which the platform is away, and that is noticed.
    async fn miss(&self, by: Duration) {
        let db = self.tables().await;
        let away = async || -> i64 {
            let mut conn = db.platform().read().await.expect("reads");
            let sql = "SELECT away FROM task_sweeps WHERE id = 1";
            mi_store::on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("reads")
        };
        let before = away().await;
        self.clock.advance(by);
        until("it is noticed", LONG, async || {
            let now = away().await;
            if now > before { Ok(Some(())) } else { Err(format!("{now} us missed")) }
        })
        .await;
    }

    /// Waits until the task runs until then, in seconds from now.
    async fn until_it_lasts(&self, office: &str, id: &str, left: i64) {
        until("the lease lasts as long", LONG, async || {
            let task = self.task(office, id).await;
            let end = task.lease_expires_at.map(|end| end.seconds - self.clock.now().timestamp());
            if end == Some(left) { Ok(Some(())) } else { Err(format!("{end:?} s left of {task:?}")) }
        })
        .await;
    }
}

async fn a_holder_has_its_task_after_the_platform_was_away(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, held) = harness.held(&office, 20).await;
    for _ in 0..3 {
        harness.clock.advance(Duration::from_secs(3600));
        harness.until_it_lasts(&office, &held.id, 20).await;
        let renewed = harness.renew(&worker, &office, &held).await.expect("nobody else has it");
        assert_eq!((renewed.status(), renewed.attempt, &renewed.lease_id), (TaskStatus::Running, 1, &held.lease_id));
        harness.until_it_lasts(&office, &held.id, 30).await;
        let claim = ClaimTasksRequest { office_id: office.clone(), lease: seconds(20), ..Default::default() };
        let renew = RenewLeaseRequest {
            office_id: office.clone(),
            task_id: held.id.clone(),
            lease_id: held.lease_id.clone(),
            lease: claim.lease,
        };
        harness.tasks(&worker).renew_lease(renew).await.expect("nobody else has it");
    }
    harness.clock.advance(Duration::from_secs(3600));
    let done = harness.complete(&worker, &office, &held, "done").await.expect("nobody else has it");
    assert_eq!((done.status(), done.attempt), (TaskStatus::Done, 1));
}

async fn what_nobody_holds_any_more_comes_back_when_the_platform_was_there_for_a_lease(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, held) = harness.held(&office, 20).await;
    harness.pass(Duration::from_secs(15)).await;
    harness.clock.advance(Duration::from_secs(3600));
    // Not due while the platform was there: it is looked at when it would have been over.
    harness.until_it_lasts(&office, &held.id, 20).await;
    harness.pass(Duration::from_secs(18)).await;
    harness.crash_free_sweep(&office).await;
    harness.until_it_lasts(&office, &held.id, 1).await;
    // Away again: what is left is left, no more.
    harness.clock.advance(Duration::from_secs(3600));
    harness.until_it_lasts(&office, &held.id, 1).await;
    harness.pass(Duration::from_secs(1)).await;
    let failed = harness.until_task(&office, &held.id, TaskStatus::Failed).await;
    assert_eq!((failed.attempt, failed.error.as_str()), (1, "the lease ran out"));
    assert_refused(harness.renew(&worker, &office, &held).await, Code::Aborted, "LEASE_LOST");
}

async fn a_platform_that_keeps_crashing_puts_nothing_off_for_ever(mut harness: Harness) {
    let office = harness.active("Work").await;
    let (_, held) = harness.held(&office, 10).await;
    // Each time it is there for 4 s, in which nobody renews.
    for left in [10, 6, 2] {
        harness.pass(Duration::from_secs(4)).await;
        harness.end().await;
        harness.clock.advance(Duration::from_secs(20));
        harness.start_again().await;
        harness.until_it_lasts(&office, &held.id, left).await;
    }
    harness.pass(Duration::from_secs(2)).await;
    harness.until_task(&office, &held.id, TaskStatus::Failed).await;
}

async fn a_renewal_that_comes_first_after_a_start_counts(mut harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, held) = harness.held(&office, 5).await;
    harness.end().await;
    harness.clock.advance(Duration::from_secs(8));
    harness.start_again().await;
    harness.renew(&worker, &office, &held).await.expect("nobody else has it");
    assert_eq!(harness.claim(&harness.agent(&office, "other", false, &[]), &office).await, None);
    let done = harness.complete(&worker, &office, &held, "done").await.expect("nobody else has it");
    assert_eq!((done.status(), done.attempt), (TaskStatus::Done, 1));
}

async fn a_day_to_answer_or_to_judge_is_one_in_which_the_platform_is_there(harness: Harness) {
    const HOUR: Duration = Duration::from_secs(3600);
    let office = harness.active("Work").await;
    let create = CreateTaskRequest { verification_required: true, ..request(&office, "task") };
    let judged = harness.create_task(&harness.owner, create).await.expect("creates").id;
    let worker = harness.agent(&office, "worker", false, &[]);
    let held = harness.claim(&worker, &office).await.expect("one");
    harness.complete(&worker, &office, &held, "work").await.expect("holds");
    let sent = harness.say(&harness.owner, direct(&office, "worker", "anybody there?")).await.expect("sends");
    let asked = harness.claim(&worker, &office).await.expect("the message");
    assert_eq!(asked.cause, format!("message/{}", sent.id));
    harness.release(&worker, &office, &asked).await.expect("holds");
    harness.pass(2 * HOUR).await;
    // A weekend, with the lid closed.
    harness.miss(60 * HOUR).await;
    harness.pass(21 * HOUR).await;
    harness.crash_free_sweep(&office).await;
    assert_eq!(harness.status_of(&office, &judged).await, TaskStatus::Verifying);
    assert_eq!(harness.status_of(&office, &asked.id).await, TaskStatus::Queued);
    harness.pass(HOUR).await;
    harness.until_task(&office, &judged, TaskStatus::Failed).await;
    harness.until_task(&office, &asked.id, TaskStatus::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_need_not_have_the_same_time() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = harness.active("Work").await;
    let (slow, fast) = (harness.agent(&office, "slow", false, &[]), harness.agent(&office, "fast", false, &[]));
    for title in ["first", "second"] {
        harness.new_task(&office, title).await;
    }
    harness.end().await;
    let wrong = |hours| SkewedClock::new(chrono::TimeDelta::hours(hours)).shared();
    let (mut of_slow, slow_ends) = harness.beside_by(wrong(-2), &slow).await;
    let (mut of_fast, fast_ends) = harness.beside_by(wrong(2), &fast).await;
    let claim = |lease| ClaimTasksRequest { office_id: office.clone(), lease: seconds(lease), ..Default::default() };
    let first = of_slow.claim_tasks(claim(600)).await.expect("claims").into_inner().tasks.pop().expect("one");
    let second = of_fast.claim_tasks(claim(1)).await.expect("claims").into_inner().tasks.pop().expect("one");
    let (end, now) = (first.lease_expires_at.expect("runs").seconds, SystemClock.now().timestamp());
    assert!((now..=now + 600).contains(&end), "{end} at {now}");
    // By both of their clocks together, or by either, one of the two would be taken back wrongly or not at all.
    let get = |id: &str| GetTaskRequest { office_id: office.clone(), task_id: id.into() };
    until("the short lease runs out", LONG, async || {
        let task = of_slow.clone().get_task(get(&second.id)).await.expect("there").into_inner().task.expect("there");
        if task.status() == TaskStatus::Queued { Ok(Some(())) } else { Err(format!("{task:?}")) }
    })
    .await;
    let complete = CompleteTaskRequest {
        office_id: office.clone(),
        task_id: first.id.clone(),
        lease_id: first.lease_id.clone(),
        result: "done".into(),
        ..Default::default()
    };
    let done = of_slow.complete_task(complete).await.expect("holds").into_inner().task.expect("there");
    assert_eq!((done.status(), done.attempt), (TaskStatus::Done, 1));
    for process in [slow_ends, fast_ends] {
        assert_eq!(process.stop(LONG).await, None);
    }
}
