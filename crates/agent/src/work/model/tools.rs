//! The tools that a model has: what they take, and what they do.
//!
//! A tool that fails says why to the model, which may do better; only arguments that are none count as nonsense.

/// A tool by its name: what it is for, and its arguments, each with its kind in the schema and what the model is told of
/// it. One whose kind has a question mark may be left out.
macro_rules! tool {
    ($arguments:ident, $name:expr, $description:literal, {
        $($(#[$default:meta])? $field:ident: $type:ty = $kind:literal, $said:literal;)*
    }) => {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $arguments {
            $($(#[$default])? $field: $type,)*
        }

        impl $arguments {
            pub(super) fn offer() -> $crate::work::model::conversation::Offer {
                super::offer($name, $description, &[$((stringify!($field), $kind, $said)),*])
            }
        }
    };
}

mod drive;
mod files;
mod office;
mod shell;
mod tasks;

use mi_kernel::receipt::Command;
use mi_proto::v1::{GetTaskRequest, Task};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::Status;

use super::conversation::{Call, Offer};
use crate::{
    blocking::blocking,
    work::{lease::Lease, outcome::Outcome, output, shared::Shared},
};

/// The tool that sends a message.
pub(super) const CHAT_SEND: &str = "chat_send";
/// Most that a tool answers.
const MAX_ANSWER: usize = 16 << 10;

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
                let tasks::Wait {} = arguments(call)?;
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
}

/// Why a call has no answer.
enum Refused {
    Nonsense(String),
    End(Outcome),
}

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

fn offer(name: &'static str, description: &'static str, fields: &[(&str, &str, &str)]) -> Offer {
    let properties = fields.iter().map(|(name, kind, description)| {
        let schema = match kind.trim_end_matches('?') {
            "strings" => json!({ "type": "array", "items": { "type": "string" }, "description": description }),
            kind => json!({ "type": kind, "description": description }),
        };
        ((*name).to_owned(), schema)
    });
    let required: Vec<_> = fields.iter().filter(|(_, kind, _)| !kind.ends_with('?')).map(|(name, ..)| *name).collect();
    let schema = json!({
        "type": "object",
        "properties": properties.collect::<serde_json::Map<String, Value>>(),
        "required": required,
        "additionalProperties": false,
    });
    Offer { name, description, schema }
}

/// All tools, as the model is told of them.
pub(super) fn offers() -> Vec<Offer> {
    vec![
        shell::Shell::offer(),
        files::Read::offer(),
        files::Write::offer(),
        files::List::offer(),
        drive::List::offer(),
        drive::Read::offer(),
        drive::Write::offer(),
        office::Send::offer(),
        office::Read::offer(),
        tasks::Create::offer(),
        tasks::Which::offer(),
        tasks::Wait::offer(),
        tasks::Verify::offer(),
        office::Hire::offer(),
        tasks::Complete::offer(),
        tasks::Fail::offer(),
    ]
}
