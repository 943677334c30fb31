//! `mi cp`: files and directories, from an agent's workspace to here and back.
//!
//! The agent's side is this very program, run there as any command of an operator.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use mi_proto::v1::ExecStart;

use crate::{
    archive::{self, Staged},
    context::Context,
    exec::{self, Pieced, Pieces, Printed},
    failure::Failure,
    runtime::stop_signal,
    wait::spinner,
};

/// Pieces of an archive, in bytes.
const PIECE: usize = 32 << 10;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// What to copy: [COLONY/]NAME:PATH in the workspace of agent NAME, or a path here. Directories are copied with all
    /// that is in them
    #[arg(value_name = "FROM")]
    from: String,
    /// Where it goes, in the same way; one of the two is here, the other in an agent. Into it, when that is a directory or
    /// ends with a slash; else under that name. Files that are there are replaced
    #[arg(value_name = "TO")]
    to: String,
}

/// A path in the workspace of an agent.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    colony: Option<String>,
    agent: String,
    path: String,
}

pub(crate) async fn run(args: CpArgs, context: &Context) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    if [&args.from, &args.to].iter().any(|place| place.as_str() == "-") {
        return usage("`-` is no place to copy from or to; `mi agents exec` runs commands that read and print");
    }
    match (remote(&args.from)?, remote(&args.to)?) {
        (Some(from), None) => download(context, from, &args.to).await,
        (None, Some(to)) => upload(context, Path::new(&args.from), to).await,
        (Some(_), Some(_)) => usage("both are in agents; copy to here first, and from here to there"),
        (None, None) => usage("neither is in an agent; say COLONY/NAME:PATH, or NAME:PATH in the default colony"),
    }
}

/// The text as a path in an agent: a name with a colon after it, perhaps with a colony before it. A path here that looks
/// like that is written with `./` before it, also when the name is empty: it is a variable of a script that was not set.
fn remote(text: &str) -> Result<Option<Remote>, Failure> {
    let Some((place, path)) = text.split_once(':').filter(|_| !text.starts_with(['.', '/'])) else {
        return Ok(None);
    };
    let (colony, agent) = match place.rsplit_once('/') {
        Some((colony, agent)) => (Some(colony.to_owned()), agent),
        None => (None, place),
    };
    if agent.is_empty() {
        let told = format!("{text:?} names no agent before its colon; a path here is written with ./ before it");
        return Err(Failure::Usage(told));
    }
    let path = if path.is_empty() { "." } else { path };
    Ok(Some(Remote { colony, agent: agent.to_owned(), path: path.to_owned() }))
}

/// The name under which it goes into a directory: its own, or this one if it has none.
fn name<'a>(path: &'a Path, nameless: &'a str) -> &'a OsStr {
    path.file_name().unwrap_or(OsStr::new(nameless))
}

async fn start(context: &Context, remote: &Remote, command: Vec<String>, stdin: bool) -> Result<ExecStart, Failure> {
    let office_id = context.colony_or_default(remote.colony.as_deref()).await?;
    Ok(ExecStart { office_id, name: remote.agent.clone(), command, stdin, terminal: None })
}

/// This program, as the agent runs it.
fn command(verb: &str, arguments: &[&str]) -> Vec<String> {
    ["mi", "agent", verb, "--"].iter().chain(arguments).map(|word| (*word).to_owned()).collect()
}

async fn download(context: &Context, from: Remote, to: &str) -> Result<(), Failure> {
    let place = archive::destination(Path::new(to), name(Path::new(&from.path), &from.agent)).map_err(unwritten)?;
    let start = start(context, &from, command("pack", &[&from.path]), false).await?;
    let stop = stop_signal()?;
    let (pieces, send) = Pieced::new();
    let staging = tokio::task::spawn_blocking(move || archive::stage(BufReader::with_capacity(PIECE, pieces), place));
    let bar = spinner(format!("copying {}:{}", from.agent, from.path));
    let sizes = tokio_stream::empty();
    let print = async |printed: Printed| match printed {
        // Whoever reads no more has found something wrong, and says so.
        Printed::Out(bytes) => send.send(bytes).await.map_err(|_| Failure::Closed),
        Printed::Err(bytes) => {
            context.out.remark(&bytes);
            Ok(())
        }
    };
    let ended = tokio::select! {
        ended = exec::run(context, start, None, sizes, print) => ended,
        () = stop => Err(Failure::new("interrupted; nothing was written")),
    };
    drop(send);
    bar.finish_and_clear();
    // What it made so far goes before this ends.
    let staged = staging.await.map_err(|error| Failure::new(format!("the copy broke: {error}")))?;
    match ended {
        Ok(0) => place_all(staged, context),
        Ok(code) => Err(Failure::Ended(code)),
        Err(Failure::Closed) => {
            staged.map_err(unwritten)?;
            Err(Failure::new("the agent sent more than it was asked for; nothing was written"))
        }
        Err(failure) => Err(failure),
    }
}

