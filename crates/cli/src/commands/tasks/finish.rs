//! Following a task to its end.

use std::cell::Cell;

use mi_proto::v1::{Task, TaskStatus, WatchTasksRequest};

use crate::{context::Context, failure::Failure, follow::follow_until, wait::spinner};

/// Waits until the task is finished, however often the connection is lost meanwhile, and answers it as it then is.
pub(crate) async fn finished(context: &Context, office_id: &str, task: &Task) -> Result<Task, Failure> {
    let spinner = spinner(format!("waiting for {:?}", task.title));
    let seen = Cell::new(0);
    let open = async || {
        let request = WatchTasksRequest {
            office_id: office_id.to_owned(),
            after_cursor: Some(seen.get()),
            task_id: task.id.clone(),
        };
        context.client.tasks().watch_tasks(request).await
    };
    let ended = follow_until(context.out, open, |answer| {
        seen.set(answer.cursor);
        Ok(answer.task.filter(|task| is_finished(task.status())))
    });
    let ended = ended.await?;
    spinner.finish_and_clear();
    ended.ok_or_else(|| {
        Failure::new(format!("the platform stopped telling about task {}", task.id))
            .hint(format!("the task goes on; `mi tasks get {}` shows where it stands", task.id))
    })
}

pub(crate) fn is_finished(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Done | TaskStatus::Failed | TaskStatus::Cancelled)
}

/// Whether the finished task was done; else the first line of why not.
pub(crate) fn outcome(task: &Task) -> Result<(), Failure> {
    let ended = match task.status() {
        TaskStatus::Done => return Ok(()),
        TaskStatus::Cancelled => "was cancelled",
        _ => "failed",
    };
    let why = task.error.lines().next().map(|line| format!(": {line}")).unwrap_or_default();
    Err(Failure::new(format!("task {} {ended}{why}", task.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_task_was_done_or_says_why_not() {
        let task = |status: TaskStatus, error: &str| Task {
            id: "t".into(),
            status: status.into(),
            error: error.into(),
            ..Task::default()
        };
        assert!(outcome(&task(TaskStatus::Done, "the attempt before failed")).is_ok());
        let told = |status, error| outcome(&task(status, error)).expect_err("not done").to_string();
        assert_eq!(told(TaskStatus::Failed, "no room\nat all"), "error: task t failed: no room\n");
        assert_eq!(told(TaskStatus::Cancelled, ""), "error: task t was cancelled\n");
        assert!(is_finished(TaskStatus::Cancelled) && !is_finished(TaskStatus::Verifying));
    }
}
