//! `mi tasks create`.

use std::time::Duration;

use clap::{Args, builder::NonEmptyStringValueParser};
use mi_proto::v1::{CreateTaskRequest, Task};
use uuid::Uuid;

use super::{Kind, conversation, finish, task_id, task_id_if_any};
use crate::{
    answer::{ask, resource},
    context::Context,
    failure::Failure,
    follow::taken,
    input::{standard_input, text_or_file},
    known::{Known, by},
    options::ColonyArg,
    wait,
};

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// What it is called, 1 to 200 characters
    #[arg(long)]
    title: String,
    /// What is to be done; for a command the script; @FILE reads it from a file, - from standard input; @@
    /// begins with an @
    #[arg(long, value_name = "TEXT|@FILE|-")]
    description: Option<String>,
    /// Kind of work
    #[arg(long, value_name = "KIND", default_value = "general")]
    kind: Kind,
    /// 0 critical to 100 low [default: 50]
    #[arg(long, value_name = "N")]
    priority: Option<i32>,
    /// The only agent that may do it [default: any]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), add = by(&[Known::Agents]))]
    agent: Option<String>,
    /// Task that it is a part of
    #[arg(long, value_name = "TASK", add = by(&[Known::Tasks]))]
    parent: Option<String>,
    /// Task whose conversation it goes on with: the worker reads first what came of that
    #[arg(long, value_name = "TASK", add = by(&[Known::Tasks]))]
    conversation: Option<String>,
    /// Task that must be done first; may be repeated
    #[arg(long, value_name = "TASK", add = by(&[Known::Tasks]))]
    depends_on: Vec<String>,
    /// Tool that the worker must have; may be repeated
    #[arg(long = "tool", value_name = "TOOL")]
    tools: Vec<String>,
    /// Attempts before it is failed [default: 3]
    #[arg(long, value_name = "N")]
    max_attempts: Option<i32>,
    /// Somebody other than the worker has to accept the work
    #[arg(long)]
    verify: bool,
    /// The same one again answers the same task and creates nothing [default: a fresh one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Wait until it is finished and print its result
    #[arg(long)]
    wait: bool,
    /// With --wait: end with exit code 124 when it is not finished after so long, e.g. 90s, 10m, 2h; it goes on
    #[arg(long, value_name = "DURATION", value_parser = wait::duration, requires = "wait")]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: CreateArgs, context: &Context) -> Result<(), Failure> {
    let description = match args.description.as_deref() {
        Some("-") => standard_input()?,
        Some(given) => text_or_file(given)?,
        None => String::new(),
    };
    let office_id = context.colony(&args.colony).await?;
    let parent_id = task_id_if_any(context, &office_id, args.parent.as_deref()).await?;
    let context_id = conversation(context, &office_id, args.conversation.as_deref()).await?;
    let mut depends_on = Vec::new();
    for given in &args.depends_on {
        depends_on.push(task_id(context, &office_id, given).await?);
    }
    let request = CreateTaskRequest {
        office_id: office_id.clone(),
        title: args.title,
        description,
        kind: args.kind as i32,
        priority: args.priority,
        assigned_agent: args.agent.unwrap_or_default(),
        parent_id,
        depends_on,
        required_tools: args.tools,
        max_attempts: args.max_attempts,
        verification_required: args.verify,
        request_id: args.request_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
        context_id,
    };
    if !args.wait {
        return context.out.one(&ask!(context, tasks.create_task(request).task).await?);
    }
    let end = wait::end(args.timeout);
    let task = wait::by(end, send(context, &request)).await.ok_or_else(not_taken)??;
    let Some(task) = finish::finished_by(context, &office_id, &task, end).await? else {
        return Err(Failure::timed_out(format!("task {} is not finished in time", task.id))
            .hint("it goes on; `mi tasks get TASK` shows where it stands"));
    };
    let outcome = finish::outcome(&task);
    match (context.out.is_for_people(), &outcome) {
        (false, _) => context.out.one(&task)?,
        (true, Ok(())) => context.out.text(&task.result)?,
        (true, Err(_)) if task.error.lines().nth(1).is_some() => context.out.remark(task.error.as_bytes()),
        (true, Err(_)) => {}
    }
    outcome
}

/// Creates a task that is waited for, as soon as the platform takes it; the request carries an id of its own.
pub(crate) async fn send(context: &Context, request: &CreateTaskRequest) -> Result<Task, Failure> {
    let answer = taken(context.out, async || context.client.tasks().create_task(request.clone()).await).await?;
    resource(answer, |answer| answer.task)
}

/// The time was up before the platform had taken the task.
pub(crate) fn not_taken() -> Failure {
    Failure::timed_out("the platform did not take the task in time")
        .hint("its answer may be what is missing: `mi tasks list` shows whether the task is there")
}
