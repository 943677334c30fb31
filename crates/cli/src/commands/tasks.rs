//! `mi tasks`.

mod change;
pub(crate) mod create;
pub(crate) mod finish;
mod receipt;
mod watch;

use clap::{Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use mi_client::list_all;
use mi_kernel::page::MAX_PAGE_SIZE;
use mi_proto::v1::{
    GetTaskRequest, GetTaskStatsRequest, ListTaskNotesRequest, ListTasksRequest, Task, TaskKind, TaskStatus,
};
use serde::Deserialize;

use crate::{
    answer::ask,
    context::{Context, full_id},
    failure::Failure,
    known::{Known, by},
    options::ColonyArg,
    resolve,
};

/// How many tasks of the same start of an id are looked for: with more than one it is refused.
const CANDIDATES: usize = 6;

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Create a task; with --wait print its result
    Create(Box<create::CreateArgs>),
    /// List tasks, newest first
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show one task
    Get(TaskArg),
    /// Show the work as it goes: a live table on a terminal, else a line for each change
    Watch(watch::WatchArgs),
    /// Call a task and its open subtasks off
    Cancel(change::CancelArgs),
    /// Put a failed or cancelled task back into the queue
    Retry(TaskArg),
    /// Accept or reject the work on a task that waits for it
    Verify(change::VerifyArgs),
    /// Complete a task in place of an agent
    Complete(change::CompleteArgs),
    /// Add a note to a task
    Note(change::NoteArgs),
    /// List a task's notes
    Notes(TaskArg),
    /// Show what a task's worker signed; --verify checks it without trusting the platform
    Receipt(receipt::ReceiptArgs),
    /// Count a colony's tasks by status
    Stats(ColonyArg),
}

/// A task of a colony.
#[derive(Debug, Args)]
pub(crate) struct TaskArg {
    #[command(flatten)]
    colony: ColonyArg,
    /// The task: its id or a unique start of it
    #[arg(value_name = "TASK", add = by(&[Known::Tasks]))]
    task: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Only tasks in these states
    #[arg(long, value_name = "STATUS,...", value_delimiter = ',')]
    status: Vec<Status>,
    /// Only tasks that are assigned to this agent
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), add = by(&[Known::Agents]))]
    agent: Option<String>,
    /// Only subtasks of this task
    #[arg(long, value_name = "TASK", add = by(&[Known::Tasks]))]
    parent: Option<String>,
    /// Only tasks of this one's conversation
    #[arg(long, value_name = "TASK", add = by(&[Known::Tasks]))]
    conversation: Option<String>,
    /// The newest this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
}

/// What kind of work a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Anything.
    #[default]
    General = TaskKind::General as isize,
    /// Writing software.
    Code = TaskKind::Code as isize,
    /// Finding out.
    Research = TaskKind::Research as isize,
    /// Judging work.
    Review = TaskKind::Review as isize,
    /// A shell script, which is the description.
    Command = TaskKind::Command as isize,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    /// Waits for something.
    Blocked = TaskStatus::Blocked as isize,
    /// Waits for somebody.
    Queued = TaskStatus::Queued as isize,
    /// Somebody works on it.
    Running = TaskStatus::Running as isize,
    /// Waits to be accepted.
    Verifying = TaskStatus::Verifying as isize,
    /// Finished, with a result.
    Done = TaskStatus::Done as isize,
    /// Given up.
    Failed = TaskStatus::Failed as isize,
    /// Called off.
    Cancelled = TaskStatus::Cancelled as isize,
}

pub(crate) async fn run(command: TasksCommand, context: &Context) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    match command {
        TasksCommand::Create(args) => create::run(*args, context).await,
        TasksCommand::List(args) => list(args, context).await,
        TasksCommand::Get(arg) => {
            let (office_id, task_id) = target(&arg, context).await?;
            out.one(&get(context, &office_id, &task_id).await?)
        }
        TasksCommand::Watch(args) => watch::run(args, context).await,
        TasksCommand::Cancel(args) => change::cancel(args, context).await,
        TasksCommand::Retry(arg) => change::retry(&arg, context).await,
        TasksCommand::Verify(args) => change::verify(args, context).await,
        TasksCommand::Complete(args) => change::complete(args, context).await,
        TasksCommand::Note(args) => change::note(args, context).await,
        TasksCommand::Notes(arg) => {
            let (office_id, task_id) = target(&arg, context).await?;
            let notes = list_all(async |page_token| {
                let (office_id, task_id) = (office_id.clone(), task_id.clone());
                let request = ListTaskNotesRequest { office_id, task_id, page_size: Some(MAX_PAGE_SIZE), page_token };
                let page = client.tasks().list_task_notes(request).await?.into_inner();
                Ok((page.notes, page.next_page_token))
            });
            out.list(&notes.await?)
        }
        TasksCommand::Receipt(args) => receipt::run(args, context).await,
        TasksCommand::Stats(arg) => {
            let request = GetTaskStatsRequest { office_id: context.colony(&arg).await? };
            out.one(&ask!(context, tasks.get_task_stats(request).stats).await?)
        }
    }
}

