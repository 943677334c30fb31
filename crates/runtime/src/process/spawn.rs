//! Starts a child so that it cannot outlive the platform, inherit from it, or exceed its limits.

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
};

use mi_kernel::{Error, Result};
use nix::libc;
use tokio::{
    process::{Child, Command},
    sync::oneshot,
};

use super::{make_private, workspace};
use crate::Launch;

/// Memory of a compute that names no limit: private writable memory, as RLIMIT_DATA counts it.
const DEFAULT_MEMORY: u64 = 2 << 30;
/// Largest file of a compute that names no limit.
const DEFAULT_FILE: u64 = 4 << 30;
const OPEN_FILES: u64 = 1024;

type Job = (Command, oneshot::Sender<io::Result<Child>>);

/// A thread that lives as long as the process and is the parent of all children.
///
/// The kernel kills a child when the *thread* that made it ends (`PR_SET_PDEATHSIG`), and tokio's threads come and go.
pub(super) struct Spawner {
    jobs: std::sync::mpsc::Sender<Job>,
}

impl Spawner {
    pub(super) fn start() -> Result<Self> {
        let (jobs, todo) = std::sync::mpsc::channel::<Job>();
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name("mi-spawner".into());
        thread
            .spawn(move || {
                let _entered = runtime.enter();
                while let Ok((mut command, done)) = todo.recv() {
                    // A caller that is gone drops the child, and with it (kill_on_drop) the process.
                    let _ = done.send(command.spawn());
                }
            })
            .map_err(Error::internal)?;
        Ok(Self { jobs })
    }

    pub(super) async fn spawn(&self, launch: Launch, home: &Path) -> Result<Child> {
        let failed = |error: io::Error| {
            let text = format!("the compute of {:?} could not be started", launch.name);
            Error::unavailable(text).caused_by(error)
        };
        make_private(&workspace::identity(home))?;
        let command = command(&launch, home);
        let (done, child) = oneshot::channel();
        let gone = || Error::internal("the spawner thread is gone");
        self.jobs.send((command, done)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?.map_err(failed)
    }
}

fn command(launch: &Launch, home: &Path) -> Command {
    let workspace = workspace::workspace(home);
    // The running binary itself, also when the file was replaced by an update meanwhile.
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0("mi")
        .args(["agent", "run"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .envs(&launch.env)
        .env("HOME", &workspace)
        .env("MI_WORKSPACE", &workspace)
        .env("MI_IDENTITY_DIR", workspace::identity(home))
        .current_dir(&workspace)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let parent = std::process::id();
    let limits = [
        (libc::RLIMIT_DATA, launch.limits.memory_bytes.unwrap_or(DEFAULT_MEMORY)),
        (libc::RLIMIT_FSIZE, launch.limits.file_bytes.unwrap_or(DEFAULT_FILE)),
        (libc::RLIMIT_NOFILE, OPEN_FILES),
        (libc::RLIMIT_CORE, 0),
    ];
    // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor locks.
    unsafe {
        command.pre_exec(move || confine(parent, &limits));
    }
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// Runs in the child, before exec.
fn confine(parent: u32, limits: &[(libc::__rlimit_resource_t, u64)]) -> io::Result<()> {
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: plain system calls on values of this frame.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have died before the line above: then nobody would send the signal.
        if libc::getppid() as u32 != parent {
            return Err(io::Error::other("the platform is gone"));
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        for (resource, most) in limits {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            check(libc::getrlimit(*resource, &mut limit))?;
            // Never above what the platform itself may use.
            limit.rlim_max = limit.rlim_max.min(*most);
            limit.rlim_cur = limit.rlim_max;
            check(libc::setrlimit(*resource, &limit))?;
        }
        // Whatever the platform's own parent left open must not reach an agent. Marked rather than closed: the standard
        // library still needs its pipe to report a failed exec.
        let mark = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
        check(libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, mark) as libc::c_int)
    }
}

/// Why a process ended, for people.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended".into(),
    }
}
