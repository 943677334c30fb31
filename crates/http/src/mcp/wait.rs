//! Waiting for a task to be finished: with notes on its progress, or as a task of the protocol, which its client asks for
//! by and by. Either way the platform keeps the task, and nobody here remembers it.

use std::time::Duration;

use rmcp::{
    RoleServer,
    model::{CreateTaskResult, DetailedTask, ProgressNotificationParam, ProgressToken, Task, TaskPayload, TaskStatus},
    service::{Peer, RequestContext},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::{arguments::invalid, tool_set::OFFICE};
use crate::byte_path::{BytePath, Caller};

const WATCH: &str = "/mi.v1.TaskService/WatchTasks";
const GET: &str = "/mi.v1.TaskService/GetTask";
const CANCEL: &str = "/mi.v1.TaskService/CancelTask";
/// Between notes on a task that does not change.
const BEAT: Duration = Duration::from_secs(10);
/// How often a client had better ask, in milliseconds.
const POLL: u64 = 1000;

/// A task of an office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskRef {
    pub(crate) office_id: String,
    pub(crate) task_id: String,
}

impl TaskRef {
    /// By the id that it has in the protocol.
    pub(crate) fn parse(id: &str) -> Result<Self, Status> {
        let (office_id, task_id) = id.split_once('/').ok_or_else(|| invalid("there is no such task".to_owned()))?;
        Ok(Self { office_id: office_id.to_owned(), task_id: task_id.to_owned() })
    }

    fn id(&self) -> String {
        format!("{}/{}", self.office_id, self.task_id)
    }

    fn request(&self) -> Value {
        json!({OFFICE: self.office_id, "task_id": self.task_id})
    }

    /// The answer of the API that has it.
    pub(crate) async fn get(&self, gateway: &BytePath, caller: &Caller) -> Result<Map<String, Value>, Status> {
        match gateway.call(caller, GET, &self.request()).await? {
            Value::Object(answer) => Ok(answer),
            _ => Err(Status::internal("an answer is no object")),
        }
    }

    pub(crate) async fn cancel(&self, gateway: &BytePath, caller: &Caller) -> Result<(), Status> {
        gateway.call(caller, CANCEL, &self.request()).await.map(drop)
    }

    /// Waits until it is finished, but no longer than this: whether it is.
    pub(crate) async fn finished(
        &self,
        gateway: &BytePath,
        caller: &Caller,
        limit: Duration,
        progress: &mut Progress,
    ) -> Result<bool, Status> {
        let mut request = self.request();
        // First as it is now.
        request["after_cursor"] = 0.into();
        let mut changes = gateway.watch(caller, WATCH, &request).await?;
        let (begun, mut stands) = (Instant::now(), String::new());
        loop {
            let waited = begun.elapsed();
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Ok(false);
            };
            match timeout(left.min(BEAT), changes.next()).await {
                Ok(Ok(Some(change))) => {
                    stands = describe(&change["task"]);
                    // Whoever does not read what he is told is not waited for.
                    let _ = timeout(BEAT, progress.tell(stands.clone())).await;
                    if is_finished(&change["task"]) {
                        return Ok(true);
                    }
                }
                Ok(Ok(None)) => return Ok(false),
                Ok(Err(status)) if status.code() == Code::DeadlineExceeded => return Ok(false),
                Ok(Err(status)) => return Err(status),
                Err(_) => progress.tell(format!("{stands}, after {} s", begun.elapsed().as_secs())).await,
            }
        }
    }
}

fn text<'a>(task: &'a Value, name: &str) -> &'a str {
    task[name].as_str().unwrap_or_default()
}

/// Whether nothing more comes of it.
pub(crate) fn is_finished(task: &Value) -> bool {
    matches!(text(task, "status"), "TASK_STATUS_DONE" | "TASK_STATUS_FAILED" | "TASK_STATUS_CANCELLED")
}

