//! `mi up` as a child: timed from its spawn to its ready file.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::Result;

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the ready file is looked for: what a start is measured to.
const POLL: Duration = Duration::from_millis(1);

/// A running `mi up`; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pid: u32,
    /// From the spawn to the ready file.
    pub(crate) took: Duration,
}

impl Daemon {
    /// Starts it over a directory and waits until it serves.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let ready_file = dir.join("ready.json");
        // Of the start before, if there was one.
        let _ = fs::remove_file(&ready_file);
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        let mut command = Command::new(binary()?);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MI_")) {
            command.env_remove(name);
        }
        command
            .arg("up")
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .env("MI_CONFIG_DIR", dir.join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let start = Instant::now();
        let mut child = command.spawn()?;
        while !ready_file.exists() {
            if child.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                let log = fs::read_to_string(dir.join("log"))?;
                return Err(format!("`mi up` does not get ready; its log:\n{log}").into());
            }
            tokio::time::sleep(POLL).await;
        }
        let took = start.elapsed();
        let pid = child.id().ok_or("`mi up` ended")?;
        Ok(Self { child, pid, took })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGTERM, then waits for the end.
    pub(crate) async fn stop(mut self) -> Result {
        // Nobody has waited for the child yet, so the id is still its own.
        signal::kill(Pid::from_raw(self.pid.try_into()?), Signal::SIGTERM)?;
        match tokio::time::timeout(PATIENCE, self.child.wait()).await?? {
            status if status.success() => Ok(()),
            status => Err(format!("`mi up` stopped with {status}").into()),
        }
    }
}

/// The release build of `mi`.
fn binary() -> Result<PathBuf> {
    let path = env::var_os("MI_BIN").ok_or("MI_BIN must name a release build of `mi`; `cargo xtask bench` sets it")?;
    Ok(path.into())
}
