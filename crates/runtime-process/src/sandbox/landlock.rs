//! Landlock: which files an agent opens, which ports it connects to, whom it signals.
//!
//! It holds on the file itself, whatever path leads to it, and for everything that the agent starts.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use mi_kernel::{Error, Result};
use nix::libc;

use super::tree;

/// The newest interface that is made use of; an older kernel gives what it has.
const NEWEST: ABI = ABI::V7;
/// From this version on TCP ports are told apart.
pub(super) const WITH_PORTS: i32 = 4;
/// From this version on the control of devices is a right of its own.
const WITH_DEVICES: i32 = 5;
/// From this version on signals and abstract sockets stay inside.
pub(super) const WITH_SCOPES: i32 = 6;

/// Which version the kernel has; 0: none.
pub(super) fn version() -> i32 {
    const ASK_VERSION: u32 = 1;
    // SAFETY: with this flag and no attributes the call only answers a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, ASK_VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// The TCP ports of an agent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ports {
    /// Where the platform listens.
    pub(crate) gateway: Option<u16>,
    /// Where the agent itself listens, for its programs.
    pub(crate) relay: Option<u16>,
}

/// The rules of one agent: it reads the system and `program`, writes below `own`, connects to its ports and serves one.
pub(super) fn rules(program: &OwnedFd, own: &[&Path], ports: Ports) -> Result<Option<OwnedFd>> {
    let broken =
        |error: RulesetError| Error::unavailable("the rules of the sandbox could not be made").caused_by(error);
    let made = || -> Result<Option<OwnedFd>, RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rule(PathBeneath::new(program, run()))?;
        let read_and_run = AccessFs::from_read(NEWEST);
        let system = tree::SYSTEM.iter().map(|path| (*path, read_and_run));
        let settings = tree::SETTINGS.iter().map(|path| (*path, read_and_run & !AccessFs::Execute));
        let devices = tree::DEVICES.iter().map(|path| (*path, make_bitflags!(AccessFs::{ReadFile | WriteFile})));
        let terminal = [(tree::OWN_TERMINAL, terminal() & !AccessFs::ReadDir)];
        for (path, access) in system.chain(settings).chain(devices).chain(terminal) {
            // A system has not all of them.
            let Ok(opened) = PathFd::new(path) else { continue };
            let access = if Path::new(path).is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
        for path in own {
            // What is missing here gives the agent nothing, and it says so itself.
            let Ok(opened) = PathFd::new(path) else { continue };
            rules = rules.add_rule(PathBeneath::new(opened, everything_but_devices()))?;
        }
        let served = AccessNet::BindTcp | AccessNet::ConnectTcp;
        for (port, access) in [(ports.gateway, AccessNet::ConnectTcp.into()), (ports.relay, served)] {
            if let Some(port) = port {
                rules = rules.add_rule(NetPort::new(port, access))?;
            }
        }
        Ok(rules.into())
    };
    made().map_err(broken)
}

fn run() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{Execute | ReadFile})
}

fn everything_but_devices() -> BitFlags<AccessFs> {
    AccessFs::from_all(NEWEST) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev})
}

fn terminal() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile | ReadDir | IoctlDev})
}

/// In the child: lets the rules also allow reading `/proc`, which was mounted for this agent alone a moment ago.
pub(crate) fn allow_proc(rules: &OwnedFd) -> libc::c_int {
    allow(rules, c"/proc", make_bitflags!(AccessFs::{ReadFile | ReadDir}))
}

/// In the child: the same for the use of its terminals.
pub(crate) fn allow_terminals(rules: &OwnedFd) -> libc::c_int {
    let unknown = if version() < WITH_DEVICES { AccessFs::IoctlDev.into() } else { BitFlags::EMPTY };
    allow(rules, tree::TERMINALS, terminal() & !unknown)
}

fn allow(rules: &OwnedFd, path: &CStr, access: BitFlags<AccessFs>) -> libc::c_int {
    #[repr(C, packed)]
    struct Beneath {
        allowed: u64,
        parent: libc::c_int,
    }
    const PATH_BENEATH: libc::c_int = 1;
    // SAFETY: plain system calls on values of this frame.
    unsafe {
        let parent = libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
        if parent < 0 {
            return parent;
        }
        let rule = Beneath { allowed: access.bits(), parent };
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const rule, 0) as libc::c_int
    }
}

/// In the child: from here on the rules hold, for good.
pub(crate) fn hold(rules: &OwnedFd) -> libc::c_int {
    // SAFETY: a plain system call.
    unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) as libc::c_int }
}
