//! Reports of workers on their tasks.

use std::time::Duration;

use mi_kernel::{
    AgentId, LeaseId, Result, TaskId,
    receipt::{Receipt, sha256_hex},
};
use mi_tenancy::Author;
use serde_json::json;

use super::Work;
use crate::work::Claim;

/// What the receipt of a report says, and the key in hex that it is signed by; none: there is no receipt, and none is
/// needed. Found out before the report waits for its transaction: signatures are not checked while the queue is locked.
pub(crate) type Signed = Result<Option<(Receipt, String)>>;

/// A report on a task: by whoever holds its lease, or by an operator, who needs none.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) task_id: TaskId,
    pub(crate) lease_id: Option<LeaseId>,
    pub(crate) by: Author,
    /// As an owner of the office.
    pub(crate) owner: bool,
    pub(crate) what: ReportKind,
    /// Of completed work; otherwise none.
    pub(crate) signed: Box<Signed>,
    /// What is claimed in the same step, unless the report is refused.
    pub(crate) next: Option<Box<Claim>>,
}

impl Report {
    /// The agent that has nothing more to do with the task then.
    pub(crate) fn ends_work(&self) -> Option<AgentId> {
        self.by.agent_id.filter(|_| !matches!(self.what, ReportKind::Renewed { .. }))
    }
}

/// What is reported.
#[derive(Debug)]
pub(crate) enum ReportKind {
    Renewed { lease: Duration },
    Released,
    Completed { work: Work },
    Failed { error: String, retryable: bool, loop_detected: bool },
}

impl ReportKind {
    /// What is reported as completed.
    pub(crate) fn work(&self) -> Option<&Work> {
        match self {
            Self::Completed { work } => Some(work),
            _ => None,
        }
    }

    /// Tells reports apart.
    pub(crate) fn digest(&self) -> String {
        let text = match self {
            Self::Renewed { .. } => String::new(),
            Self::Released => "released".to_owned(),
            // As JSON, so that no part passes for another.
            Self::Completed { work } => json!(["completed", work.artifacts, work.result]).to_string(),
            Self::Failed { error, retryable, .. } => json!(["failed", retryable, error]).to_string(),
        };
        sha256_hex(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_report_passes_for_another() {
        let completed = |artifacts: &[&str], result: &str| {
            let artifacts = artifacts.iter().map(ToString::to_string).collect();
            let (receipt, public_key) = Default::default();
            ReportKind::Completed { work: Work { result: result.into(), artifacts, receipt, public_key } }.digest()
        };
        assert_eq!(completed(&["a"], "x"), completed(&["a"], "x"));
        assert_ne!(completed(&["a"], "b\nx"), completed(&["a", "b"], "x"));
        let failed = |error: &str, retryable| {
            ReportKind::Failed { error: error.into(), retryable, loop_detected: false }.digest()
        };
        assert_ne!(failed("x", true), failed("x", false));
        assert_ne!(failed("x", true), failed("y", true));
    }
}
