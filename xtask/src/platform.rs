//! A `mi up` of our own, and `mi` as its client.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Result, process, target_directory};

/// Builds `mi`; answers where it is.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let mut args = vec!["build", "--locked", "--bin", "mi"];
    if release {
        args.push("--release");
    }
    process::run(&mut process::cargo(&args))?;
    Ok(target_directory()?.join(if release { "release/mi" } else { "debug/mi" }))
}

/// A running `mi up`, told to stop when dropped: a show that failed leaves nothing behind.
pub(crate) struct Platform(Child);

impl Platform {
    /// Starts `mi up` with these arguments and waits until it serves.
    pub(crate) fn start(mi: &Path, args: &[String]) -> Result<(Self, Client)> {
        let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let ready_file = dir.path().join("ready.json");
        let mut command = Command::new(mi);
        // Where the user stands, not at the root: paths in the arguments are relative to that.
        command.arg("up").args(args);
        eprintln!("$ {}", process::line(&command));
        let mut platform = Self(process::spawn(command.arg("--ready-file").arg(&ready_file))?);
        let client = platform.ready(&ready_file, mi.to_owned())?;
        Ok((platform, client))
    }

    fn ready(&mut self, file: &Path, mi: PathBuf) -> Result<Client> {
        loop {
            // Written whole under another name first: what is there can be read.
            match fs::read_to_string(file) {
                Ok(text) => return Client::new(mi, &text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{}: {error}", file.display())),
            }
            // No limit: the first start of a platform may have much to do, and Ctrl-C ends the wait.
            if let Some(status) = process::exited(&mut self.0)? {
                return Err(format!("`mi up` ended before it served: {status}"));
            }
            process::pause();
        }
    }

    /// Tells it to stop, and waits for that.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        process::send(&self.0, Signal::SIGTERM);
        self.wait()
    }

    /// Waits until it ends.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        process::wait(&mut self.0)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // An error means that there is nothing left to wait for.
        if matches!(self.0.try_wait(), Ok(None)) {
            process::send(&self.0, Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Runs `mi` against the platform.
pub(crate) struct Client {
    mi: PathBuf,
    pub(crate) endpoint: String,
    api_key: String,
}

impl Client {
    /// From the text of a ready file.
    fn new(mi: PathBuf, ready: &str) -> Result<Self> {
        let ready: Value = serde_json::from_str(ready).map_err(|error| format!("the ready file: {error}"))?;
        let text = |name: &str| match ready[name].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("the ready file has no {name}")),
        };
        Ok(Self { mi, endpoint: text("endpoint")?, api_key: text("api_key")? })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.mi);
        // The environment, not the arguments: those are printed, and `ps` shows them.
        command.args(args).env("MI_ENDPOINT", &self.endpoint).env("MI_API_KEY", &self.api_key).stdin(Stdio::null());
        command
    }

    /// Shows what a command prints.
    pub(crate) fn run(&self, args: &[&str]) -> Result {
        process::run(&mut self.command(args))
    }

    /// Reads what a command prints.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let mut command = self.command(args);
        let line = process::line(&command);
        eprintln!("$ {line}");
        serde_json::from_str(&process::output(&mut command)?).map_err(|error| format!("`{line}`: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ready_file_says_where_and_with_which_key() {
        let ready = json!({"endpoint": "http://127.0.0.1:1", "metrics_endpoint": "x", "api_key": "k", "pid": 2});
        let client = Client::new(PathBuf::from("mi"), &ready.to_string()).expect("whole");
        assert_eq!((client.endpoint.as_str(), client.api_key.as_str()), ("http://127.0.0.1:1", "k"));
        let error = Client::new(PathBuf::from("mi"), r#"{"endpoint": "x"}"#).err();
        assert_eq!(error.as_deref(), Some("the ready file has no api_key"));
    }

    #[test]
    fn a_platform_that_ends_before_it_serves_is_an_error() {
        let child = process::spawn(Command::new("sh").args(["-c", "exit 3"])).expect("started");
        let error = Platform(child).ready(Path::new("no-such-file"), PathBuf::from("mi")).err().expect("not served");
        assert!(error.ends_with("exit status: 3"), "{error}");
    }
}
