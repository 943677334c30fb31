//! Claims that wait, and what wakes them.

use std::time::{Duration, Instant};

use mi_kernel::Actor;
use mi_proto::v1::{
    ClaimTasksRequest, CreateTaskRequest, OfficeStatus, ResumeOfficeRequest, SuspendOfficeRequest, Task, TaskStatus,
};
use mi_tasks::wake::Wake;
use mi_testkit::{Backend, TestDb, on_both, until};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{assert_refused, request, seconds};
use crate::tests::stage::{LONG, Stage};

on_both! {
    whatever_can_be_claimed_wakes,
    without_a_wait_the_answer_is_empty_at_once,
    a_wait_that_is_over_answers_empty,
    whoever_waited_longest_comes_first,
    who_did_the_work_waits_for_other_work_than_its_review,
    who_does_not_wait_any_more_gets_nothing,
    a_suspended_office_lets_nobody_wait,
}

/// What wakes must do so long before a claim looks again by itself.
const AT_ONCE: Duration = Duration::from_secs(5);

fn waits(office: &str) -> ClaimTasksRequest {
    ClaimTasksRequest { office_id: office.into(), wait: seconds(60), ..Default::default() }
}

impl Stage {
    /// A claim that waits, from now on.
    async fn waiter(&self, by: &Actor, request: ClaimTasksRequest) -> JoinHandle<Result<Vec<Task>, Status>> {
        let mut client = self.tasks(by);
        let office = request.office_id.clone();
        let waiter = tokio::spawn(async move { Ok(client.claim_tasks(request).await?.into_inner().tasks) });
        // Calls in one office are served in order, so that this one's answer comes after the other waits. Most times:
        // the test is right if not, only less strict.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let none = ClaimTasksRequest {
            office_id: office,
            kinds: vec![mi_proto::v1::TaskKind::Review.into()],
            ..Default::default()
        };
        for _ in 0..3 {
            self.claim_with(&self.owner, none.clone()).await.expect("claims");
        }
        waiter
    }
}

async fn woken(waiter: JoinHandle<Result<Vec<Task>, Status>>) -> String {
    let answered = tokio::time::timeout(AT_ONCE, waiter).await.expect("woken at once").expect("no panic");
    answered.expect("claims").pop().expect("one").title
}

async fn whatever_can_be_claimed_wakes(stage: Stage) {
    let office = stage.active("Work").await;
    let (worker, other) = (stage.agent(&office, "worker", false, &[]), stage.agent(&office, "other", false, &[]));
    // Created.
    let waiter = stage.waiter(&worker, waits(&office)).await;
    let first = stage.new_task(&office, "first").await;
    assert_eq!(woken(waiter).await, "first");
    // Freed by what it depends on.
    let second = CreateTaskRequest { depends_on: vec![first.id.clone()], ..request(&office, "second") };
    stage.create_task(&stage.owner, second).await.expect("creates");
    let waiter = stage.waiter(&other, waits(&office)).await;
    stage.done(&office, &first.id).await;
    assert_eq!(woken(waiter).await, "second");
    // Given back.
    stage.new_task(&office, "third").await;
    let held = stage.claim(&other, &office).await.expect("one");
    let waiter = stage.waiter(&worker, waits(&office)).await;
    stage.release(&other, &office, &held).await.expect("holds");
    assert_eq!(woken(waiter).await, "third");
    // Failed, to be tried again.
    stage.new_task(&office, "fourth").await;
    let held = stage.claim(&other, &office).await.expect("one");
    let waiter = stage.waiter(&worker, waits(&office)).await;
    stage.fail(&other, &office, &held, true).await.expect("holds");
    assert_eq!(woken(waiter).await, "fourth");
    // Run out.
    let fifth = stage.new_task(&office, "fifth").await;
    let lease = ClaimTasksRequest { lease: seconds(1), ..waits(&office) };
    stage.claim_with(&other, lease).await.expect("claims");
    let waiter = stage.waiter(&worker, waits(&office)).await;
    stage.pass(Duration::from_secs(2)).await;
    assert_eq!(woken(waiter).await, "fifth");
    // Called on again.
    stage.cancel(&stage.owner, &office, &fifth.id).await.expect("open");
    let waiter = stage.waiter(&worker, waits(&office)).await;
    stage.retry(&stage.owner, &office, &fifth.id).await.expect("cancelled");
    assert_eq!(woken(waiter).await, "fifth");
}

