//! One run of a shell script in the workspace, for command tasks and for the model's shell.
//!
//! It reads nothing, ends with everything that it started, and takes no longer than it may.

use std::{
    fs, io,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use mi_kernel::receipt::Command as Receipt;
use mi_proto::v1::{LogStream, Task};
use tempfile::TempDir;
use tokio::process::Command;

use super::{
    Shared, lease,
    output::{KEPT, Output},
    processes::Processes,
};

/// How long output may come after the script has ended, from what it left running.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// Variables of the agent's own that are none of a script's business.
const WITHHELD: &[&str] =
    &["MI_ENROL_TOKEN", "MI_NEW_IDENTITY", "MI_MODEL_API", "MI_MODEL_ID", "MI_MODEL_URL", "MI_MODEL_KEY"];

/// A script that has ended.
pub(super) struct Ran {
    /// None: it was stopped at the time limit.
    pub(super) exit_code: Option<i32>,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    /// What goes on the receipt.
    pub(super) receipt: Receipt,
    directory: TempDir,
}

impl Ran {
    /// Where it put what it wants published.
    pub(super) fn artifacts(&self) -> PathBuf {
        self.directory.path().join("artifacts")
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

/// Runs it.
pub(super) async fn run(shared: &Shared, task: &Task, script: &str, limit: Duration) -> io::Result<Ran> {
    let directory = tempfile::Builder::new().prefix("task-").tempdir_in(&shared.config.temporary)?;
    let (file, artifacts) = (directory.path().join("script"), directory.path().join("artifacts"));
    fs::write(&file, script)?;
    fs::create_dir(&artifacts)?;
    let bin = directory.path().join("bin");
    fs::create_dir(&bin)?;
    // Scripts use `mi` as its operators do. Within the walls it lies on no path, but it is what runs here.
    symlink(format!("/proc/{}/exe", std::process::id()), bin.join("mi"))?;
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = shell(&file);
    command
        .current_dir(&shared.config.workspace)
        .env("PATH", path)
        .env("MI_OFFICE_ID", &shared.office_id)
        .env("MI_TASK_ID", &task.id)
        .env("MI_ATTEMPT", task.attempt.to_string())
        .env("MI_ARTIFACTS", &artifacts);
    let (mut processes, out, err) = Processes::spawn(&mut command)?;
    let output = |stream| Output::new(stream, format!("task {}: ", task.id), shared.log.clone());
    let (mut stdout, mut stderr) = (output(LogStream::Stdout), output(LogStream::Stderr));
    let status = {
        let printed = async {
            tokio::join!(stdout.read(out, directory.path()), stderr.read(err, directory.path()));
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
        output.finish(directory.path());
    }
    let exit_code = status.map(code);
    let receipt = lease::command(script, exit_code.unwrap_or(KILLED));
    Ok(Ran { exit_code, stdout, stderr, receipt, directory })
}

/// A shell with the agent's own environment, but for what is withheld.
fn shell(file: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg(file);
    for name in WITHHELD {
        command.env_remove(name);
    }
    command
}

/// As shells count: 128 and the number of SIGKILL.
const KILLED: i32 = 137;

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(KILLED)
}

// The result holds both outputs and what is said about them.
const _: () = assert!(2 * KEPT + (4 << 10) < 256 << 10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_sees_no_secret_of_the_agent() {
        let command = shell(Path::new("/script"));
        let removed: Vec<_> = command.as_std().get_envs().filter(|(_, value)| value.is_none()).collect();
        for name in ["MI_ENROL_TOKEN", "MI_MODEL_KEY"] {
            assert!(removed.iter().any(|(removed, _)| *removed == name), "{name} in {removed:?}");
        }
    }
}
