//! Claiming, leases and reports.

use std::{sync::Arc, time::Duration};

use mi_proto::v1::{ClaimTasksRequest, CompleteTaskRequest, FailTaskRequest, ReleaseTaskRequest, TaskKind};
use mi_testkit::until;
use tonic::Code;

use crate::{
    commands::{dead, written},
    platform::{LONG, Platform, working},
};

/// A script that runs for ever, once its process id is in `pid`.
const ENDLESS: &str = "echo $$ > pid; while :; do sleep 1000; done";

/// How many completions, failures and releases were asked for.
fn reports(platform: &Platform) -> [usize; 3] {
    [
        platform.completions.lock().expect("lock").len(),
        platform.failures.lock().expect("lock").len(),
        platform.releases.lock().expect("lock").len(),
    ]
}

/// Waits for this many claims; answers how many tasks each asked for.
async fn claims(platform: &Arc<Platform>, count: usize) -> Vec<i32> {
    until(&format!("{count} claims"), LONG, async || {
        let claims: Vec<_> = platform.claims.lock().expect("lock").iter().filter_map(|claim| claim.max_tasks).collect();
        if claims.len() == count { Ok(Some(claims)) } else { Err(format!("{claims:?}")) }
    })
    .await
}

#[tokio::test]
async fn an_idle_agent_asks_once_and_waits() {
    let (platform, agent, _dir) = working(|_| {}).await;
    claims(&platform, 1).await;
    let claim = ClaimTasksRequest {
        office_id: "office".into(),
        kinds: vec![TaskKind::Command.into()],
        max_tasks: Some(2),
        wait: Some(prost_types::Duration { seconds: 240, nanos: 0 }),
        lease: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
    };
    assert_eq!(*platform.claims.lock().expect("lock"), [claim]);
    // Not its business without a model.
    platform.add(mi_proto::v1::Task { kind: TaskKind::General.into(), ..Default::default() });
    let id = platform.command("true");
    platform.completion(&id).await;
    claims(&platform, 2).await;
    let calls = platform.calls.lock().expect("lock").clone();
    assert_eq!(calls, ["EnrolAgent", "ClaimTasks", "ClaimTasks", "CompleteTask"], "{calls:?}");
    agent.stop().await;
}

#[tokio::test]
async fn the_next_task_comes_with_the_answer_to_a_report() {
    let (platform, agent, _dir) = working(|_| {}).await;
    let next = [platform.next("echo second"), platform.next("echo third")];
    let first = platform.command("echo first");
    for id in [first].iter().chain(&next) {
        let (completion, _) = platform.completion(id).await;
        let claim = completion.claim_next.expect("each asks for the next one");
        assert_eq!((claim.max_tasks, claim.wait, claim.kinds), (Some(1), None, vec![TaskKind::Command.into()]));
    }
    agent.stop().await;
}

