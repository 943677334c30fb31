//! The file tree that an agent sees: a root of its own with the system read-only, a few devices, its own directories, and
//! its own processes in `/proc`. What is not mentioned here has no name there, so that it cannot be opened, nor
//! connected to, nor have its mode changed.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString, OsStr},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::libc;

use super::{Given, Own, Seen};
use crate::clone::{self, check};

/// Directories of programs and libraries, which an agent reads and runs.
pub(super) const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];

/// What programs need to know of the system: names, certificates, the loader's cache, the time zone. No passwords, no keys.
pub(super) const SETTINGS: &[&str] = &[
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/java",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/locale.alias",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/perl",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/protocols",
    "/etc/python3",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/shells",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Devices that anybody may use.
pub(super) const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The terminal of the session that opens it, whichever that is.
pub(super) const OWN_TERMINAL: &str = "/dev/tty";
/// Where an agent's pseudo-terminals are.
pub(super) const TERMINALS: &CStr = c"/dev/pts";
/// They belong to whoever opened them. The kernel has a number for the whole machine, of which one agent takes so many.
const TERMINAL_OPTIONS: &CStr = c"newinstance,mode=0600,ptmxmode=0666,max=128";

const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/shm", "/tmp"),
    ("/var/tmp", "/tmp"),
];

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const OWN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const DEVICE: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// A tree, as the system calls that make it.
pub(crate) struct Tree {
    /// An empty directory that the tree is put on while it is made.
    root: CString,
    steps: Vec<Step>,
    proc: Option<CString>,
    terminals: Option<CString>,
}

enum Step {
    Directory(CString),
    File(CString),
    Link { at: CString, to: CString },
    Bind { from: CString, at: CString, attributes: u64 },
}

impl Tree {
    /// The tree with the agent's own directories, made on `stage`.
    pub(super) fn new(stage: &Path, own: Option<(&Own<'_>, &Seen)>, given: Given) -> io::Result<Self> {
        let mut maker = Maker { root: stage, made: BTreeSet::new(), steps: Vec::new() };
        for path in SYSTEM.iter().chain(&["/etc"]).map(Path::new) {
            match fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() => maker.link(path, &fs::read_link(path)?)?,
                Ok(found) if found.is_dir() => maker.bind(path, path, READ_ONLY)?,
                _ => {}
            }
        }
        for path in DEVICES.iter().map(Path::new).filter(|path| path.exists()) {
            maker.file(path)?;
        }
        let mut terminals = None;
        if given.terminals {
            let at = Path::new(OsStr::from_bytes(TERMINALS.to_bytes()));
            maker.directory(at)?;
            terminals = Some(maker.inside(at)?);
            maker.link(Path::new("/dev/ptmx"), Path::new("pts/ptmx"))?;
            if Path::new(OWN_TERMINAL).exists() {
                maker.file(Path::new(OWN_TERMINAL))?;
            }
        }
        for (at, to) in LINKS {
            maker.link(Path::new(at), Path::new(to))?;
        }
        if let Some((own, seen)) = own {
            maker.bind(own.workspace, &seen.workspace, OWN)?;
            maker.bind(own.identity, &seen.identity, OWN)?;
            maker.bind(own.temporary, &seen.temporary, OWN)?;
        }
        maker.directory(Path::new("/proc"))?;
        let proc = if given.proc { Some(maker.inside(Path::new("/proc"))?) } else { None };
        Ok(Self { root: text(stage)?, steps: maker.steps, proc, terminals })
    }

    pub(crate) fn has_proc(&self) -> bool {
        self.proc.is_some()
    }

    pub(crate) fn has_terminals(&self) -> bool {
        self.terminals.is_some()
    }

