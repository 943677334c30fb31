//! Completions with receipts: over this work, by this worker, or not taken.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mi_kernel::{
    Actor, TaskId,
    receipt::{Artifact, Receipt, sha256_hex, verify},
};
use mi_proto::v1::{CompleteTaskRequest, Task, TaskStatus};
use mi_testkit::on_both;
use ring::signature::{Ed25519KeyPair, KeyPair};
use tonic::{Code, Status};

use super::{assert_refused, field};
use crate::tests::harness::Harness;

on_both! { a_receipt_is_over_this_work_or_refused, who_has_to_send_one, artifacts_are_looked_up_together_and_last }

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes")
}

fn sign(receipt: &Receipt, key: &Ed25519KeyPair) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"mi-receipt"}"#);
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(serde_json::to_string(receipt).expect("JSON")));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn id(agent: &Actor) -> String {
    match agent {
        Actor::Agent(agent) => agent.agent_id.to_string(),
        other => panic!("{other:?} is no agent"),
    }
}

fn receipt(agent: &Actor, task: &Task, result: &str) -> Receipt {
    Receipt {
        iss: id(agent),
        task_id: task.id.clone(),
        attempt: task.attempt,
        result_sha256: sha256_hex(result.as_bytes()),
        artifacts: Vec::new(),
        commands: Vec::new(),
        iat: 1,
    }
}

impl Harness {
    /// An agent with the key of this seed.
    fn signer(&self, office: &str, name: &str, hosted: bool, seed: u8) -> Actor {
        let agent = self.agent(office, name, hosted, &[]);
        let public_key = key(seed).public_key().as_ref().to_vec();
        self.scheduler.known().members.last_mut().expect("just added").public_key = public_key.into();
        agent
    }

    async fn complete_signed(&self, by: &Actor, office: &str, task: &Task, receipt: String) -> Result<Task, Status> {
        let request = CompleteTaskRequest {
            office_id: office.into(),
            task_id: task.id.clone(),
            lease_id: task.lease_id.clone(),
            result: "42".into(),
            receipt,
            ..Default::default()
        };
        Ok(self.tasks(by).complete_task(request).await?.into_inner().task.expect("always there"))
    }
}

async fn a_receipt_is_over_this_work_or_refused(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.signer(&office, "worker", true, 1), harness.signer(&office, "other", true, 2));
    harness.new_task(&office, "task").await;
    let held = harness.claim(&worker, &office).await.expect("one");
    let good = receipt(&worker, &held, "42");
    let artifact = Artifact { path: "out".into(), revision: 1, sha256: sha256_hex(b"") };
    for wrong in [
        Receipt { iss: id(&other), ..good.clone() },
        Receipt { task_id: TaskId::new().to_string(), ..good.clone() },
        Receipt { attempt: 2, ..good.clone() },
        Receipt { result_sha256: sha256_hex(b"43"), ..good.clone() },
        Receipt { artifacts: vec![artifact], ..good.clone() },
    ] {
        let refused = harness.complete_signed(&worker, &office, &held, sign(&wrong, &key(1))).await;
        assert_refused(refused, Code::FailedPrecondition, "RECEIPT_MISMATCH");
    }
    let signed = sign(&good, &key(1));
    let unpadded = signed.trim_end_matches(|c| c != '.');
    for wrong in [sign(&good, &key(2)), unpadded.to_owned(), "x.y.z".into(), "x".repeat(300_000), "\0.\0.\0".into()] {
        let refused = harness.complete_signed(&worker, &office, &held, wrong).await;
        assert_eq!(field(refused), "receipt");
    }
    let done = harness.complete_signed(&worker, &office, &held, signed.clone()).await.expect("good");
    assert_eq!((done.status(), &done.receipt), (TaskStatus::Done, &signed));
    // Whoever reads it can check it.
    let read = harness.task(&office, &held.id).await;
    assert_eq!(verify(&read.receipt, &read.receipt_public_key).expect("valid"), good);
    assert_eq!(read.receipt_public_key, key(1).public_key().as_ref());
}