#[tokio::test]
async fn tasks_run_side_by_side_up_to_the_slots() {
    let (platform, agent, dir) = working(|_| {}).await;
    // Each waits for the other.
    let meet = |own: &str, other: &str| format!("echo > {own}; until [ -e {other} ]; do sleep 0.01; done");
    let first = platform.command(&meet("a", "b"));
    claims(&platform, 2).await;
    let second = platform.command(&meet("b", "a"));
    platform.completion(&first).await;
    platform.completion(&second).await;
    // Two, then the one that is left; after that as many as have ended meanwhile.
    let asked = platform.claims.lock().expect("lock").clone();
    assert_eq!([asked[0].max_tasks, asked[1].max_tasks], [Some(2), Some(1)]);

    platform.command("echo > c; until [ -e go ]; do sleep 0.01; done");
    platform.command("echo > d; until [ -e go ]; do sleep 0.01; done");
    written(dir.path(), "c").await;
    written(dir.path(), "d").await;
    let before = platform.claims.lock().expect("lock").len();
    let last = platform.command("test -e go");
    std::fs::write(dir.path().join("workspace/go"), "").expect("written");
    platform.completion(&last).await;
    assert!(platform.claims.lock().expect("lock").len() > before, "no claim without a free slot");
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_kills_the_work_and_gives_it_back() {
    let (platform, agent, dir) = working(|_| {}).await;
    platform.command(ENDLESS);
    let process = written(dir.path(), "pid").await;
    agent.stop().await;
    dead(&process).await;
    let release =
        ReleaseTaskRequest { office_id: "office".into(), task_id: "task-1".into(), lease_id: "lease of task-1".into() };
    assert_eq!(*platform.releases.lock().expect("lock"), [release]);
    assert_eq!(reports(&platform), [0, 0, 1]);
}

#[tokio::test]
async fn a_lost_lease_kills_the_work_and_nothing_is_reported() {
    for code in [Code::Aborted, Code::NotFound] {
        let (platform, agent, dir) = working(|config| config.lease = Duration::from_secs(1)).await;
        platform.command(ENDLESS);
        let process = written(dir.path(), "pid").await;
        platform.refuse("RenewLease", code, "the lease is lost");
        dead(&process).await;
        let other = platform.command("true");
        platform.completion(&other).await;
        assert_eq!(reports(&platform), [1, 0, 0]);
        agent.stop().await;
        let texts = platform.texts();
        assert!(texts.iter().any(|(_, text)| text == "task task-1: stopped: the lease is lost"), "{texts:?}");
    }
}

#[tokio::test]
async fn a_platform_that_is_away_for_longer_than_a_lease_costs_no_work() {
    const REFUSALS: usize = 10;
    let (platform, agent, dir) = working(|config| config.lease = Duration::from_secs(1)).await;
    let id = platform.command("echo $$ > pid; until [ -e go ]; do sleep 0.01; done");
    written(dir.path(), "pid").await;
    // At least a twentieth of a second apart at first, and a sixth of the lease later: longer than that together.
    for _ in 0..REFUSALS {
        platform.refuse("RenewLease", Code::Unavailable, "away");
    }
    until("the lease is renewed again", LONG, async || {
        let calls = platform.calls.lock().expect("lock");
        let renewals = calls.iter().filter(|call| *call == "RenewLease").count();
        if renewals > REFUSALS { Ok(Some(())) } else { Err(renewals.to_string()) }
    })
    .await;
    std::fs::write(dir.path().join("workspace/go"), "").expect("written");
    platform.completion(&id).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_a_script_made_is_uploaded_however_long_the_platform_is_away() {
    let (platform, agent, _dir) = working(|_| {}).await;
    // As many as an upload is tried when the platform is there.
    for _ in 0..6 {
        platform.refuse("UploadFile", Code::Unavailable, "away");
    }
    let id = platform.command("echo content > \"$MI_ARTIFACTS/file\"");
    assert_eq!(platform.completion(&id).await.0.artifacts, [format!("tasks/{id}/file")]);
    agent.stop().await;
}

#[tokio::test]
async fn a_report_is_sent_until_it_is_answered_and_is_the_same_each_time() {
    let (platform, agent, _dir) = working(|_| {}).await;
    platform.refuse("CompleteTask", Code::Unavailable, "away");
    platform.refuse("CompleteTask", Code::Unknown, "the answer was lost");
    platform.refuse("FailTask", Code::Unavailable, "away");
    let (done, failed) = (platform.command("echo done"), platform.command("exit 1"));
    platform.completion(&done).await;
    platform.failure(&failed).await;
    until("all is answered", LONG, async || match reports(&platform) {
        [3, 2, 0] => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await;
    let completions = platform.completions.lock().expect("lock").clone();
    // Only the first one claims: what that claimed may be on its way.
    let again = CompleteTaskRequest { claim_next: None, ..completions[0].clone() };
    assert!(completions[0].claim_next.is_some());
    assert_eq!(completions[1..], [again.clone(), again]);
    let failures = platform.failures.lock().expect("lock").clone();
    assert!(failures[0].claim_next.is_some());
    assert_eq!(failures[1], FailTaskRequest { claim_next: None, ..failures[0].clone() });
    agent.stop().await;
}

#[tokio::test]
async fn a_completion_that_is_refused_is_a_failed_attempt_unless_it_came_too_late() {
    let (platform, agent, _dir) = working(|_| {}).await;
    platform.refuse("CompleteTask", Code::FailedPrecondition, "it has open subtasks");
    let id = platform.command("true");
    let failure = platform.failure(&id).await;
    assert_eq!(failure.error, "the completion was refused: it has open subtasks");
    assert!(failure.retryable);

    platform.refuse("CompleteTask", Code::Aborted, "the lease is lost");
    platform.completion(&platform.command("true")).await;
    platform.completion(&platform.command("true")).await;
    assert_eq!(reports(&platform), [3, 1, 0]);
    agent.stop().await;
}

#[tokio::test]
async fn a_platform_that_cannot_give_work_is_asked_again() {
    let (platform, agent, _dir) = working(|_| {}).await;
    claims(&platform, 1).await;
    platform.refuse("ClaimTasks", Code::Unavailable, "away");
    platform.refuse("ClaimTasks", Code::Unauthenticated, "the key is being replaced");
    let ids = [platform.command("true"), platform.command("true"), platform.command("true")];
    for id in ids {
        platform.completion(&id).await;
    }
    agent.stop().await;
}