/// Where a task stands, for people.
fn describe(task: &Value) -> String {
    let status = text(task, "status").trim_start_matches("TASK_STATUS_").to_lowercase();
    let (worker, blocked) = (text(task, "worker"), text(task, "blocked_reason"));
    match status.as_str() {
        "running" => format!("running: attempt {} by {worker}", task["attempt"]),
        "blocked" if !blocked.is_empty() => format!("blocked: {blocked}"),
        _ => status,
    }
}

/// The notes on one call, for a client that asked for them.
pub(crate) struct Progress {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    notes: f64,
}

impl Progress {
    pub(crate) fn of(context: &RequestContext<RoleServer>) -> Self {
        Self { peer: context.peer.clone(), token: context.meta.get_progress_token(), notes: 0.0 }
    }

    async fn tell(&mut self, message: String) {
        let Some(token) = self.token.clone() else { return };
        self.notes += 1.0;
        let note = ProgressNotificationParam::new(token, self.notes).with_message(message);
        // A client that has left is noticed elsewhere.
        let _ = self.peer.notify_progress(note).await;
    }
}

/// A task as the protocol has tasks.
fn of_protocol(place: &TaskRef, task: &Value) -> Task {
    let status = match text(task, "status") {
        "TASK_STATUS_DONE" | "TASK_STATUS_FAILED" => TaskStatus::Completed,
        "TASK_STATUS_CANCELLED" => TaskStatus::Cancelled,
        _ => TaskStatus::Working,
    };
    Task::new(place.id(), status, text(task, "created_at"), text(task, "updated_at"))
        .with_status_message(describe(task))
        .with_poll_interval_ms(POLL)
}

/// What a client gets instead of an answer, to ask for it later.
pub(crate) fn handle(place: &TaskRef, task: &Value) -> CreateTaskResult {
    CreateTaskResult::new(of_protocol(place, task))
}

/// A task with what came out, once there is something.
pub(crate) fn detailed(place: &TaskRef, task: &Value, result: impl FnOnce() -> Map<String, Value>) -> DetailedTask {
    let whole = of_protocol(place, task);
    let payload = match whole.status {
        TaskStatus::Completed => TaskPayload::Completed { result: result() },
        TaskStatus::Cancelled => TaskPayload::Cancelled,
        _ => TaskPayload::Working,
    };
    DetailedTask::new(whole, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stands_where_the_api_says() {
        let place = TaskRef::parse("o1/t1").expect("it is one");
        assert_eq!(place, TaskRef { office_id: "o1".into(), task_id: "t1".into() });
        assert!(TaskRef::parse("t1").is_err());
        for (status, expected, is_over) in [
            ("QUEUED", TaskStatus::Working, false),
            ("VERIFYING", TaskStatus::Working, false),
            ("DONE", TaskStatus::Completed, true),
            ("FAILED", TaskStatus::Completed, true),
            ("CANCELLED", TaskStatus::Cancelled, true),
        ] {
            let task = json!({"status": format!("TASK_STATUS_{status}"), "created_at": "a", "updated_at": "b"});
            assert_eq!(is_finished(&task), is_over);
            let result = || json!({"isError": false}).as_object().cloned().unwrap_or_default();
            let detailed = detailed(&place, &task, result);
            assert_eq!((detailed.status(), detailed.task.task_id.as_str()), (expected, "o1/t1"));
        }
    }

    #[test]
    fn notes_say_who_works_on_it_and_what_it_waits_for() {
        let running = json!({"status": "TASK_STATUS_RUNNING", "attempt": 2, "worker": "coder"});
        assert_eq!(describe(&running), "running: attempt 2 by coder");
        let blocked = json!({"status": "TASK_STATUS_BLOCKED", "blocked_reason": "nobody has `gpu`"});
        assert_eq!(describe(&blocked), "blocked: nobody has `gpu`");
        assert_eq!(describe(&json!({"status": "TASK_STATUS_QUEUED"})), "queued");
    }
}
