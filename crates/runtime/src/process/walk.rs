//! A walk through what belongs to an agent: as deep as it goes, past no link, and into what the agent closed to itself. A
//! platform that is not root is that same user, and has no other way in than to change the mode for a while.

use std::{
    fs::{self, File, Metadata, Permissions, ReadDir},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    unistd::{AccessFlags, access},
};

/// The directories below a root, each before those within it.
pub(super) struct Walk {
    root: PathBuf,
    /// A list and no recursion: how deep it goes is the agent's to say.
    steps: Vec<Step>,
}

/// What is yet to do with a directory, by its path from the root.
enum Step {
    Enter(PathBuf),
    /// All within is done: it gets back the mode that keeps its owner out.
    Close(PathBuf, Permissions),
}

/// A directory on the way.
pub(super) struct Directory {
    /// From the root; the root itself is `.`.
    pub(super) path: PathBuf,
    /// As its owner left it.
    pub(super) found: Metadata,
    pub(super) entries: ReadDir,
}

impl Walk {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), steps: vec![Step::Enter(PathBuf::from("."))] }
    }

    /// The next directory, or the path of one that cannot be looked into and why.
    pub(super) fn next(&mut self) -> Option<Result<Directory, (PathBuf, io::Error)>> {
        loop {
            match self.steps.pop()? {
                Step::Close(path, mode) => self.close(&path, mode),
                Step::Enter(path) => {
                    let entered = self.enter(&path);
                    return Some(match entered {
                        Ok((found, entries)) => Ok(Directory { path, found, entries }),
                        Err(error) => Err((path, error)),
                    });
                }
            }
        }
    }

    /// Has a directory of the one before walked, too.
    pub(super) fn enter_later(&mut self, path: PathBuf) {
        self.steps.push(Step::Enter(path));
    }

    fn enter(&mut self, path: &Path) -> io::Result<(Metadata, ReadDir)> {
        let whole = self.root.join(path);
        let found = fs::symlink_metadata(&whole)?;
        if access(&whole, AccessFlags::R_OK | AccessFlags::X_OK) == Err(Errno::EACCES) {
            set_mode(&whole, found.mode() | 0o700)?;
            self.steps.push(Step::Close(path.to_owned(), found.permissions()));
        }
        Ok((found, fs::read_dir(whole)?))
    }

    fn close(&self, path: &Path, mode: Permissions) {
        let whole = self.root.join(path);
        if let Err(error) = set_mode(&whole, mode.mode())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(target: "mi::runtime", path = %whole.display(), %error, "a directory stays open to its owner");
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            if let Step::Close(path, mode) = step {
                self.close(&path, mode);
            }
        }
    }
}

/// Opens a file for reading, also one that its owner closed to itself; does not wait for the writer of a pipe.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let open = |path: &Path, flags| {
        File::options().read(true).custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    };
    match open(path, libc::O_NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let held = Held::new(path)?;
            let mode = held.file.metadata()?.permissions();
            fs::set_permissions(&held.path, Permissions::from_mode(mode.mode() | 0o400))?;
            let opened = open(&held.path, 0);
            fs::set_permissions(&held.path, mode)?;
            opened
        }
        opened => opened,
    }
}

/// Changes a mode, of no link and nothing that a link leads to.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(Held::new(path)?.path, Permissions::from_mode(mode))
}

/// What is at a path at one moment, whatever takes its place later.
struct Held {
    file: File,
    /// By which the kernel finds just that.
    path: PathBuf,
}

impl Held {
    fn new(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Self { file, path })
    }
}
