//! The tools that a model has: what they take, and what they do.
//!
//! A tool that fails says why to the model, which may do better; only arguments that are none count as nonsense.

mod drive;
mod files;
mod office;
mod tasks;

use std::time::Duration;

use mi_kernel::receipt::Command;
use mi_proto::v1::{GetTaskRequest, Task};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tonic::Status;

use super::conversation::{Call, Offer};
use crate::{
    blocking::blocking,
    work::{lease::Lease, outcome::Outcome, output, script, shared::Shared},
};

/// The tool that sends a message.
pub(super) const CHAT_SEND: &str = "chat_send";
/// Most that a tool answers.
const MAX_ANSWER: usize = 16 << 10;
/// How much of each output of a shell command; both fit into an answer.
const MAX_OUTPUT: usize = 7 << 10;

/// What comes of a call.
pub(super) enum Said {
    /// What the tool answers the model.
    Answer(String),
    /// The call is one that nobody can carry out; why.
    Nonsense(String),
    /// The call ended the task.
    End(Outcome),
}

/// The tools for one task.
pub(super) struct Tools<'a> {
    shared: &'a Shared,
    task: &'a Task,
    lease: &'a Lease<'a>,
    /// What the shell ran.
    pub(super) commands: Vec<Command>,
}

/// What a tool answers; an error is for the model to read.
type Answer = Result<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shell {
    command: String,
    seconds: Option<u64>,
}

impl<'a> Tools<'a> {
    pub(super) fn new(shared: &'a Shared, task: &'a Task, lease: &'a Lease<'a>) -> Self {
        Self { shared, task, lease, commands: Vec::new() }
    }

    /// Does what is asked for.
    pub(super) async fn call(&mut self, call: &Call) -> Said {
        match self.dispatch(call).await {
            Ok(Ok(text)) => Said::Answer(bounded(text)),
            Ok(Err(problem)) => Said::Answer(bounded(format!("error: {problem}"))),
            Err(Refused::Nonsense(problem)) => Said::Nonsense(format!("error: {problem}")),
            Err(Refused::End(outcome)) => Said::End(outcome),
        }
    }

    async fn dispatch(&mut self, call: &Call) -> Result<Answer, Refused> {
        let (shared, workspace) = (self.shared, self.shared.config.workspace.clone());
        Ok(match call.name.as_str() {
            "shell" => self.shell(arguments(call)?).await,
            "read_file" => {
                let asked = arguments(call)?;
                blocking(move || files::read(&workspace, &asked)).await
            }
            "write_file" => {
                let asked = arguments(call)?;
                blocking(move || files::write(&workspace, &asked)).await
            }
            "list_files" => {
                let asked = arguments(call)?;
                blocking(move || files::list(&workspace, &asked)).await
            }
            "drive_list" => drive::list(shared, arguments(call)?).await,
            "drive_read" => drive::read(shared, arguments(call)?).await,
            "drive_write" => drive::write(shared, arguments(call)?).await,
            CHAT_SEND => office::send(shared, arguments(call)?).await,
            "chat_read" => office::read(shared, arguments(call)?).await,
            "hire_agent" => office::hire(shared, arguments(call)?).await,
            "create_task" => tasks::create(shared, self.task, arguments(call)?).await,
            "task_status" => tasks::status(shared, arguments(call)?).await,
            "verify_task" => tasks::verify(shared, self.task, arguments(call)?).await,
            "wait_for_subtasks" => {
                let Nothing {} = arguments(call)?;
                tasks::wait(shared, self.task).await?
            }
            "complete_task" => {
                let commands = self.commands.clone();
                tasks::complete(shared, self.lease, commands, arguments(call)?).await?
            }
            "fail_task" => return Err(tasks::fail(arguments(call)?)),
            name => {
                let known: Vec<_> = offers().iter().map(|offer| offer.name).collect();
                return Err(Refused::Nonsense(format!("there is no tool {name:?}; there are {}", known.join(", "))));
            }
        })
    }

    async fn shell(&mut self, asked: Shell) -> Answer {
        let most = self.shared.config.command_limit;
        let limit = asked.seconds.map_or(most, |seconds| Duration::from_secs(seconds.max(1)).min(most));
        let ran =
            script::run(self.shared, self.task, &asked.command, limit).await.map_err(|error| error.to_string())?;
        let text = ran.text(limit, MAX_OUTPUT, |_| None);
        note(&mut self.commands, ran.receipt);
        Ok(text)
    }
}

/// What commands the model ran, for the receipt; the first ones, if they are too many for it.
const MAX_COMMANDS: usize = 200;

fn note(commands: &mut Vec<Command>, command: Command) {
    if commands.len() < MAX_COMMANDS {
        commands.push(command);
    }
}