    /// In the child, in a mount namespace of its own: makes the tree and goes there. System calls only.
    pub(crate) fn enter(&self) -> Result<(), clone::Step> {
        let (none, tmpfs, here) = (std::ptr::null::<libc::c_char>(), c"tmpfs".as_ptr(), c".".as_ptr());
        let plain = libc::MS_NOSUID | libc::MS_NODEV;
        let tree = |outcome| check(clone::Step::Tree, outcome);
        // SAFETY: plain system calls on strings that this value owns.
        unsafe {
            // Nothing that happens here is seen outside, nor the other way round.
            tree(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            let size = c"mode=0755,size=64k".as_ptr();
            tree(libc::mount(tmpfs, self.root.as_ptr(), tmpfs, plain, size.cast()))?;
            for step in &self.steps {
                tree(step.take())?;
            }
            if let Some(proc) = &self.proc {
                let (kind, flags) = (c"proc".as_ptr(), plain | libc::MS_NOEXEC | libc::MS_RDONLY);
                tree(libc::mount(kind, proc.as_ptr(), kind, flags, none.cast()))?;
            }
            if let Some(terminals) = &self.terminals {
                let (kind, flags) = (c"devpts".as_ptr(), libc::MS_NOSUID | libc::MS_NOEXEC);
                let mounted = libc::mount(kind, terminals.as_ptr(), kind, flags, TERMINAL_OPTIONS.as_ptr().cast());
                check(clone::Step::Terminals, mounted)?;
            }
            tree(attributes(&self.root, READ_ONLY, 0))?;
            tree(libc::chdir(self.root.as_ptr()))?;
            // The old root comes to lie upon the new one, and is taken off.
            tree(libc::syscall(libc::SYS_pivot_root, here, here) as libc::c_int)?;
            tree(libc::umount2(here, libc::MNT_DETACH))
        }
    }
}

impl Step {
    fn take(&self) -> libc::c_int {
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: plain system calls on strings that this value owns.
        unsafe {
            match self {
                Self::Directory(at) => libc::mkdir(at.as_ptr(), 0o755),
                Self::File(at) => libc::mknod(at.as_ptr(), libc::S_IFREG | 0o644, 0),
                Self::Link { at, to } => libc::symlink(to.as_ptr(), at.as_ptr()),
                Self::Bind { from, at, attributes: set } => {
                    let flags = libc::MS_BIND | libc::MS_REC;
                    match libc::mount(from.as_ptr(), at.as_ptr(), none, flags, none.cast()) {
                        0 => attributes(at, *set, libc::AT_RECURSIVE),
                        failed => failed,
                    }
                }
            }
        }
    }
}

/// Adds attributes to a mount; those it has from outside stay.
fn attributes(at: &CStr, set: u64, flags: libc::c_int) -> libc::c_int {
    let wanted = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: a plain system call on values of this frame.
    unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, at.as_ptr(), flags, &raw const wanted, size)
            as libc::c_int
    }
}

struct Maker<'a> {
    root: &'a Path,
    made: BTreeSet<PathBuf>,
    steps: Vec<Step>,
}

impl Maker<'_> {
    fn inside(&self, path: &Path) -> io::Result<CString> {
        text(&self.root.join(path.strip_prefix("/").unwrap_or(path)))
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if parent != Path::new("/") => self.directory(parent),
            _ => Ok(()),
        }
    }

    fn directory(&mut self, path: &Path) -> io::Result<()> {
        if !self.made.contains(path) {
            self.parents(path)?;
            self.made.insert(path.to_owned());
            self.steps.push(Step::Directory(self.inside(path)?));
        }
        Ok(())
    }

    fn bind(&mut self, from: &Path, at: &Path, attributes: u64) -> io::Result<()> {
        self.directory(at)?;
        self.steps.push(Step::Bind { from: text(from)?, at: self.inside(at)?, attributes });
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.parents(path)?;
        self.steps.push(Step::File(self.inside(path)?));
        self.steps.push(Step::Bind { from: text(path)?, at: self.inside(path)?, attributes: DEVICE });
        Ok(())
    }

    fn link(&mut self, at: &Path, to: &Path) -> io::Result<()> {
        self.parents(at)?;
        self.steps.push(Step::Link { at: self.inside(at)?, to: text(to)? });
        Ok(())
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
