//! Claims that wait, and what wakes them.

use std::time::{Duration, Instant};

use mi_kernel::Actor;
use mi_proto::v1::{
    ClaimTasksRequest, CreateTaskRequest, OfficeStatus, ResumeOfficeRequest, SuspendOfficeRequest, Task, TaskStatus,
};
use mi_store::Topic;
use mi_tasks::wake::Wake;
use mi_tenancy::Author;
use mi_testkit::{Backend, TestDb, on_both, until};
use sqlx::{AssertSqlSafe, Executor};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{assert_refused, request, seconds};
use crate::tests::{
    harness::{Harness, LONG},
    peer::Mood,
};

on_both! {
    whatever_can_be_claimed_wakes,
    without_a_wait_the_answer_is_empty_at_once,
    a_wait_that_is_over_answers_empty,
    whoever_waited_longest_comes_first,
    who_did_the_work_waits_for_other_work_than_its_review,
    who_does_not_wait_any_more_gets_nothing,
    a_suspended_office_lets_nobody_wait,
    whoever_waits_is_told_of_a_suspension_whatever_becomes_of_the_call,
}

/// What wakes must do so long before a claim looks again by itself.
const AT_ONCE: Duration = Duration::from_secs(5);

fn waits(office: &str) -> ClaimTasksRequest {
    ClaimTasksRequest { office_id: office.into(), wait: seconds(60), ..Default::default() }
}

impl Harness {
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

async fn whatever_can_be_claimed_wakes(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    // Created.
    let waiter = harness.waiter(&worker, waits(&office)).await;
    let first = harness.new_task(&office, "first").await;
    assert_eq!(woken(waiter).await, "first");
    // Freed by what it depends on.
    let second = CreateTaskRequest { depends_on: vec![first.id.clone()], ..request(&office, "second") };
    harness.create_task(&harness.owner, second).await.expect("creates");
    let waiter = harness.waiter(&other, waits(&office)).await;
    harness.done(&office, &first.id).await;
    assert_eq!(woken(waiter).await, "second");
    // Given back.
    harness.new_task(&office, "third").await;
    let held = harness.claim(&other, &office).await.expect("one");
    let waiter = harness.waiter(&worker, waits(&office)).await;
    harness.release(&other, &office, &held).await.expect("holds");
    assert_eq!(woken(waiter).await, "third");
    // Failed, to be tried again.
    harness.new_task(&office, "fourth").await;
    let held = harness.claim(&other, &office).await.expect("one");
    let waiter = harness.waiter(&worker, waits(&office)).await;
    harness.fail(&other, &office, &held, true).await.expect("holds");
    assert_eq!(woken(waiter).await, "fourth");
    // Run out.
    let fifth = harness.new_task(&office, "fifth").await;
    let lease = ClaimTasksRequest { lease: seconds(1), ..waits(&office) };
    harness.claim_with(&other, lease).await.expect("claims");
    let waiter = harness.waiter(&worker, waits(&office)).await;
    harness.pass(Duration::from_secs(2)).await;
    assert_eq!(woken(waiter).await, "fifth");
    // Called on again.
    harness.cancel(&harness.owner, &office, &fifth.id).await.expect("open");
    let waiter = harness.waiter(&worker, waits(&office)).await;
    harness.retry(&harness.owner, &office, &fifth.id).await.expect("cancelled");
    assert_eq!(woken(waiter).await, "fifth");
}

async fn without_a_wait_the_answer_is_empty_at_once(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let start = Instant::now();
    for wait in [None, seconds(0)] {
        let claim = ClaimTasksRequest { wait, ..waits(&office) };
        assert_eq!(harness.claim_with(&worker, claim).await.expect("answers"), []);
    }
    assert!(start.elapsed() < AT_ONCE);
}

async fn a_wait_that_is_over_answers_empty(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let short = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    let start = Instant::now();
    let claim = ClaimTasksRequest { wait: short, ..waits(&office) };
    assert_eq!(harness.claim_with(&worker, claim).await.expect("answers"), []);
    assert!((Duration::from_millis(190)..AT_ONCE).contains(&start.elapsed()), "{:?}", start.elapsed());
    // A call answers before its own time is up.
    let mut call = tonic::Request::new(waits(&office));
    call.set_timeout(Duration::from_secs(1));
    let answer = harness.tasks(&worker).claim_tasks(call).await.expect("answers in time").into_inner();
    assert_eq!(answer.tasks, []);
    // What comes later is for others.
    harness.new_task(&office, "late").await;
    assert_eq!(harness.claim_all(&harness.owner, &office).await, ["late"]);
}

async fn whoever_waited_longest_comes_first(harness: Harness) {
    let office = harness.active("Work").await;
    let mut waiters = Vec::new();
    for n in 0..4 {
        let worker = harness.agent(&office, &format!("w{n}"), false, &[]);
        waiters.push(harness.waiter(&worker, waits(&office)).await);
    }
    for (n, waiter) in waiters.into_iter().enumerate() {
        harness.new_task(&office, &format!("task {n}")).await;
        assert_eq!(woken(waiter).await, format!("task {n}"));
    }
}

async fn who_did_the_work_waits_for_other_work_than_its_review(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, peer) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "peer", false, &[]));
    let checked = CreateTaskRequest { verification_required: true, ..request(&office, "task") };
    harness.create_task(&harness.owner, checked).await.expect("creates");
    let held = harness.claim(&worker, &office).await.expect("one");
    // Both are served together, and the worker is the first in line.
    let own = harness.waiter(&worker, waits(&office)).await;
    let others = harness.waiter(&peer, waits(&office)).await;
    harness.complete(&worker, &office, &held, "work").await.expect("holds");
    assert_eq!(woken(others).await, "Verify: task");
    harness.new_task(&office, "next").await;
    assert_eq!(woken(own).await, "next");
}

