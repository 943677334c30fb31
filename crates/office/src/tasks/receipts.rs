//! Receipts, checked when work is completed: signed by the worker, over this attempt and this result, and every artifact
//! as it stands in the drive.

use mi_kernel::{
    Error, Result,
    receipt::{self, Artifact, Receipt, hex, sha256_hex},
};

use super::{
    batch::Batch,
    model::{Task, Work},
    work::Report,
};
use crate::drive::repo::file_get;

fn mismatch(what: &str) -> Error {
    Error::precondition("RECEIPT_MISMATCH", format!("the receipt is not over this work: {what}"))
}

/// Checks artifacts and receipt. Answers the public key that the receipt was checked against, in hex; empty: there is no
/// receipt, and none is needed.
pub(super) async fn check(batch: &mut Batch<'_>, task: &Task, report: &Report, work: &Work) -> Result<String> {
    let mut artifacts = Vec::new();
    for path in &work.artifacts {
        artifacts.push(artifact(batch, path).await?);
    }
    let Some(agent_id) = report.by.agent_id else {
        return match work.receipt.is_empty() {
            true => Ok(String::new()),
            false => Err(Error::invalid("receipt", "is signed by agents; operators leave it empty")),
        };
    };
    let member =
        batch.roster.as_deref().and_then(|members| members.iter().find(|m| m.agent_id == agent_id.to_string()));
    let member = member.ok_or_else(|| Error::not_found("agent", &report.by.name))?;
    if work.receipt.is_empty() {
        return match member.hosted {
            false => Ok(String::new()),
            true => Err(Error::invalid("receipt", "is required of agents that the platform computes")),
        };
    }
    let said = receipt::verify(&work.receipt, &member.public_key)?;
    agree(&said, task, &report.by.agent_id.map(|id| id.to_string()).unwrap_or_default(), work, &artifacts)?;
    Ok(hex(&member.public_key))
}

fn agree(said: &Receipt, task: &Task, agent_id: &str, work: &Work, artifacts: &[Artifact]) -> Result<()> {
    let faults = [
        (said.iss != agent_id, "iss is another agent"),
        (said.task_id != task.id.to_string(), "task_id is another task"),
        (said.attempt != task.progress.attempt, "attempt is another one"),
        (said.result_sha256 != sha256_hex(work.result.as_bytes()), "result_sha256 is of another result"),
        (said.artifacts != artifacts, "artifacts differ from the drive"),
    ];
    match faults.iter().find(|(wrong, _)| *wrong) {
        Some((_, what)) => Err(mismatch(what)),
        None => Ok(()),
    }
}

/// An artifact as it stands in the drive.
async fn artifact(batch: &mut Batch<'_>, path: &str) -> Result<Artifact> {
    let file = file_get(batch.tx, path).await?;
    let file = file.ok_or_else(|| Error::invalid("artifacts", format!("names no file of the drive: {path:?}")))?;
    Ok(Artifact { path: file.path, revision: file.revision, sha256: file.sha256 })
}
