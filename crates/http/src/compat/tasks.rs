//! Tasks.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Reply, answer,
    ask::Ask,
    fields::{Fields, parted},
    list::{self, Window},
    shape::{Both, entries, int, text, value, word},
    task_notes,
};

const STATUS: &str = "TASK_STATUS_";
const KIND: &str = "TASK_KIND_";
const KINDS: [&str; 5] = ["general", "code", "research", "review", "command"];
/// What a task keeps from its creation on.
const FIXED: [&str; 3] = ["title", "description", "priority"];
/// How long a claim is good: that client never renews one.
const LEASE: &str = "3600s";
/// Subtasks of a task that is shown with all about it.
const SUBTASKS: usize = 200;

pub(super) async fn list(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let statuses = statuses(ask.query("status").unwrap_or_default()).map_err(status)?;
    let query = |names: [&str; 2]| ask.query(names[0]).or(ask.query(names[1])).unwrap_or_default().to_owned();
    let request = json!({
        "office_id": ask.office(),
        "statuses": statuses,
        "assigned_agent": query(["assignedAgent", "assigned_agent"]),
        "parent_id": query(["parentId", "parent_id"]),
    });
    let page = list::walk(&ask, "TaskService/ListTasks", request, "tasks", window, list::any).await?;
    Ok(answer::list(page.entries.iter().map(|task| shown(ask.office(), task)).collect(), page.total))
}

/// The statuses of ours that words with commas between them mean.
fn statuses(words: &str) -> Result<Vec<String>, Error> {
    const KNOWN: [&str; 7] = ["blocked", "queued", "running", "verifying", "done", "failed", "cancelled"];
    let mut statuses = Vec::new();
    for word in parted(words) {
        match &*word {
            // What is verified is shown as running.
            "running" | "claimed" => {
                statuses.extend([format!("{STATUS}RUNNING"), format!("{STATUS}VERIFYING")]);
            }
            "pending" => statuses.push(format!("{STATUS}BLOCKED")),
            "completed" => statuses.push(format!("{STATUS}DONE")),
            word => statuses.push(value("status", word, STATUS, &KNOWN)?),
        }
    }
    Ok(statuses)
}

pub(super) async fn create(mut ask: Ask) -> Reply {
    let office = ask.office().to_owned();
    let (made, _) = ask.send("TaskService/CreateTask", move |body| creation(&office, body)).await?;
    Ok(answer::found(&shown(ask.office(), &made["task"])))
}

fn creation(office: &str, body: &Fields) -> Result<Value, Error> {
    let mut request = json!({
        "office_id": office,
        "title": body.text("title")?,
        "description": body.text("description")?,
        "assigned_agent": body.either(["assignedAgent", "assignedTo"])?,
        "parent_id": body.id("parentId")?,
        "depends_on": body.texts("dependsOn")?,
        "required_tools": body.texts("requiredTools")?,
        "priority": body.number("priority")?,
    });
    if let Some(kind) = kind(body)? {
        request["kind"] = kind.into();
    }
    Ok(request)
}

/// The kind of work that is named; an empty one is none.
fn kind(body: &Fields) -> Result<Option<String>, Error> {
    match body.text("kind")? {
        "" => Ok(None),
        word => value("kind", word, KIND, &KINDS).map(Some),
    }
}

/// A task as it is.
pub(super) async fn find(ask: &Ask) -> Result<Value, Status> {
    Ok(ask.call("TaskService/GetTask", of(ask)).await?["task"].take())
}

/// What a call says about the task that the path names.
pub(super) fn of(ask: &Ask) -> Value {
    json!({"office_id": ask.office(), "task_id": ask.part(1)})
}

pub(super) async fn get(ask: Ask) -> Reply {
    let task = find(&ask).await?;
    let (notes, subtasks) = futures::try_join!(task_notes::all(&ask), below(&ask, SUBTASKS))?;
    Ok(answer::found(&json!({
        "task": shown(ask.office(), &task),
        "logs": notes.logs,
        "comments": notes.comments,
        "subtasks": subtasks,
        "artifacts": task_notes::artifacts_of(&task, notes.artifacts),
    })))
}

