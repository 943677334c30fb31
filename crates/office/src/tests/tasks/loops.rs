//! Agents that keep themselves busy are stopped.

use mi_kernel::Actor;
use mi_proto::v1::{FailTaskRequest, Task, TaskStatus};
use mi_testkit::{on_both, until};
use tonic::Code;

use super::{assert_refused, request};
use crate::tests::harness::{Harness, LONG};

on_both! {
    a_task_that_creates_itself_again_comes_to_an_end,
    a_task_that_is_followed_by_itself_comes_to_an_end,
    two_that_keep_each_other_busy_come_to_an_end,
    a_retry_counts_like_a_creation,
    a_worker_that_goes_in_circles_is_paused,
}

impl Harness {
    /// Waits until the agent was to be paused; what was said.
    async fn until_paused(&self, agent: &str) -> String {
        until("the agent was to be paused", LONG, async || {
            let known = self.scheduler.known();
            let found = known.paused.iter().find(|paused| paused.agent == agent && paused.reason == "LOOP_DETECTED");
            found.map(|paused| Some(paused.message.clone())).ok_or(format!("{:?}", known.paused))
        })
        .await
    }

    /// Works on what there is by creating the same again, in turn; the last one, and how often that went well.
    async fn go_round(&self, office: &str, agents: &[Actor]) -> (Task, i32) {
        self.new_task(office, "again").await;
        for round in 0.. {
            let agent = &agents[usize::try_from(round).expect("small") % agents.len()];
            let held = self.claim(agent, office).await.expect("one");
            assert_eq!(held.depth, round);
            match self.create_task(agent, request(office, "again")).await {
                Ok(next) => {
                    assert_eq!((next.depth, next.cause), (round + 1, format!("task/{}", held.id)));
                    self.complete(agent, office, &held, "created another").await.expect("holds");
                }
                Err(status) => {
                    assert_refused::<Task>(Err(status), Code::FailedPrecondition, "LOOP_DETECTED");
                    return (held, round);
                }
            }
        }
        unreachable!("the rounds have no end")
    }
}

async fn a_task_that_creates_itself_again_comes_to_an_end(harness: Harness) {
    let office = harness.active("Work").await;
    let agent = harness.agent(&office, "busy", false, &[]);
    let (held, rounds) = harness.go_round(&office, std::slice::from_ref(&agent)).await;
    assert_eq!(rounds, 16);
    let said = harness.until_paused("busy").await;
    assert_eq!(said, "17 causes lead from here back to an operator, and 16 may");
    until("the feed tells", LONG, async || {
        let known = harness.activity.known();
        let mut events = known.events.iter().filter(|event| event.kind == "loop.detected");
        match events.next() {
            Some(event) => Ok(Some((event.agent.clone(), event.category.as_str().to_owned()))),
            None => Err("not yet"),
        }
    })
    .await;
    // A batch is no way around it, nor is there anything left of it.
    let batch = mi_proto::v1::BatchCreateTasksRequest {
        office_id: office.clone(),
        requests: vec![request("", "a"), request("", "b")],
    };
    assert_refused(harness.tasks(&agent).batch_create_tasks(batch).await, Code::FailedPrecondition, "LOOP_DETECTED");
    assert_eq!(harness.claim(&harness.owner, &office).await, None);
    // What it did besides counts.
    harness.complete(&agent, &office, &held, "done").await.expect("holds");
    // An operator's task is no effect of anything.
    assert_eq!(harness.new_task(&office, "fresh").await.depth, 0);
}

async fn two_that_keep_each_other_busy_come_to_an_end(harness: Harness) {
    let office = harness.active("Work").await;
    let agents = [harness.agent(&office, "ping", false, &[]), harness.agent(&office, "pong", false, &[])];
    let (_, rounds) = harness.go_round(&office, &agents).await;
    assert_eq!(rounds, 16);
    harness.until_paused("ping").await;
}

async fn a_retry_counts_like_a_creation(harness: Harness) {
    let office = harness.active("Work").await;
    let agent = harness.agent(&office, "busy", false, &[]);
    let (held, _) = harness.go_round(&office, std::slice::from_ref(&agent)).await;
    let own =
        harness.create_task(&harness.agent(&office, "other", false, &[]), request(&office, "x")).await.expect("idle");
    assert_eq!((own.depth, own.cause.as_str()), (0, ""));
    harness.complete(&agent, &office, &held, "done").await.expect("holds");
    // What it does later follows from that no more.
    harness.clock.advance(std::time::Duration::from_secs(601));
    let idle = harness.create_task(&agent, request(&office, "y")).await.expect("creates").id;
    harness.cancel(&agent, &office, &idle).await.expect("its own");
    harness.new_task(&office, "z").await;
    assert_eq!(harness.claim_all(&agent, &office).await, ["x", "z"]);
    let again = harness.retry(&agent, &office, &idle).await.expect("its own");
    assert_eq!((again.depth, again.status()), (1, TaskStatus::Queued));
}

async fn a_worker_that_goes_in_circles_is_paused(harness: Harness) {
    let office = harness.active("Work").await;
    let agent = harness.agent(&office, "busy", false, &[]);
    harness.new_task(&office, "hard").await;
    let held = harness.claim(&agent, &office).await.expect("one");
    let report = FailTaskRequest {
        claim_next: None,
        office_id: office.clone(),
        task_id: held.id.clone(),
        lease_id: held.lease_id.clone(),
        error: "read_file, five times".into(),
        retryable: false,
        loop_detected: true,
    };
    let failed =
        harness.tasks(&agent).fail_task(report.clone()).await.expect("holds").into_inner().task.expect("there");
    assert_eq!((failed.status(), failed.error.as_str()), (TaskStatus::Failed, "read_file, five times"));
    assert_eq!(harness.until_paused("busy").await, "read_file, five times");
    // Repeated, it is no second pause.
    harness.tasks(&agent).fail_task(report).await.expect("the same again");
    assert_eq!(harness.scheduler.known().paused.len(), 1);
}

async fn a_task_that_is_followed_by_itself_comes_to_an_end(harness: Harness) {
    let office = harness.active("Work").await;
    let agent = harness.agent(&office, "busy", false, &[]);
    harness.new_task(&office, "again").await;
    for round in 0..16 {
        let held = harness.claim(&agent, &office).await.expect("one");
        harness.complete(&agent, &office, &held, "done").await.expect("holds");
        let next = harness.create_task(&agent, request(&office, "again")).await.expect("creates");
        assert_eq!((next.depth, next.cause), (round + 1, format!("task/{}", held.id)));
    }
    let held = harness.claim(&agent, &office).await.expect("one");
    harness.complete(&agent, &office, &held, "done").await.expect("holds");
    let next = harness.create_task(&agent, request(&office, "again")).await;
    assert_refused(next, Code::FailedPrecondition, "LOOP_DETECTED");
    harness.until_paused("busy").await;
    // What an operator asks for is no effect of anything.
    let fresh = harness.new_task(&office, "fresh").await;
    assert_eq!(harness.claim(&agent, &office).await.expect("one").id, fresh.id);
    assert_eq!(harness.create_task(&agent, request(&office, "part")).await.expect("creates").depth, 1);
}
