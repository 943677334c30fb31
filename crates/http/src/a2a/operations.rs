//! What the protocol can be asked for, as calls of the public API.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    errors,
    issuer::CardIssuer,
    message::Said,
    task::{self, Extent},
    tenant::Tenant,
};
use crate::{
    byte_path::{BytePath, Caller},
    call::Watch,
    mcp::is_finished,
};

/// Tasks on a page of a list, and the most there may be.
const PAGE: i64 = 50;
const MAX_PAGE: i64 = 100;
/// Pages of the platform's list that are looked at for a page that has something on it.
const LOOKED_AT: usize = 20;

/// The answers of a stream.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<Value, Status>> + Send>>;

/// Somebody who was let in.
#[derive(Clone)]
pub(crate) struct Session {
    pub(super) gateway: BytePath,
    pub(super) caller: Caller,
    pub(super) issuer: Arc<CardIssuer>,
}

impl Session {
    /// Answers a request of a method with one answer. Messages are values with names in snake_case.
    pub(super) async fn unary(&self, method: &str, request: &Value) -> Result<Value, Status> {
        let tenant = || Tenant::parse(text(request, "tenant"));
        let answer = match method {
            "SendMessage" => self.send(&tenant()?, request).await,
            "GetTask" => {
                let tenant = tenant()?;
                let task = self.task(&tenant, text(request, "id")).await?;
                Ok(task::shown(&self.issuer, &tenant, &task, Extent::of(&request["history_length"])))
            }
            "ListTasks" => self.list(&tenant()?, request).await,
            "CancelTask" => self.cancel(&tenant()?, request).await,
            "GetExtendedAgentCard" => Err(errors::no_extended_card()),
            name if name.contains("PushNotificationConfig") => Err(errors::no_push()),
            _ => Err(Status::unimplemented("there is no such method")),
        };
        answer.map_err(errors::in_words)
    }

    /// Answers a request of a method with a stream.
    pub(super) async fn stream(self, method: &str, request: &Value) -> Result<Answers, Status> {
        let answers = async {
            let tenant = Tenant::parse(text(request, "tenant"))?;
            let task = match method {
                "SendStreamingMessage" => self.asked(&tenant, request).await?,
                _ => match self.task(&tenant, text(request, "id")).await? {
                    task if is_finished(&task) => {
                        return Err(errors::unsupported("the task is finished, and nothing more comes of it; get it"));
                    }
                    task => task,
                },
            };
            let extent = Extent::of(&request["configuration"]["history_length"]);
            let changes = self.watch(&tenant, &task).await?;
            let news = News { session: self, tenant, extent, first: Some(task), last: None, changes: Some(changes) };
            Ok(Box::pin(news.stream().map_err(errors::in_words)) as Answers)
        };
        answers.await.map_err(errors::in_words)
    }

    /// Calls the public API.
    pub(super) async fn call(&self, method: &str, request: &Value) -> Result<Value, Status> {
        self.gateway.call(&self.caller, &format!("/mi.v1.{method}"), request).await
    }

    /// A task that is this agent's, or of its office where no agent is meant.
    async fn task(&self, tenant: &Tenant, id: &str) -> Result<Value, Status> {
        let request = json!({"office_id": tenant.office_id, "task_id": id});
        let found = self.call("TaskService/GetTask", &request).await;
        let mut answer = found.map_err(|status| match status.code() {
            Code::NotFound | Code::InvalidArgument => errors::task_not_found(id),
            _ => status,
        })?;
        let task = answer["task"].take();
        let is_its = |agent: &String| [&task["assigned_agent"], &task["worker"]].into_iter().any(|name| name == agent);
        if tenant.agent.as_ref().is_none_or(is_its) { Ok(task) } else { Err(errors::task_not_found(id)) }
    }

