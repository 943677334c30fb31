//! A process and all that it started, wherever that went: it ends together.
//!
//! What a process starts can leave its group, its session and its environment, but not its descent. So each child gets a
//! supervisor: it takes in whoever loses its parent, and ends with the child. The agent takes in what is left then, and
//! what a supervisor leaves that was killed. So whatever descends from the agent, and from no supervisor of a child that
//! still runs, is left over.
//!
//! Who descends from whom is read from `/proc` on a thread that may block. What was read is acted on by the agent's own
//! thread, which alone starts children, and takes exit statuses.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
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
use tokio::{
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    runtime::Handle,
    task::spawn_blocking,
};
use tokio_util::task::TaskTracker;

/// Looks for what is left. Whoever makes processes faster than this is left to the limits of the sandbox.
const ROUNDS: usize = 64;
/// Between them; what was killed is gone after the first, most times.
const PAUSE: Duration = Duration::from_millis(1);

/// The supervisors of this process's children that run.
static SUPERVISORS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// Held from reading `/proc` until what was found there is dealt with: if another round took an exit status in between, its
/// process id could be that of a process by then that nobody means.
static ROUND: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// The killing of what was dropped. Always closed, so that it can be waited for at any time.
static DROPPED: LazyLock<TaskTracker> = LazyLock::new(|| {
    let tracker = TaskTracker::new();
    tracker.close();
    tracker
});

fn supervisors() -> MutexGuard<'static, BTreeSet<i32>> {
    SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until nothing is left of any [`Processes`] that was dropped.
pub(super) async fn cleared() {
    DROPPED.wait().await;
}

/// A child in a session of its own. All of it is killed when this is dropped, which [`cleared`] waits for.
pub(super) struct Processes {
    /// None: nothing of it is left.
    tree: Option<Tree>,
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
        // Not before it is known does anybody kill what is left.
        let mut supervisors = supervisors();
        let child = command.spawn()?;
        let gone = || io::Error::other("the process has no id");
        let id = child.id().and_then(|id| libc::pid_t::try_from(id).ok()).ok_or_else(gone)?;
        supervisors.insert(id);
        Ok(Self { tree: Some(Tree { child, id: Some(id), runs: true, over: false }) })
    }

    /// Its input and outputs, as far as they are pipes; at the first call.
    pub(super) fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        let Some(Tree { child, .. }) = &mut self.tree else { return (None, None, None) };
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    }

    /// Waits for the end of the first process only.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let Some(tree) = &mut self.tree else { return Err(io::Error::other("the process is gone")) };
        let status = tree.child.wait().await;
        tree.retire();
        tree.id = None;
        status
    }

    /// Kills all of it, and what others left. It is gone then.
    pub(super) async fn kill(&mut self) {
        if let Some(tree) = &mut self.tree {
            tree.clear().await;
        }
        self.tree = None;
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(mut tree) = self.tree.take()
            && let Ok(runtime) = Handle::try_current()
        {
            tree.retire();
            DROPPED.spawn_on(async move { tree.clear().await }, &runtime);
        }
    }
}

/// A supervisor, and whatever descends from it.
struct Tree {
    /// The supervisor as tokio waits for it.
    child: Child,
    /// Its id, as long as nobody took its exit status: after that it may be the id of another process.
    id: Option<i32>,
    /// It is one of [`SUPERVISORS`].
    runs: bool,
    /// Nothing of it is left.
    over: bool,
}

impl Tree {
    /// Its child runs no more: what descends from it is left over.
    fn retire(&mut self) {
        if let Some(id) = self.id.filter(|_| std::mem::take(&mut self.runs)) {
            supervisors().remove(&id);
        }
    }

    /// Kills all of it, and what others left.
    async fn clear(&mut self) {
        self.retire();
        let mut rounds = Rounds::default();
        while !rounds.over(self.round().await) {
            tokio::time::sleep(PAUSE).await;
        }
        self.over = true;
    }

    /// Kills whoever is left over; whether there was anybody.
    async fn round(&mut self) -> bool {
        let _one_at_a_time = ROUND.lock().await;
        self.take_status();
        let running = supervisors().clone();
        // An error says that the runtime is ending.
        let children = spawn_blocking(children).await.unwrap_or_else(|_| children());
        self.kill_left(&running, &children)
    }

    /// Its exit status is for its handle to take, which would signal whoever has the id next otherwise.
    fn take_status(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            self.id = None;
        }
    }

    /// Kills whoever is left over, and takes the exit statuses of the dead, which nobody else does. What descends from a
    /// supervisor that ran before `/proc` was read, or was started since, is spared.
    fn kill_left(&self, running: &BTreeSet<i32>, children: &HashMap<i32, Vec<i32>>) -> bool {
        let started = supervisors();
        let left = left_over(children, |id| running.contains(&id) || started.contains(&id));
        for id in &left {
            let _ = kill(Pid::from_raw(*id), Signal::SIGKILL);
            if Some(*id) != self.id {
                let _ = waitpid(Pid::from_raw(*id), Some(WaitPidFlag::WNOHANG));
            }
        }
        !left.is_empty()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // The agent is ending before it could wait for this. Without pauses: somebody may be dying yet, whose exit status
        // goes to whoever takes the agent's children in.
        self.retire();
        let mut rounds = Rounds::default();
        loop {
            self.take_status();
            if rounds.over(self.kill_left(&BTreeSet::new(), &children())) {
                return;
            }
        }
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

/// The processes of this namespace by their parents.
fn children() -> HashMap<i32, Vec<i32>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent(id) {
            children.entry(parent).or_default().push(id);
        }
    }
    children
}

/// Whatever descends from this process, but for those that are spared, and their descendants.
fn left_over(children: &HashMap<i32, Vec<i32>>, spared: impl Fn(i32) -> bool) -> Vec<i32> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut open: Vec<i32> = libc::pid_t::try_from(std::process::id()).into_iter().collect();
    while let Some(id) = open.pop() {
        for child in children.get(&id).into_iter().flatten() {
            // Ids that were used again meanwhile may look like a circle.
            if !spared(*child) && seen.insert(*child) {
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

/// Takes the exit statuses of the dead until the child is among them, and ends as it did.
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