async fn without_a_wait_the_answer_is_empty_at_once(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let start = Instant::now();
    for wait in [None, seconds(0)] {
        let claim = ClaimTasksRequest { wait, ..waits(&office) };
        assert_eq!(stage.claim_with(&worker, claim).await.expect("answers"), []);
    }
    assert!(start.elapsed() < AT_ONCE);
}

async fn a_wait_that_is_over_answers_empty(stage: Stage) {
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let short = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    let start = Instant::now();
    let claim = ClaimTasksRequest { wait: short, ..waits(&office) };
    assert_eq!(stage.claim_with(&worker, claim).await.expect("answers"), []);
    assert!((Duration::from_millis(190)..AT_ONCE).contains(&start.elapsed()), "{:?}", start.elapsed());
    // A call answers before its own time is up.
    let mut call = tonic::Request::new(waits(&office));
    call.set_timeout(Duration::from_secs(1));
    let answer = stage.tasks(&worker).claim_tasks(call).await.expect("answers in time").into_inner();
    assert_eq!(answer.tasks, []);
    // What comes later is for others.
    stage.new_task(&office, "late").await;
    assert_eq!(stage.claim_all(&stage.owner, &office).await, ["late"]);
}

async fn whoever_waited_longest_comes_first(stage: Stage) {
    let office = stage.active("Work").await;
    let mut waiters = Vec::new();
    for n in 0..4 {
        let worker = stage.agent(&office, &format!("w{n}"), false, &[]);
        waiters.push(stage.waiter(&worker, waits(&office)).await);
    }
    for (n, waiter) in waiters.into_iter().enumerate() {
        stage.new_task(&office, &format!("task {n}")).await;
        assert_eq!(woken(waiter).await, format!("task {n}"));
    }
}

async fn who_did_the_work_waits_for_other_work_than_its_review(stage: Stage) {
    let office = stage.active("Work").await;
    let (worker, peer) = (stage.agent(&office, "worker", false, &[]), stage.agent(&office, "peer", false, &[]));
    let checked = CreateTaskRequest { verification_required: true, ..request(&office, "task") };
    stage.create_task(&stage.owner, checked).await.expect("creates");
    let held = stage.claim(&worker, &office).await.expect("one");
    // Both are served together, and the worker is the first in line.
    let own = stage.waiter(&worker, waits(&office)).await;
    let others = stage.waiter(&peer, waits(&office)).await;
    stage.complete(&worker, &office, &held, "work").await.expect("holds");
    assert_eq!(woken(others).await, "Verify: task");
    stage.new_task(&office, "next").await;
    assert_eq!(woken(own).await, "next");
}

async fn who_does_not_wait_any_more_gets_nothing(stage: Stage) {
    let office = stage.active("Work").await;
    let (gone, worker) = (stage.agent(&office, "gone", false, &[]), stage.agent(&office, "worker", false, &[]));
    for n in 0..10 {
        let waiter = stage.waiter(&gone, waits(&office)).await;
        waiter.abort();
        assert!(waiter.await.expect_err("aborted").is_cancelled());
        let task = stage.new_task(&office, &format!("task {n}")).await;
        // Whatever was the matter, it is there without anybody's lease running out.
        let claimed = mi_testkit::until("the task can be claimed", LONG, async || {
            stage.claim(&worker, &office).await.map(Some).ok_or("not yet")
        })
        .await;
        assert_eq!((claimed.id, claimed.attempt), (task.id, 1));
    }
}

async fn a_suspended_office_lets_nobody_wait(stage: Stage) {
    let office = stage.active("Work").await;
    let (worker, other) = (stage.agent(&office, "worker", false, &[]), stage.agent(&office, "other", false, &[]));
    let task = stage.new_task(&office, "task").await;
    let held = stage.claim(&other, &office).await.expect("one");
    let waiter = stage.waiter(&worker, waits(&office)).await;
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    stage.offices(&stage.owner).suspend_office(suspend).await.expect("suspends");
    stage.until_status(&office, Some(OfficeStatus::Suspended)).await;
    let answer = tokio::time::timeout(AT_ONCE, waiter).await.expect("told at once").expect("no panic");
    assert_refused(answer, Code::FailedPrecondition, "OFFICE_NOT_ACTIVE");
    assert_refused(stage.claim_with(&worker, waits(&office)).await, Code::FailedPrecondition, "OFFICE_NOT_ACTIVE");
    assert_refused(stage.complete(&other, &office, &held, "late").await, Code::Aborted, "LEASE_LOST");
    let kept = stage.task(&office, &task.id).await;
    assert_eq!((kept.status(), kept.attempt), (TaskStatus::Queued, 1));
    stage.new_task(&office, "created meanwhile").await;
    let resume = ResumeOfficeRequest { office_id: office.clone() };
    stage.offices(&stage.owner).resume_office(resume).await.expect("resumes");
    assert_eq!(stage.claim_all(&worker, &office).await, ["task", "created meanwhile"]);
}

