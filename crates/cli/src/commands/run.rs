//! `mi run`: a command task that is waited for, and ends as its command does.

pub(crate) mod report;

use std::{borrow::Cow, pin::pin, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use mi_client::once;
use mi_proto::v1::{CancelTaskRequest, CreateTaskRequest, Task, TaskKind};
use uuid::Uuid;

use self::report::{Ran, Section};
use super::{
    files,
    tasks::{create, finish},
};
use crate::{
    context::Context,
    download::Download,
    failure::{Failure, TIMED_OUT},
    known::{Known, by},
    options::ColonyArg,
    runtime::stop_signal,
    wait,
};

/// Longest title of a task, in characters.
const MAX_TITLE: usize = 200;
/// Exit code as the shell has it.
const INTERRUPTED: u8 = 130;
/// The most that an agent puts into the drive of an output, in bytes.
const MAX_WHOLE: i64 = 64 << 20;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The only agent that may run it [default: any]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), add = by(&[Known::Agents]))]
    agent: Option<String>,
    /// What the task is called [default: the command]
    #[arg(long)]
    title: Option<String>,
    /// Attempts before it has failed
    #[arg(long, value_name = "N", default_value_t = 1)]
    attempts: i32,
    /// Cancel it when it has not ended after so long, e.g. 90s, 10m, 2h
    #[arg(long, value_name = "DURATION", value_parser = wait::duration)]
    timeout: Option<Duration>,
    /// The command and its arguments; for a shell's syntax `sh -c '...'`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: RunArgs, context: &Context) -> Result<(), Failure> {
    // Standard error is the command's own.
    let (office_id, _) = context.colony_silently(args.colony.colony.as_deref()).await?;
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
    let (mut stop, end) = (pin!(stop_signal()?), wait::end(args.timeout));
    let task = tokio::select! {
        sent = wait::by(end, create::send(context, &request)) => sent.ok_or_else(create::not_taken)??,
        () = &mut stop => return Err(Failure::Ended(INTERRUPTED)),
    };
    let (why, code) = tokio::select! {
        ended = finish::finished_by(context, &office_id, &task, end) => match ended? {
            Some(ended) => return tokio::select! {
                shown = show(context, &office_id, &ended) => shown,
                () = stop => Err(Failure::Ended(INTERRUPTED)),
            },
            None => ("not ended in time", TIMED_OUT),
        },
        () = &mut stop => ("interrupted", INTERRUPTED),
    };
    let request = CancelTaskRequest { office_id, task_id: task.id.clone(), reason: why.to_owned() };
    once(context.client.tasks().cancel_task(request)).await?;
    context.out.note(&format!("{why}; task {} is cancelled", task.id));
    Err(Failure::Ended(code))
}