fn place_all(staged: io::Result<Staged>, context: &Context) -> Result<(), Failure> {
    for left_out in staged.and_then(Staged::place).map_err(unwritten)? {
        context.out.note(&format!("left out: {left_out}"));
    }
    Ok(())
}

async fn upload(context: &Context, from: &Path, to: Remote) -> Result<(), Failure> {
    let unreadable = |error: io::Error| Failure::new(error.to_string());
    let found = fs::canonicalize(from);
    let found = found.map_err(|error| Failure::io(format!("{} cannot be read", from.display()), &error))?;
    // Of `.` and `..` the name is that of the directory.
    let given = name(from, "").to_str().filter(|name| !name.is_empty()).or(name(&found, "root").to_str());
    let given = given.ok_or_else(|| Failure::new(format!("the name of {} is no text", from.display())))?;
    let start = start(context, &to, command("unpack", &[&to.path, given]), true).await?;
    let stop = stop_signal()?;
    let (pieces, input) = Pieces::new();
    let path = from.to_owned();
    let packing = tokio::task::spawn_blocking(move || archive::pack(&path, BufWriter::with_capacity(PIECE, pieces)));
    let bar = spinner(format!("copying to {}:{}", to.agent, to.path));
    let print = async |printed: Printed| {
        let (Printed::Out(bytes) | Printed::Err(bytes)) = printed;
        context.out.remark(&bytes);
        Ok(())
    };
    let ended = tokio::select! {
        ended = exec::run(context, start, Some(input), tokio_stream::empty(), print) => ended,
        () = stop => Err(Failure::new("interrupted; nothing was written")),
    };
    bar.finish_and_clear();
    let packed = packing.await.map_err(|error| Failure::new(format!("the copy broke: {error}")))?;
    match (ended, packed) {
        (Ok(0), packed) => {
            for left_out in packed.map_err(unreadable)? {
                context.out.note(&format!("left out: {left_out}"));
            }
            Ok(())
        }
        // What went wrong here is why it went wrong there.
        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
        (Ok(code), _) => Err(Failure::Ended(code)),
        (Err(failure), _) => Err(failure),
    }
}

fn unwritten(error: io::Error) -> Failure {
    Failure::new(error.to_string())
}

/// The agent's side of a download: writes the archive to standard output.
pub(crate) fn pack(path: &Path) -> Result<(), Failure> {
    let left_out = archive::pack(path, BufWriter::with_capacity(PIECE, io::stdout().lock())).map_err(unwritten)?;
    tell(&left_out);
    Ok(())
}

/// The agent's side of an upload: takes the archive from standard input.
pub(crate) fn unpack(to: &Path, name: &OsStr) -> Result<(), Failure> {
    let place: PathBuf = archive::destination(to, name).map_err(unwritten)?;
    let staged = archive::stage(BufReader::with_capacity(PIECE, io::stdin().lock()), place);
    tell(&staged.and_then(Staged::place).map_err(unwritten)?);
    Ok(())
}

fn tell(left_out: &[String]) {
    for line in left_out {
        // What cannot be said there cannot be said anywhere.
        let _ = writeln!(io::stderr(), "left out: {}", crate::text::escape(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_an_agent_is_told_from_one_that_is_here() {
        let there = |colony: Option<&str>, agent: &str, path: &str| {
            Some(Remote { colony: colony.map(str::to_owned), agent: agent.into(), path: path.into() })
        };
        for (text, expected) in [
            ("acme/analyst:report.md", there(Some("acme"), "analyst", "report.md")),
            ("My Colony/analyst:a b/c:d", there(Some("My Colony"), "analyst", "a b/c:d")),
            ("a/b/analyst:", there(Some("a/b"), "analyst", ".")),
            ("analyst:/tmp/x", there(None, "analyst", "/tmp/x")),
            ("report.md", None),
            ("dir/report.md", None),
            ("./a:b", None),
            ("/a:b", None),
            ("../a:b", None),
            ("./:b", None),
        ] {
            assert_eq!(remote(text).expect("well-formed"), expected, "{text}");
        }
        for text in [":b", "a/:b", ":"] {
            let failure = remote(text).expect_err(text);
            assert_eq!((failure.exit_code(), failure.message().contains("names no agent")), (2, true), "{text}");
        }
    }

    #[test]
    fn what_has_no_name_is_called_otherwise() {
        assert_eq!(name(Path::new("a/b c"), "x"), "b c");
        assert_eq!(name(Path::new("a/b/"), "x"), "b");
        for path in [".", "..", "/", "a/.."] {
            assert_eq!(name(Path::new(path), "x"), "x", "{path}");
        }
    }
}
