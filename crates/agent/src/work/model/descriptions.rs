//! How tasks are described to the model.

use mi_proto::v1::{ListTasksRequest, ListTasksResponse, Task, TaskStatus};
use tonic::Status;

use crate::work::shared::Shared;

/// Subtasks and notes that are told of, each.
pub(super) const MOST: i32 = 50;
/// Earlier tasks of a conversation that are told of.
const REMEMBERED: i32 = 10;
/// How much of each result and note.
const PART: usize = 4 << 10;

/// Says that there are more subtasks than are told of.
pub(super) const MORE: &str = "These are the newest subtasks only; task_status tells of the others.";

/// The newest of a task's subtasks, oldest first, and whether there are more.
pub(super) async fn subtasks(shared: &Shared, parent: &str) -> Result<(Vec<Task>, bool), Status> {
    let answer = list(shared, parent, MOST, &[]).await?;
    let mut tasks = answer.tasks;
    tasks.reverse();
    Ok((tasks, !answer.next_page_token.is_empty()))
}

/// Whether any of a task's subtasks, however many there are, is not finished.
pub(super) async fn has_open_subtasks(shared: &Shared, parent: &str) -> Result<bool, Status> {
    let open = [TaskStatus::Blocked, TaskStatus::Queued, TaskStatus::Running, TaskStatus::Verifying];
    Ok(!list(shared, parent, 1, &open).await?.tasks.is_empty())
}

/// The open subtasks of a task, if none of them goes on by itself: each hangs on something that failed or was cancelled.
pub(super) async fn stalled_subtasks(shared: &Shared, parent: &str) -> Result<Vec<Task>, Status> {
    let goes_on = [TaskStatus::Queued, TaskStatus::Running, TaskStatus::Verifying];
    if !list(shared, parent, 1, &goes_on).await?.tasks.is_empty() {
        return Ok(Vec::new());
    }
    let blocked = list(shared, parent, MOST, &[TaskStatus::Blocked]).await?;
    // Of more than are told of, some may go on.
    let hang = blocked.next_page_token.is_empty() && blocked.tasks.iter().all(|task| !task.hangs_on_task_id.is_empty());
    Ok(if hang { blocked.tasks } else { Vec::new() })
}

/// The last tasks that a conversation had before this one, oldest first.
pub(super) async fn earlier(shared: &Shared, task: &Task) -> Result<Vec<Task>, Status> {
    let request = ListTasksRequest {
        office_id: shared.office_id.clone(),
        context_id: task.context_id.clone(),
        // Itself, and what was created since, may be among them.
        page_size: Some(2 * REMEMBERED),
        ..ListTasksRequest::default()
    };
    let newest_first = shared.client.tasks().list_tasks(request).await?.into_inner().tasks;
    // Ids are in the order of their creation.
    let before = newest_first.into_iter().filter(|other| other.id < task.id);
    let mut tasks: Vec<_> = before.take(usize::try_from(REMEMBERED).unwrap_or_default()).collect();
    tasks.reverse();
    Ok(tasks)
}

async fn list(shared: &Shared, parent: &str, most: i32, statuses: &[TaskStatus]) -> Result<ListTasksResponse, Status> {
    let request = ListTasksRequest {
        office_id: shared.office_id.clone(),
        parent_id: parent.to_owned(),
        statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
        page_size: Some(most),
        ..ListTasksRequest::default()
    };
    Ok(shared.client.tasks().list_tasks(request).await?.into_inner())
}

/// A task in a few lines: how it stands, and what came of it.
pub(super) fn about(task: &Task) -> String {
    let status = task.status().as_str_name().trim_start_matches("TASK_STATUS_").to_lowercase();
    let mut text = format!("{} ({:?}) is {status}", task.id, task.title);
    if !task.worker.is_empty() {
        text += &format!(", worker {}", task.worker);
    }
    if !task.artifacts.is_empty() {
        text += &format!(", files in the drive: {}", task.artifacts.join(", "));
    }
    let said = match task.status() {
        TaskStatus::Blocked => &task.blocked_reason,
        TaskStatus::Done | TaskStatus::Verifying => &task.result,
        _ => &task.error,
    };
    if !said.is_empty() {
        text += &format!(":\n{}", start(said));
    }
    text
}

/// The start of a text that may be long.
pub(super) fn start(text: &str) -> &str {
    &text[..text.floor_char_boundary(PART)]
}
