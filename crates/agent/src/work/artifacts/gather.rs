//! Which files a script left to be published, and where they are.
//!
//! A link stands for what it leads to, as long as that is the script's own: in the workspace or beside the link. Others may
//! change the directories meanwhile, tasks of the same agent for example. So a file is opened by the path that it was found
//! at with no link on the way, and below a directory that was opened before: nothing foreign is read, whatever takes its place.

use std::{
    collections::BTreeMap,
    fs::{self, DirEntry, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use mi_kernel::text::MAX_DRIVE_PATH;
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::Mode,
};

/// Most files that a task publishes; with usual names so many fit on a receipt.
pub(super) const MAX_FILES: usize = 500;
/// Most entries of directories that are looked at for them.
const MAX_ENTRIES: usize = 10_000;
/// How many names are told, and how much of each with what is wrong.
const TOLD: usize = 20;
const TOLD_BYTES: usize = 300;

/// What a script left.
#[derive(Default)]
pub(super) struct Gathered {
    /// Names of files, from `$MI_ARTIFACTS`, and where they are, past all links.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// What cannot be in the drive by its nature; the others are published.
    pub(super) left_out: Told,
    /// What was meant to be published and cannot be.
    pub(super) wrong: Told,
    seen: usize,
}

/// Names, each with the reason. Only some are kept.
#[derive(Default)]
pub(super) struct Told {
    lines: Vec<String>,
    more: usize,
}

impl Told {
    /// Adds a name, quoted, so that whatever is in it stays on its line.
    pub(super) fn add(&mut self, name: impl std::fmt::Debug, why: impl std::fmt::Display) {
        if self.lines.len() == TOLD {
            self.more += 1;
            return;
        }
        let name = format!("{name:?}");
        let mut line = format!("{}: {why}", &name[..name.floor_char_boundary(TOLD_BYTES)]);
        line.truncate(line.floor_char_boundary(2 * TOLD_BYTES));
        self.lines.push(line);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The names, a line each.
    pub(super) fn text(&self) -> String {
        let mut lines = self.lines.clone();
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines.join("\n")
    }
}

/// The directories that files are published from.
pub(super) struct Roots {
    workspace: Root,
    /// Unless the script put something else there.
    artifacts: Option<Root>,
}

struct Root {
    /// The absolute path, without symbolic links.
    path: PathBuf,
    opened: OwnedFd,
}

impl Root {
    fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self { opened: open(&path, flags, Mode::empty())?, path })
    }
}

impl Roots {
    /// # Errors
    /// When the workspace, or the directory that the script's own one is in, cannot be entered.
    pub(super) fn open(workspace: &Path, artifacts: &Path) -> io::Result<Self> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let parent = fs::canonicalize(artifacts.parent().ok_or_else(missing)?)?;
        let artifacts = parent.join(artifacts.file_name().ok_or_else(missing)?);
        Ok(Self { workspace: Root::open(fs::canonicalize(workspace)?)?, artifacts: Root::open(artifacts).ok() })
    }

    /// The root that a place is in, and the way from there.
    fn of<'a>(&self, place: &'a Path) -> Option<(&Root, &'a Path)> {
        let mut roots = self.artifacts.iter().chain([&self.workspace]);
        roots.find_map(|root| Some((root, place.strip_prefix(&root.path).ok()?)))
    }

    /// Opens a file that was gathered.
    ///
    /// # Errors
    /// Also when it is no longer there, or no longer a file.
    pub(super) fn file(&self, place: &Path) -> io::Result<File> {
        let changed = || io::Error::other("it was changed while it was published");
        let (root, way) = self.of(place).ok_or_else(changed)?;
        // What took a file's place, such as a pipe, must not be waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let inside =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let file = File::from(openat2(&root.opened, way, OpenHow::new().flags(flags).resolve(inside))?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(changed()) }
    }
}

/// Looks for files below the directory.
///
/// # Errors
/// When there are more of them than may be published, or it cannot be read.
pub(super) fn gather(roots: &Roots, directory: &Path) -> Result<Gathered, String> {
    let mut gathered = Gathered::default();
    let place = fs::canonicalize(directory).map_err(|error| format!("$MI_ARTIFACTS cannot be read: {error}"))?;
    if roots.of(&place).is_none() {
        return Err("$MI_ARTIFACTS is a link that leads out of the workspace".into());
    }
    gathered.directory(roots, &place, "", &mut Vec::new());
    if gathered.files.len() > MAX_FILES {
        return Err(format!("more than {MAX_FILES} files in $MI_ARTIFACTS: publish them as one archive"));
    }
    if gathered.seen > MAX_ENTRIES {
        return Err(format!("more than {MAX_ENTRIES} entries in $MI_ARTIFACTS: publish them as one archive"));
    }
    Ok(gathered)
}

impl Gathered {
    fn is_full(&self) -> bool {
        self.files.len() > MAX_FILES || self.seen > MAX_ENTRIES
    }

