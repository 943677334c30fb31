//! The task itself, its subtasks, and those of others.

use mi_kernel::receipt::{Artifact, Command};
use mi_proto::v1::{CreateTaskRequest, StatFileRequest, Task, TaskKind, VerifyTaskRequest};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    super::descriptions::{MORE, about, has_open_subtasks, stalled_subtasks, subtasks},
    Answer, Refused, Shared, refused,
};
use crate::work::{
    lease::{Lease, lost},
    outcome::{Done, Ended, Failed, Outcome},
};

tool!(Create, "create_task", "Create a task, by default a subtask of yours. Others claim and do it; you get its id.", {
    title: String = "string", "What is to be done, in a line.";
    description: String = "string", "All that whoever does it needs to know; for kind command, the shell script.";
    #[serde(default)] kind: Kind = "string?", "general, code, research, review or command; general by default.";
    #[serde(default)] assigned_agent: String = "string?", "Name of the only agent that may do it.";
    #[serde(default)] depends_on: Vec<String> = "strings?", "Ids of tasks that must be done first.";
    subtask: Option<bool> = "boolean?", "Whether it is a part of your task; true by default.";
});

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    General = TaskKind::General as isize,
    Code = TaskKind::Code as isize,
    Research = TaskKind::Research as isize,
    Review = TaskKind::Review as isize,
    Command = TaskKind::Command as isize,
}

tool!(Which, "task_status", "See how a task stands, and its result.", { task_id: String = "string", "The task."; });

tool!(Wait, "wait_for_subtasks", "Give your task back until its subtasks are finished; it then comes back to you.", {});

tool!(Verify, "verify_task", "Accept or reject the work on a task that is to be verified.", {
    approve: bool = "boolean", "Whether it is accepted.";
    note: String = "string", "Why.";
    #[serde(default)] task_id: String = "string?", "The task; the one that you are to judge by default.";
});

tool!(Complete, "complete_task", "Finish your task with its result.", {
    result: String = "string", "The whole result.";
    #[serde(default)] artifacts: Vec<String> = "strings?", "Paths of files in the drive that belong to it.";
});

tool!(Fail, "fail_task", "Give your task up.", {
    error: String = "string", "Why it cannot be done.";
    retryable: Option<bool> = "boolean?", "Whether another attempt may do better; true by default.";
});

pub(super) async fn create(shared: &Shared, own: &Task, asked: Create) -> Answer {
    let request = CreateTaskRequest {
        office_id: shared.office_id.clone(),
        title: asked.title,
        description: asked.description,
        kind: asked.kind as i32,
        assigned_agent: asked.assigned_agent,
        parent_id: if asked.subtask.unwrap_or(true) { own.id.clone() } else { String::new() },
        depends_on: asked.depends_on,
        request_id: Uuid::new_v4().to_string(),
        ..CreateTaskRequest::default()
    };
    let task = shared.client.tasks().create_task(request).await.map_err(refused)?.into_inner().task;
    Ok(format!("created task {}", task.map(|task| task.id).unwrap_or_default()))
}

pub(super) async fn status(shared: &Shared, asked: Which) -> Answer {
    super::task(shared, &asked.task_id).await.map(|task| about(&task)).map_err(refused)
}

pub(super) async fn verify(shared: &Shared, own: &Task, asked: Verify) -> Answer {
    let task_id = if asked.task_id.is_empty() { own.verifies_task_id.clone() } else { asked.task_id };
    let request = VerifyTaskRequest {
        office_id: shared.office_id.clone(),
        task_id,
        approve: asked.approve,
        note: asked.note,
        attempt: None,
    };
    shared.client.tasks().verify_task(request).await.map_err(refused)?;
    Ok(if asked.approve { "accepted".into() } else { "rejected".into() })
}

/// Says that waiting is of no use.
const STALLED: &str = "not done: no open subtask goes on by itself, since each hangs on a task that failed or was cancelled. \
                       Do that work in another way, in new subtasks if need be, or call fail_task and say why.";

/// Gives the task back while it has open subtasks.
pub(super) async fn wait(shared: &Shared, own: &Task) -> Result<Answer, Refused> {
    let tasks = async {
        let stalled = stalled_subtasks(shared, &own.id).await?;
        if !stalled.is_empty() {
            return Ok(Some((STALLED, (stalled, false))));
        }
        if has_open_subtasks(shared, &own.id).await? {
            return Ok(None);
        }
        Ok(Some(("no subtask is open", subtasks(shared, &own.id).await?)))
    };
    let (said, (tasks, more)) = match tasks.await {
        Ok(Some(tasks)) => tasks,
        Ok(None) => return Err(Refused::End(Outcome::Released)),
        Err(status) => return Ok(Err(refused(status))),
    };
    let mut lines = vec![said.to_owned()];
    lines.extend(more.then(|| MORE.to_owned()));
    lines.extend(tasks.iter().map(about));
    Ok(Ok(lines.join("\n")))
}

/// Completes the task; what keeps it from being done is for the model to read.
pub(super) async fn complete(
    shared: &Shared,
    lease: &Lease<'_>,
    commands: Vec<Command>,
    asked: Complete,
) -> Result<Answer, Refused> {
    if asked.result.trim().is_empty() {
        return Ok(Err("the result is blank: say what came out".into()));
    }
    let mut artifacts = Vec::new();
    for path in asked.artifacts {
        let request = StatFileRequest { office_id: shared.office_id.clone(), path: path.clone() };
        match shared.client.drive().stat_file(request).await {
            Ok(answer) => {
                let file = answer.into_inner().file.unwrap_or_default();
                artifacts.push(Artifact { path, revision: file.revision, sha256: file.sha256 });
            }
            Err(status) => return Ok(Err(format!("{path}: {}", refused(status)))),
        }
    }
    match lease.complete(&Done { result: asked.result, artifacts, commands }).await {
        Ok(()) => Err(Refused::End(Outcome::Reported(Ended::done()))),
        Err(status) if lost(status.code()) => Err(Refused::End(Outcome::Reported(Ended::too_late(&status)))),
        Err(status) => Ok(Err(refused(status))),
    }
}

/// Gives the task up.
pub(super) fn fail(asked: Fail) -> Refused {
    let error = match asked.error.trim() {
        "" => "the model gave no reason".to_owned(),
        _ => asked.error,
    };
    Refused::End(Outcome::Failed(Failed { error, retryable: asked.retryable.unwrap_or(true), loop_detected: false }))
}
