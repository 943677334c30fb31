//! One run of a shell script in the workspace, for command tasks and for the model's shell.
//!
//! It reads nothing, ends with everything that it started, and takes no longer than it may.

use std::{fs, io, path::PathBuf, process::Stdio, time::Duration};

use mi_kernel::receipt::Command as Receipt;
use mi_proto::v1::{LogStream, Task};

use super::{
    lease,
    output::{KEPT, Output},
    processes::{KILLED, Processes, code},
    shared::{Shared, is_private},
    surroundings::Surroundings,
};
use crate::blocking::blocking;

/// How long output may come after the script has ended, from what it left running.
pub(super) const AFTERWARDS: Duration = Duration::from_secs(1);

/// A script that has ended.
pub(super) struct Ran {
    /// None: it was stopped at the time limit.
    pub(super) exit_code: Option<i32>,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    /// What goes on the receipt.
    pub(super) receipt: Receipt,
    surroundings: Surroundings,
}

impl Ran {
    /// Where it put what it wants published.
    pub(super) fn artifacts(&self) -> PathBuf {
        self.surroundings.path().join("artifacts")
    }

    /// Exit code and output, each output's last bytes. `note` says where the rest of an output is.
    pub(super) fn text(&self, limit: Duration, most: usize, note: impl Fn(&str) -> Option<String>) -> String {
        let mut text = match self.exit_code {
            Some(code) => format!("exit code: {code}\n"),
            None => format!("no exit code: stopped after {} s, the time limit\n", limit.as_secs()),
        };
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if output.is_empty() {
                continue;
            }
            let (tail, cut) = output.tail(most);
            let (ends, note) = (tail.ends_with('\n'), note(name).unwrap_or_default());
            text += &format!("--- {name}");
            if cut {
                text += &format!(" (the last {} of {} bytes{note})", tail.len(), output.total());
            } else if !output.is_text() {
                text += &format!(" ({} bytes, shown as {} bytes of text{note})", output.total(), tail.len());
            } else if !ends {
                text += " (no newline at the end)";
            }
            text += &format!("\n{tail}");
            if !ends {
                text += "\n";
            }
        }
        text
    }
}

/// Runs a script to its end, or to the time limit.
pub(super) async fn run(shared: &Shared, task: &Task, script: &str, limit: Duration) -> io::Result<Ran> {
    let surroundings = Surroundings::new(shared, "task-", Some(&task.id)).await?;
    let directory = surroundings.path();
    let (file, artifacts) = (directory.join("script"), directory.join("artifacts"));
    let (written, made, content) = (file.clone(), artifacts.clone(), script.to_owned());
    blocking(move || fs::write(written, content).and_then(|()| fs::create_dir(made))).await?;
    let mut command = surroundings.command(shared, "/bin/sh");
    command
        .arg(&file)
        .env("MI_TASK_ID", &task.id)
        .env("MI_ATTEMPT", task.attempt.to_string())
        .env("MI_ARTIFACTS", &artifacts)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut processes = Processes::spawn(&mut command, false)?;
    let (_, out, err) = processes.pipes();
    let (out, err) = out.zip(err).ok_or_else(|| io::Error::other("the script has no output"))?;
    let log = (!is_private(task)).then(|| shared.log.clone());
    let output = |stream| Output::new(stream, format!("task {}: ", task.id), log.clone());
    let (mut stdout, mut stderr) = (output(LogStream::Stdout), output(LogStream::Stderr));
    let status = {
        let printed = async {
            tokio::join!(stdout.read(out, directory), stderr.read(err, directory));
        };
        tokio::pin!(printed);
        let mut open = true;
        let ended = tokio::time::timeout(limit, async {
            loop {
                tokio::select! {
                    status = processes.wait() => return status,
                    () = &mut printed, if open => open = false,
                }
            }
        });
        let status = ended.await.ok().transpose()?;
        if open && status.is_some() {
            open = tokio::time::timeout(AFTERWARDS, &mut printed).await.is_err();
        }
        processes.kill().await;
        if open {
            // The pipes close with the last of the processes.
            let _ = tokio::time::timeout(AFTERWARDS, &mut printed).await;
        }
        status
    };
    for output in [&mut stdout, &mut stderr] {
        output.finish(directory).await;
    }
    let exit_code = status.map(code);
    let receipt = lease::command(script, exit_code.unwrap_or(KILLED));
    Ok(Ran { exit_code, stdout, stderr, receipt, surroundings })
}

// The result holds both outputs and what is said about them.
const _: () = assert!(2 * KEPT + (4 << 10) < 256 << 10);