    /// What becomes of a message: a new task, or a note on one that nobody has begun.
    async fn asked(&self, tenant: &Tenant, request: &Value) -> Result<Value, Status> {
        if !request["configuration"]["task_push_notification_config"].is_null() {
            return Err(errors::no_push());
        }
        let said = Said::of(request)?;
        if said.task_id.is_empty() {
            let create = json!({
                "office_id": tenant.office_id,
                "title": said.title,
                "description": said.text,
                "kind": Some(said.kind).filter(|kind| !kind.is_empty()),
                "assigned_agent": tenant.agent,
                "context_id": said.context_id,
                "request_id": said.id,
            });
            let created = self.call("TaskService/CreateTask", &create).await.map_err(reused)?;
            // As it is read it says why nobody takes it, if that is so.
            return self.task(tenant, text(&created["task"], "id")).await;
        }
        let task = self.task(tenant, &said.task_id).await?;
        if !said.context_id.is_empty() && task["context_id"] != said.context_id.as_str() {
            return Err(errors::invalid("message.context_id", "is not that of the task; leave it out"));
        }
        if is_finished(&task) || task::is_begun(&task) {
            let text = "the task takes no more messages once it is begun; send one without a task, with its context_id";
            return Err(errors::unsupported(text));
        }
        let note = json!({
            "office_id": tenant.office_id,
            "task_id": said.task_id,
            "body": said.text,
            "request_id": said.id,
        });
        self.call("TaskService/AddTaskNote", &note).await.map_err(reused)?;
        Ok(task)
    }

    async fn send(&self, tenant: &Tenant, request: &Value) -> Result<Value, Status> {
        let mut task = self.asked(tenant, request).await?;
        let configuration = &request["configuration"];
        // What waits until somebody changes something is not waited for.
        let waits = text(&task, "status") == "TASK_STATUS_QUEUED" && !text(&task, "error").is_empty();
        if configuration["return_immediately"] != true && !is_finished(&task) && !waits {
            let mut changes = self.watch(tenant, &task).await?;
            // A platform that shuts down ends the watch: the task is as it was seen last then.
            while let Some(changed) = changed(&mut changes).await? {
                task = changed;
                if is_finished(&task) {
                    break;
                }
            }
        }
        let extent = Extent::of(&configuration["history_length"]);
        Ok(json!({"task": task::shown(&self.issuer, tenant, &task, extent)}))
    }

    async fn cancel(&self, tenant: &Tenant, request: &Value) -> Result<Value, Status> {
        let task = self.task(tenant, text(request, "id")).await?;
        let standing = || text(&task, "status").trim_start_matches("TASK_STATUS_").to_lowercase();
        if is_finished(&task) {
            return Err(errors::not_cancelable(&standing()));
        }
        let reason = request["metadata"]["reason"].as_str().unwrap_or_default();
        let cancel = json!({"office_id": tenant.office_id, "task_id": task["id"], "reason": reason});
        let cancelled = self.call("TaskService/CancelTask", &cancel).await;
        let mut answer = cancelled.map_err(|status| match status.code() {
            // It was finished meanwhile.
            Code::FailedPrecondition => errors::not_cancelable("finished"),
            _ => status,
        })?;
        Ok(task::shown(&self.issuer, tenant, &answer["task"].take(), Extent { history: true, artifacts: true }))
    }

