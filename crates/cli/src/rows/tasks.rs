//! How tasks look in a table.

use mi_kernel::{Clock, SystemClock, credits};
use mi_proto::v1::{Task, TaskKind, TaskNote, TaskStats, TaskStatus, WatchTasksResponse};

use crate::{
    output::{pairs, resource},
    rows::reason_word,
    text::{age, precise_time, time, word},
};

/// `running`, as the command line takes it.
pub(crate) fn status(status: TaskStatus) -> String {
    word(status.as_str_name(), "TASK_STATUS_")
}

fn kind(kind: TaskKind) -> String {
    word(kind.as_str_name(), "TASK_KIND_")
}

/// Who works on it or did, else who is to.
fn agent(task: &Task) -> &str {
    if task.worker.is_empty() { &task.assigned_agent } else { &task.worker }
}

fn attempt(task: &Task) -> String {
    format!("{}/{}", task.attempt, task.max_attempts)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Why it is not done, if there is anything to say.
fn reason(task: &Task) -> &str {
    if task.error.is_empty() { &task.blocked_reason } else { &task.error }
}

/// The status, with the platform's word for why nobody takes it, if it has one.
fn status_and_word(task: &Task) -> String {
    let shown = status(task.status());
    match reason_word(&task.error).filter(|_| task.status() == TaskStatus::Queued) {
        Some(word) => format!("{shown} ({word})"),
        None => shown,
    }
}

resource!(
    Task, "tasks", |it| {
        "ID" => it.id,
        "TITLE" => it.title,
        "KIND" => kind(it.kind()),
        "PRIORITY" => it.priority,
        "STATUS" => status_and_word(it),
        "AGENT" => agent(it),
        "ATTEMPT" => attempt(it),
        "AGE" => age(it.created_at.as_ref(), SystemClock.now()),
    }
    wide {
        "CREATED BY" => it.created_by,
        "PARENT" => it.parent_id,
        "CREATED" => time(it.created_at.as_ref()),
        "UPDATED" => time(it.updated_at.as_ref()),
        "WHY" => first_line(reason(it)),
    }
    details {
        pairs! {
            "ID" => it.id,
            "TITLE" => it.title,
            "STATUS" => status(it.status()),
            "BLOCKED BY" => it.blocked_reason,
            "KIND" => kind(it.kind()),
            "PRIORITY" => it.priority,
            "ATTEMPT" => attempt(it),
            "WORKER" => it.worker,
            "ASSIGNED" => it.assigned_agent,
            "PARENT" => it.parent_id,
            "DEPENDS ON" => it.depends_on.join("\n"),
            "TOOLS" => it.required_tools.join(", "),
            "VERIFICATION" => if it.verification_required { "required" } else { "" },
            "VERIFIES" => it.verifies_task_id,
            "CREATED BY" => it.created_by,
            "CAUSE" => it.cause,
            "DEPTH" => if it.depth == 0 { String::new() } else { it.depth.to_string() },
            "CREATED" => time(it.created_at.as_ref()),
            "UPDATED" => time(it.updated_at.as_ref()),
            "CLAIMED" => time(it.claimed_at.as_ref()),
            "LEASE UNTIL" => time(it.lease_expires_at.as_ref()),
            "LEASE" => it.lease_id,
            "FINISHED" => time(it.finished_at.as_ref()),
            "COST" => if it.cost == 0 { String::new() } else { credits::shown(it.cost) },
            "DESCRIPTION" => it.description,
            "ERROR" => it.error,
            "ARTIFACTS" => it.artifacts.join("\n"),
            "RECEIPT" => it.receipt,
            "RECEIPT KEY" => hex::encode(&it.receipt_public_key),
            "RESULT" => it.result,
        }
    }
    id { it.id }
);

fn changed(change: &WatchTasksResponse) -> Task {
    change.task.clone().unwrap_or_default()
}

resource!(
    WatchTasksResponse, "changes", |it| {
        "TIME" => precise_time(changed(it).updated_at.as_ref()),
        "TASK" => changed(it).id,
        "STATUS" => format!("{:<9}", status(changed(it).status())),
        "AGENT" => format!("{:<12}", agent(&changed(it))),
        "ATTEMPT" => attempt(&changed(it)),
        "TITLE" => changed(it).title,
        "REASON" => reason(&changed(it)),
    }
    id { it.task.as_ref()?.id }
);

resource!(
    TaskNote, "notes", |it| { "TIME" => precise_time(it.time.as_ref()), "AUTHOR" => it.author, "NOTE" => it.body }
    id { it.id }
);

/// How many there are of a status; those with none are not sent.
fn count(stats: &TaskStats, status: TaskStatus) -> i32 {
    stats.counts.iter().find(|it| it.status() == status).map_or(0, |it| it.count)
}

resource!(TaskStats, "counts", |it| {
    "BLOCKED" => count(it, TaskStatus::Blocked),
    "QUEUED" => count(it, TaskStatus::Queued),
    "RUNNING" => count(it, TaskStatus::Running),
    "VERIFYING" => count(it, TaskStatus::Verifying),
    "DONE" => count(it, TaskStatus::Done),
    "FAILED" => count(it, TaskStatus::Failed),
    "CANCELLED" => count(it, TaskStatus::Cancelled),
    "TOTAL" => it.total,
});
