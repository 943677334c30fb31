//! The methods of the protocol, for whoever a request is of.

use std::sync::{Arc, LazyLock};

use futures::future::try_join_all;
use http::request::Parts;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CustomRequest, CustomResult, ErrorCode,
        GetTaskParams, GetTaskResult, Implementation, ListResourceTemplatesResult, ListResourcesResult,
        ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
        ServerCapabilities, ServerConfig, UpdateTaskParams,
    },
    service::RequestContext,
};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::{
    answer,
    arguments::Arguments,
    files, resources,
    tool_set::{OFFICE, Offer, ToolSet, asked},
    tools::{LARGER, Way},
    wait::{self, Progress, TaskRef},
    who::Who,
};
use crate::{byte_path::BytePath, refusal};

/// For how long a client may take the list of tools for granted, in milliseconds: it changes with the platform's version.
const TOOLS_FRESH: u64 = 5 * 60 * 1000;
/// What a client is told at first.
const INSTRUCTIONS: &str = "\
    mi runs AI agents. An office is an isolated workspace: agents are hired into it, tasks are given to them, and files, \
    messages and credits are shared there. To get work done: list_offices (or create_office), hire_agent, create_task with \
    wait. Names such as TASK_KIND_COMMAND are written in full. Lists have pages: give next_page_token as page_token. \
    Errors say what to do; creating calls take a request_id of your choice, with which they can be repeated safely.";
/// Methods whose requests have a form. The first is gone since 2026-07-28.
const METHODS: [&str; 8] = [
    "initialize",
    "server/discover",
    "tools/call",
    "resources/read",
    "completion/complete",
    "tasks/get",
    "tasks/cancel",
    "tasks/update",
];

static INFO: LazyLock<ServerConfig> = LazyLock::new(|| {
    let capabilities = ServerCapabilities::builder().enable_tools().enable_resources().enable_tasks().build();
    let mi = Implementation::new("mi", env!("CARGO_PKG_VERSION")).with_title("mi");
    ServerConfig::new(capabilities).with_server_info(mi).with_instructions(INSTRUCTIONS)
});

/// Answers requests, each as whoever sent it.
#[derive(Clone)]
pub(crate) struct Handler {
    gateway: BytePath,
}

impl Handler {
    pub(crate) fn new(gateway: BytePath) -> Self {
        Self { gateway }
    }

    /// Does what a tool does.
    async fn call(
        &self,
        offer: &Offer,
        who: &Who,
        said: Option<Map<String, Value>>,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, Status> {
        let arguments = Arguments::read(offer, who, said)?;
        let max_bytes = arguments.max_bytes;
        let said = match offer.spec.way {
            Way::Calls => self.all(offer, who, &arguments).await?,
            Way::Task => return self.task(offer, who, &arguments, context).await,
            // Bounded by how much was asked for.
            Way::ReadFile => {
                let said = files::read_file(&self.gateway, &who.caller, &arguments).await?;
                return Ok(answer::success(said, usize::MAX, offer.spec.rest).into());
            }
            Way::WriteFile => files::write_file(&self.gateway, &who.caller, arguments).await?,
        };
        Ok(answer::success(said, max_bytes, offer.spec.rest).into())
    }

    /// The answers of all calls of a tool, in one.
    async fn all(&self, offer: &Offer, who: &Who, arguments: &Arguments) -> Result<Map<String, Value>, Status> {
        let calls = offer.calls.iter().map(|method| {
            let takes = |name: &str| asked(method).get_field_by_name(name).is_some();
            let fields = arguments.fields.iter().filter(|(name, _)| takes(name));
            let request = Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect());
            async move { self.gateway.call(&who.caller, &method.path, &request).await }
        });
        let mut together = Map::new();
        for one in try_join_all(calls).await? {
            if let Value::Object(one) = one {
                together.extend(one);
            }
        }
        Ok(together)
    }

    /// A tool whose answer is a task, for which it may wait.
    async fn task(
        &self,
        offer: &Offer,
        who: &Who,
        arguments: &Arguments,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, Status> {
        let answer = self.all(offer, who, arguments).await?;
        let done = |answer| Ok(answer::success(answer, arguments.max_bytes, offer.spec.rest).into());
        let (Some(limit), Some(task)) = (arguments.wait, answer.get("task")) else { return done(answer) };
        let place = TaskRef {
            office_id: arguments.text(OFFICE).unwrap_or_default().to_owned(),
            task_id: task["id"].as_str().unwrap_or_default().to_owned(),
        };
        if wait::is_finished(task) {
            return done(answer);
        }
        if context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks()) {
            return Ok(CallToolResponse::Task(wait::handle(&place, task)));
        }
        let mut progress = Progress::of(context);
        let waited = place.finished(&self.gateway, &who.caller, limit, &mut progress).await;
        // What there is by now: whoever made a task has to hear of it, whatever became of the waiting.
        let (mut answer, note) = match (waited, place.get(&self.gateway, &who.caller).await) {
            (Ok(true), Ok(newest)) => return done(newest),
            (Ok(_), newest) => {
                let note =
                    format!("it is not finished after {} s: call get_task with wait to wait on", limit.as_secs());
                (newest.unwrap_or(answer), note)
            }
            (Err(status), newest) => {
                let note = format!("waiting was cut short ({}): call get_task with wait to wait on", status.message());
                (newest.unwrap_or(answer), note)
            }
        };
        answer.insert("note".to_owned(), note.into());
        done(answer)
    }

