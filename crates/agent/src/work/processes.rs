//! A process and all that it started, wherever that went: it ends together.

use std::{
    collections::HashSet,
    fs, io,
    process::{ExitStatus, Stdio},
};

use nix::{
    libc,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use uuid::Uuid;

/// Looks for what is left. Whoever makes processes faster than this is left to the limits of the sandbox.
const ROUNDS: usize = 64;

/// The variable that tells the processes of one child from all others.
const MARK: &str = "MI_RUN";

/// A child in a session of its own. All of it is killed when this is dropped.
pub(super) struct Processes {
    child: Child,
    session: Pid,
    /// [`MARK`] with its value, as the environment of each has it.
    mark: Vec<u8>,
}

impl Processes {
    /// Starts it without input; also answers its output.
    pub(super) fn spawn(command: &mut Command) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let run = Uuid::new_v4().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env(MARK, &run).kill_on_drop(true);
        // SAFETY: the call is one that may be made between fork and exec.
        unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
        let mut child = command.spawn()?;
        let gone = || io::Error::other("the process has no id or no output");
        let id = child.id().and_then(|id| libc::pid_t::try_from(id).ok()).ok_or_else(gone)?;
        let (stdout, stderr) = child.stdout.take().zip(child.stderr.take()).ok_or_else(gone)?;
        let mark = format!("{MARK}={run}").into_bytes();
        Ok((Self { child, session: Pid::from_raw(id), mark }, stdout, stderr))
    }

    /// Waits for the end of the first process only.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Kills all of it: the group, and whoever has left it.
    pub(super) fn kill(&self) {
        let _ = killpg(self.session, Signal::SIGKILL);
        let mut killed = HashSet::new();
        for _ in 0..ROUNDS {
            let left: Vec<i32> = self.left().into_iter().filter(|id| killed.insert(*id)).collect();
            if left.is_empty() {
                return;
            }
            for id in left {
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
    }

    fn left(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| self.owns(*id)).collect()
    }

    fn owns(&self, id: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let (Some(state), Some(session)) = (fields.first(), fields.get(3)) else { return false };
        if *state == "Z" {
            return false;
        }
        let marked = || {
            let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.mark)
        };
        session.parse() == Ok(self.session.as_raw()) || marked()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill();
    }
}