    async fn list(&self, tenant: &Tenant, request: &Value) -> Result<Value, Status> {
        let size = request["page_size"].as_i64().unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&size) {
            return Err(errors::invalid("page_size", "must be 1 to 100"));
        }
        let statuses = match text(request, "status") {
            "" | "TASK_STATE_UNSPECIFIED" => &[][..],
            state => match task::statuses(state) {
                // None is ever in it.
                [] => return Ok(json!({"pageSize": size})),
                statuses => statuses,
            },
        };
        let mut list = json!({
            "office_id": tenant.office_id,
            "statuses": statuses,
            "assigned_agent": tenant.agent,
            "context_id": request["context_id"],
            "order_by": "updated_at desc",
            "updated_after": request["status_timestamp_after"],
            "page_size": size,
            "page_token": request["page_token"],
        });
        let extent = Extent {
            // Of many tasks it is shown when it is asked for.
            history: request["history_length"].as_i64().is_some_and(|length| length > 0),
            artifacts: request["include_artifacts"] == true,
        };
        let mut page = Value::Null;
        for _ in 0..LOOKED_AT {
            page = self.call("TaskService/ListTasks", &list).await?;
            let is_empty = page["tasks"].as_array().is_none_or(Vec::is_empty);
            list["page_token"] = page["next_page_token"].clone();
            if !is_empty || list["page_token"] == "" {
                break;
            }
        }
        let tasks: Vec<Value> = page["tasks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|task| task::shown(&self.issuer, tenant, task, extent))
            .collect();
        let more = usize::from(list["page_token"] != "");
        Ok(json!({
            "totalSize": tasks.len() + more,
            "pageSize": size,
            "nextPageToken": list["page_token"],
            "tasks": tasks,
        }))
    }

    /// A task as it is, and whenever it changes.
    async fn watch(&self, tenant: &Tenant, task: &Value) -> Result<Watch, Status> {
        let request = json!({"office_id": tenant.office_id, "task_id": task["id"], "after_cursor": 0});
        self.gateway.watch(&self.caller, "/mi.v1.TaskService/WatchTasks", &request).await
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// An id of a message that was that of another one is told as what it is here.
fn reused(status: Status) -> Status {
    let is_of_id = |violation: &tonic_types::FieldViolation| violation.field == "request_id";
    match status.get_details_bad_request().is_some_and(|request| request.field_violations.iter().any(is_of_id)) {
        true => errors::invalid("message.message_id", "is that of another message, or has more than 128 bytes"),
        false => status,
    }
}

/// The next change of a task that is watched.
async fn changed(changes: &mut Watch) -> Result<Option<Value>, Status> {
    Ok(changes.next().await?.map(|mut change| change["task"].take()))
}

/// What a stream tells of a task.
struct News {
    session: Session,
    tenant: Tenant,
    extent: Extent,
    /// The task as it was read before, with more than a change says.
    first: Option<Value>,
    /// Where the task stood when it was told of last.
    last: Option<Value>,
    /// None: all is told.
    changes: Option<Watch>,
}

impl News {
    /// First the task, then each change of where it stands; when it is finished, first what came out, and then no more.
    fn stream(self) -> impl Stream<Item = Result<Value, Status>> + Send {
        let told = stream::try_unfold(self, |mut news| async move {
            let Some(changes) = &mut news.changes else { return Ok::<_, Status>(None) };
            let Some(task) = changed(changes).await? else { return Ok(None) };
            let told = news.told(&task);
            if is_finished(&task) {
                news.changes = None;
            }
            Ok(Some((told, news)))
        });
        told.map_ok(|told| stream::iter(told.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn told(&mut self, task: &Value) -> Vec<Value> {
        let first = self.first.take().filter(|first| first["updated_at"] == task["updated_at"]);
        let task = first.as_ref().unwrap_or(task);
        let status = task::status(task);
        let of = |name: &str, said: Value| {
            let mut event = json!({"taskId": task["id"], "contextId": task["context_id"]});
            event[name] = said;
            event
        };
        let stands = json!([status["state"], status["message"]["parts"]]);
        match self.last.replace(stands.clone()) {
            None => {
                let whole = task::shown(&self.session.issuer, &self.tenant, task, self.extent);
                vec![json!({"task": whole})]
            }
            // A lease was prolonged, or the like.
            Some(last) if last == stands => Vec::new(),
            Some(_) => {
                let artifacts = task::artifacts(&self.session.issuer, &self.tenant, task).into_iter().map(|artifact| {
                    let mut event = of("artifact", artifact);
                    event["lastChunk"] = true.into();
                    json!({"artifactUpdate": event})
                });
                artifacts.chain([json!({"statusUpdate": of("status", status)})]).collect()
            }
        }
    }
}
