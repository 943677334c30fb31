//! `mi tasks watch`.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mi_proto::v1::{
    GetTaskStatsRequest, ListTasksRequest, Task, TaskStats, TaskStatus, WatchTasksRequest, WatchTasksResponse,
};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Response, Status, Streaming};

use super::{finish::is_finished, task_id_if_any};
use crate::{
    answer::ask,
    context::Context,
    failure::Failure,
    follow::{follow, follow_until},
    known::{Known, by},
    options::ColonyArg,
    output::{Resource, rendered},
};

/// How often the live table is drawn anew.
const REDRAW: Duration = Duration::from_millis(500);
/// How many tasks the live table shows that are not finished, and that are.
const OPEN_SHOWN: i32 = 20;
const FINISHED_SHOWN: usize = 5;
/// How much of a title the live table shows.
const TITLE_SHOWN: usize = 40;

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Only this task, until it is finished: its id or a unique start of it
    #[arg(value_name = "TASK", add = by(&[Known::Tasks]))]
    task: Option<String>,
    /// A line for each change after this cursor, 0 for every task there is [default: only what changes from now on]
    #[arg(long, value_name = "CURSOR")]
    after: Option<i64>,
}

pub(crate) async fn run(args: WatchArgs, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&args.colony).await?;
    let task_id = task_id_if_any(context, &office_id, args.task.as_deref()).await?;
    let is_table =
        io::stdout().is_terminal() && context.out.is_for_people() && args.after.is_none() && task_id.is_empty();
    if is_table {
        return table(context, &office_id).await;
    }
    // A single task is shown as it is first.
    let start = args.after.or_else(|| (!task_id.is_empty()).then_some(0));
    let seen = Cell::new(start);
    let shown = follow_until(
        context.out,
        async || open(context, &office_id, &task_id, seen.get()).await,
        |change| {
            seen.set(Some(change.cursor));
            context.out.next(&change)?;
            let is_over = change.task.is_some_and(|task| is_finished(task.status()));
            Ok((!task_id.is_empty() && is_over).then_some(()))
        },
    );
    shown.await.map(drop)
}

async fn open(
    context: &Context,
    office_id: &str,
    task_id: &str,
    after_cursor: Option<i64>,
) -> Result<Response<Streaming<WatchTasksResponse>>, Status> {
    let request = WatchTasksRequest { office_id: office_id.to_owned(), after_cursor, task_id: task_id.to_owned() };
    context.client.tasks().watch_tasks(request).await
}

/// What the live table shows.
#[derive(Debug, Default)]
struct Board {
    stats: TaskStats,
    open: Vec<Task>,
    /// The last finished ones, newest first.
    finished: VecDeque<Task>,
    is_stale: bool,
}

impl Board {
    fn take(&mut self, task: Task) {
        self.is_stale = true;
        // Back in the queue, or finished anew.
        self.finished.retain(|known| known.id != task.id);
        if is_finished(task.status()) {
            self.finished.push_front(task);
            self.finished.truncate(FINISHED_SHOWN);
        }
    }

    fn text(&self) -> String {
        let counts = rendered(TaskStats::COLUMNS, [self.stats.row()].into_iter());
        let row = |task: &Task| {
            // The id goes last: what is too wide for the terminal is cut there.
            let mut row = task.row();
            row[1] = row[1].chars().take(TITLE_SHOWN).collect();
            row.rotate_left(1);
            row
        };
        let mut columns = Task::COLUMNS.to_vec();
        columns.rotate_left(1);
        let tasks = rendered(&columns, self.open.iter().chain(&self.finished).map(row));
        format!("{counts}\n\n{tasks}")
    }
}

/// The live table, until the command is ended.
///
/// The stream says that something changed, and which tasks were finished last; the rest is read anew then, at most at
/// each redraw: an office may have more tasks than a client wants to keep.
async fn table(context: &Context, office_id: &str) -> Result<(), Failure> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    let board = RefCell::new(Board::default());
    let seen = Cell::new(None);
    let watch = follow(
        context.out,
        async || {
            // What happened before the stream is there is in what is read after.
            board.borrow_mut().is_stale = true;
            open(context, office_id, "", seen.get()).await
        },
        |change| {
            seen.set(Some(change.cursor));
            change.task.into_iter().for_each(|task| board.borrow_mut().take(task));
            Ok(())
        },
    );
    let draw = async {
        let mut redraw = interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            redraw.tick().await;
            let is_stale = std::mem::take(&mut board.borrow_mut().is_stale);
            if is_stale {
                let (stats, open) = read(context, office_id).await?;
                let mut board = board.borrow_mut();
                board.stats = stats;
                board.open = open;
            }
            bar.set_message(board.borrow().text());
        }
    };
    tokio::select! {
        ended = watch => ended,
        failed = draw => failed,
    }
}

/// The counts, and the newest tasks that are not finished.
async fn read(context: &Context, office_id: &str) -> Result<(TaskStats, Vec<Task>), Failure> {
    let request = GetTaskStatsRequest { office_id: office_id.to_owned() };
    let stats = ask!(context, tasks.get_task_stats(request)).await?.stats;
    let statuses = [TaskStatus::Running, TaskStatus::Verifying, TaskStatus::Queued, TaskStatus::Blocked];
    let request = ListTasksRequest {
        office_id: office_id.to_owned(),
        statuses: statuses.map(Into::into).to_vec(),
        page_size: Some(OPEN_SHOWN),
        ..ListTasksRequest::default()
    };
    let open = ask!(context, tasks.list_tasks(request)).await?.tasks;
    Ok((stats.unwrap_or_default(), open))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: usize, status: TaskStatus) -> Task {
        Task { id: format!("t{id}"), title: format!("Title {id}"), status: status.into(), ..Task::default() }
    }

    #[test]
    fn the_last_finished_tasks_are_kept() {
        let mut board = Board::default();
        for id in 0..=FINISHED_SHOWN {
            board.take(task(id, TaskStatus::Done));
        }
        board.take(task(3, TaskStatus::Queued));
        board.take(task(2, TaskStatus::Failed));
        board.take(task(9, TaskStatus::Running));
        let kept: Vec<&str> = board.finished.iter().map(|task| task.id.as_str()).collect();
        assert_eq!(kept, ["t2", "t5", "t4", "t1"]);
        assert!(board.is_stale);
    }

    #[test]
    fn the_table_has_counts_then_what_is_open_then_what_is_finished() {
        let board = Board {
            stats: TaskStats { total: 2, ..TaskStats::default() },
            open: vec![Task { title: "long\x1b".repeat(20), ..task(1, TaskStatus::Running) }],
            finished: [task(2, TaskStatus::Done)].into(),
            is_stale: false,
        };
        let text = board.text();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], TaskStats::COLUMNS);
        assert_eq!(words[1], ["0", "0", "0", "0", "0", "0", "0", "2"]);
        assert_eq!(words[3], ["TITLE", "KIND", "PRIORITY", "STATUS", "AGENT", "ATTEMPT", "AGE", "ID"]);
        assert_eq!(words[4][0], "long\\u{1b}".repeat(TITLE_SHOWN / 5));
        assert_eq!(*words[4].last().expect("cells"), "t1");
        assert_eq!(words[5][..2], ["Title", "2"]);
    }
}
