//! A walk through what belongs to an agent: as deep as it goes, past no link, and into what the agent closed to itself. A
//! platform that is not root is that same user, and has no other way in than to change the mode for a while.
//!
//! The agent may move and replace everything meanwhile, to have the platform reach what the agent itself cannot. So each
//! path is opened below the root with no link on the way, and all that is done is done to what was opened.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, Permissions, ReadDir},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat},
    libc,
    sys::stat::Mode,
    unistd::{AccessFlags, access},
};

/// What a directory that is walked lets its owner do meanwhile, and a file that is read.
const DIRECTORY_OPEN: u32 = 0o700;
const FILE_OPEN: u32 = 0o400;

/// The directories below a root, each before those within it.
pub struct Walk {
    root: PathBuf,
    opened: OwnedFd,
    /// A list and no recursion: how deep it goes is the agent's to say.
    steps: Vec<Step>,
}

/// What is yet to do with a directory, by its path from the root.
enum Step {
    Enter(PathBuf),
    /// All within is done: it gets back the mode that it was found with and that keeps its owner out. Boxed, since there are
    /// as many steps as the agent makes directories, and few of them are this one.
    Close(PathBuf, Box<Metadata>),
}

/// A directory on the way.
pub struct Directory {
    /// From the root; the root itself is `.`.
    pub path: PathBuf,
    /// As its owner left it.
    pub found: Metadata,
    /// What is in it.
    pub entries: ReadDir,
}

impl Walk {
    /// A walk through all below a root, and the root.
    ///
    /// # Errors
    /// When the root is no directory.
    pub fn new(root: &Path) -> io::Result<Self> {
        let opened = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root: root.to_owned(), opened, steps: vec![Step::Enter(PathBuf::from("."))] })
    }

    /// Has a directory of the one before walked, too.
    pub fn enter_later(&mut self, path: PathBuf) {
        self.steps.push(Step::Enter(path));
    }

    /// Holds what is at a path from the root: a link, too, but nothing that one leads to.
    ///
    /// # Errors
    /// `ENAMETOOLONG` also when only root and path together are too long: other programs, and a restore, name it so.
    pub fn hold(&self, path: &Path) -> io::Result<Held> {
        if self.root.join(path).as_os_str().len() >= libc::PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inside = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let file = File::from(openat2(&self.opened, path, OpenHow::new().flags(flags).resolve(inside))?);
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Held { file, path })
    }

    fn enter(&mut self, path: &Path) -> io::Result<(Metadata, ReadDir)> {
        let held = self.hold(path)?;
        let found = held.metadata()?;
        if !found.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        if access(&held.path, AccessFlags::R_OK | AccessFlags::X_OK) == Err(Errno::EACCES) {
            held.set_mode(found.mode() | DIRECTORY_OPEN)?;
            self.steps.push(Step::Close(path.to_owned(), Box::new(found.clone())));
        }
        Ok((found, fs::read_dir(&held.path)?))
    }

    fn close(&self, path: &Path, found: &Metadata) {
        if let Err(error) = self.hold(path).and_then(|held| held.restore(found, DIRECTORY_OPEN))
            && !is_gone(&error)
        {
            let path = self.root.join(path);
            tracing::warn!(target: "mi::runtime", path = %path.display(), %error, "a directory stays open to its owner");
        }
    }
}

/// The next directory, or the path of one that cannot be looked into and why.
impl Iterator for Walk {
    type Item = Result<Directory, (PathBuf, io::Error)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.steps.pop()? {
                Step::Close(path, found) => self.close(&path, &found),
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
}

impl Drop for Walk {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            if let Step::Close(path, found) = step {
                self.close(&path, &found);
            }
        }
    }
}

/// Whether there is nothing at the path any more, or something that cannot be walked through: no directory, or a link.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

/// What is at a path at one moment, whatever takes its place later.
pub struct Held {
    file: File,
    /// By which the kernel finds just that.
    path: PathBuf,
}

impl Held {
    /// What it is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Where a link leads to.
    ///
    /// # Errors
    /// When it is no link.
    pub fn target(&self) -> io::Result<OsString> {
        Ok(readlinkat(&self.file, "")?)
    }

    /// Opens a file for reading, also one that its owner closed to itself; does not wait for the writer of a pipe.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn read(&self) -> io::Result<File> {
        match self.open() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let found = self.metadata()?;
                self.set_mode(found.mode() | FILE_OPEN)?;
                let opened = self.open();
                self.restore(&found, FILE_OPEN)?;
                opened
            }
            opened => opened,
        }
    }

    fn open(&self) -> io::Result<File> {
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&self.path)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }

    /// Gives back the mode that was found, if this is what was found and nobody else changed its mode since.
    fn restore(&self, found: &Metadata, opened: u32) -> io::Result<()> {
        let now = self.metadata()?;
        if (now.dev(), now.ino(), now.mode()) == (found.dev(), found.ino(), found.mode() | opened) {
            self.set_mode(found.mode())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }

    /// Root opens nothing up: what `enter` does for another user is done here by hand, with the swap after it.
    #[test]
    fn what_took_the_place_of_a_directory_keeps_its_mode_and_so_does_one_that_the_agent_changed() {
        let top = tempfile::tempdir().expect("made");
        let (root, victim) = (top.path().join("root"), top.path().join("victim"));
        let (a, moved) = (root.join("a"), root.join("moved"));
        for directory in [a.join("x"), victim.join("x")] {
            fs::create_dir_all(&directory).expect("made");
            set(&directory, 0o4055);
        }
        let walk = Walk::new(&root).expect("opened");
        let found = walk.hold(Path::new("./a/x")).and_then(|held| held.metadata()).expect("there");
        set(&a.join("x"), 0o4755);
        set(&victim.join("x"), 0o4755);
        let close = || walk.close(Path::new("./a/x"), &found);

        fs::rename(&a, &moved).expect("moved");
        symlink(&victim, &a).expect("linked");
        close();
        assert_eq!((mode(&victim.join("x")), mode(&moved.join("x"))), (0o4755, 0o4755));
        fs::remove_file(&a).expect("removed");
        fs::rename(&victim, &a).expect("moved");
        close();
        assert_eq!(mode(&a.join("x")), 0o4755, "another directory at the same path");
        fs::rename(&a, &victim).expect("moved");
        fs::rename(&moved, &a).expect("moved");
        set(&a.join("x"), 0o711);
        close();
        assert_eq!(mode(&a.join("x")), 0o711, "the agent's own change");
        set(&a.join("x"), 0o4755);
        close();
        assert_eq!(mode(&a.join("x")), 0o4055);
        set(&a.join("x"), 0o755);
    }

    #[test]
    fn a_link_that_took_a_place_on_the_way_is_not_walked_through() {
        let top = tempfile::tempdir().expect("made");
        let (root, outside) = (top.path().join("root"), top.path().join("outside"));
        fs::create_dir_all(outside.join("x")).expect("made");
        fs::create_dir(&root).expect("made");
        symlink(&outside, root.join("a")).expect("linked");
        let mut walk = Walk::new(&root).expect("opened");
        assert!(walk.next().is_some_and(|entered| entered.is_ok()), "the root");
        for path in ["./a", "./a/x"] {
            walk.enter_later(path.into());
            let Some(Err((at, error))) = walk.next() else { panic!("{path} was entered") };
            assert!(at == Path::new(path) && is_gone(&error), "{path}: {error}");
        }
        assert_eq!(walk.hold(Path::new("./a")).and_then(|held| held.target()).expect("a link"), outside.as_os_str());
    }
}
