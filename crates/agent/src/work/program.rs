//! The program that an agent runs instead of doing tasks, as long as it lives.
//!
//! It is no script of a task: it has no time limit, and what it prints is not kept but in the log.

use std::{
    convert::Infallible,
    future::pending,
    io,
    process::Stdio,
    time::{Duration, Instant},
};

use mi_client::jittered;
use mi_kernel::backoff::Backoff;
use mi_proto::v1::LogStream;

use super::{
    output::Lines,
    processes::{Processes, code},
    script::AFTERWARDS,
    shared::Shared,
    surroundings::Surroundings,
};

/// Waits before it is started again, before jitter.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
/// One that ran for so long did not fail at its start.
const STEADY: Duration = Duration::from_secs(60);

/// Runs it again and again until it ends well, and then waits.
pub(super) async fn run(shared: &Shared, command: &str) -> Infallible {
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let ended = match once(shared, command).await {
            Ok(0) => {
                shared.log.say("the command has ended; it runs again when the agent is started or restarted".into());
                return pending().await;
            }
            Ok(code) => format!("the command ended with exit code {code}"),
            Err(error) => format!("the command could not be run: {error}"),
        };
        failures = if begun.elapsed() < STEADY { failures + 1 } else { 1 };
        let pause = jittered(AGAIN.after(failures));
        shared.log.say(format!("{ended}; it is started again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

/// Runs it to its end: its exit code.
async fn once(shared: &Shared, command: &str) -> io::Result<i32> {
    let _busy = shared.idle.busy();
    let surroundings = Surroundings::new(shared, "command-", None).await?;
    let mut shell = surroundings.command(shared, "/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut processes = Processes::spawn(&mut shell, false)?;
    let (_, out, err) = processes.pipes();
    let (out, err) = out.zip(err).ok_or_else(|| io::Error::other("it has no output"))?;
    let lines = |stream| Lines::new(stream, String::new(), Some(shared.log.clone()));
    let (mut stdout, mut stderr) = (lines(LogStream::Stdout), lines(LogStream::Stderr));
    let printed = async {
        tokio::join!(stdout.read(out), stderr.read(err));
    };
    tokio::pin!(printed);
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = processes.wait() => break status,
            () = &mut printed, if open => open = false,
        }
    };
    processes.kill().await;
    if open {
        // The pipes close with the last of the processes.
        let _ = tokio::time::timeout(AFTERWARDS, &mut printed).await;
    }
    status.map(code)
}
