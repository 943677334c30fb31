//! How tasks look in a table.

use mi_kernel::{Clock, SystemClock};
use mi_proto::v1::{Task, TaskKind, TaskNote, TaskStats, TaskStatus, WatchTasksResponse};

use crate::{
    output::Resource,
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

impl Resource for Task {
    const TYPE: &'static str = "mi.v1.Task";
    const PLURAL: &'static str = "tasks";
    const COLUMNS: &'static [&'static str] = &["ID", "TITLE", "KIND", "PRIORITY", "STATUS", "AGENT", "ATTEMPT", "AGE"];
    const WIDE: &'static [&'static str] = &["CREATED BY", "PARENT", "CREATED", "UPDATED", "WHY"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.title.clone(),
            kind(self.kind()),
            self.priority.to_string(),
            status(self.status()),
            agent(self).to_owned(),
            attempt(self),
            age(self.created_at.as_ref(), SystemClock.now()),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut details = vec![
            ("ID", self.id.clone()),
            ("TITLE", self.title.clone()),
            ("STATUS", status(self.status())),
            ("BLOCKED BY", self.blocked_reason.clone()),
            ("KIND", kind(self.kind())),
            ("PRIORITY", self.priority.to_string()),
            ("ATTEMPT", attempt(self)),
            ("WORKER", self.worker.clone()),
            ("ASSIGNED", self.assigned_agent.clone()),
            ("PARENT", self.parent_id.clone()),
            ("DEPENDS ON", self.depends_on.join("\n")),
            ("TOOLS", self.required_tools.join(", ")),
            ("VERIFICATION", if self.verification_required { "required".into() } else { String::new() }),
            ("VERIFIES", self.verifies_task_id.clone()),
            ("CREATED BY", self.created_by.clone()),
            ("CAUSE", self.cause.clone()),
            ("DEPTH", if self.depth == 0 { String::new() } else { self.depth.to_string() }),
            ("CREATED", time(self.created_at.as_ref())),
            ("UPDATED", time(self.updated_at.as_ref())),
            ("CLAIMED", time(self.claimed_at.as_ref())),
            ("LEASE UNTIL", time(self.lease_expires_at.as_ref())),
            ("LEASE", self.lease_id.clone()),
            ("FINISHED", time(self.finished_at.as_ref())),
            ("DESCRIPTION", self.description.clone()),
            ("ERROR", self.error.clone()),
            ("ARTIFACTS", self.artifacts.join("\n")),
            ("RECEIPT", self.receipt.clone()),
            ("RECEIPT KEY", hex::encode(&self.receipt_public_key)),
            ("RESULT", self.result.clone()),
        ];
        details.retain(|(_, value)| !value.is_empty());
        details
    }

    fn wide(&self) -> Vec<String> {
        let why = if self.error.is_empty() { &self.blocked_reason } else { &self.error };
        vec![
            self.created_by.clone(),
            self.parent_id.clone(),
            time(self.created_at.as_ref()),
            time(self.updated_at.as_ref()),
            why.lines().next().unwrap_or_default().to_owned(),
        ]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Resource for WatchTasksResponse {
    const TYPE: &'static str = "mi.v1.WatchTasksResponse";
    const PLURAL: &'static str = "changes";
    const COLUMNS: &'static [&'static str] = &["TIME", "TASK", "STATUS", "AGENT", "ATTEMPT", "TITLE", "REASON"];

    fn row(&self) -> Vec<String> {
        let task = self.task.clone().unwrap_or_default();
        let reason = if task.error.is_empty() { &task.blocked_reason } else { &task.error };
        vec![
            precise_time(task.updated_at.as_ref()),
            task.id.clone(),
            format!("{:<9}", status(task.status())),
            format!("{:<12}", agent(&task)),
            attempt(&task),
            task.title.clone(),
            reason.clone(),
        ]
    }

    fn id(&self) -> Option<&str> {
        self.task.as_ref().map(|task| task.id.as_str())
    }
}

impl Resource for TaskNote {
    const TYPE: &'static str = "mi.v1.TaskNote";
    const PLURAL: &'static str = "notes";
    const COLUMNS: &'static [&'static str] = &["TIME", "AUTHOR", "NOTE"];

    fn row(&self) -> Vec<String> {
        vec![precise_time(self.time.as_ref()), self.author.clone(), self.body.clone()]
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Resource for TaskStats {
    const TYPE: &'static str = "mi.v1.TaskStats";
    const PLURAL: &'static str = "counts";
    const COLUMNS: &'static [&'static str] =
        &["BLOCKED", "QUEUED", "RUNNING", "VERIFYING", "DONE", "FAILED", "CANCELLED", "TOTAL"];

    fn row(&self) -> Vec<String> {
        let statuses = [
            TaskStatus::Blocked,
            TaskStatus::Queued,
            TaskStatus::Running,
            TaskStatus::Verifying,
            TaskStatus::Done,
            TaskStatus::Failed,
            TaskStatus::Cancelled,
        ];
        // Those with none are not sent.
        let count = |status| self.counts.iter().find(|it| it.status() == status).map_or(0, |it| it.count);
        statuses.into_iter().map(count).chain([self.total]).map(|count| count.to_string()).collect()
    }
}
