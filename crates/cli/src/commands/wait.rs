//! `mi wait`: until something is as it should be, or cannot get there any more.
//!
//! By the platform's own streams, however often the connection is lost meanwhile.

use std::{cell::Cell, time::Duration};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use futures::future::try_join_all;
use mi_proto::v1::{
    Agent, AgentPhase, File, Task, TaskStatus, WatchAgentsRequest, WatchChangesRequest, WatchTasksRequest,
};

use super::{
    agents,
    files::find,
    tasks::{
        finish::{is_finished, outcome},
        task_id,
    },
};
use crate::{
    context::Context,
    failure::Failure,
    follow::{follow_until, watch_until},
    known::{Known, by},
    options::ColonyArg,
    output::Resource,
    text::word,
    wait,
};

/// Most things that one command waits for: each is a stream of its own.
const MOST: usize = 50;

#[derive(Debug, Subcommand)]
pub(crate) enum WaitCommand {
    /// For agents; one that failed or is being fired ends it with an error
    #[command(alias = "agents")]
    Agent(AgentArgs),
    /// For tasks; one that is finished in another way ends it with an error
    #[command(alias = "tasks")]
    Task(TaskArgs),
    /// For files on the drive
    #[command(alias = "files")]
    File(FileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    colony: ColonyArg,
    /// How long to wait, such as 90s, 10m or 2h; after that the exit code is 124 [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = wait::duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Their names
    #[arg(value_name = "NAME", required = true, num_args = 1..=MOST, value_parser = NonEmptyStringValueParser::new())]
    #[arg(add = by(&[Known::Agents]))]
    names: Vec<String>,
    /// phase=PHASE, as `mi agents get` shows it; ready, for one that takes work; or deleted
    #[arg(long = "for", value_name = "CONDITION", default_value = "ready", value_parser = agent_condition)]
    condition: AgentCondition,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// Their ids, or unique starts of them
    #[arg(value_name = "TASK", required = true, num_args = 1..=MOST, add = by(&[Known::Tasks]))]
    ids: Vec<String>,
    /// status=STATUS, as `mi tasks get` shows it; or finished, in whatever way
    #[arg(long = "for", value_name = "CONDITION", default_value = "status=done", value_parser = task_condition)]
    condition: TaskCondition,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// Their paths
    #[arg(value_name = "PATH", required = true, num_args = 1..=MOST, add = by(&[Known::Files]))]
    paths: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_name = "CONDITION", default_value = "present")]
    condition: FileCondition,
    #[command(flatten)]
    common: Common,
}

/// What an agent is waited for to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AgentCondition {
    Phase(AgentPhase),
    Ready,
    Deleted,
}

/// What a task is waited for to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskCondition {
    Status(TaskStatus),
    Finished,
}

/// What a file is waited for to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FileCondition {
    /// It is there.
    Present,
    /// It is not there.
    Deleted,
}

fn agent_condition(text: &str) -> Result<AgentCondition, String> {
    match text {
        "ready" => Ok(AgentCondition::Ready),
        "deleted" => Ok(AgentCondition::Deleted),
        _ => {
            let all = (1..).map_while(|number| AgentPhase::try_from(number).ok());
            named(text, "phase", "ready or deleted", all, |phase| word(phase.as_str_name(), "AGENT_PHASE_"))
                .map(AgentCondition::Phase)
        }
    }
}

fn task_condition(text: &str) -> Result<TaskCondition, String> {
    match text {
        "finished" => Ok(TaskCondition::Finished),
        _ => {
            let all = (1..).map_while(|number| TaskStatus::try_from(number).ok());
            named(text, "status", "finished", all, |status| word(status.as_str_name(), "TASK_STATUS_"))
                .map(TaskCondition::Status)
        }
    }
}

/// The one of all values that `KEY=VALUE` names, whatever its case.
fn named<T>(
    text: &str,
    key: &str,
    others: &str,
    all: impl Iterator<Item = T>,
    name: impl Fn(&T) -> String,
) -> Result<T, String> {
    let given = text.split_once('=').filter(|(given, _)| *given == key).map(|(_, value)| value.to_lowercase());
    let mut names = Vec::new();
    for value in all {
        let name = name(&value);
        if given.as_ref() == Some(&name) {
            return Ok(value);
        }
        names.push(name);
    }
    Err(format!("must be {key}= with one of {}; or {others}", names.join(", ")))
}

pub(crate) async fn run(command: WaitCommand, context: &Context) -> Result<(), Failure> {
    match command {
        WaitCommand::Agent(AgentArgs { names, condition, common }) => {
            let office_id = &context.colony(&common.colony).await?;
            if condition == AgentCondition::Deleted {
                // Nobody is in a colony that is not there, but nobody was deleted either.
                context.office(office_id).await?;
            }
            let each = names.iter().map(|name| agent(context, office_id, name, condition));
            all(context, common.timeout, &names, each).await
        }
        WaitCommand::Task(TaskArgs { ids, condition, common }) => {
            let office_id = &context.colony(&common.colony).await?;
            let mut whole = Vec::with_capacity(ids.len());
            for id in &ids {
                whole.push(task_id(context, office_id, id).await?);
            }
            let each = whole.iter().map(|id| task(context, office_id, id, condition));
            all(context, common.timeout, &whole, each).await
        }
        WaitCommand::File(FileArgs { paths, condition, common }) => {
            let office_id = &context.colony(&common.colony).await?;
            let each = paths.iter().map(|path| file(context, office_id, path, condition));
            all(context, common.timeout, &paths, each).await
        }
    }
}