    /// `within`: the directories that this one was come by. A name that is too long for the drive ends the way down.
    fn directory(&mut self, roots: &Roots, place: &Path, prefix: &str, within: &mut Vec<PathBuf>) {
        let entries = match fs::read_dir(place) {
            Ok(entries) => entries,
            Err(error) => return self.wrong.add(prefix, error),
        };
        within.push(place.to_owned());
        for entry in entries {
            self.seen += 1;
            if self.is_full() {
                break;
            }
            match entry {
                Ok(entry) => self.entry(roots, &entry, prefix, within),
                Err(error) => self.wrong.add(prefix, error),
            }
        }
        within.pop();
    }

    fn entry(&mut self, roots: &Roots, entry: &DirEntry, prefix: &str, within: &mut Vec<PathBuf>) {
        let name = entry.file_name();
        let Some(name) = name.to_str().map(|name| format!("{prefix}{name}")) else {
            return self.left_out.add(Path::new(prefix).join(name), "the name is not UTF-8");
        };
        if name.len() > MAX_DRIVE_PATH {
            return self.left_out.add(name, "the name is longer than a path of the drive may be");
        }
        let mut place = entry.path();
        let mut found = entry.file_type();
        if found.as_ref().is_ok_and(fs::FileType::is_symlink) {
            place = match fs::canonicalize(&place) {
                Ok(place) if roots.of(&place).is_some() => place,
                Ok(_) => return self.wrong.add(name, "a link that leads out of the workspace"),
                Err(error) => return self.wrong.add(name, format!("a link that leads to nothing: {error}")),
            };
            if within.contains(&place) {
                return self.wrong.add(name, "a link to a directory that it is in itself");
            }
            found = fs::symlink_metadata(&place).map(|found| found.file_type());
        }
        match found {
            Ok(found) if found.is_dir() => self.directory(roots, &place, &format!("{name}/"), within),
            Ok(found) if found.is_file() => drop(self.files.insert(name, place)),
            Ok(_) => self.left_out.add(name, "neither a file nor a directory"),
            Err(error) => self.wrong.add(name, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn harness() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().expect("made");
        let (workspace, artifacts) = (root.path().join("workspace"), root.path().join("artifacts"));
        for directory in [&workspace, &artifacts] {
            fs::create_dir(directory).expect("made");
        }
        fs::write(root.path().join("secret"), "secret").expect("written");
        fs::write(workspace.join("file"), "file").expect("written");
        (root, workspace, artifacts)
    }

    #[test]
    fn what_takes_the_place_of_a_file_is_not_read() {
        let (root, workspace, artifacts) = harness();
        let roots = Roots::open(&workspace, &artifacts).expect("opened");
        fs::create_dir(artifacts.join("d")).expect("made");
        for name in ["a", "b", "d/c"] {
            fs::write(artifacts.join(name), "own").expect("written");
        }
        symlink(workspace.join("file"), artifacts.join("link")).expect("linked");
        let gathered = gather(&roots, &artifacts).expect("gathered");
        assert_eq!(gathered.files.keys().collect::<Vec<_>>(), ["a", "b", "d/c", "link"]);
        let open = |name: &str| roots.file(&gathered.files[name]);
        // The file itself, a directory on the way, and what a link led to.
        fs::remove_file(artifacts.join("a")).expect("removed");
        symlink(root.path().join("secret"), artifacts.join("a")).expect("linked");
        fs::remove_dir_all(artifacts.join("d")).expect("removed");
        symlink(root.path(), artifacts.join("d")).expect("linked");
        fs::write(root.path().join("c"), "secret").expect("written");
        fs::remove_file(workspace.join("file")).expect("removed");
        symlink(root.path().join("secret"), workspace.join("file")).expect("linked");
        for name in ["a", "d/c", "link"] {
            open(name).expect_err(name);
        }
        fs::remove_file(artifacts.join("b")).expect("removed");
        nix::unistd::mkfifo(&artifacts.join("b"), Mode::S_IRWXU).expect("made");
        assert_eq!(open("b").expect_err("a pipe").to_string(), "it was changed while it was published");
    }

    #[test]
    fn directories_that_lead_into_each_other_come_to_an_end() {
        let (_root, workspace, artifacts) = harness();
        // Without a file there is nothing to count but the entries: two to the power of twenty ways.
        for level in 0..20 {
            let directory = workspace.join(level.to_string());
            fs::create_dir(&directory).expect("made");
            for name in ["left", "right"] {
                symlink(workspace.join((level + 1).to_string()), directory.join(name)).expect("linked");
            }
        }
        fs::create_dir(workspace.join("20")).expect("made");
        symlink(workspace.join("0"), artifacts.join("maze")).expect("linked");
        let roots = Roots::open(&workspace, &artifacts).expect("opened");
        let problem = gather(&roots, &artifacts).err().expect("too many");
        assert_eq!(problem, "more than 10000 entries in $MI_ARTIFACTS: publish them as one archive");
    }

    #[test]
    fn what_is_told_is_bounded_and_on_one_line_a_name() {
        let mut told = Told::default();
        for index in 0..1000 {
            told.add(format!("{index}\n{}", "x".repeat(4000)), "y".repeat(4000));
        }
        let text = told.text();
        assert_eq!((text.lines().count(), text.lines().last()), (21, Some("and 980 more")));
        assert!(text.len() < 16 << 10, "{}", text.len());
    }
}
