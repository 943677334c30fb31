//! Makes a child: clone, isolate it, exec. The half that runs in the child makes system calls only; whatever it needs was
//! made before, because between clone and exec nothing may allocate or lock.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fmt, fs,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use nix::{libc, unistd::Pid};
use seccompiler::BpfProgram;
use strum::{Display, FromRepr};

use super::{
    child::Process,
    sandbox::{Become, Tree, User, landlock},
};

/// What a limit is of, as this C library types it.
#[cfg(target_env = "gnu")]
pub(super) type Limited = libc::__rlimit_resource_t;
/// What a limit is of, as this C library types it.
#[cfg(not(target_env = "gnu"))]
pub(super) type Limited = libc::c_int;

/// Everything about a child that is to be.
pub(super) struct Plan {
    /// The program that it runs.
    pub(super) program: Arc<OwnedFd>,
    /// The program's arguments, its name first. None: the child ends when all layers are in place, which tries them
    /// out.
    pub(super) arguments: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) directory: CString,
    /// As whom, in namespaces of its own; none: as the platform, in the platform's.
    pub(super) user: Option<User>,
    /// What it becomes of that user once its tree is made.
    pub(super) becomes: Option<Become>,
    pub(super) tree: Option<Tree>,
    /// The Landlock ruleset.
    pub(super) rules: Option<OwnedFd>,
    /// The seccomp filters, in the order of their installation.
    pub(super) filters: Arc<Vec<BpfProgram>>,
    /// Whether it loses all capabilities.
    pub(super) powerless: bool,
    pub(super) limits: Vec<(Limited, u64)>,
    /// The file that takes it into its control group.
    pub(super) group: Option<fs::File>,
}

/// Where a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, FromRepr)]
#[repr(u8)]
pub(super) enum Step {
    #[strum(to_string = "making the process and its namespaces")]
    Clone,
    #[strum(to_string = "mapping its user")]
    Users,
    #[strum(to_string = "entering its control group")]
    Group,
    #[strum(to_string = "setting up its descriptors")]
    Basics,
    #[strum(to_string = "making its file tree")]
    Tree,
    #[strum(to_string = "making its terminals")]
    Terminals,
    #[strum(to_string = "entering its directory")]
    Directory,
    #[strum(to_string = "setting its limits")]
    Limits,
    #[strum(to_string = "becoming its user")]
    Switch,
    #[strum(to_string = "dropping its capabilities")]
    Capabilities,
    #[strum(to_string = "Landlock")]
    Rules,
    #[strum(to_string = "watching the platform")]
    Parent,
    #[strum(to_string = "seccomp")]
    Filters,
    #[strum(to_string = "running the program")]
    Exec,
}

/// Why there is no child.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) error: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.step, self.error)
    }
}

impl std::error::Error for Failure {}

