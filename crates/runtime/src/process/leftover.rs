//! Remembers process groups on disk, so that the next start can kill what a dead platform left behind.
//!
//! A child dies with the platform by itself; this is for the children of children.

use std::{fs, path::Path};

use mi_kernel::{Error, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

const FILE: &str = "pid";

/// Notes the group's leader with its start time, since process ids are used again.
pub(super) fn remember(home: &Path, group: Pid) {
    if let Some(started) = start_time(group)
        && let Err(error) = fs::write(home.join(FILE), format!("{group} {started}"))
    {
        tracing::warn!(target: "mi::runtime", %error, "a process group could not be noted down");
    }
}

/// The group is gone.
pub(super) fn forget(home: &Path) {
    let _ = fs::remove_file(home.join(FILE));
}

/// Kills every group noted below the root.
pub(super) fn kill_all(root: &Path) -> Result<()> {
    for office in entries(root)? {
        for home in entries(&office)? {
            let Ok(note) = fs::read_to_string(home.join(FILE)) else {
                continue;
            };
            forget(&home);
            let mut words = note.split_whitespace();
            let group = words.next().and_then(|word| word.parse().ok()).map(Pid::from_raw);
            let Some(group) = group.filter(|group| group.as_raw() > 1) else {
                continue;
            };
            // The leader may be dead while others of its group live on: then its id cannot have been used again either,
            // because the group still holds it. Only a different start time says that it was.
            let reused = start_time(group).is_some_and(|started| Some(started.as_str()) != words.next());
            if !reused && killpg(group, Signal::SIGKILL).is_ok() {
                tracing::info!(target: "mi::runtime", %group, "killed what an earlier platform had left running");
            }
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let unreadable = |error| {
        let text = format!("cannot read the directory {}", directory.display());
        Error::precondition("DATA_DIR", text).caused_by(error)
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Field 22 of /proc/PID/stat, counted after the command name, which may hold anything (proc(5)).
fn start_time(process: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}
