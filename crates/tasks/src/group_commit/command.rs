//! What may be asked of a queue, and what that costs.

use mi_kernel::TaskId;
use mi_tenancy::Author;

use super::pending_ops::MAX_BATCH_BYTES;
use crate::{
    decide::{Decision, Verdict},
    members::Reconcile,
    model::{New, Reference, Report, ReportKind},
    work::Claim,
};

/// What a search for cycles costs, as if it were bytes: it reads up to thousands of rows.
const SEARCH_COST: usize = MAX_BATCH_BYTES / 8;
/// What a task costs besides its text.
pub(super) const TASK: usize = 4 << 10;
/// What a dependency costs.
const LINK: usize = 256;

/// What is asked of a queue.
#[derive(Debug)]
pub(crate) enum TaskCommand {
    Create(Vec<New>, Author),
    Claim(Claim, Patience),
    Report(Report),
    Decide(Decision),
    Expire(Vec<TaskId>),
    /// The agents changed.
    Reconcile(Reconcile),
    /// Something is left to be done about changes of tasks: its transaction does some of it.
    Settle,
}

/// Whether a claim that finds nothing waits for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    Waits,
}

impl TaskCommand {
    /// Whether somebody asks for it who may be told to come back later.
    pub(super) fn is_asked(&self) -> bool {
        !matches!(self, Self::Expire(_) | Self::Reconcile(_) | Self::Settle)
    }

    /// What it takes of what fits into a transaction: what it writes, and what it searches, as if that were bytes.
    pub(super) fn cost(&self) -> usize {
        self.writes() + if self.searches() { SEARCH_COST } else { 0 }
    }

    /// Whether cycles may have to be looked for among stored tasks: see [`crate::cycles`].
    pub(super) fn searches(&self) -> bool {
        let is_stored = |reference: &Reference| matches!(reference, Reference::Id(_));
        match self {
            Self::Create(news, _) => {
                news.iter().filter_map(|new| new.parent.as_ref()).any(is_stored)
                    && news.iter().flat_map(|new| &new.depends_on).any(is_stored)
            }
            _ => false,
        }
    }

    /// About how many bytes it makes a transaction write.
    pub(super) fn writes(&self) -> usize {
        TASK * self.claim().map_or(0, |claim| claim.most)
            + match self {
                Self::Create(news, _) => {
                    let cost = |new: &New| TASK + new.title.len() + new.description.len() + LINK * new.depends_on.len();
                    news.iter().map(cost).sum()
                }
                Self::Claim(..) => 0,
                Self::Report(Report { what: ReportKind::Completed { work }, .. }) => {
                    TASK + work.result.len()
                        + work.receipt.len()
                        + work.artifacts.iter().map(String::len).sum::<usize>()
                }
                Self::Report(Report { what: ReportKind::Failed { error, .. }, .. }) => TASK + error.len(),
                Self::Report(_) | Self::Decide(_) | Self::Reconcile(_) | Self::Settle => TASK,
                Self::Expire(ids) => TASK * ids.len(),
            }
    }

    /// What it claims.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Claim(claim, _) => Some(claim),
            Self::Report(report) => report.next.as_deref(),
            _ => None,
        }
    }

    /// About how many bytes it holds until it is answered. A claim waits for long, and is small until it is served.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Claim(..) => TASK,
            _ => self.writes(),
        }
    }

    /// The task that it ends, or gives back: its subtasks matter then.
    pub(super) fn ends(&self) -> Option<TaskId> {
        match self {
            Self::Report(Report { task_id, what: ReportKind::Completed { .. } | ReportKind::Released, .. }) => {
                Some(*task_id)
            }
            _ => None,
        }
    }

    /// Whether a task that could be claimed may be none any more after it.
    pub(super) fn takes(&self) -> bool {
        matches!(self, Self::Decide(_) | Self::Expire(_) | Self::Reconcile(_) | Self::Settle)
    }

    /// Whether a look at the queue is usually all that it needs.
    pub(super) fn is_simple(&self) -> bool {
        matches!(self, Self::Create(..) | Self::Claim(..) | Self::Report(_) | Self::Decide(_))
    }

    /// Whether what they wait for has to be looked at again after it.
    pub(super) fn reconsiders(&self) -> bool {
        matches!(
            self,
            Self::Expire(_)
                | Self::Report(Report { what: ReportKind::Failed { .. }, .. })
                | Self::Decide(Decision { what: Verdict::Retry | Verdict::Reject(..), .. })
        )
    }

    /// Tasks that it is about.
    pub(super) fn subjects(&self) -> Vec<TaskId> {
        match self {
            Self::Report(report) => vec![report.task_id],
            Self::Decide(decision) => vec![decision.task_id],
            Self::Expire(ids) => ids.clone(),
            Self::Create(..) | Self::Claim(..) | Self::Reconcile(_) | Self::Settle => Vec::new(),
        }
    }
}