impl Stage {
    /// Waits until a transaction waits for a lock, or until none does any more.
    async fn until_locked(&self, waits: bool) {
        let mut postgres = self.postgres().await;
        until("the lane waits for the lock, or no more", LONG, async || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut postgres).await.expect("counts");
            if (count > 0) == waits { Ok(Some(())) } else { Err(count) }
        })
        .await;
    }
}

#[tokio::test]
async fn whoever_waits_is_served_though_something_else_was_written_before() {
    let stage = Stage::over(TestDb::plain(Backend::Postgres).await).await;
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let Actor::Agent(agent) = &worker else { panic!("an agent") };
    let [parent, awaited] = [stage.new_task(&office, "parent").await, stage.new_task(&office, "awaited").await];
    let held = stage.claim_all(&worker, &office).await;
    assert_eq!(held, ["parent", "awaited"]);
    // The queue is locked by another process, so that what is asked meanwhile shares one transaction afterwards.
    let db = stage.db().await;
    let mut tx = db.office(agent.office_id).begin().await.expect("begins");
    assert!(crate::tasks::repo::queue_open(&mut tx).await.expect("locks").is_some());
    let create = |request: CreateTaskRequest| {
        let mut client = stage.tasks(&stage.owner);
        tokio::spawn(async move { client.create_task(request).await })
    };
    let mut created = vec![create(request(&office, "locked out"))];
    stage.until_locked(true).await;
    created.push(create(request(&office, "plain")));
    // Reads are answered meanwhile: what was asked before them is in the queue then. The test is right if not, only less
    // strict.
    for _ in 0..3 {
        stage.task(&office, &parent.id).await;
    }
    // That one is searched for circles, for which the transaction writes what it has.
    let searched = CreateTaskRequest {
        parent_id: parent.id.clone(),
        depends_on: vec![awaited.id.clone()],
        ..request(&office, "searched")
    };
    created.push(create(searched));
    let mut client = stage.tasks(&worker);
    let claim = ClaimTasksRequest { max_tasks: Some(10), ..waits(&office) };
    let waiter = tokio::spawn(async move { client.claim_tasks(claim).await.map(|answer| answer.into_inner().tasks) });
    for _ in 0..3 {
        stage.task(&office, &parent.id).await;
    }
    tx.commit().await.expect("unlocks");
    let claimed: Vec<Task> =
        tokio::time::timeout(AT_ONCE, waiter).await.expect("served at once").expect("no panic").expect("claims");
    let titles: Vec<_> = claimed.into_iter().map(|task| task.title).collect();
    assert_eq!(titles, ["locked out", "plain"]);
    for created in created {
        created.await.expect("no panic").expect("creates");
    }
}

#[tokio::test]
async fn whoever_waits_is_served_though_the_look_failed() {
    let stage = Stage::over(TestDb::plain(Backend::Postgres).await.set("lock_timeout", "500ms")).await;
    let office = stage.active("Work").await;
    let worker = stage.agent(&office, "worker", false, &[]);
    let Actor::Agent(agent) = &worker else { panic!("an agent") };
    let waiter = stage.waiter(&worker, waits(&office)).await;
    // Another process puts something in, and tells of it long before it is there.
    let (db, queues) = (stage.db().await, stage.resources().await.tasks);
    let mut tx = db.office(agent.office_id).begin().await.expect("begins");
    let wake = Wake {
        agent: agent.name.clone(),
        agent_id: agent.agent_id,
        from: "operator".into(),
        author: None,
        direct: true,
        cause: Default::default(),
        body: "hello".into(),
        trace_id: String::new(),
    };
    queues.wake_agent(&mut tx, &wake).await.expect("wakes");
    db.tell("mi_tasks", &format!("{} {office}", mi_kernel::TaskId::new())).await.expect("tells");
    stage.until_locked(true).await;
    stage.until_locked(false).await;
    tx.commit().await.expect("commits");
    assert_eq!(woken(waiter).await, "Answer operator");
}
