//! `mi tasks cancel`, `retry`, `verify`, `complete` and `note`.

use clap::Args;
use mi_client::once;
use mi_proto::v1::{AddTaskNoteRequest, CancelTaskRequest, CompleteTaskRequest, RetryTaskRequest, VerifyTaskRequest};
use uuid::Uuid;

use super::{TaskArg, target};
use crate::{
    answer::{ask, resource},
    context::Context,
    failure::Failure,
    input::text_or_file,
    known::{Known, by},
};

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    task: TaskArg,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("verdict").required(true))]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    task: TaskArg,
    /// The work is accepted: the task is done
    #[arg(long, group = "verdict")]
    approve: bool,
    /// The work is rejected: the task goes back to the queue, with the note
    #[arg(long, group = "verdict", requires = "note")]
    reject: bool,
    /// Why; @FILE reads it from a file, @- from standard input; @@ begins with an @
    #[arg(long, value_name = "TEXT|@FILE")]
    note: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CompleteArgs {
    #[command(flatten)]
    task: TaskArg,
    /// What came out, not blank; @FILE reads it from a file, @- from standard input; @@ begins with an @
    #[arg(long, value_name = "TEXT|@FILE")]
    result: String,
    /// Drive path of what was made; may be repeated
    #[arg(long = "artifact", value_name = "PATH", add = by(&[Known::Files]))]
    artifacts: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NoteArgs {
    #[command(flatten)]
    task: TaskArg,
    /// The note; @FILE reads it from a file, @- from standard input; @@ begins with an @
    #[arg(value_name = "TEXT|@FILE")]
    note: String,
}

pub(crate) async fn cancel(args: CancelArgs, context: &Context) -> Result<(), Failure> {
    let (office_id, task_id) = target(&args.task, context).await?;
    let request = CancelTaskRequest { office_id, task_id, reason: args.reason.unwrap_or_default() };
    // Not tried again: the second call would be told that there is nothing left to cancel.
    let answer = once(context.client.tasks().cancel_task(request)).await?;
    context.out.one(&resource(answer, |answer| answer.task)?)
}

pub(crate) async fn retry(arg: &TaskArg, context: &Context) -> Result<(), Failure> {
    let (office_id, task_id) = target(arg, context).await?;
    let request = RetryTaskRequest { office_id, task_id };
    // Not tried again: the task may have failed anew in between, and two retries are not one.
    let answer = once(context.client.tasks().retry_task(request)).await?;
    context.out.one(&resource(answer, |answer| answer.task)?)
}

pub(crate) async fn verify(args: VerifyArgs, context: &Context) -> Result<(), Failure> {
    let note = args.note.as_deref().map(text_or_file).transpose()?.unwrap_or_default();
    let (office_id, task_id) = target(&args.task, context).await?;
    let request = VerifyTaskRequest { office_id, task_id, approve: args.approve, note, attempt: None };
    // Not tried again: the verdict may meet the next attempt, which nobody has looked at.
    let answer = once(context.client.tasks().verify_task(request)).await?;
    context.out.one(&resource(answer, |answer| answer.task)?)
}

pub(crate) async fn complete(args: CompleteArgs, context: &Context) -> Result<(), Failure> {
    let result = text_or_file(&args.result)?;
    let (office_id, task_id) = target(&args.task, context).await?;
    let artifacts = args.artifacts;
    let request = CompleteTaskRequest { office_id, task_id, result, artifacts, ..CompleteTaskRequest::default() };
    // The same completion again answers the same.
    context.out.one(&ask!(context, tasks.complete_task(request).task).await?)
}

pub(crate) async fn note(args: NoteArgs, context: &Context) -> Result<(), Failure> {
    let body = text_or_file(&args.note)?;
    let (office_id, task_id) = target(&args.task, context).await?;
    let request = AddTaskNoteRequest { office_id, task_id, body, request_id: Uuid::new_v4().to_string() };
    context.out.one(&ask!(context, tasks.add_task_note(request).note).await?)
}
