//! Following a task to its end.

use std::{cell::Cell, convert::Infallible, time::Duration};

use mi_proto::v1::{ListAgentsRequest, Task, TaskStatus, WatchTasksRequest};
use tokio::time::Instant;

use crate::{
    context::Context,
    failure::Failure,
    follow::follow_through,
    text::escape,
    wait::{by, spinner},
};

/// After so long it is told why nobody takes a task, where that can be known.
const PATIENCE: Duration = Duration::from_secs(3);

/// As [`finished`]; none: it is not by then.
pub(crate) async fn finished_by(
    context: &Context,
    office_id: &str,
    task: &Task,
    end: Option<Instant>,
) -> Result<Option<Task>, Failure> {
    let finished = finished(context, office_id, task);
    let told = async {
        tell_why_nobody_takes(context, office_id, task).await;
        std::future::pending::<Infallible>().await
    };
    let finished = async {
        tokio::select! {
            finished = finished => finished,
            never = told => match never {},
        }
    };
    by(end, finished).await.transpose()
}

/// Says once, of a task that nobody has taken after a moment, what that may be for: work that waits for ever should say so.
async fn tell_why_nobody_takes(context: &Context, office_id: &str, task: &Task) {
    tokio::time::sleep(PATIENCE).await;
    let Ok(task) = context.client.tasks().get(office_id, &task.id).await else { return };
    if task.status() != TaskStatus::Queued {
        return;
    }
    let why = if !task.error.is_empty() {
        task.error.clone()
    } else {
        let request = ListAgentsRequest { office_id: office_id.to_owned(), page_size: Some(1), ..Default::default() };
        match context.client.agents().list_agents(request).await {
            Ok(page) if page.get_ref().agents.is_empty() => {
                "the colony has no agents; `mi agents hire NAME` hires one".to_owned()
            }
            _ => return,
        }
    };
    let line = format!("task {} ({}) waits: {why}", task.id, task.title);
    context.out.remark(format!("{}\n", escape(&line)).as_bytes());
}

/// Waits until the task is finished, however often the connection is lost meanwhile, and answers it as it then is.
/// Says so when it is blocked by what will not change while one waits.
async fn finished(context: &Context, office_id: &str, task: &Task) -> Result<Task, Failure> {
    let spinner = spinner(format!("waiting for {:?}", task.title));
    let (seen, mut told) = (Cell::new(0), String::new());
    let open = async || {
        let request = WatchTasksRequest {
            office_id: office_id.to_owned(),
            after_cursor: Some(seen.get()),
            task_id: task.id.clone(),
        };
        context.client.tasks().watch_tasks(request).await
    };
    let ended = follow_through(context.out, open, |answer| {
        seen.set(answer.cursor);
        if let Some(reason) = answer.task.as_ref().and_then(stuck).filter(|reason| **reason != told) {
            reason.clone_into(&mut told);
            let line = format!("task {} ({}) is blocked until somebody changes that: {reason}", task.id, task.title);
            spinner.suspend(|| context.out.remark(format!("{}\n", escape(&line)).as_bytes()));
        }
        Ok(answer.task.filter(|task| is_finished(task.status())))
    });
    let ended = ended.await?;
    spinner.finish_and_clear();
    ended.ok_or_else(|| {
        Failure::new(format!("the platform stopped telling about task {}", task.id))
            .hint(format!("the task goes on; `mi tasks get {}` shows where it stands", task.id))
    })
}

/// Why a task is blocked, unless it waits for other work.
fn stuck(task: &Task) -> Option<&str> {
    let goes_on = task.hangs_on_task_id.is_empty() && task.blocked_reason.starts_with("waits for ");
    let is_stuck = task.status() == TaskStatus::Blocked && !goes_on;
    is_stuck.then_some(&task.blocked_reason)
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
    fn a_task_is_stuck_when_no_work_that_is_under_way_frees_it() {
        let told = |status: TaskStatus, reason: &str| {
            let task = Task { status: status.into(), blocked_reason: reason.into(), ..Task::default() };
            stuck(&task).map(str::to_owned)
        };
        for reason in ["dependency a is failed: exit code: 3", "no agent has the tools github"] {
            assert_eq!(told(TaskStatus::Blocked, reason), Some(reason.to_owned()));
        }
        assert_eq!(told(TaskStatus::Blocked, "waits for task a and 2 more"), None);
        assert_eq!(told(TaskStatus::Blocked, "waits for 2 of its subtasks"), None);
        assert_eq!(told(TaskStatus::Queued, ""), None);
        // What waits for such a task is stuck, too.
        let reason = "waits for task b, which hangs on task a".to_owned();
        let blocked = TaskStatus::Blocked.into();
        let task = Task { status: blocked, blocked_reason: reason, hangs_on_task_id: "a".into(), ..Task::default() };
        assert_eq!(stuck(&task), Some(task.blocked_reason.as_str()));
    }

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
