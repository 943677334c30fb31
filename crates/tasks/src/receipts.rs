//! Receipts, checked when work is completed: signed by the worker, over this attempt and this result, and every artifact
//! as it stands in the drive.

use std::collections::HashMap;

use mi_drive::{FileRow, file_get_all};
use mi_kernel::{
    Error, Result,
    receipt::{self, Artifact, Receipt, sha256_hex},
};
use mi_proto::internal::v1::Member;

use super::{
    batch::Batch,
    model::{Report, Signed, Task, Work},
};

const OTHER_ARTIFACTS: &str = "artifacts differ from the drive";

fn mismatch(what: &str) -> Error {
    Error::precondition("RECEIPT_MISMATCH", format!("the receipt is not over this work: {what}"))
}

/// Checks the signature of completed work; `member` is the agent that reports it, none: an operator.
pub(super) fn signed(member: Option<&Member>, work: &Work) -> Signed {
    match (member, work.receipt.is_empty()) {
        (None, true) => Ok(None),
        (None, false) => Err(Error::invalid("receipt", "is signed by agents; operators leave it empty")),
        (Some(member), true) if !member.hosted => Ok(None),
        (Some(_), true) => Err(Error::invalid("receipt", "is required of agents that the platform runs")),
        (Some(member), false) => {
            let said = receipt::verify(&work.receipt, &member.public_key)?;
            Ok(Some((said, hex::encode(&member.public_key))))
        }
    }
}

/// Checks that the receipt is over this work, and the artifacts as they stand in the drive. Answers the public key that the
/// receipt is signed by, in hex; empty: there is no receipt, and none is needed.
pub(super) async fn check(batch: &mut Batch<'_>, task: &Task, report: &Report, work: &Work) -> Result<String> {
    // What costs nothing first: the drive is asked while the queue is locked.
    let signed = (*report.signed).clone()?;
    if let Some((said, _)) = &signed {
        agree(said, task, &report.by.agent_id.map(|id| id.to_string()).unwrap_or_default(), work)?;
    }
    let artifacts = artifacts(batch, &work.artifacts).await?;
    match signed {
        Some((said, _)) if said.artifacts != artifacts => Err(mismatch(OTHER_ARTIFACTS)),
        signed => Ok(signed.map(|(_, key)| key).unwrap_or_default()),
    }
}

fn agree(said: &Receipt, task: &Task, agent_id: &str, work: &Work) -> Result<()> {
    let faults = [
        (said.iss != agent_id, "iss is another agent"),
        (said.task_id != task.id.to_string(), "task_id is another task"),
        (said.attempt != task.progress.attempt, "attempt is another one"),
        (said.result_sha256 != sha256_hex(work.result.as_bytes()), "result_sha256 is of another result"),
        (!said.artifacts.iter().map(|artifact| &artifact.path).eq(&work.artifacts), OTHER_ARTIFACTS),
    ];
    match faults.iter().find(|(wrong, _)| *wrong) {
        Some((_, what)) => Err(mismatch(what)),
        None => Ok(()),
    }
}

/// Artifacts as they stand in the drive.
async fn artifacts(batch: &mut Batch<'_>, paths: &[String]) -> Result<Vec<Artifact>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let files = file_get_all(batch.way.tx()?, paths).await?;
    let mut files: HashMap<String, FileRow> = files.into_iter().map(|file| (file.path.clone(), file)).collect();
    let artifact = |path: &String| {
        let file = files.remove(path);
        let file = file.ok_or_else(|| Error::invalid("artifacts", format!("names no file of the drive: {path:?}")))?;
        Ok(Artifact { path: file.path, revision: file.revision, sha256: file.sha256 })
    };
    paths.iter().map(artifact).collect()
}
