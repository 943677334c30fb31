//! Control groups, version 2: memory, processor time and processes of an agent as a whole, where the platform's own group
//! was delegated to it (systemd: `Delegate=yes`).
//!
//! The platform moves into a group beside its agents' first: a group with limits may hold no processes of its own.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use mi_kernel::{Error, Result};
use mi_runtime::Limits;
use nix::unistd::{AccessFlags, access};

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// What cpu.max counts in, in microseconds.
const PERIOD: u64 = 100_000;
const PREFIX: &str = "agent-";

/// The group that agents' groups are made in.
pub(super) struct Groups {
    root: PathBuf,
}

/// The group of one instance; killed and removed when dropped.
pub(crate) struct Group {
    path: PathBuf,
}

fn told(what: &str, error: &io::Error) -> String {
    format!("cgroup v2 is not delegated to the platform ({what}: {error})")
}

fn has_controllers(root: &Path) -> Result<(), String> {
    let offered = fs::read_to_string(root.join("cgroup.controllers"));
    let offered = offered.map_err(|error| told("cgroup.controllers", &error))?;
    let absent: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !offered.split_whitespace().any(|word| word == *name)).collect();
    match absent.is_empty() {
        true => Ok(()),
        false => Err(format!("cgroup v2 offers no {} here", absent.join(", "))),
    }
}

impl Groups {
    /// Takes the platform's own group over, and ends what an earlier platform left in it.
    ///
    /// # Errors
    /// Why there is none, for the report.
    pub(super) fn open() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = own_group(&mounts, &own).ok_or("cgroup v2 is not mounted")?;
        Self::take(path)
    }

    /// Whether they seem to be there to be taken. Nothing is taken: what there is may be a running platform's.
    pub(super) fn offered() -> Result<(), String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let root = own_group(&mounts, &own).ok_or("cgroup v2 is not mounted")?;
        has_controllers(&root)?;
        let subtree = root.join("cgroup.subtree_control");
        access(&subtree, AccessFlags::W_OK).map_err(|error| told("cgroup.subtree_control", &error.into()))
    }

    fn take(root: PathBuf) -> Result<Self, String> {
        has_controllers(&root)?;
        let platform = root.join("platform");
        make(&platform).map_err(|error| told("mkdir", &error))?;
        let id = std::process::id().to_string();
        fs::write(platform.join("cgroup.procs"), &id).map_err(|error| told("cgroup.procs", &error))?;
        if let Err(error) = fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids") {
            // Others are in the group too: it stays theirs.
            let _ = fs::write(root.join("cgroup.procs"), &id);
            let _ = fs::remove_dir(&platform);
            return Err(told("cgroup.subtree_control", &error));
        }
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                drop(Group { path: entry.path() });
            }
        }
        Ok(Self { root })
    }

    /// Makes the group of an instance with its limits.
    pub(super) fn make(&self, name: &str, limits: &Limits) -> Result<Group> {
        let group = Group { path: self.root.join(format!("{PREFIX}{name}")) };
        let set = |file: &str, text: String| fs::write(group.path.join(file), text);
        let made = || -> io::Result<()> {
            make(&group.path)?;
            if let Some(bytes) = limits.memory_bytes {
                set("memory.max", bytes.to_string())?;
                // Not there where the machine has no swap.
                let _ = set("memory.swap.max", "0".into());
                let _ = set("memory.oom.group", "1".into());
            }
            if let Some(pids) = limits.pids {
                set("pids.max", pids.to_string())?;
            }
            if let Some(millis) = limits.cpu_millis {
                // The kernel refuses less than a hundredth of a period.
                set("cpu.max", format!("{} {PERIOD}", (millis * PERIOD / 1000).max(PERIOD / 100)))?;
            }
            Ok(())
        };
        made().map_err(|error| Error::unavailable("the control group could not be made").caused_by(error))?;
        Ok(group)
    }
}

impl Group {
    /// The file that takes processes in.
    pub(crate) fn door(&self) -> io::Result<File> {
        File::options().write(true).open(self.path.join("cgroup.procs"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // Killed processes leave it in a moment; until then it cannot be removed, and the next start tries again.
        if let Err(error) = fs::remove_dir(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(target: "mi::runtime", %error, group = %self.path.display(), "a control group is left");
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Where the group of a process is, from its /proc/PID/mountinfo and /proc/PID/cgroup (proc(5)).
fn own_group(mounts: &str, own: &str) -> Option<PathBuf> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split_whitespace().nth(4)).flatten()
    })?;
    Some(Path::new(mount).join(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_beside_those_of_version_1() {
        let mounts = "31 23 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      40 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      42 31 0:38 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let own = "9:pids:/a\n0::/system.slice/mi.service\n";
        let path = own_group(mounts, own).expect("found");
        assert_eq!(path, Path::new("/sys/fs/cgroup/unified/system.slice/mi.service"));
        assert_eq!(own_group(mounts, "9:pids:/a\n"), None);
        assert_eq!(own_group("", own), None);
    }

    #[test]
    fn a_delegated_group_gets_the_limits_and_one_that_is_not_says_why() {
        let root = tempfile::tempdir().expect("made");
        let taken = |offered: &str| {
            fs::write(root.path().join("cgroup.controllers"), offered).expect("written");
            Groups::take(root.path().to_owned())
        };
        assert_eq!(taken("cpuset memory\n").err().expect("refused"), "cgroup v2 offers no cpu, pids here");
        let groups = taken("cpuset cpu io memory pids\n").expect("delegated");
        let platform = fs::read_to_string(root.path().join("platform/cgroup.procs")).expect("moved");
        assert_eq!(platform, std::process::id().to_string());
        let limits =
            Limits { cpu_millis: Some(1500), memory_bytes: Some(1 << 30), pids: Some(64), ..Limits::default() };
        let group = groups.make("x", &limits).expect("made");
        let read = |file: &str| fs::read_to_string(group.path.join(file)).expect(file);
        assert_eq!(
            (read("cpu.max"), read("memory.max"), read("pids.max")),
            ("150000 100000".to_owned(), (1u64 << 30).to_string(), "64".to_owned(),)
        );
    }
}
