//! `mi agents exec`: a command inside an agent, with this terminal or without.

use std::{
    env,
    io::{self, IsTerminal},
    thread,
};

use bytes::Bytes;
use clap::Args;
use crossterm::terminal;
use futures::{Stream, stream};
use mi_proto::v1::{ExecStart, Terminal, TerminalSize};
use tokio::{
    io::{AsyncWriteExt, stderr, stdout},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{AgentArg, target};
use crate::{
    context::Context,
    exec::{self, Pieces, Printed},
    failure::Failure,
    output::{Output, unwritten},
    runtime::stop_signal,
};

/// Exit code as the shell has it.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    agent: AgentArg,
    /// Pass standard input on to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal, which is this one
    #[arg(short = 't', long)]
    tty: bool,
    /// The command and its arguments; for a shell's syntax `sh -c '...'`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn exec(args: ExecArgs, context: &Context) -> Result<(), Failure> {
    if args.tty && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Failure::Usage("-t needs standard input and output to be a terminal; leave it out".into()));
    }
    let (office_id, name) = target(&args.agent, context).await?;
    let terminal = if args.tty { Some(Terminal { size: Some(size()?), kind: kind() }) } else { None };
    let start = ExecStart { office_id, name, command: args.command, stdin: args.stdin, terminal };
    let (sizes, stop, mut hang_up) = (sizes(args.tty)?, stop_signal()?, signals(SignalKind::hangup())?);
    // Only now, and until this ends, whatever ends it.
    let raw = if args.tty && args.stdin { Some(Raw::enter()?) } else { None };
    let (input, out) = (args.stdin.then(read_stdin), context.out);
    let print = async |printed: Printed| show(out, args.tty, printed).await;
    // Whoever leaves ends the command.
    let ended = tokio::select! {
        ended = exec::run(context, start, input, sizes, print) => ended,
        () = stop => Ok(INTERRUPTED),
        _ = hang_up.recv() => Ok(INTERRUPTED),
    };
    drop(raw);
    match ended? {
        0 => Ok(()),
        code => Err(Failure::Ended(code)),
    }
}

/// Keys go to the command as they are typed, while this is there.
struct Raw;

impl Raw {
    fn enter() -> Result<Self, Failure> {
        let failed = |error| Failure::io("the terminal cannot be taken over", &error);
        terminal::enable_raw_mode().map(|()| Self).map_err(failed)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _ = terminal::disable_raw_mode();
    }
}

fn size() -> Result<TerminalSize, Failure> {
    let (columns, rows) = terminal::size().map_err(|error| Failure::io("the terminal has no size", &error))?;
    Ok(TerminalSize { rows: i32::from(rows.max(1)), columns: i32::from(columns.max(1)) })
}

/// What kind of terminal this is, as far as it can be told.
fn kind() -> String {
    let fits = |kind: &String| kind.len() <= 64 && kind.bytes().all(|byte| byte.is_ascii_graphic());
    env::var("TERM").ok().filter(fits).unwrap_or_default()
}

/// The size of the terminal, each time that it changes.
fn sizes(tty: bool) -> Result<impl Stream<Item = TerminalSize> + Send + 'static, Failure> {
    let changes = if tty { Some(signals(SignalKind::window_change())?) } else { None };
    Ok(stream::unfold(changes, |changes| async {
        let mut changes = changes?;
        changes.recv().await?;
        Some((size().ok()?, Some(changes)))
    }))
}

fn signals(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::io("signals cannot be received", &error))
}

/// Standard input, read by a thread of its own: what waits for a key is not waited for at the end.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (mut pieces, input) = Pieces::new();
    thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut pieces));
    input
}

/// Shows what the command printed. Unless the terminal is the command's own, nothing that goes to it moves its cursor.
async fn show(out: Output, tty: bool, printed: Printed) -> Result<(), Failure> {
    match printed {
        Printed::Out(bytes) if !tty && io::stdout().is_terminal() => out.exact(&bytes),
        Printed::Err(bytes) if !tty && io::stderr().is_terminal() => {
            out.remark(&bytes);
            Ok(())
        }
        Printed::Out(bytes) => {
            let mut to = stdout();
            to.write_all(&bytes).await.map_err(|error| unwritten(&error))?;
            to.flush().await.map_err(|error| unwritten(&error))
        }
        Printed::Err(bytes) => {
            let mut to = stderr();
            // What cannot be said there cannot be said anywhere.
            let _ = to.write_all(&bytes).await;
            let _ = to.flush().await;
            Ok(())
        }
    }
}