async fn who_does_not_wait_any_more_gets_nothing(harness: Harness) {
    let office = harness.active("Work").await;
    let (gone, worker) = (harness.agent(&office, "gone", false, &[]), harness.agent(&office, "worker", false, &[]));
    for n in 0..10 {
        let waiter = harness.waiter(&gone, waits(&office)).await;
        waiter.abort();
        assert!(waiter.await.expect_err("aborted").is_cancelled());
        let task = harness.new_task(&office, &format!("task {n}")).await;
        // Whatever was the matter, it is there without anybody's lease running out.
        let claimed = mi_testkit::until("the task can be claimed", LONG, async || {
            harness.claim(&worker, &office).await.map(Some).ok_or("not yet")
        })
        .await;
        assert_eq!((claimed.id, claimed.attempt), (task.id, 1));
    }
}

async fn a_suspended_office_lets_nobody_wait(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    let task = harness.new_task(&office, "task").await;
    let held = harness.claim(&other, &office).await.expect("one");
    let waiter = harness.waiter(&worker, waits(&office)).await;
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).suspend_office(suspend).await.expect("suspends");
    harness.until_status(&office, Some(OfficeStatus::Suspended)).await;
    let answer = tokio::time::timeout(AT_ONCE, waiter).await.expect("told at once").expect("no panic");
    assert_refused(answer, Code::FailedPrecondition, "OFFICE_NOT_ACTIVE");
    assert_refused(harness.claim_with(&worker, waits(&office)).await, Code::FailedPrecondition, "OFFICE_NOT_ACTIVE");
    assert_refused(harness.complete(&other, &office, &held, "late").await, Code::Aborted, "LEASE_LOST");
    let kept = harness.task(&office, &task.id).await;
    assert_eq!((kept.status(), kept.attempt), (TaskStatus::Queued, 1));
    harness.new_task(&office, "created meanwhile").await;
    let resume = ResumeOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).resume_office(resume).await.expect("resumes");
    assert_eq!(harness.claim_all(&worker, &office).await, ["task", "created meanwhile"]);
}

