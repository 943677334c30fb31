//! A process and all that it started, wherever that went: it ends together.
//!
//! What a process starts can leave its group, its session and its environment, but not its descent. So each child gets a
//! supervisor: it takes in whoever loses its parent, and ends with the child. The agent takes in what is left then, and
//! what a supervisor leaves that was killed. So whatever descends from the agent, and from no supervisor of a child that
//! still runs, is left over.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    libc,
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{ForkResult, Pid, fork, setsid},
};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// Looks for what is left. Whoever makes processes faster than this is left to the limits of the sandbox.
const ROUNDS: usize = 64;
/// Between them; what was killed is gone after the first, most times.
const PAUSE: Duration = Duration::from_millis(1);

/// The supervisors of this process's children that run.
static SUPERVISORS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A child in a session of its own. All of it is killed when this is dropped.
pub(super) struct Processes {
    /// The supervisor.
    child: Child,
    /// Its id while the child runs.
    running: Option<i32>,
    /// Nothing of it is left.
    over: bool,
}

impl Processes {
    /// Starts it. With `terminal`, its standard input is one, and becomes the one that its session is at.
    pub(super) fn spawn(command: &mut Command, terminal: bool) -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        command.kill_on_drop(true);
        // SAFETY: they make nothing but system calls, which may be made between fork and exec.
        unsafe { command.pre_exec(supervise) };
        if terminal {
            // SAFETY: as above. After the other, which begins the session.
            unsafe { command.pre_exec(take_terminal) };
        }
        // Not before it is known does anybody look for what is left.
        let mut supervisors = SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let gone = || io::Error::other("the process has no id");
        let id = child.id().and_then(|id| libc::pid_t::try_from(id).ok()).ok_or_else(gone)?;
        supervisors.insert(id);
        Ok(Self { child, running: Some(id), over: false })
    }

    /// Its input and outputs, as far as they are pipes; at the first call.
    pub(super) fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for the end of the first process only.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.forget();
        status
    }

    /// It runs no more: what descends from it is left over.
    fn forget(&mut self) -> Option<i32> {
        let id = self.running.take()?;
        SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Some(id)
    }

    /// Kills all of it, and what others left. It is gone then.
    pub(super) async fn kill(&mut self) {
        let supervisor = self.forget();
        let mut rounds = Rounds::default();
        while !rounds.over(self.kill_left(supervisor)) {
            tokio::time::sleep(PAUSE).await;
        }
        self.over = true;
    }

    /// Kills whoever is left, and buries the dead, which nobody else does; whether there was anybody.
    fn kill_left(&mut self, supervisor: Option<i32>) -> bool {
        // Its end is for its handle to know.
        let _ = self.child.try_wait();
        let supervisors = SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner);
        let left = left_over(&supervisors);
        for id in &left {
            let _ = kill(Pid::from_raw(*id), Signal::SIGKILL);
            if Some(*id) != supervisor {
                let _ = waitpid(Pid::from_raw(*id), Some(WaitPidFlag::WNOHANG));
            }
        }
        !left.is_empty()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let supervisor = self.forget();
        // Without pauses, which would stop all work of the agent: somebody may be dying yet, and is buried later.
        let mut rounds = Rounds::default();
        while !rounds.over(self.kill_left(supervisor)) {}
    }
}

/// Counts looks for what is left.
#[derive(Default)]
struct Rounds {
    all: usize,
    quiet: usize,
}

impl Rounds {
    /// Whether that was the last one. One that finds nobody may have missed who changed parents meanwhile.
    fn over(&mut self, found: bool) -> bool {
        self.all += 1;
        self.quiet = if found { 0 } else { self.quiet + 1 };
        self.quiet == 2 || self.all == ROUNDS
    }
}

/// Whatever descends from this process, but for these and their descendants.
fn left_over(spared: &BTreeSet<i32>) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent(id) {
            children.entry(parent).or_default().push(id);
        }
    }
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut open: Vec<i32> = libc::pid_t::try_from(std::process::id()).into_iter().collect();
    while let Some(id) = open.pop() {
        for child in children.get(&id).into_iter().flatten() {
            // Ids that were used again meanwhile may look like a circle.
            if !spared.contains(child) && seen.insert(*child) {
                found.push(*child);
                open.push(*child);
            }
        }
    }
    found
}

fn parent(id: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Goes on in a child with a session of its own, and stays behind as its supervisor.
fn supervise() -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    // What is sent to the group of the agent is for the agent.
    SigSet::all().thread_block()?;
    // SAFETY: neither goes on with anything but system calls.
    match unsafe { fork() }? {
        ForkResult::Child => {
            SigSet::all().thread_unblock()?;
            setsid()?;
            Ok(())
        }
        ForkResult::Parent { child } => attend(child),
    }
}

/// Makes the terminal on standard input that of the session.
fn take_terminal() -> io::Result<()> {
    // SAFETY: it passes numbers.
    match unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As shells count: 128 and the number of a signal.
const SIGNALLED: i32 = 128;
/// Of a process that was killed, or whose end nobody saw.
pub(super) const KILLED: i32 = SIGNALLED + libc::SIGKILL;

/// The exit code of a process, as shells count.
pub(super) fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(KILLED)
}

/// Buries the dead until the child is among them, and ends as it did.
fn attend(child: Pid) -> ! {
    close_all();
    loop {
        let mut status = 0;
        // SAFETY: `status` is where it may be written to.
        let dead = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        let code = match dead {
            -1 => KILLED,
            _ if dead != child.as_raw() => continue,
            _ if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
            _ => SIGNALLED + libc::WTERMSIG(status),
        };
        // SAFETY: it ends this process, without what is done at the end of a program.
        unsafe { libc::_exit(code) };
    }
}

/// The supervisor has no use for what the agent has open, and would keep it open.
fn close_all() {
    // SAFETY: nothing here uses any of them.
    if unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) } != 0 {
        // SAFETY: it reads a number.
        let most = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
        for file in 0..libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX) {
            // SAFETY: as above.
            unsafe { libc::close(file) };
        }
    }
}
