//! What the agents that the platform runs sign over their work.

use mi_client::AgentKey;
use mi_kernel::{
    Actor,
    receipt::{Command, Receipt, sha256_hex},
};
use mi_proto::v1::{CompleteTaskRequest, Task, TaskStatus};
use mi_testkit::on_both;
use tonic::Code;

use crate::tests::harness::Harness;

on_both! { a_key_that_was_enrolled_a_moment_ago_signs, work_of_a_hosted_agent_is_signed_by_it }

/// A completion with this result, and a receipt that the key signs.
fn signed(worker: &Actor, key: &AgentKey, office: &str, task: &Task, result: &str) -> CompleteTaskRequest {
    let Actor::Agent(agent) = worker else { panic!("an agent works") };
    let receipt = Receipt {
        iss: agent.agent_id.to_string(),
        task_id: task.id.clone(),
        attempt: task.attempt,
        result_sha256: sha256_hex(result.as_bytes()),
        artifacts: Vec::new(),
        commands: vec![Command { sha256: sha256_hex(b"true"), exit_code: 0 }],
        iat: 1,
    };
    CompleteTaskRequest {
        office_id: office.into(),
        task_id: task.id.clone(),
        lease_id: task.lease_id.clone(),
        result: result.into(),
        receipt: key.receipt(&receipt).expect("signs"),
        ..Default::default()
    }
}

fn key() -> AgentKey {
    let dir = tempfile::tempdir().expect("made");
    AgentKey::generate(&dir.path().join("identity.key")).expect("made")
}

impl Harness {
    /// The agent, whose name no other has, enrols a key.
    fn enrol(&self, name: &str, key: &AgentKey) {
        let mut known = self.scheduler.known();
        let member = known.members.iter_mut().find(|member| member.name == name).expect("there");
        member.public_key = key.public_key().to_vec().into();
    }
}

async fn a_key_that_was_enrolled_a_moment_ago_signs(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", true, &[]);
    for title in ["First", "After a rotation"] {
        harness.new_task(&office, title).await;
        // The claim makes the platform know the agent as it is before it enrols.
        let task = harness.claim(&worker, &office).await.expect("claims");
        let key = key();
        harness.enrol("worker", &key);
        let completion = signed(&worker, &key, &office, &task, "done");
        let done = harness.tasks(&worker).complete_task(completion.clone()).await.expect("completes").into_inner().task;
        let done = done.expect("always there");
        assert_eq!((done.status(), done.attempt, &done.receipt), (TaskStatus::Done, 1, &completion.receipt));
        assert_eq!(done.receipt_public_key[..], key.public_key()[..]);
    }
}

async fn work_of_a_hosted_agent_is_signed_by_it(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", true, &[]);
    let (own, foreign) = (key(), key());
    harness.enrol("worker", &own);
    harness.new_task(&office, "Work").await;
    let task = harness.claim(&worker, &office).await.expect("claims");
    let mut unsigned = signed(&worker, &own, &office, &task, "done");
    unsigned.receipt.clear();
    for (completion, told) in [
        (unsigned, "receipt is required of agents that the platform runs"),
        (signed(&worker, &foreign, &office, &task, "done"), "receipt is not signed by the worker's key"),
    ] {
        let status = harness.tasks(&worker).complete_task(completion).await.expect_err("is refused");
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, told));
    }
    let mut other = signed(&worker, &own, &office, &task, "done");
    other.result = "something else".into();
    let status = harness.tasks(&worker).complete_task(other).await.expect_err("is refused");
    assert_eq!(status.message(), "the receipt is not over this work: result_sha256 is of another result");
    assert_eq!(harness.status_of(&office, &task.id).await, TaskStatus::Running);
}