    /// A task as the protocol has them.
    async fn of_protocol(&self, who: &Who, id: &str) -> Result<GetTaskResult, Status> {
        let place = TaskRef::parse(id)?;
        let answer = place.get(&self.gateway, &who.caller).await?;
        let task = answer.get("task").cloned().unwrap_or_default();
        let result = || {
            // As the tool would have answered.
            let result = answer::success(answer, super::arguments::MAX_BYTES.usual as usize, LARGER);
            json!(result).as_object().cloned().unwrap_or_default()
        };
        Ok(GetTaskResult::new(wait::detailed(&place, &task, result)))
    }
}

/// Who sent a request.
fn who(context: &RequestContext<RoleServer>) -> Result<Arc<Who>, ErrorData> {
    let parts = context.extensions.get::<Parts>();
    let who = parts.and_then(|parts| parts.extensions.get::<Arc<Who>>());
    who.cloned().ok_or_else(|| ErrorData::internal_error("it is not known who sent this", None))
}

/// A refusal where the protocol has no other form for it.
fn error(status: &Status) -> ErrorData {
    let data = Some(json!({"code": refusal::name(status.code()), "reason": refusal::reason(status)}));
    match status.code() {
        Code::NotFound => ErrorData::resource_not_found(status.message().to_owned(), data),
        Code::InvalidArgument => ErrorData::invalid_params(status.message().to_owned(), data),
        Code::Internal | Code::Unknown | Code::DataLoss => ErrorData::internal_error(status.message().to_owned(), data),
        _ => ErrorData::new(ErrorCode(refusal::REFUSED), status.message().to_owned(), data),
    }
}

/// The work of a request, until its client leaves.
async fn while_there<T>(context: &RequestContext<RoleServer>, work: impl Future<Output = T>) -> Result<T, ErrorData> {
    let gone = || ErrorData::internal_error("the client has left", None);
    context.ct.run_until_cancelled(work).await.ok_or_else(gone)
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        INFO.clone()
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params("there is one page of tools, so no cursor leads on", None));
        }
        let mut result = ListToolsResult::with_all_items(ToolSet::of(who(&context)?.kind).tools.clone());
        (result.ttl_ms, result.cache_scope) = (Some(TOOLS_FRESH), Some(CacheScope::Private));
        Ok(result)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let who = who(&context)?;
        let Some(offer) = ToolSet::of(who.kind).find(&request.name) else {
            let name: String = request.name.chars().take(64).collect();
            let text = format!("Unknown tool: {name}. tools/list has those that you may use");
            return Err(ErrorData::invalid_params(text, None));
        };
        let done = while_there(&context, self.call(offer, &who, request.arguments, &context)).await?;
        Ok(done.unwrap_or_else(|status| answer::failure(&status).into()))
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let (who, cursor) = (who(&context)?, request.and_then(|request| request.cursor));
        let listed = while_there(&context, resources::list(&self.gateway, &who, cursor.as_deref())).await?;
        let mut result = listed.map_err(|status| error(&status))?;
        (result.ttl_ms, result.cache_scope) = (Some(0), Some(CacheScope::Private));
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(vec![resources::template()]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let who = who(&context)?;
        let read = while_there(&context, resources::read(&self.gateway, &who, &request.uri)).await?;
        let mut result = read.map_err(|status| no_resource(&status, &request.uri))?;
        (result.ttl_ms, result.cache_scope) = (Some(0), Some(CacheScope::Private));
        Ok(result.into())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let who = who(&context)?;
        let read = while_there(&context, self.of_protocol(&who, &request.task_id)).await?;
        read.map_err(|status| no_task(&status))
    }

    async fn update_task(&self, _: UpdateTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        Err(ErrorData::invalid_params("no task here asks its client for anything", None))
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let who = who(&context)?;
        let place = TaskRef::parse(&request.task_id).map_err(|status| no_task(&status))?;
        match place.cancel(&self.gateway, &who.caller).await {
            // It is finished: the protocol has that acknowledged all the same.
            Err(status) if status.code() != Code::FailedPrecondition => Err(no_task(&status)),
            _ => Ok(()),
        }
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        // So the SDK takes what is not in the form of its method.
        let is_new = context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let is_known = METHODS.contains(&request.method.as_str()) && !(is_new && request.method == METHODS[0]);
        if is_known {
            let text = format!("the params are not those of {}", request.method);
            return Err(ErrorData::invalid_params(text, None));
        }
        let name: String = request.method.chars().take(64).collect();
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("there is no method {name}"), None))
    }
}

/// As [`error`], with the name of what was asked for, if it is of a length that names have.
fn no_resource(status: &Status, uri: &str) -> ErrorData {
    let mut error = error(status);
    if let (Some(data), true) = (&mut error.data, uri.len() <= 4096) {
        data["uri"] = uri.into();
    }
    error
}

/// As [`error`], but what is not found is no resource.
fn no_task(status: &Status) -> ErrorData {
    match status.code() {
        Code::NotFound => ErrorData::invalid_params(status.message().to_owned(), None),
        _ => error(status),
    }
}
