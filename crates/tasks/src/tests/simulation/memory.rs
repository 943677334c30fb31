//! What a process keeps in its memory, against the rows.

use mi_kernel::{OfficeId, TaskId};

use super::rows::Book;
use crate::Tasks;

/// What keeps a process from having come to rest; none: nothing. What is under way passes: whoever asks does so again.
pub(super) fn restless(tasks: &Tasks, office: OfficeId) -> Option<String> {
    tasks.group_commit.rests(office).err()
}

/// How what a process remembers differs from the rows, at any time; none: not at all.
pub(super) fn differs(tasks: &Tasks, book: &Book) -> Option<String> {
    for (key, root) in &tasks.roots {
        let mut top = key.1;
        while let Some(above) = book.tasks.get(&top).and_then(|task| task.spec.parent.or(task.spec.verifies)) {
            top = above;
        }
        if top != root {
            return Some(format!("{:?} is taken for a part of {:?}", book.name(key.1), book.name(root)));
        }
    }
    for (agent, (time, cause)) in &tasks.ended {
        let id = cause.text.strip_prefix("task/").and_then(|id| TaskId::parse(id).ok());
        let changes: Vec<_> = id.and_then(|id| book.history.get(&id)).into_iter().flatten().collect();
        let progress = || changes.iter().map(|change| &change.task.progress);
        // The next one may have it since the same commit.
        let is_its = progress().any(|progress| progress.updated_at == time)
            && progress()
                .any(|progress| progress.worker.as_ref().is_some_and(|worker| worker.agent_id == Some(*agent)));
        if !is_its {
            return Some(format!("an agent is taken to have ended {} at {time}", cause.text));
        }
    }
    tasks.memories.differs(book.office, book.cursor, &book.tasks)
}
