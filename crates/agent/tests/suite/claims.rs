//! Claiming, leases and reports.

use std::{sync::Arc, time::Duration};

use mi_proto::v1::{ClaimTasksRequest, ReleaseTaskRequest, Task, TaskKind};
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

/// How many tasks each stream of work is for.
fn windows(platform: &Platform) -> Vec<i32> {
    platform.claims.lock().expect("lock").iter().filter_map(|claim| claim.max_tasks).collect()
}

/// Waits for this many streams of work; answers how many tasks each is for.
async fn streams(platform: &Arc<Platform>, count: usize) -> Vec<i32> {
    until(&format!("{count} streams"), LONG, async || {
        let windows = windows(platform);
        if windows.len() == count { Ok(Some(windows)) } else { Err(format!("{windows:?}")) }
    })
    .await
}

#[tokio::test]
async fn tasks_come_and_are_reported_on_one_stream() {
    let (platform, agent, _dir) = working(|_| {}).await;
    streams(&platform, 1).await;
    // Not its business without a model.
    platform.add(Task { kind: TaskKind::General.into(), ..Default::default() });
    for script in ["true", "exit 1", "echo third", "echo fourth"] {
        let id = platform.command(script);
        match script {
            "exit 1" => drop(platform.failure(&id).await),
            _ => drop(platform.completion(&id).await),
        }
    }
    agent.stop().await;
    let start = ClaimTasksRequest {
        office_id: "office".into(),
        kinds: vec![TaskKind::Command.into()],
        max_tasks: Some(2),
        wait: None,
        lease: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
    };
    assert_eq!(*platform.claims.lock().expect("lock"), [start]);
    assert_eq!(*platform.streamed.lock().expect("lock"), ["CompleteTask", "FailTask", "CompleteTask", "CompleteTask"]);
    let calls = platform.calls.lock().expect("lock").clone();
    assert_eq!(calls, ["EnrolAgent", "WorkTasks"], "{calls:?}");
}

#[tokio::test]
async fn tasks_run_side_by_side_up_to_the_slots() {
    let (platform, agent, dir) = working(|_| {}).await;
    // Each waits for the other.
    let meet = |own: &str, other: &str| format!("echo > {own}; until [ -e {other} ]; do sleep 0.01; done");
    let (first, second) = (platform.command(&meet("a", "b")), platform.command(&meet("b", "a")));
    platform.completion(&first).await;
    platform.completion(&second).await;
    agent.stop().await;
    assert_eq!(streams(&platform, 1).await, [2]);
    drop(dir);
}

#[tokio::test]
async fn what_came_before_a_stream_broke_takes_its_place_on_the_next_one() {
    let (platform, agent, dir) = working(|config| config.lease = Duration::from_secs(3)).await;
    let id = platform.command("echo > a; until [ -e go ]; do sleep 0.01; done");
    written(dir.path(), "a").await;
    platform.broken.notify_waiters();
    assert_eq!(streams(&platform, 2).await, [2, 1]);
    // It is still its own, and is renewed and reported all the same.
    until("the lease is renewed", LONG, async || {
        let calls = platform.calls.lock().expect("lock").clone();
        if calls.iter().any(|call| call == "RenewLease") { Ok(Some(())) } else { Err(format!("{calls:?}")) }
    })
    .await;
    std::fs::write(dir.path().join("workspace/go"), "").expect("written");
    platform.completion(&id).await;
    assert_eq!(streams(&platform, 3).await, [2, 1, 2]);
    agent.stop().await;
}

#[tokio::test]
async fn a_report_of_which_the_stream_says_nothing_is_sent_as_a_call() {
    let (platform, agent, _dir) = working(|config| config.lease = Duration::from_secs(1)).await;
    streams(&platform, 1).await;
    platform.refuse("answer to CompleteTask", Code::Unavailable, "says nothing");
    let id = platform.command("true");
    until("it is sent again", LONG, async || match reports(&platform) {
        [2, 0, 0] => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await;
    // The platform counts one too many: another stream tells how many there are. It may be opened before the call is answered,
    // for the other one, and then again.
    until("there is a stream for two again", LONG, async || match &windows(&platform)[..] {
        [2, 2] | [2, 1, 2] => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await;
    let completions = platform.completions.lock().expect("lock").clone();
    assert_eq!((&completions[0], &completions[0].task_id), (&completions[1], &id));
    agent.stop().await;
}

#[tokio::test]
async fn what_comes_when_it_is_to_stop_is_given_back() {
    let (platform, agent, dir) = working(|_| {}).await;
    let first = platform.command(ENDLESS);
    written(dir.path(), "pid").await;
    let late = platform.numbered(Task {
        kind: TaskKind::Command.into(),
        description: "echo > late".into(),
        ..Task::default()
    });
    let mut expected = [first, late.id.clone()];
    platform.late.lock().expect("lock").push(late);
    agent.stop().await;
    let mut released: Vec<_> = platform.releases.lock().expect("lock").iter().map(|it| it.task_id.clone()).collect();
    released.sort();
    expected.sort();
    assert_eq!(released, expected);
    assert!(!dir.path().join("workspace/late").exists());
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
        // On the stream, and in the call that tells why.
        platform.refuse("RenewLease", code, "the lease is lost");
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
        // The first one went on the stream.
        let renewals = calls.iter().filter(|call| *call == "RenewLease").count();
        if renewals >= REFUSALS { Ok(Some(())) } else { Err(renewals.to_string()) }
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
    assert_eq!(completions[1..], [completions[0].clone(), completions[0].clone()]);
    let failures = platform.failures.lock().expect("lock").clone();
    assert_eq!(failures[1], failures[0]);
    agent.stop().await;
}

#[tokio::test]
async fn a_completion_that_is_refused_is_a_failed_attempt_unless_it_came_too_late() {
    let (platform, agent, _dir) = working(|_| {}).await;
    for _ in 0..2 {
        platform.refuse("CompleteTask", Code::FailedPrecondition, "it has open subtasks");
    }
    let id = platform.command("true");
    let failure = platform.failure(&id).await;
    assert_eq!(failure.error, "the completion was refused: it has open subtasks");
    assert!(failure.retryable);

    for _ in 0..2 {
        platform.refuse("CompleteTask", Code::Aborted, "the lease is lost");
    }
    platform.completion(&platform.command("true")).await;
    platform.completion(&platform.command("true")).await;
    assert_eq!(reports(&platform), [5, 1, 0]);
    agent.stop().await;
}

#[tokio::test]
async fn a_platform_that_cannot_give_work_is_asked_again() {
    let (platform, agent, _dir) = working(|_| {}).await;
    streams(&platform, 1).await;
    platform.refuse("WorkTasks", Code::Unavailable, "away");
    platform.refuse("WorkTasks", Code::Unauthenticated, "the key is being replaced");
    platform.broken.notify_waiters();
    let ids = [platform.command("true"), platform.command("true"), platform.command("true")];
    for id in ids {
        platform.completion(&id).await;
    }
    agent.stop().await;
}