/// Waits for all of them at once, and shows those that are there then. The first that cannot get there ends it.
async fn all<R: Resource>(
    context: &Context,
    timeout: Option<Duration>,
    names: &[String],
    each: impl Iterator<Item = impl Future<Output = Result<Option<R>, Failure>>>,
) -> Result<(), Failure> {
    let spinner = wait::spinner(format!("waiting for {}", names.join(", ")));
    let arrived = Cell::new(0);
    let arrived = &arrived;
    let counted = each.map(|one| async move {
        let one = one.await?;
        arrived.set(arrived.get() + 1);
        Ok::<_, Failure>(one)
    });
    let ended = wait::by(wait::end(timeout), try_join_all(counted)).await;
    spinner.finish_and_clear();
    match ended {
        Some(ended) => {
            let there: Vec<R> = ended?.into_iter().flatten().collect();
            match there.is_empty() && !context.out.is_for_programs() {
                true => context.out.note("gone"),
                false => context.out.list(&there)?,
            }
            Ok(())
        }
        None => {
            let left = names.len() - arrived.get();
            Err(Failure::timed_out(format!("{left} of {} did not get there in time", names.len())))
        }
    }
}

/// The stream is over: the platform ends none of these by itself.
fn ended(what: &str) -> Failure {
    Failure::new(format!("the platform stopped telling about {what}")).hint("wait again")
}

async fn agent(
    context: &Context,
    office_id: &str,
    name: &str,
    condition: AgentCondition,
) -> Result<Option<Agent>, Failure> {
    let (client, lower) = (&context.client, name.to_ascii_lowercase());
    let open = async || client.agents().watch_agents(WatchAgentsRequest { office_id: office_id.to_owned() }).await;
    let look = async || judge_agent(agents::get(context, office_id, name).await?, condition);
    let found = watch_until(context.out, open, look, |answer| match answer.agent {
        Some(agent) if agent.name == lower && answer.deleted => {
            Err(Failure::not_found(format!("agent {:?} was deleted", agent.name)))
        }
        Some(agent) if agent.name == lower => judge_agent(agent, condition),
        _ => Ok(None),
    });
    match found.await {
        Err(failure) if failure.is_not_found() && condition == AgentCondition::Deleted => Ok(None),
        found => found?.map(Some).ok_or_else(|| ended(&format!("agent {name}"))),
    }
}

/// The agent, when it is as it should be; fails when it will not be.
fn judge_agent(agent: Agent, condition: AgentCondition) -> Result<Option<Agent>, Failure> {
    let Some(status) = &agent.status else { return Ok(None) };
    let phase = status.phase();
    // What was last seen may be from before the last change of what should be.
    let is_reached = status.observed_generation >= agent.generation;
    let is_met = match condition {
        AgentCondition::Phase(wanted) => phase == wanted && (is_reached || !rests(phase)),
        AgentCondition::Ready => phase == AgentPhase::Running && status.ready && is_reached,
        AgentCondition::Deleted => false,
    };
    match phase {
        _ if is_met => Ok(Some(agent)),
        AgentPhase::Failed if condition != AgentCondition::Deleted => {
            let hint = "`mi agents logs` and `mi agents activity` show more; `mi agents start` tries again";
            Err(Failure::new(format!("{} failed: {}", agent.name, status.message)).hint(hint))
        }
        AgentPhase::Terminating if condition != AgentCondition::Deleted => {
            Err(Failure::new(format!("{} is being fired", agent.name)))
        }
        _ => Ok(None),
    }
}

/// Whether an agent can stay so.
fn rests(phase: AgentPhase) -> bool {
    matches!(phase, AgentPhase::Running | AgentPhase::Stopped | AgentPhase::Suspended | AgentPhase::Offline)
}

async fn task(
    context: &Context,
    office_id: &str,
    task_id: &str,
    condition: TaskCondition,
) -> Result<Option<Task>, Failure> {
    let seen = Cell::new(0);
    let open = async || {
        let request = WatchTasksRequest {
            office_id: office_id.to_owned(),
            after_cursor: Some(seen.get()),
            task_id: task_id.to_owned(),
        };
        context.client.tasks().watch_tasks(request).await
    };
    let found = follow_until(context.out, open, |answer| {
        seen.set(answer.cursor);
        answer.task.map_or(Ok(None), |task| judge_task(task, condition))
    });
    found.await?.map(Some).ok_or_else(|| ended(&format!("task {task_id}")))
}

