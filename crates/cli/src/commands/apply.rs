//! `mi apply`: colonies as files say they should be.

mod agents;
mod drive;
mod file;
mod graph;
mod office;
mod tasks;

use std::time::Duration;

use clap::Args;
use mi_proto::v1::Task;
use serde::Serialize;

use crate::{context::Context, failure::Failure, json::Json, output::Resource, wait};
use file::File;
use tasks::Finished;

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A colony with its agents, files and tasks, as YAML; - is standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Wait until the tasks are finished; fails when one of them was not done
    #[arg(long)]
    wait: bool,
    /// With --wait: end with exit code 124 when they are not finished after so long, e.g. 90s, 10m, 2h; they go on
    #[arg(long, value_name = "DURATION", value_parser = wait::duration, requires = "wait")]
    timeout: Option<Duration>,
    /// Check the files and show what would be done, and do nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

/// What was found or done about one thing of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Unchanged,
    Created,
    Updated,
    /// In a dry run.
    ToCreate,
    ToUpdate,
    /// In a dry run: whether it is there is known only to who creates it.
    ToCreateUnlessThere,
}

/// One thing of a file.
#[derive(Debug, Serialize)]
struct Change {
    what: &'static str,
    name: String,
    action: Action,
    /// Empty for what has none yet.
    id: String,
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Report {
    changes: Vec<Change>,
    /// The tasks that were waited for.
    finished: Vec<Finished>,
    /// Some of them would have been waited for longer.
    is_late: bool,
}

impl Report {
    fn add(&mut self, what: &'static str, name: &str, action: Action, id: &str) {
        self.changes.push(Change { what, name: name.to_owned(), action, id: id.to_owned() });
    }
}

/// One file at work.
struct Work<'a> {
    context: &'a Context,
    file: &'a File,
    is_dry: bool,
}

impl Work<'_> {
    /// What is said of something that was not there, or not as it should be.
    fn action(&self, dry: Action, wet: Action) -> Action {
        if self.is_dry { dry } else { wet }
    }
}

pub(crate) async fn run(args: ApplyArgs, context: &Context) -> Result<(), Failure> {
    // All of them before anything is done: a mistake in the last one is told before the first one is there.
    let files = args.files.iter().map(|path| File::load(path)).collect::<Result<Vec<File>, Failure>>()?;
    let mut report = Report::default();
    let applied = apply(&files, &args, context, &mut report).await;
    // Whatever happened: what was done was done.
    print(&report, context)?;
    if args.dry_run && applied.is_ok() {
        context.out.note("nothing was changed: this was a dry run");
    }
    applied
}

async fn apply(files: &[File], args: &ApplyArgs, context: &Context, report: &mut Report) -> Result<(), Failure> {
    let mut applied = Vec::new();
    for file in files {
        let work = Work { context, file, is_dry: args.dry_run };
        let office_id = work.office(report).await?;
        work.agents(office_id.as_deref(), report).await?;
        work.files(office_id.as_deref(), report).await?;
        let tasks = work.tasks(office_id.as_deref(), report).await?;
        applied.push((work, office_id, tasks));
    }
    let (mut undone, end) = (0, wait::end(args.timeout));
    for (work, office_id, tasks) in applied {
        if let Some(office_id) = office_id.filter(|_| args.wait) {
            undone += work.finish(&office_id, tasks, end, report).await?;
        }
    }
    match undone {
        0 => Ok(()),
        undone if report.is_late => {
            Err(Failure::timed_out(format!("{undone} of {} tasks were not done in time", report.finished.len()))
                .hint("they go on; the same command again waits for them"))
        }
        undone => Err(Failure::new(format!("{undone} of {} tasks were not done", report.finished.len()))
            .hint("`mi tasks get TASK` says why; `mi tasks retry TASK` tries again")),
    }
}

fn print(report: &Report, context: &Context) -> Result<(), Failure> {
    let out = context.out;
    if out.is_for_programs() {
        #[derive(Serialize)]
        struct Entry<'a> {
            key: &'a str,
            task: Json,
        }
        #[derive(Serialize)]
        struct Shown<'a> {
            changes: &'a [Change],
            tasks: Vec<Entry<'a>>,
        }
        let mut tasks = Vec::new();
        for Finished { key, task } in &report.finished {
            tasks.push(Entry { key, task: Json::new(Task::TYPE, task)? });
        }
        return out.value(&Shown { changes: &report.changes, tasks });
    }
    if !report.changes.is_empty() {
        let row = |change: &Change| {
            let action = match change.action {
                Action::Unchanged => "unchanged",
                Action::Created => "created",
                Action::Updated => "updated",
                Action::ToCreate => "to be created",
                Action::ToUpdate => "to be updated",
                Action::ToCreateUnlessThere => "to be created unless there",
            };
            vec![change.what.to_owned(), change.name.clone(), action.to_owned(), change.id.clone()]
        };
        out.table(&["KIND", "NAME", "ACTION", "ID"], report.changes.iter().map(row))?;
    }
    if !report.finished.is_empty() {
        out.print("")?;
        out.table(&["TASK", "STATUS", "AGENT", "ATTEMPT", "RESULT"], report.finished.iter().map(Finished::row))?;
    }
    Ok(())
}