/// Starts it; returns when the program runs. The thread that calls must live as long as the platform: the kernel kills
/// the child when that thread ends.
pub(super) fn start(plan: &Plan, platform: &OwnedFd) -> Result<Process, Failure> {
    let at = |step: Step| move |error: io::Error| Failure { step, error };
    let (out_read, out_write) = pipe().map_err(at(Step::Clone))?;
    let (err_read, err_write) = pipe().map_err(at(Step::Clone))?;
    let (go_read, go_write) = pipe().map_err(at(Step::Clone))?;
    let (said_read, said_write) = pipe().map_err(at(Step::Clone))?;
    let null: OwnedFd = fs::File::open("/dev/null").map_err(at(Step::Clone))?.into();
    let ends = Ends {
        input: null.as_raw_fd(),
        output: out_write.as_raw_fd(),
        error: err_write.as_raw_fd(),
        go: go_read.as_raw_fd(),
        go_far: go_write.as_raw_fd(),
        said: said_write.as_raw_fd(),
        platform: platform.as_raw_fd(),
    };
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(&plan.arguments), pointers(&plan.environment));
    let namespaces = match plan.user {
        Some(_) => libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC,
        None => 0,
    };
    let flags = libc::CLONE_PIDFD | namespaces | libc::SIGCHLD;
    let mut pidfd: RawFd = -1;
    // SAFETY: as fork(2): the child gets a copy of everything and goes on on its own stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0usize, &raw mut pidfd, 0usize, 0usize) };
    if pid == 0 {
        in_child(plan, &ends, &arguments, &environment);
    }
    if pid < 0 {
        return Err(at(Step::Clone)(io::Error::last_os_error()));
    }
    let pid = Pid::from_raw(pid as i32);
    // SAFETY: the kernel made this descriptor for us a moment ago.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // From here on a failure drops it, which kills the child.
    let process = Process::new(pid, pidfd, out_read, err_read);
    drop((out_write, err_write, go_read, said_write));
    if let Some(user) = plan.user {
        user.map(pid).map_err(at(Step::Users))?;
    }
    if let Some(mut group) = plan.group.as_ref() {
        write!(group, "{pid}").map_err(at(Step::Group))?;
    }
    // A child that died is found out below.
    let _ = fs::File::from(go_write).write_all(b"g");
    let mut said = Vec::new();
    fs::File::from(said_read).read_to_end(&mut said).map_err(at(Step::Exec))?;
    match said.as_slice() {
        [] => Ok(process),
        [step, errno @ ..] => {
            let step = Step::from_repr(*step).unwrap_or(Step::Exec);
            let errno = errno.try_into().map(i32::from_ne_bytes).unwrap_or(libc::EIO);
            Err(at(step)(io::Error::from_raw_os_error(errno)))
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the kernel writes two descriptors, which are ours then.
    unsafe {
        match libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) {
            0 => Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Descriptors of the child.
struct Ends {
    input: RawFd,
    output: RawFd,
    error: RawFd,
    /// Says that the parent has done its part.
    go: RawFd,
    /// The parent's end of it.
    go_far: RawFd,
    /// Takes the step that failed and the error number.
    said: RawFd,
    /// Readable once the platform is dead.
    platform: RawFd,
}

fn in_child(plan: &Plan, ends: &Ends, arguments: &[*const libc::c_char], environment: &[*const libc::c_char]) -> ! {
    let Err(step) = confine(plan, ends, arguments, environment);
    // SAFETY: plain system calls.
    unsafe {
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let text = [step as u8, errno[0], errno[1], errno[2], errno[3]];
        libc::write(ends.said, text.as_ptr().cast(), text.len());
        libc::_exit(127)
    }
}

/// The failed step, of a system call that answers 0 when it worked.
pub(super) fn check(step: Step, result: libc::c_int) -> Result<(), Step> {
    if result == 0 { Ok(()) } else { Err(step) }
}

fn confine(
    plan: &Plan,
    ends: &Ends,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Result<Infallible, Step> {
    // SAFETY: plain system calls on values of this frame and of the plan. Not by the C library where that would look at
    // the threads of the platform, which are not here.
    unsafe {
        basics(ends)?;
        // The tree may have none of these files.
        let process = libc::open(c"/proc/self".as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
        if let Some(tree) = &plan.tree {
            tree.enter()?;
        }
        check(Step::Directory, libc::chdir(plan.directory.as_ptr()))?;
        if let Some(Become::Mapped { users, groups }) = &plan.becomes {
            check(Step::Switch, libc::unshare(libc::CLONE_NEWUSER))?;
            check(Step::Switch, put(process, c"uid_map", users))?;
            check(Step::Switch, put(process, c"gid_map", groups))?;
        }
        if plan.powerless {
            // Fails where there is nothing to drop and nothing to gain either.
            for capability in 0..64 {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
        }
        if let Some(Become::Ids(user, group)) = plan.becomes {
            check(Step::Switch, libc::syscall(libc::SYS_setgroups, 0, 0usize) as libc::c_int)?;
            check(Step::Switch, libc::syscall(libc::SYS_setresgid, group, group, group) as libc::c_int)?;
            check(Step::Switch, libc::syscall(libc::SYS_setresuid, user, user, user) as libc::c_int)?;
        }
        if plan.powerless {
            no_capabilities()?;
        }
        check(Step::Rules, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        if let Some(rules) = &plan.rules {
            if plan.tree.as_ref().is_some_and(Tree::has_proc) {
                check(Step::Rules, landlock::allow_proc(rules))?;
            }
            if plan.tree.as_ref().is_some_and(Tree::has_terminals) {
                check(Step::Rules, landlock::allow_terminals(rules))?;
            }
            check(Step::Rules, landlock::hold(rules))?;
        }
        // Changing the user would have undone this.
        check(Step::Parent, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The platform may have died before the line above: then nobody would send the signal.
        let mut platform = libc::pollfd { fd: ends.platform, events: libc::POLLIN, revents: 0 };
        check(Step::Parent, libc::poll(&mut platform, 1, 0))?;
        // Whatever the platform's own parent left open must not reach an agent. Marked rather than closed: `said` still
        // has to report a failed exec.
        let mark = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
        check(Step::Basics, libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, mark) as libc::c_int)?;
        // Late: the platform may hold more files than an agent may, and the steps above need a free number.
        for (resource, most) in &plan.limits {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            check(Step::Limits, libc::getrlimit(*resource, &mut limit))?;
            // Never above what the platform itself may use.
            limit.rlim_max = limit.rlim_max.min(*most);
            limit.rlim_cur = limit.rlim_max;
            check(Step::Limits, libc::setrlimit(*resource, &limit))?;
        }
        for filter in plan.filters.iter() {
            seccompiler::apply_filter(filter).map_err(|_| Step::Filters)?;
        }
        if plan.arguments.is_empty() {
            libc::_exit(0);
        }
        libc::syscall(
            libc::SYS_execveat,
            plan.program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        Err(Step::Exec)
    }
}

/// Writes a text into a file of an open directory. System calls only.
unsafe fn put(directory: RawFd, name: &CStr, text: &str) -> libc::c_int {
    // SAFETY: plain system calls on values that the caller holds.
    unsafe {
        let file = libc::openat(directory, name.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return file;
        }
        let written = libc::write(file, text.as_ptr().cast(), text.len());
        if written == text.len().cast_signed() { 0 } else { -1 }
    }
}

/// Waits for the parent's word, then takes its own descriptors, signals and session.
unsafe fn basics(ends: &Ends) -> Result<(), Step> {
    // SAFETY: plain system calls on values of this frame.
    unsafe {
        libc::close(ends.go_far);
        let mut word = 0u8;
        // No word: the parent gave up, or died.
        if libc::read(ends.go, (&raw mut word).cast(), 1) != 1 {
            return Err(Step::Basics);
        }
        for (from, to) in [(ends.input, 0), (ends.output, 1), (ends.error, 2)] {
            check(Step::Basics, libc::dup2(from, to) - to)?;
        }
        // A group of its own as well, and no terminal: that of the platform's operator would be the agent's otherwise.
        if libc::setsid() < 0 {
            return Err(Step::Basics);
        }
        // What is ignored stays ignored across exec, and blocked stays blocked.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(Step::Basics, libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))
    }
}

/// Empties all sets of capabilities; the bounding set is empty already.
unsafe fn no_capabilities() -> Result<(), Step> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let sets = [0u32; 6];
    // SAFETY: plain system calls on values of this frame.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(Step::Capabilities, libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) as libc::c_int)
    }
}