async fn who_has_to_send_one(harness: Harness) {
    let office = harness.active("Work").await;
    let (hosted, joined) = (harness.signer(&office, "hosted", true, 1), harness.signer(&office, "joined", false, 2));
    harness.new_task(&office, "task").await;
    let held = harness.claim(&hosted, &office).await.expect("one");
    assert_eq!(field(harness.complete(&hosted, &office, &held, "42").await), "receipt");
    assert_eq!(harness.status_of(&office, &held.id).await, TaskStatus::Running, "it may be sent with one");
    harness
        .complete_signed(&hosted, &office, &held, sign(&receipt(&hosted, &held, "42"), &key(1)))
        .await
        .expect("good");

    harness.new_task(&office, "task").await;
    let held = harness.claim(&joined, &office).await.expect("one");
    let wrong = sign(&receipt(&joined, &held, "42"), &key(1));
    assert_eq!(field(harness.complete_signed(&joined, &office, &held, wrong).await), "receipt");
    let done = harness.complete(&joined, &office, &held, "42").await.expect("needs none");
    assert_eq!((done.receipt.as_str(), done.receipt_public_key.len()), ("", 0));
    harness.new_task(&office, "task").await;
    let held = harness.claim(&joined, &office).await.expect("one");
    let good = sign(&receipt(&joined, &held, "42"), &key(2));
    assert_eq!(harness.complete_signed(&joined, &office, &held, good.clone()).await.expect("good").receipt, good);

    harness.new_task(&office, "task").await;
    let held = harness.claim(&harness.owner, &office).await.expect("one");
    assert_eq!(field(harness.complete_signed(&harness.owner, &office, &held, good).await), "receipt");
}

async fn artifacts_are_looked_up_together_and_last(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.signer(&office, "worker", true, 1);
    let paths: Vec<String> = (0..40).rev().map(|n| format!("out/\"{n}\" \u{e9}")).collect();
    let mut artifacts = Vec::new();
    for path in &paths {
        let file = harness.put(&office, path, path.as_bytes()).await;
        artifacts.push(Artifact { path: file.path, revision: file.revision, sha256: file.sha256 });
    }
    harness.new_task(&office, "task").await;
    let held = harness.claim(&worker, &office).await.expect("one");
    let complete = async |artifacts: Vec<String>, receipt: String| {
        let request = CompleteTaskRequest {
            claim_next: None,
            office_id: office.clone(),
            task_id: held.id.clone(),
            lease_id: held.lease_id.clone(),
            result: "42".into(),
            artifacts,
            receipt,
        };
        Ok(harness.tasks(&worker).complete_task(request).await?.into_inner().task.expect("always there"))
    };
    let good = Receipt { artifacts, ..receipt(&worker, &held, "42") };
    let missing: Vec<String> = paths.iter().cloned().chain(["missing".into()]).collect();
    // The drive is not asked about a completion that is wrong anyway.
    assert_eq!(field(complete(missing.clone(), String::new()).await), "receipt");
    assert_eq!(field(complete(missing.clone(), sign(&good, &key(2))).await), "receipt");
    assert_refused(complete(missing.clone(), sign(&good, &key(1))).await, Code::FailedPrecondition, "RECEIPT_MISMATCH");
    let mut named = good.clone();
    named.artifacts.push(Artifact { path: "missing".into(), revision: 1, sha256: sha256_hex(b"") });
    assert_eq!(field(complete(missing, sign(&named, &key(1))).await), "artifacts");
    let mut older = good.clone();
    older.artifacts[7].revision += 1;
    assert_refused(complete(paths.clone(), sign(&older, &key(1))).await, Code::FailedPrecondition, "RECEIPT_MISMATCH");
    assert_eq!(complete(paths.clone(), sign(&good, &key(1))).await.expect("good").artifacts, paths);
}
