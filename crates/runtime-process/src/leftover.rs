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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::process::{CommandExt, ExitStatusExt},
        path::PathBuf,
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use mi_testkit::until;
    use tempfile::TempDir;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A shell in a process group of its own, with a child that would outlive it; killed at the end, whatever happens.
    struct Group {
        leader: Child,
        /// The leader's child.
        child: Pid,
    }

    impl Group {
        fn start() -> Self {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped()).process_group(0);
            let mut leader = command.spawn().expect("a shell");
            let mut line = String::new();
            let output = leader.stdout.take().expect("piped");
            BufReader::new(output).read_line(&mut line).expect("the child's id");
            let child = Pid::from_raw(line.trim().parse().expect("a number"));
            Self { leader, child }
        }

        fn id(&self) -> Pid {
            Pid::from_raw(self.leader.id().try_into().expect("a small number"))
        }

        fn alive(&mut self) -> bool {
            self.leader.try_wait().expect("asks").is_none()
        }

        /// Waits for the end of the leader; answers the signal that ended it.
        fn end(&mut self) -> Option<i32> {
            self.leader.wait().expect("ends").signal()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = killpg(self.id(), Signal::SIGKILL);
            let _ = self.leader.wait();
        }
    }

    /// Gone, or dead and waiting to be collected by whoever adopted it.
    async fn until_dead(process: Pid) {
        until("the process is dead", LONG, async || {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
            match state {
                None | Some("Z" | "X") => Ok(Some(())),
                Some(state) => Err(format!("state {state}")),
            }
        })
        .await;
    }

    fn home(root: &TempDir, name: &str) -> PathBuf {
        let home = root.path().join("office").join(name);
        fs::create_dir_all(&home).expect("made");
        home
    }

    #[tokio::test]
    async fn a_noted_group_is_killed_to_the_last_process_and_forgotten() {
        let root = tempfile::tempdir().expect("made");
        let (mut noted, mut other) = (Group::start(), Group::start());
        let home = home(&root, "agent");
        remember(&home, noted.id());
        kill_all(root.path()).expect("reads the root");
        assert_eq!(noted.end(), Some(Signal::SIGKILL as i32));
        until_dead(noted.child).await;
        assert!(!home.join(FILE).exists());
        assert!(other.alive(), "a group that is noted nowhere");
        kill_all(root.path()).expect("again");
    }

    #[tokio::test]
    async fn a_group_whose_leader_is_dead_is_killed_too() {
        let root = tempfile::tempdir().expect("made");
        let mut group = Group::start();
        let home = home(&root, "agent");
        remember(&home, group.id());
        nix::sys::signal::kill(group.id(), Signal::SIGKILL).expect("kills the leader alone");
        group.end();
        assert!(start_time(group.child).is_some(), "the child lives on");
        kill_all(root.path()).expect("reads the root");
        until_dead(group.child).await;
    }

    #[tokio::test]
    async fn a_process_id_that_was_used_again_is_left_alone() {
        let root = tempfile::tempdir().expect("made");
        let mut group = Group::start();
        let home = home(&root, "agent");
        fs::write(home.join(FILE), format!("{} 1", group.id())).expect("written");
        kill_all(root.path()).expect("reads the root");
        assert!(group.alive());
        assert!(start_time(group.child).is_some());
        assert!(!home.join(FILE).exists(), "the note is used up");
    }

    #[test]
    fn notes_that_make_no_sense_kill_nobody() {
        let root = tempfile::tempdir().expect("made");
        fs::write(root.path().join("a file"), "not an office").expect("written");
        // Above all not group 0, which is our own, and not -1 or 1, which are everybody's.
        for (number, note) in ["", "0 5", "1 5", "-1 5", "nonsense", "99999999999999 1"].into_iter().enumerate() {
            fs::write(home(&root, &format!("agent-{number}")).join(FILE), note).expect("written");
        }
        kill_all(root.path()).expect("reads the root");
        assert!(kill_all(&root.path().join("nowhere")).is_err());
    }

    #[test]
    fn forgetting_twice_is_fine() {
        let root = tempfile::tempdir().expect("made");
        let (home, group) = (home(&root, "agent"), Group::start());
        remember(&home, group.id());
        assert!(fs::read_to_string(home.join(FILE)).expect("noted").starts_with(&format!("{} ", group.id())));
        forget(&home);
        forget(&home);
        assert!(!home.join(FILE).exists());
    }
}
