//! Whom a task is kept for can change while nobody works on it.

use mi_kernel::Actor;
use mi_proto::v1::{AssignTaskRequest, ClaimTasksRequest, Task, TaskStatus};
use mi_testkit::on_both;
use tonic::{Code, Status};

use super::{assert_refused, request, seconds};
use crate::tests::harness::Harness;

on_both! { an_open_task_changes_hands, who_waits_gets_what_is_assigned_to_it }

impl Harness {
    async fn assign(&self, by: &Actor, office: &str, id: &str, agent: &str) -> Result<Task, Status> {
        let request = AssignTaskRequest { office_id: office.into(), task_id: id.into(), assigned_agent: agent.into() };
        Ok(self.tasks(by).assign_task(request).await?.into_inner().task.expect("always there"))
    }
}

async fn an_open_task_changes_hands(harness: Harness) {
    let office = harness.active("Work").await;
    let (bob, eve) = (harness.agent(&office, "bob", false, &[]), harness.agent(&office, "eve", false, &[]));
    let task = harness.new_task(&office, "Anyone's").await;
    let kept = harness.assign(&harness.owner, &office, &task.id, "Bob").await.expect("assigns");
    assert_eq!((kept.assigned_agent.as_str(), kept.status()), ("bob", TaskStatus::Queued));
    assert_eq!(harness.task(&office, &task.id).await, kept);
    assert_eq!(harness.claim(&eve, &office).await, None);
    let unchanged = harness.assign(&harness.owner, &office, &task.id, "bob").await.expect("as it is");
    assert_eq!(unchanged, kept);
    let free = harness.assign(&harness.owner, &office, &task.id, "").await.expect("assigns");
    assert_eq!(free.assigned_agent, "");
    harness.assign(&harness.owner, &office, &task.id, "eve").await.expect("assigns");
    assert_eq!(harness.claim(&bob, &office).await, None);

    let unknown = harness.assign(&harness.owner, &office, &task.id, "nobody").await;
    assert_refused(unknown, Code::NotFound, "NOT_FOUND");
    let others = harness.assign(&bob, &office, &task.id, "bob").await;
    assert_refused(others, Code::PermissionDenied, "PERMISSION_DENIED");
    let own = harness.create_task(&bob, request(&office, "Bob's own")).await.expect("creates");
    assert_eq!(harness.assign(&bob, &office, &own.id, "eve").await.expect("its own").assigned_agent, "eve");

    let running = harness.claim(&eve, &office).await.expect("hers");
    let held = harness.assign(&harness.owner, &office, &running.id, "bob").await;
    assert_refused(held, Code::FailedPrecondition, "TASK_STATE");
    harness.fail(&eve, &office, &running, false).await.expect("fails");
    let failed = harness.assign(&harness.owner, &office, &running.id, "bob").await.expect("assigns");
    assert_eq!((failed.status(), failed.assigned_agent.as_str()), (TaskStatus::Failed, "bob"));
    harness.retry(&harness.owner, &office, &running.id).await.expect("retries");
    assert_eq!(harness.claim(&bob, &office).await.expect("his").id, running.id);
    let done = harness.done(&office, &own.id).await;
    let late = harness.assign(&harness.owner, &office, &done.id, "bob").await;
    assert_refused(late, Code::FailedPrecondition, "TASK_STATE");
}

async fn who_waits_gets_what_is_assigned_to_it(harness: Harness) {
    let office = harness.active("Work").await;
    let (bob, _eve) = (harness.agent(&office, "bob", false, &[]), harness.agent(&office, "eve", false, &[]));
    let mut kept = request(&office, "For eve");
    kept.assigned_agent = "eve".into();
    let task = harness.create_task(&harness.owner, kept).await.expect("creates");
    let claim = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let (claimed, assigned) =
        tokio::join!(harness.claim_with(&bob, claim), harness.assign(&harness.owner, &office, &task.id, "bob"));
    assigned.expect("assigns");
    let claimed: Vec<String> = claimed.expect("claims").into_iter().map(|task| task.id).collect();
    assert_eq!(claimed, [task.id]);
}