async fn below(ask: &Ask, limit: usize) -> Result<Vec<Value>, Status> {
    let request = json!({"office_id": ask.office(), "parent_id": ask.part(1)});
    let window = Window { offset: 0, limit };
    let page = list::walk(ask, "TaskService/ListTasks", request, "tasks", window, list::any).await?;
    Ok(page.entries.iter().map(|task| shown(ask.office(), task)).collect())
}

pub(super) async fn subtasks(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    find(&ask).await?;
    let request = json!({"office_id": ask.office(), "parent_id": ask.part(1)});
    let page = list::walk(&ask, "TaskService/ListTasks", request, "tasks", window, list::any).await?;
    Ok(answer::list(page.entries.iter().map(|task| shown(ask.office(), task)).collect(), page.total))
}

pub(super) async fn stats(ask: Ask) -> Reply {
    let answer = ask.call("TaskService/GetTaskStats", json!({"office_id": ask.office()})).await?;
    Ok(answer::found(&counted(&answer["stats"])))
}

/// How many tasks there are, by the words of that product.
pub(super) fn counted(stats: &Value) -> Value {
    let count = |name: &str| {
        let found = entries(&stats["counts"]).iter().find(|count| word(&count["status"], STATUS) == name);
        found.map(|count| int(&count["count"])).unwrap_or_default()
    };
    let running = count("running") + count("verifying");
    json!({
        "total": int(&stats["total"]),
        "queued": count("queued"),
        "running": running,
        "completed": count("done"),
        "failed": count("failed"),
        "pending": count("blocked"),
        "claimed": running,
        "cancelled": count("cancelled"),
    })
}

/// Completes, fails, cancels or reassigns.
pub(super) async fn update(mut ask: Ask) -> Reply {
    let task = find(&ask).await?;
    let body = ask.fields().await?;
    if let Some(fixed) = FIXED.iter().find(|name| body.get(name).is_some_and(|given| *given != task[**name])) {
        return Err(Status::unimplemented(format!("a task keeps its {fixed}; cancel it and create another")));
    }
    let wanted = body.text("status").map_err(status)?.to_owned();
    let task = match assignment(&body, &task).map_err(status)? {
        Some(agent) => assigned(&ask, agent).await?,
        None => task,
    };
    let mut request = of(&ask);
    let rpc = match &*wanted {
        "" => return Ok(answer::found(&shown(ask.office(), &task))),
        "done" | "completed" => {
            request["lease_id"] = task["lease_id"].clone();
            request["result"] = body.either(["result", "resultSummary"]).map_err(status)?.into();
            request["artifacts"] = task_notes::finished_files(&ask).await?.into();
            "CompleteTask"
        }
        "failed" => {
            request["lease_id"] = task["lease_id"].clone();
            request["error"] = body.text("error").map_err(status)?.into();
            "FailTask"
        }
        "cancelled" => {
            request["reason"] = body.text("error").map_err(status)?.into();
            "CancelTask"
        }
        _ => return Err(status(Error::invalid("status", "can be set to done, failed or cancelled"))),
    };
    let mut changed = ask.call(&format!("TaskService/{rpc}"), request).await?;
    Ok(answer::found(&shown(ask.office(), &changed["task"].take())))
}

/// Whom a task is to be kept for from now on, if it is somebody else; an empty name is nobody in particular.
fn assignment<'a>(body: &'a Fields, task: &Value) -> Result<Option<&'a str>, Error> {
    let is_said = ["assignedAgent", "assignedTo"].iter().any(|name| body.get(name).is_some());
    let agent = body.either(["assignedAgent", "assignedTo"])?;
    Ok(Some(agent).filter(|agent| is_said && task["assigned_agent"] != *agent))
}

