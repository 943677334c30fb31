//! One `mi` process: start until ready, kill, stop.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde::Deserialize;

use crate::until;

/// How long a start may take: a debug build, on a machine that runs other tests.
const START: Duration = Duration::from_secs(60);
/// How long a stop on SIGTERM may take; part of what the platform promises.
const STOP: Duration = Duration::from_secs(20);
/// How much of a log a failure shows.
const TAIL_LINES: usize = 60;

/// What a process writes when it serves.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ready {
    pub(crate) endpoint: String,
    pub(crate) metrics_endpoint: String,
    pub(crate) pid: u32,
    pub(crate) api_key: Option<String>,
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    child: Child,
    log: PathBuf,
    pub(crate) ready: Ready,
}

impl Process {
    /// Starts `command` with a ready file and waits until it serves. Output is appended to `FILES.log` in `dir`.
    ///
    /// # Panics
    /// When it exits or does not get ready; the end of the log is in the text.
    pub(crate) async fn start(name: &'static str, files: &str, command: &mut Command, dir: &Path) -> Self {
        let ready_file = dir.join(format!("{files}.ready.json"));
        // One of an earlier start tells of a process that is gone.
        if let Err(error) = fs::remove_file(&ready_file) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", ready_file.display());
        }
        let log = dir.join(format!("{files}.log"));
        let output = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let child = command
            .arg("--ready-file")
            .arg(&ready_file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log can be opened twice"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let placeholder =
            Ready { endpoint: String::new(), metrics_endpoint: String::new(), pid: child.id(), api_key: None };
        // Owned before the first wait, so that a failed start leaves no process behind.
        let mut process = Self { name, child, log, ready: placeholder };
        process.ready = until(&format!("mi ({name}) serves"), START, async || {
            if let Some(status) = process.exited() {
                panic!("{}", process.tail(&format!("mi ({name}) ended with {status} before it served")));
            }
            match fs::read(&ready_file) {
                Ok(json) => serde_json::from_slice(&json)
                    .map(Some)
                    .map_err(|error| format!("a ready file that is not whole or not ours: {error}")),
                Err(error) => Err(process.tail(&format!("no ready file ({error})"))),
            }
        })
        .await;
        assert_eq!(process.ready.pid, process.child.id(), "the ready file names another process");
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, without waiting for the end.
    pub(crate) fn signal_kill(&mut self) {
        // Fails only when it is gone already.
        let _ = self.child.kill();
    }

    /// SIGKILL: what a crash or a power cut leaves is all there is.
    pub(crate) fn kill9(&mut self) {
        self.signal_kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Panics
    /// When it takes longer than 20 seconds or ends with an error.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        self.ended().await;
    }

    /// SIGTERM, without waiting for the end.
    ///
    /// # Panics
    /// When it had ended before.
    pub(crate) fn terminate(&mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("process ids fit"));
        if let Some(status) = self.exited() {
            panic!("{}", self.tail(&format!("mi ({}) had ended with {status} before it was stopped", self.name)));
        }
        // The child is not waited for yet, so that the id cannot belong to another process.
        signal::kill(pid, Signal::SIGTERM).expect("the process can be signalled");
    }

    /// Waits for the end after [`terminate`](Self::terminate).
    ///
    /// # Panics
    /// When it takes longer than 20 seconds or ends with an error.
    pub(crate) async fn ended(mut self) {
        let what = format!("mi ({}) stops on SIGTERM", self.name);
        let status = until(&what, STOP, async || match self.exited() {
            Some(status) => Ok(Some(status)),
            None => Err(self.tail("still there")),
        })
        .await;
        assert!(status.success(), "{}", self.tail(&format!("mi ({}) stopped with {status}", self.name)));
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for its status")
    }

    /// The text with the end of the log.
    fn tail(&self, text: &str) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("{text}; its log ends with:\n{end}\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The `mi` to run: `MI_BIN`, or the one of the same build as the test.
///
/// # Panics
/// When it is not there, saying how to build it.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("MI_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "MI_BIN names {}, which is not there", path.display());
        return path;
    }
    // Tests are in target/PROFILE/deps, the binary is in target/PROFILE.
    let test = env::current_exe().expect("a test knows its own file");
    let path = test.ancestors().nth(2).expect("tests are in a folder of the target directory").join("mi");
    assert!(
        path.is_file(),
        "{} is not built: run the test with `cargo xtask test`, or `cargo build --bin mi` first, or set MI_BIN",
        path.display()
    );
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is no `mi` and does what this shell script says; `$1` is the ready file.
    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    const SERVE: &str = r#"trap 'exit 0' TERM; echo up
        printf '{"endpoint":"http://e","metrics_endpoint":"http://m","pid":%d}' $$ > "$1.new"; mv "$1.new" "$1"
        while :; do sleep 0.02; done"#;

    #[tokio::test]
    async fn starts_stops_and_is_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let process = Process::start("one", "one", &mut script(SERVE), dir.path()).await;
        assert_eq!(process.ready.endpoint, "http://e");
        process.stop().await;

        let mut process = Process::start("one", "one", &mut script(SERVE), dir.path()).await;
        process.kill9();
        let status = process.exited().expect("it ended");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert_eq!(process.tail("log"), "log; its log ends with:\nup\nup\n");
    }

    #[tokio::test]
    #[should_panic(expected = "mi (one) ended with exit status: 3 before it served; its log ends with:\nno disk")]
    async fn a_start_that_fails_shows_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        Process::start("one", "one", &mut script("echo no disk; exit 3"), dir.path()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "mi (one) stopped with exit status: 4")]
    async fn a_stop_with_an_error_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let serve = SERVE.replace("exit 0", "exit 4");
        Process::start("one", "one", &mut script(&serve), dir.path()).await.stop().await;
    }
}