/// Why a call has no answer.
enum Refused {
    Nonsense(String),
    End(Outcome),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn arguments<T: DeserializeOwned>(call: &Call) -> Result<T, Refused> {
    serde_json::from_str(&call.arguments).map_err(|error| {
        Refused::Nonsense(format!("the arguments of {} are not as its schema says: {error}", call.name))
    })
}

fn bounded(text: String) -> String {
    if text.len() <= MAX_ANSWER {
        return text;
    }
    format!("(the last part of {} bytes)\n{}", text.len(), output::tail(&text, MAX_ANSWER))
}

/// What the platform says when it refuses.
fn refused(status: Status) -> String {
    status.message().to_owned()
}

/// One task of the office.
pub(super) async fn task(shared: &Shared, id: &str) -> Result<Task, Status> {
    let request = GetTaskRequest { office_id: shared.office_id.clone(), task_id: id.to_owned() };
    let task = shared.client.tasks().get_task(request).await?.into_inner().task;
    task.ok_or_else(|| Status::internal("the answer has no task"))
}

/// All tools, as the model is told of them.
pub(super) fn offers() -> Vec<Offer> {
    let offer = |name, description, fields: &[(&str, &str, &str)]| {
        let optional = |kind: &&str| kind.ends_with('?');
        let properties = fields.iter().map(|(name, kind, description)| {
            let schema = match kind.trim_end_matches('?') {
                "strings" => json!({ "type": "array", "items": { "type": "string" }, "description": description }),
                kind => json!({ "type": kind, "description": description }),
            };
            ((*name).to_owned(), schema)
        });
        let required: Vec<_> = fields.iter().filter(|(_, kind, _)| !optional(kind)).map(|(name, ..)| *name).collect();
        let schema = json!({
            "type": "object",
            "properties": properties.collect::<serde_json::Map<String, Value>>(),
            "required": required,
            "additionalProperties": false,
        });
        Offer { name, description, schema }
    };
    vec![
        offer(
            "shell",
            "Run a script with /bin/sh in your workspace. It reads no input. You get exit code and output.",
            &[("command", "string", "The script."), ("seconds", "integer?", "How long it may take.")],
        ),
        offer(
            "read_file",
            "Read a text file of your workspace.",
            &[("path", "string", "Path in the workspace."), ("offset", "integer?", "First byte; 0 by default.")],
        ),
        offer(
            "write_file",
            "Write a file of your workspace, over whatever is there.",
            &[("path", "string", "Path in the workspace."), ("content", "string", "The whole content.")],
        ),
        offer(
            "list_files",
            "List a directory of your workspace.",
            &[("path", "string?", "Path in the workspace; the workspace itself by default.")],
        ),
        offer(
            "drive_list",
            "List files of the drive, which the whole office shares.",
            &[("prefix", "string?", "Only paths that start with it.")],
        ),
        offer(
            "drive_read",
            "Read a text file of the drive. You also get its revision.",
            &[("path", "string", "Path in the drive."), ("offset", "integer?", "First byte; 0 by default.")],
        ),
        offer(
            "drive_write",
            "Write a file of the drive.",
            &[
                ("path", "string", "Path in the drive."),
                ("content", "string", "The whole content."),
                (
                    "revision",
                    "integer?",
                    "The revision that you read, to replace a file; without it the file must be new.",
                ),
            ],
        ),
        offer(
            CHAT_SEND,
            "Send a message to the office's group, or to one agent or the operator.",
            &[
                ("body", "string", "The message."),
                ("to", "string?", "Name of an agent, or operator; the group by default."),
            ],
        ),
        offer(
            "chat_read",
            "Read the newest messages, newest first.",
            &[
                ("with", "string?", "Name of an agent, or operator; the group by default."),
                ("limit", "integer?", "How many; 20 by default."),
            ],
        ),
        offer(
            "create_task",
            "Create a task, by default a subtask of yours. Others claim and do it; you get its id.",
            &[
                ("title", "string", "What is to be done, in a line."),
                (
                    "description",
                    "string",
                    "All that whoever does it needs to know; for kind command, the shell script.",
                ),
                ("kind", "string?", "general, code, research, review or command; general by default."),
                ("assigned_agent", "string?", "Name of the only agent that may do it."),
                ("depends_on", "strings?", "Ids of tasks that must be done first."),
                ("subtask", "boolean?", "Whether it is a part of your task; true by default."),
            ],
        ),
        offer("task_status", "See how a task stands, and its result.", &[("task_id", "string", "The task.")]),
        offer(
            "wait_for_subtasks",
            "Give your task back until its subtasks are finished; it then comes back to you.",
            &[],
        ),
        offer(
            "verify_task",
            "Accept or reject the work on a task that is to be verified.",
            &[
                ("approve", "boolean", "Whether it is accepted."),
                ("note", "string", "Why."),
                ("task_id", "string?", "The task; the one that you are to judge by default."),
            ],
        ),
        offer(
            "hire_agent",
            "Hire an agent into the office, if the office allows that.",
            &[
                ("name", "string", "Lower-case letters, digits and dashes."),
                ("role", "string?", "A role, such as engineer or research-analyst."),
                ("model_tier", "string?", "A model tier."),
                ("system_prompt", "string?", "Instructions for it."),
            ],
        ),
        offer(
            "complete_task",
            "Finish your task with its result.",
            &[
                ("result", "string", "The whole result."),
                ("artifacts", "strings?", "Paths of files in the drive that belong to it."),
            ],
        ),
        offer(
            "fail_task",
            "Give your task up.",
            &[
                ("error", "string", "Why it cannot be done."),
                ("retryable", "boolean?", "Whether another attempt may do better; true by default."),
            ],
        ),
    ]
}