/// The id of the colony and of the task.
async fn target(arg: &TaskArg, context: &Context) -> Result<(String, String), Failure> {
    let office_id = context.colony(&arg.colony).await?;
    let task_id = task_id(context, &office_id, &arg.task).await?;
    Ok((office_id, task_id))
}

pub(crate) async fn get(context: &Context, office_id: &str, task_id: &str) -> Result<Task, Failure> {
    let request = GetTaskRequest { office_id: office_id.to_owned(), task_id: task_id.to_owned() };
    ask!(context, tasks.get_task(request).task).await
}

/// The conversation of a task, if one is given.
pub(crate) async fn conversation(context: &Context, office_id: &str, task: Option<&str>) -> Result<String, Failure> {
    match task {
        Some(given) => Ok(get(context, office_id, &task_id(context, office_id, given).await?).await?.context_id),
        None => Ok(String::new()),
    }
}

async fn list(args: ListArgs, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&args.colony).await?;
    let parent_id = task_id_if_any(context, &office_id, args.parent.as_deref()).await?;
    let context_id = conversation(context, &office_id, args.conversation.as_deref()).await?;
    let limit = usize::try_from(args.limit).unwrap_or_default();
    let request = ListTasksRequest {
        office_id,
        statuses: args.status.iter().map(|status| *status as i32).collect(),
        assigned_agent: args.agent.unwrap_or_default(),
        parent_id,
        page_size: Some(args.limit.min(MAX_PAGE_SIZE)),
        context_id,
        ..ListTasksRequest::default()
    };
    let mut tasks = read(context, request, |tasks| tasks.len() >= limit).await?;
    tasks.truncate(limit);
    context.out.list(&tasks)
}

/// Reads pages of tasks until these are `enough`, or all there are.
async fn read(
    context: &Context,
    mut request: ListTasksRequest,
    enough: impl Fn(&[Task]) -> bool,
) -> Result<Vec<Task>, Failure> {
    let mut tasks = Vec::new();
    loop {
        let page = ask!(context, tasks.list_tasks(request.clone())).await?;
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() || enough(&tasks) {
            return Ok(tasks);
        }
        request.page_token = page.next_page_token;
    }
}

/// The id of a task given by id or by a unique start of it.
pub(crate) async fn task_id(context: &Context, office_id: &str, given: &str) -> Result<String, Failure> {
    if let Some(id) = full_id(given) {
        return Ok(id);
    }
    let start = given.to_ascii_lowercase();
    let request = ListTasksRequest {
        office_id: office_id.to_owned(),
        page_size: Some(MAX_PAGE_SIZE),
        ..ListTasksRequest::default()
    };
    let mut tasks = read(context, request, |tasks| is_beyond(tasks, &start)).await?;
    tasks.retain(|task| task.id.starts_with(&start));
    tasks.truncate(CANDIDATES);
    Ok(resolve::pick("task", given, &tasks, |task| &task.id, |_| None)?.id.clone())
}

/// The same; empty when none is given.
async fn task_id_if_any(context: &Context, office_id: &str, given: Option<&str>) -> Result<String, Failure> {
    match given {
        Some(given) => task_id(context, office_id, given).await,
        None => Ok(String::new()),
    }
}

/// Whether nothing after these tasks matters: there are too many candidates, or what follows is older than all of them.
/// An id begins with the milliseconds of its making, 12 hex digits and a hyphen, and lists begin with the newest.
fn is_beyond(tasks: &[Task], start: &str) -> bool {
    let length = start.len().min(13);
    let is_older = |task: &Task| task.id.as_bytes().get(..length) < start.as_bytes().get(..length);
    tasks.last().is_some_and(is_older) || tasks.iter().filter(|task| task.id.starts_with(start)).count() >= CANDIDATES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_of_an_id_is_looked_for_no_further_than_it_takes() {
        let tasks = |ids: &[&str]| -> Vec<Task> {
            ids.iter().map(|id| Task { id: (*id).to_owned(), ..Task::default() }).collect()
        };
        let newer = tasks(&["019aa0b4-7c1f-7d0a-b3a5-000000000001", "019aa0b4-7c1e-7d0a-b3a5-000000000002"]);
        // Of the same millisecond: which one comes first is not known.
        assert!(!is_beyond(&newer, "019aa0b4-7c1e-7f"));
        assert!(is_beyond(&newer, "019aa0b4-7c1f"));
        assert!(is_beyond(&newer, "019b"));
        assert!(!is_beyond(&newer, "0199"));
        assert!(!is_beyond(&newer, ""));
        assert!(!is_beyond(&[], "019b"));
        assert!(is_beyond(&tasks(&["019aa0b4-7c1e-7d0a-b3a5-000000000002"; CANDIDATES]), "019aa0b4"));
    }
}
