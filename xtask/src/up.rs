//! `cargo xtask up`: a release build that serves, with a working colony to look at.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Result, process, target_directory};

const ONCE: &str = "--once";
const COLONY: &str = "My Colony";
const AGENT: &str = "analyst";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    process::run(&mut process::cargo(&["build", "--release", "--locked", "--bin", "mi"]))?;
    let mi = target_directory()?.join("release/mi");

    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let ready_file = dir.path().join("ready.json");
    let mut command = Command::new(&mi);
    // Where the user stands, not at the root: paths in the arguments are relative to that.
    command.arg("up").args(args.iter().filter(|arg| *arg != ONCE));
    eprintln!("$ {}", process::line(&command));
    let mut platform = Platform(process::spawn(command.arg("--ready-file").arg(&ready_file))?);

    let client = platform.ready(&ready_file, mi)?;
    client.show()?;
    if args.iter().any(|arg| arg == ONCE) {
        process::send(&platform.0, Signal::SIGTERM);
        let stopped = process::wait(&mut platform.0)?;
        return Ok(match stopped.success() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        });
    }
    println!("mi is serving at {}; Ctrl-C stops it", client.endpoint);
    process::wait(&mut platform.0).map(process::exit_code)
}

/// A running `mi up`, told to stop when dropped: a show that failed leaves nothing behind.
struct Platform(Child);

impl Platform {
    /// Waits until it serves.
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
struct Client {
    mi: PathBuf,
    endpoint: String,
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

    /// Makes sure of a colony with an agent, and shows what there is to see of it.
    fn show(&self) -> Result {
        let colonies = self.json(&["colonies", "list", "-o", "json"])?;
        let id = match named(&colonies, COLONY) {
            Some(colony) => text(colony, "id")?,
            None => text(&self.json(&["colonies", "create", "--name", COLONY, "-o", "json"])?, "id")?,
        };
        let agents = self.json(&["agents", "list", "--colony", &id, "-o", "json"])?;
        if named(&agents, AGENT).is_none() {
            self.run(&["agents", "hire", "--colony", &id, "--name", AGENT, "--model", "sonnet", "--wait"])?;
        }
        self.run(&["agents", "list", "--colony", &id])?;
        self.run(&["agents", "logs", &id, AGENT])?;
        self.run(&["agents", "activity", &id, AGENT, "--limit", "5"])?;
        self.run(&["status"])
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.mi);
        // The environment, not the arguments: those are printed, and `ps` shows them.
        command.args(args).env("MI_ENDPOINT", &self.endpoint).env("MI_API_KEY", &self.api_key).stdin(Stdio::null());
        command
    }

    /// Shows what a command prints.
    fn run(&self, args: &[&str]) -> Result {
        process::run(&mut self.command(args))
    }

    /// Reads what a command prints.
    fn json(&self, args: &[&str]) -> Result<Value> {
        let mut command = self.command(args);
        let line = process::line(&command);
        eprintln!("$ {line}");
        serde_json::from_str(&process::output(&mut command)?).map_err(|error| format!("`{line}`: {error}"))
    }
}

/// The resource with this name.
fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|resource| resource["name"] == name)
}

fn text(resource: &Value, field: &str) -> Result<String> {
    resource[field].as_str().map(str::to_owned).ok_or_else(|| format!("`mi` shows no {field}: {resource}"))
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

    #[test]
    fn resources_are_found_by_name() {
        let list = json!([{"id": "1", "name": "Other"}, {"id": "2", "name": COLONY}]);
        assert_eq!(text(named(&list, COLONY).expect("listed"), "id").expect("id"), "2");
        assert!(named(&json!([]), COLONY).is_none());
    }
}