async fn assigned(ask: &Ask, agent: &str) -> Result<Value, Status> {
    let mut request = of(ask);
    request["assigned_agent"] = agent.into();
    Ok(ask.call("TaskService/AssignTask", request).await?["task"].take())
}

/// Claims as the caller, whatever agent the body names.
pub(super) async fn claim(mut ask: Ask) -> Reply {
    let office = ask.office().to_owned();
    let request = move |body: &Fields| {
        let kinds: Vec<String> = kind(body)?.into_iter().collect();
        Ok(json!({"office_id": office, "kinds": kinds, "max_tasks": 1, "lease": LEASE}))
    };
    let (claimed, _) = ask.send("TaskService/ClaimTasks", request).await?;
    match entries(&claimed["tasks"]) {
        [task, ..] => Ok(answer::found(&shown(ask.office(), task))),
        [] => Ok(answer::none()),
    }
}

pub(super) async fn verify(mut ask: Ask) -> Reply {
    let mut request = of(&ask);
    let request = move |body: &Fields| {
        let Some(accepted) = body.flag("accepted")? else {
            return Err(Error::invalid("accepted", "must be true or false"));
        };
        let note = body.either(["comments", "note"])?;
        request["approve"] = accepted.into();
        // A rejection says why.
        request["note"] = if note.is_empty() && !accepted { "rejected without a word" } else { note }.into();
        Ok(request)
    };
    ask.send("TaskService/VerifyTask", request).await?;
    Ok(answer::none())
}

pub(super) async fn retry(mut ask: Ask) -> Reply {
    let task = find(&ask).await?;
    let body = ask.fields().await?;
    let description = body.text("updatedDescription").map_err(status)?;
    if !description.is_empty() && task["description"] != description {
        let text = "a task keeps its description; create another one with the new words";
        return Err(Status::unimplemented(text));
    }
    // Before it is queued: nobody else gets it in between.
    if let Some(agent) = assignment(&body, &task).map_err(status)? {
        assigned(&ask, agent).await?;
    }
    let reason = body.text("reason").map_err(status)?;
    let retried = ask.call("TaskService/RetryTask", of(&ask)).await?;
    if !reason.is_empty() {
        task_notes::add(&ask, format!("[retry] {reason}")).await?;
    }
    Ok(answer::found(&shown(ask.office(), &retried["task"])))
}

/// A task.
pub(super) fn shown(office: &str, task: &Value) -> Value {
    let ids: Vec<&str> = entries(&task["depends_on"]).iter().map(text).collect();
    let status = match &*word(&task["status"], STATUS) {
        "verifying" => "running".to_owned(),
        word => word.to_owned(),
    };
    Both::default()
        .with("id", task["id"].clone())
        .with("officeId", office)
        .with("title", task["title"].clone())
        .with("description", task["description"].clone())
        .with("kind", word(&task["kind"], KIND))
        .with("priority", task["priority"].clone())
        .with("status", status)
        .with("assignedAgent", task["assigned_agent"].clone())
        .with("assignedTo", task["assigned_agent"].clone())
        .with("parentId", task["parent_id"].clone())
        .with("dependsOn", ids.join(","))
        .with("requiredTools", task["required_tools"].clone())
        .with("attempt", task["attempt"].clone())
        .with("maxAttempts", task["max_attempts"].clone())
        .with("result", task["result"].clone())
        .with("resultSummary", task["result"].clone())
        .with("error", task["error"].clone())
        .with("blockedReason", task["blocked_reason"].clone())
        .with("worker", task["worker"].clone())
        .with("spawnedBy", task["created_by"].clone())
        .with("requestedBy", task["created_by"].clone())
        .with("createdAt", task["created_at"].clone())
        .with("updatedAt", task["updated_at"].clone())
        .maybe("claimedAt", &task["claimed_at"])
        .maybe("completedAt", &task["finished_at"])
        .done()
}
