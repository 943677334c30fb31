//! A task of the platform as the protocol has tasks.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{issuer::CardIssuer, tenant::Tenant};

/// What stands in a path as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How much of a task is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Whether what was asked is among it.
    pub(super) history: bool,
    /// Whether what came out is.
    pub(super) artifacts: bool,
}

impl Extent {
    /// All but the history, of which so many messages are wanted at most.
    pub(super) fn of(history_length: &Value) -> Self {
        Self { history: history_length.as_i64().is_none_or(|length| length > 0), artifacts: true }
    }
}

fn text<'a>(task: &'a Value, name: &str) -> &'a str {
    task[name].as_str().unwrap_or_default()
}

/// The states of the protocol, each with those of the platform.
const STATES: [(&str, &[&str]); 5] = [
    ("TASK_STATE_SUBMITTED", &["TASK_STATUS_BLOCKED", "TASK_STATUS_QUEUED"]),
    // Work that somebody else still has to accept is not completed.
    ("TASK_STATE_WORKING", &["TASK_STATUS_RUNNING", "TASK_STATUS_VERIFYING"]),
    ("TASK_STATE_COMPLETED", &["TASK_STATUS_DONE"]),
    ("TASK_STATE_FAILED", &["TASK_STATUS_FAILED"]),
    ("TASK_STATE_CANCELED", &["TASK_STATUS_CANCELLED"]),
];

/// The platform's statuses of a state; none: no task is ever in it.
pub(super) fn statuses(state: &str) -> &'static [&'static str] {
    STATES.iter().find(|(name, _)| *name == state).map(|(_, statuses)| *statuses).unwrap_or_default()
}

fn state(task: &Value) -> &'static str {
    let found = STATES.iter().find(|(_, statuses)| statuses.contains(&text(task, "status")));
    found.map(|(name, _)| *name).unwrap_or("TASK_STATE_UNSPECIFIED")
}

/// Whether a task is being worked on, or was and waits to be accepted.
pub(super) fn is_begun(task: &Value) -> bool {
    state(task) == "TASK_STATE_WORKING"
}

/// Where a task stands, with what there is to say of that.
pub(super) fn status(task: &Value) -> Value {
    let said = match text(task, "status") {
        "TASK_STATUS_BLOCKED" => text(task, "blocked_reason"),
        "TASK_STATUS_VERIFYING" => "the work is done, and somebody else has to accept it",
        _ => text(task, "error"),
    };
    let mut status = json!({"state": state(task), "timestamp": task["updated_at"]});
    if !said.is_empty() {
        let id = format!("{}/{}", text(task, "id"), text(task, "updated_at"));
        status["message"] = one_part(task, &id, "ROLE_AGENT", said);
    }
    status
}

fn one_part(task: &Value, id: &str, role: &str, said: &str) -> Value {
    json!({
        "messageId": id,
        "contextId": task["context_id"],
        "taskId": task["id"],
        "role": role,
        "parts": [{"text": said, "mediaType": "text/plain"}],
    })
}

/// What came out: the result, and the files on the drive.
pub(super) fn artifacts(issuer: &CardIssuer, tenant: &Tenant, task: &Value) -> Vec<Value> {
    if text(task, "status") != "TASK_STATUS_DONE" {
        return Vec::new();
    }
    let result = json!({
        "artifactId": "result",
        "name": "result",
        "parts": [{"text": task["result"], "mediaType": "text/plain"}],
    });
    let files = task["artifacts"].as_array().into_iter().flatten().filter_map(Value::as_str).enumerate();
    let files = files.map(|(place, path)| {
        let at = format!("/v1/offices/{}/files/{}", tenant.office_id, utf8_percent_encode(path, PLAIN));
        let name = path.rsplit('/').next().unwrap_or(path);
        json!({
            "artifactId": format!("file-{}", place + 1),
            "name": path,
            "parts": [{"url": issuer.at(&at), "filename": name}],
        })
    });
    [result].into_iter().chain(files).collect()
}

/// A task.
pub(super) fn shown(issuer: &CardIssuer, tenant: &Tenant, task: &Value, extent: Extent) -> Value {
    let mut shown = json!({"id": task["id"], "contextId": task["context_id"], "status": status(task)});
    if extent.artifacts {
        shown["artifacts"] = artifacts(issuer, tenant, task).into();
    }
    if extent.history {
        let asked = match text(task, "description") {
            "" => text(task, "title"),
            description => description,
        };
        shown["history"] = json!([one_part(task, text(task, "id"), "ROLE_USER", asked)]);
    }
    // What an agent signed about its work, for whoever wants to check it.
    let known = ["worker", "receipt"].into_iter().filter(|name| !text(task, name).is_empty());
    let metadata: serde_json::Map<_, _> = known.map(|name| (name.to_owned(), task[name].clone())).collect();
    if !metadata.is_empty() {
        shown["metadata"] = metadata.into();
    }
    shown
}