/// The task, when it is as it should be; fails when it is finished otherwise.
fn judge_task(task: Task, condition: TaskCondition) -> Result<Option<Task>, Failure> {
    let is_over = is_finished(task.status());
    match condition {
        TaskCondition::Finished => Ok(is_over.then_some(task)),
        TaskCondition::Status(wanted) if task.status() == wanted => Ok(Some(task)),
        TaskCondition::Status(_) if is_over => {
            outcome(&task)?;
            Err(Failure::new(format!("task {} is done already", task.id)))
        }
        TaskCondition::Status(_) => Ok(None),
    }
}

/// What there is to know of a file.
enum Seen {
    /// It is as it should be.
    Met(Option<File>),
    /// It is time to look at it.
    Changed,
}

async fn file(
    context: &Context,
    office_id: &str,
    path: &str,
    condition: FileCondition,
) -> Result<Option<File>, Failure> {
    let open = async || {
        let request = WatchChangesRequest { office_id: office_id.to_owned(), after_cursor: None };
        context.client.drive().watch_changes(request).await
    };
    let look = async || {
        let found = find(context, office_id, path).await?;
        Ok((found.is_some() == (condition == FileCondition::Present)).then_some(Seen::Met(found)))
    };
    loop {
        let seen = watch_until(context.out, &open, &look, |answer| {
            Ok(answer.change.filter(|change| change.path == path).map(|_| Seen::Changed))
        });
        match seen.await?.ok_or_else(|| ended(path))? {
            Seen::Met(found) => return Ok(found),
            Seen::Changed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use mi_proto::v1::AgentStatus;

    use super::*;

    #[test]
    fn conditions() {
        for (text, condition) in [
            ("ready", AgentCondition::Ready),
            ("deleted", AgentCondition::Deleted),
            ("phase=Running", AgentCondition::Phase(AgentPhase::Running)),
            ("phase=offline", AgentCondition::Phase(AgentPhase::Offline)),
        ] {
            assert_eq!(agent_condition(text), Ok(condition));
        }
        assert_eq!(task_condition("status=DONE"), Ok(TaskCondition::Status(TaskStatus::Done)));
        assert_eq!(task_condition("finished"), Ok(TaskCondition::Finished));
        for bad in ["", "running", "phase=", "phase=happy", "status=running", "phase"] {
            assert!(agent_condition(bad).is_err_and(|told| told.contains("pending, running, ")), "{bad}");
        }
        let told = task_condition("status=ready").expect_err("no status");
        let all = "blocked, queued, running, verifying, done, failed, cancelled";
        assert_eq!(told, format!("must be status= with one of {all}; or finished"));
    }

    fn agent_at(phase: AgentPhase, observed_generation: i64) -> Agent {
        let ready = phase == AgentPhase::Running;
        let status = AgentStatus { phase: phase.into(), ready, observed_generation, ..AgentStatus::default() };
        Agent { name: "a".into(), generation: 2, status: Some(status), ..Agent::default() }
    }

    #[test]
    fn an_agent_is_judged_by_what_it_is_and_can_become() {
        use AgentCondition::{Deleted, Phase, Ready};
        use AgentPhase::{Failed, Pending, Restarting, Running, Stopped, Terminating};
        for (phase, observed, condition, met) in [
            (Running, 2, Ready, Some(true)),
            (Running, 1, Ready, Some(false)),
            (Running, 2, Phase(Running), Some(true)),
            // As it was before the change that is waited for.
            (Running, 1, Phase(Running), Some(false)),
            (Restarting, 1, Phase(Restarting), Some(true)),
            (Pending, 0, Ready, Some(false)),
            (Stopped, 2, Phase(Stopped), Some(true)),
            (Stopped, 2, Ready, Some(false)),
            (Failed, 1, Ready, None),
            (Failed, 1, Phase(Failed), Some(true)),
            (Failed, 1, Deleted, Some(false)),
            (Terminating, 2, Phase(Running), None),
            (Terminating, 2, Deleted, Some(false)),
        ] {
            let judged = judge_agent(agent_at(phase, observed), condition);
            assert_eq!(judged.ok().map(|found| found.is_some()), met, "{phase:?} {observed} {condition:?}");
        }
    }

    #[test]
    fn a_task_that_is_finished_otherwise_is_not_waited_for() {
        use TaskCondition::{Finished, Status};
        for (status, condition, met) in [
            (TaskStatus::Done, Status(TaskStatus::Done), Some(true)),
            (TaskStatus::Running, Status(TaskStatus::Done), Some(false)),
            (TaskStatus::Failed, Status(TaskStatus::Done), None),
            (TaskStatus::Cancelled, Status(TaskStatus::Done), None),
            (TaskStatus::Done, Status(TaskStatus::Running), None),
            (TaskStatus::Failed, Status(TaskStatus::Failed), Some(true)),
            (TaskStatus::Failed, Finished, Some(true)),
            (TaskStatus::Queued, Finished, Some(false)),
        ] {
            let task = Task { id: "t".into(), status: status.into(), ..Task::default() };
            let judged = judge_task(task, condition);
            assert_eq!(judged.ok().map(|found| found.is_some()), met, "{status:?} {condition:?}");
        }
    }
}
