//! `mi run`: a command task that is waited for, and ends as its command does.

use std::{future::pending, time::Duration};

use clap::Args;
use mi_client::once;
use mi_proto::v1::{CancelTaskRequest, CreateTaskRequest, Task, TaskKind};
use uuid::Uuid;

use super::{
    settings,
    tasks::{create, finish},
};
use crate::{args::ColonyArg, context::Context, failure::Failure, output::Output, stop_signal};

/// Longest title of a task, in characters.
const MAX_TITLE: usize = 200;
/// Exit codes as the shell and timeout(1) have them.
const INTERRUPTED: u8 = 130;
const TIMED_OUT: u8 = 124;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The only agent that may run it [default: any]
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// What the task is called [default: the command]
    #[arg(long)]
    title: Option<String>,
    /// Attempts before it has failed
    #[arg(long, value_name = "N", default_value_t = 1)]
    attempts: i32,
    /// Cancel it when it has not ended after so long, e.g. 90s, 10m, 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// The command and its arguments; for a shell's syntax `sh -c '...'`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let told = || "must be a duration such as 90s, 10m or 2h".to_owned();
    settings::seconds(text).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(told)
}

pub(crate) async fn run(args: RunArgs, context: &Context) -> Result<(), Failure> {
    let office_id = context.colony(&args.colony).await?;
    let request = CreateTaskRequest {
        office_id: office_id.clone(),
        title: args.title.unwrap_or_else(|| title(&args.command)),
        description: script(&args.command),
        kind: TaskKind::Command.into(),
        assigned_agent: args.agent.unwrap_or_default(),
        max_attempts: Some(args.attempts),
        request_id: Uuid::new_v4().to_string(),
        ..CreateTaskRequest::default()
    };
    let stop = stop_signal()?;
    let task = create::send(context, &request).await?;
    let late = async {
        match args.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => pending().await,
        }
    };
    let (why, code) = tokio::select! {
        ended = finish::finished(context, &office_id, &task) => return show(context.out, &ended?),
        () = stop => ("interrupted", INTERRUPTED),
        () = late => ("not ended in time", TIMED_OUT),
    };
    let request = CancelTaskRequest { office_id, task_id: task.id.clone(), reason: why.to_owned() };
    once(context.client.tasks().cancel_task(request)).await?;
    context.out.note(&format!("{why}; task {} is cancelled", task.id));
    Err(Failure::Ended(code))
}

/// Prints what the command printed, and ends as it ended.
fn show(out: Output, task: &Task) -> Result<(), Failure> {
    let outcome = finish::outcome(task);
    let text = if outcome.is_ok() { &task.result } else { &task.error };
    let ran = Ran::read(text);
    if out.is_json() {
        out.one(task)?;
    } else if let Some(ran) = &ran {
        if !ran.stdout.is_empty() {
            out.text(ran.stdout)?;
        }
        out.remark(ran.stderr);
    } else if outcome.is_ok() {
        // Somebody else completed it.
        out.text(&task.result)?;
    }
    match ran {
        Some(Ran { exit_code: 0, .. }) => Ok(()),
        Some(ran) => Err(Failure::Ended(u8::try_from(ran.exit_code).unwrap_or(1))),
        None => outcome,
    }
}

/// What an agent reports of a command: its exit code, and the end of what it printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran<'a> {
    pub(crate) exit_code: i32,
    pub(crate) stdout: &'a str,
    pub(crate) stderr: &'a str,
}

impl<'a> Ran<'a> {
    /// Reads a report; none when this is no such text, or the command was stopped.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let exit_code = first.strip_prefix("exit code: ")?.parse().ok()?;
        let (stdout, stderr) = match rest.starts_with("--- stderr") {
            true => ("", rest),
            // The last one: what a command prints on its standard output may look like it.
            false => rest.rfind("\n--- stderr").map_or((rest, ""), |at| rest.split_at(at + 1)),
        };
        let body = |section: &'a str| section.split_once('\n').map_or("", |(_, body)| body);
        Some(Self { exit_code, stdout: body(stdout), stderr: body(stderr) })
    }
}

/// The command line on one line, for people.
fn title(command: &[String]) -> String {
    let line = command.join(" ");
    let line: String = line.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MAX_TITLE).collect()
}

/// The command as a shell reads it back.
fn script(command: &[String]) -> String {
    command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word that means nothing to a shell but itself; one with an equals sign would be an assignment.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@%+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_shell_reads_each_word_as_it_was_given() {
        assert_eq!(script(&words(&["ls", "-l", "a b"])), "ls -l 'a b'");
        let odd = ["", "a b", "it's", "$HOME `id` \"x\"", "*", "~", "a\nb", "x=1", "é", "\\", "'", "#", "-n", "{a,b}"];
        let mut command = words(&["printf", "<%s>"]);
        command.extend(words(&odd));
        let output = Command::new("/bin/sh").args(["-c", &script(&command)]).output().expect("a shell");
        let expect: String = odd.iter().map(|word| format!("<{word}>")).collect();
        assert_eq!(String::from_utf8(output.stdout).expect("text"), expect);
        // The first word is the command, whatever it looks like.
        assert_eq!(script(&words(&["A=b", "env"])), "'A=b' env");
    }

    #[test]
    fn a_title_is_one_line_of_bounded_length() {
        assert_eq!(title(&words(&["sh", "-c", "a\n  b\x1b"])), "sh -c a b");
        assert_eq!(title(&words(&[&"é".repeat(300)])), "é".repeat(200));
    }

    #[test]
    fn a_report_is_taken_apart() {
        let ran = |exit_code, stdout, stderr| Some(Ran { exit_code, stdout, stderr });
        for (text, expect) in [
            ("exit code: 0\n", ran(0, "", "")),
            ("exit code: 0", ran(0, "", "")),
            ("exit code: 0\n--- stdout\na\n\nb\n", ran(0, "a\n\nb\n", "")),
            ("exit code: 3\n--- stderr\nno\n", ran(3, "", "no\n")),
            ("exit code: 137\n--- stdout\na\n--- stderr\nb\n", ran(137, "a\n", "b\n")),
            (
                "exit code: 1\n--- stdout (the last 2 of 9 bytes)\na\n--- stderr (the last 2 of 9 bytes)\nb\n",
                ran(1, "a\n", "b\n"),
            ),
            ("exit code: 0\n--- stdout\n--- stderr\n--- stderr\nb\n", ran(0, "--- stderr\n", "b\n")),
            ("no exit code: stopped after 600 s, the time limit\n--- stdout\na\n", None),
            ("exit code: many\n", None),
            ("done", None),
            ("", None),
        ] {
            assert_eq!(Ran::read(text), expect, "{text:?}");
        }
    }

    #[test]
    fn a_command_that_failed_ends_this_one_as_it_ended() {
        use mi_proto::v1::TaskStatus;
        let ended = |status: TaskStatus, result: &str, error: &str| {
            let task = Task {
                id: "t".into(),
                status: status.into(),
                result: result.into(),
                error: error.into(),
                ..Task::default()
            };
            show(Output::new(crate::args::Format::Table), &task)
        };
        assert!(ended(TaskStatus::Done, "exit code: 0\n", "exit code: 2\n").is_ok());
        let code = |outcome: Result<(), Failure>| outcome.expect_err("failed").exit_code();
        assert_eq!(code(ended(TaskStatus::Failed, "", "exit code: 42\n")), 42);
        let told = ended(TaskStatus::Failed, "", "its lease ran out").expect_err("failed");
        assert_eq!((told.exit_code(), told.to_string()), (1, "error: task t failed: its lease ran out\n".into()));
    }
}
