//! What the feed says.

use crate::model::{State, Task, TaskTransition};

/// What the feed says of a step; none: nothing.
pub(super) fn told(task: &Task, step: &TaskTransition) -> Option<(&'static str, String)> {
    let worker = || task.progress.worker.as_ref().map_or("nobody", |worker| &worker.name);
    Some(match step {
        TaskTransition::Renew(..) | TaskTransition::Postpone(_) => return None,
        TaskTransition::Block { .. } => ("task.blocked", "has to wait".into()),
        TaskTransition::Free { stalled } if !stalled.is_empty() => ("task.stalled", "goes back to its worker".into()),
        TaskTransition::Free { .. } if *task.state() == State::Queued => return None,
        TaskTransition::Free { .. } => ("task.queued", "waits no longer".into()),
        TaskTransition::Claim(_, worker) => ("task.claimed", format!("claimed by {}", worker.name)),
        TaskTransition::Release { .. } => ("task.released", format!("given back by {}", worker())),
        TaskTransition::Expire => ("task.attempt_failed", format!("was not finished in time by {}", worker())),
        TaskTransition::Complete { verify_until: Some(_), .. } => {
            ("task.submitted", format!("waits to be verified; worker {}", worker()))
        }
        TaskTransition::Complete { .. } => ("task.completed", "completed".into()),
        TaskTransition::Fail { .. } => ("task.attempt_failed", "failed".into()),
        TaskTransition::Cancel(_) => ("task.cancelled", "cancelled".into()),
        TaskTransition::Retry { .. } => ("task.retried", "is to be tried again".into()),
        TaskTransition::Accept => ("task.completed", "accepted".into()),
        TaskTransition::Reject(_) => ("task.rejected", "rejected".into()),
        TaskTransition::Unassign | TaskTransition::Assign(None) => {
            ("task.unassigned", "is kept for nobody any more".into())
        }
        TaskTransition::Assign(Some(assigned)) => ("task.assigned", format!("is kept for {}", assigned.name)),
    })
}

/// The start of a text that may be long, for a sentence.
pub(crate) fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
