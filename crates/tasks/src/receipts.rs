//! Receipts, checked when work is completed: signed by the worker, over this attempt and this result, and every artifact
//! as it stands in the drive.

use std::collections::HashMap;

use bytes::Bytes;
use mi_drive::{FileRow, file_get_all};
use mi_kernel::{
    Error, Result,
    receipt::{self, Artifact, Receipt, sha256_hex},
};

use super::{
    batch::Batch,
    model::{Task, Work},
    work::Report,
};

const OTHER_ARTIFACTS: &str = "artifacts differ from the drive";

fn mismatch(what: &str) -> Error {
    Error::precondition("RECEIPT_MISMATCH", format!("the receipt is not over this work: {what}"))
}

/// Checks artifacts and receipt. Answers the public key that the receipt was checked against, in hex; empty: there is no
/// receipt, and none is needed.
pub(super) async fn check(batch: &mut Batch<'_>, task: &Task, report: &Report, work: &Work) -> Result<String> {
    // What costs nothing first: the drive is asked while the queue is locked.
    let (said, key) = match signed(batch, task, report, work)? {
        Some((said, key)) => (Some(said), hex::encode(&key)),
        None => (None, String::new()),
    };
    let artifacts = artifacts(batch, &work.artifacts).await?;
    match said {
        Some(said) if said.artifacts != artifacts => Err(mismatch(OTHER_ARTIFACTS)),
        _ => Ok(key),
    }
}

/// What the receipt says, and the key it is signed by; none: there is no receipt, and none is needed.
fn signed(batch: &Batch<'_>, task: &Task, report: &Report, work: &Work) -> Result<Option<(Receipt, Bytes)>> {
    let Some(agent_id) = report.by.agent_id else {
        return match work.receipt.is_empty() {
            true => Ok(None),
            false => Err(Error::invalid("receipt", "is signed by agents; operators leave it empty")),
        };
    };
    let member =
        batch.roster.as_deref().and_then(|members| members.iter().find(|m| m.agent_id == agent_id.to_string()));
    let member = member.ok_or_else(|| Error::not_found("agent", &report.by.name))?;
    if work.receipt.is_empty() {
        return match member.hosted {
            false => Ok(None),
            true => Err(Error::invalid("receipt", "is required of agents that the platform computes")),
        };
    }
    let said = receipt::verify(&work.receipt, &member.public_key)?;
    agree(&said, task, &agent_id.to_string(), work)?;
    Ok(Some((said, member.public_key.clone())))
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
    let files = file_get_all(batch.tx, paths).await?;
    let mut files: HashMap<String, FileRow> = files.into_iter().map(|file| (file.path.clone(), file)).collect();
    let artifact = |path: &String| {
        let file = files.remove(path);
        let file = file.ok_or_else(|| Error::invalid("artifacts", format!("names no file of the drive: {path:?}")))?;
        Ok(Artifact { path: file.path, revision: file.revision, sha256: file.sha256 })
    };
    paths.iter().map(artifact).collect()
}