async fn whoever_waits_is_told_of_a_suspension_whatever_becomes_of_the_call(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let waiter = harness.waiter(&worker, waits(&office)).await;
    // The other roles do not answer, and the client leaves before they are given up.
    harness.scheduler.be(Mood::Hangs);
    let mut offices = harness.offices(&harness.owner);
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    let call = tokio::spawn(async move { offices.suspend_office(suspend).await });
    harness.until_status(&office, Some(OfficeStatus::Suspended)).await;
    call.abort();
    let answer = tokio::time::timeout(AT_ONCE, waiter).await.expect("told at once").expect("no panic");
    assert_refused(answer, Code::FailedPrecondition, "OFFICE_NOT_ACTIVE");
}

impl Harness {
    /// Waits until a transaction waits for a lock, or until none does any more.
    async fn until_locked(&self, waits: bool) {
        let mut postgres = self.postgres().await;
        until("a transaction waits for the lock, or no more", LONG, async || {
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
    let harness = Harness::over(TestDb::plain(Backend::Postgres).await).await;
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let [parent, awaited] = [harness.new_task(&office, "parent").await, harness.new_task(&office, "awaited").await];
    let held = harness.claim_all(&worker, &office).await;
    assert_eq!(held, ["parent", "awaited"]);
    // The queue is locked by another process, so that what is asked meanwhile shares one transaction afterwards.
    let mut holder = harness.postgres().await;
    holder.execute("SET search_path = mi_test; SET mi.scope = 'platform'; BEGIN").await.expect("begins");
    let lock = format!("SELECT cursor FROM task_queues WHERE office_id = '{office}' FOR UPDATE");
    holder.execute(AssertSqlSafe(lock)).await.expect("locks");
    let create = |request: CreateTaskRequest| {
        let mut client = harness.tasks(&harness.owner);
        tokio::spawn(async move { client.create_task(request).await })
    };
    let mut created = vec![create(request(&office, "locked out"))];
    harness.until_locked(true).await;
    created.push(create(request(&office, "plain")));
    // Reads are answered meanwhile: what was asked before them is in the queue then. The test is right if not, only less
    // strict.
    for _ in 0..3 {
        harness.task(&office, &parent.id).await;
    }
    // That one is searched for circles, for which the transaction writes what it has.
    let searched = CreateTaskRequest {
        parent_id: parent.id.clone(),
        depends_on: vec![awaited.id.clone()],
        ..request(&office, "searched")
    };
    created.push(create(searched));
    let mut client = harness.tasks(&worker);
    let claim = ClaimTasksRequest { max_tasks: Some(10), ..waits(&office) };
    let waiter = tokio::spawn(async move { client.claim_tasks(claim).await.map(|answer| answer.into_inner().tasks) });
    for _ in 0..3 {
        harness.task(&office, &parent.id).await;
    }
    holder.execute("COMMIT").await.expect("unlocks");
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
    let harness = Harness::over(TestDb::plain(Backend::Postgres).await.set("lock_timeout", "500ms")).await;
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let Actor::Agent(agent) = &worker else { panic!("an agent") };
    let waiter = harness.waiter(&worker, waits(&office)).await;
    // Another process puts something in.
    let (db, queues) = (harness.db().await, harness.resources().await.tasks);
    let mut tx = db.office(agent.office_id).begin().await.expect("begins");
    let wake = Wake {
        agent: agent.name.clone(),
        agent_id: agent.agent_id,
        from: Author::operator(),
        direct: true,
        cause: Default::default(),
        body: "hello".into(),
        trace_id: String::new(),
    };
    queues.wake_agent(&mut tx, &wake).await.expect("wakes");
    tx.commit().await.expect("commits");
    // When that is told, a table is locked that every look at a queue reads.
    let mut holder = harness.postgres().await;
    holder.execute("SET search_path = mi_test; BEGIN; LOCK TABLE task_dependencies").await.expect("locks");
    let telling = tokio::spawn(db.clone().exchange_changes());
    db.notify(Topic::of(agent.office_id, "tasks"));
    harness.until_locked(true).await;
    harness.until_locked(false).await;
    holder.execute("COMMIT").await.expect("unlocks");
    assert_eq!(woken(waiter).await, "Answer operator");
    telling.abort();
}