/// Prints what the command printed, and ends as it ended.
async fn show(context: &Context, office_id: &str, task: &Task) -> Result<(), Failure> {
    let (out, outcome) = (context.out, finish::outcome(task));
    let text = if outcome.is_ok() { &task.result } else { &task.error };
    let ran = Ran::read(text);
    if out.is_for_programs() {
        out.one(task)?;
    } else if let Some(ran) = &ran {
        let mut lost = Vec::new();
        out.exact(&all(context, office_id, &ran.stdout, "standard output", &mut lost).await)?;
        out.remark(&all(context, office_id, &ran.stderr, "standard error", &mut lost).await);
        if !ran.left_out.is_empty() {
            out.remark(format!("left out of what is published:\n{}", ran.left_out).as_bytes());
        }
        if !lost.is_empty() {
            let incomplete = Failure::new(lost.join("; "));
            if ran.exit_code == 0 {
                return Err(incomplete);
            }
            out.remark(incomplete.to_string().as_bytes());
        }
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
/// What a command printed on one of its outputs: from the drive when the report has only the end of it. What is missing
/// all the same is `lost`.
async fn all<'a>(
    context: &Context,
    office_id: &str,
    section: &Section<'a>,
    name: &str,
    lost: &mut Vec<String>,
) -> Cow<'a, [u8]> {
    let end = section.text.as_bytes();
    let Some(cut) = &section.cut else { return end.into() };
    let mut tell = |which: &str, printed: usize, why: &str| {
        lost.push(match which == "last" && printed as u64 >= cut.total {
            true => format!("the {} bytes of {name} are no text, and are not here as they were: {why}", cut.total),
            false => format!("only the {which} {printed} of {} bytes of {name} are here: {why}", cut.total),
        });
    };
    let Some(path) = cut.path else {
        tell("last", end.len(), if cut.why.is_empty() { "the agent kept no more" } else { cut.why });
        return end.into();
    };
    let mut whole = Vec::new();
    let fits = |size: i64| size <= MAX_WHOLE && (size.unsigned_abs() == cut.total || !cut.why.is_empty());
    let got = files::download(context, office_id.to_owned(), path.to_owned(), |file| match fits(file.size) {
        true => Ok(Download::to_memory(&mut whole)),
        false => Err(Failure::new(format!("the drive has something else at {path}, {} bytes", file.size))),
    });
    match got.await {
        Err(failure) => {
            tell("last", end.len(), failure.message());
            end.into()
        }
        Ok(_) => {
            if whole.len() as u64 != cut.total {
                tell("first", whole.len(), cut.why);
            }
            whole.into()
        }
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

    use mi_proto::v1::TaskStatus;

    use super::*;
    use crate::options::Global;

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

    /// Of a platform that nobody reaches.
    fn context() -> Context {
        let (endpoint, config_dir) = (Some("http://127.0.0.1:1".to_owned()), Some("/nonexistent".into()));
        Context::new(&Global { endpoint, config_dir, ..Global::default() }).expect("good")
    }

    /// How it ends, and what it says then.
    async fn shown(status: TaskStatus, result: &str, error: &str) -> (u8, String) {
        let (result, error) = (result.to_owned(), error.to_owned());
        let task = Task { id: "t".into(), status: status.into(), result, error, ..Task::default() };
        match show(&context(), "o", &task).await {
            Ok(()) => (0, String::new()),
            Err(failure) => (failure.exit_code(), failure.to_string()),
        }
    }

    #[tokio::test]
    async fn a_command_that_failed_ends_this_one_as_it_ended() {
        assert_eq!(shown(TaskStatus::Done, "exit code: 0\n", "exit code: 2\n").await, (0, String::new()));
        assert_eq!(shown(TaskStatus::Failed, "", "exit code: 42\n").await, (42, String::new()));
        let told = "error: task t failed: its lease ran out\n".to_owned();
        assert_eq!(shown(TaskStatus::Failed, "", "its lease ran out").await, (1, told));
    }

    #[tokio::test]
    async fn an_output_that_is_not_whole_is_no_success() {
        let done = async |head: &str| shown(TaskStatus::Done, &format!("exit code: 0\n{head}\nab\n"), "").await;
        let told = "error: only the last 3 of 9 bytes of standard output are here: the agent kept no more\n".to_owned();
        assert_eq!(done("--- stdout (the last 3 of 9 bytes)").await, (1, told));
        let told = "error: only the last 3 of 9 bytes of standard error are here: the rest is lost: no\n".to_owned();
        assert_eq!(done("--- stderr (the last 3 of 9 bytes; the rest is lost: no)").await, (1, told));
        let (code, told) = done("--- stdout (the last 3 of 9 bytes; the whole is a in the drive)").await;
        assert!(
            code == 1 && told.contains("of standard output are here: ") && told.contains("cannot be reached"),
            "{told}"
        );
        let told =
            "error: the 2 bytes of standard output are no text, and are not here as they were: the rest is lost: no\n";
        let head = "--- stdout (2 bytes, shown as 3 bytes of text; the rest is lost: no)";
        assert_eq!(done(head).await, (1, told.to_owned()));
        // What failed says so by itself.
        let failed = shown(TaskStatus::Failed, "", "exit code: 42\n--- stdout (the last 3 of 9 bytes)\nab\n").await;
        assert_eq!(failed, (42, String::new()));
    }
}
