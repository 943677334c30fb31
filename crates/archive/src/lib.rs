//! Archives of workspaces: a compressed tar that any tool opens.

mod check;
mod remove;
pub mod walk;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::Metadata,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mi_kernel::{Error, Result};
use nix::libc;
use tar::{Builder, EntryType, Header};

pub use check::Check;
pub use remove::remove;
use walk::{Directory, Held, Walk};

const COMPRESSION_LEVEL: i32 = 3;
/// How many bytes of paths are kept to know further names of the same file. Beyond that such a name is archived as a file of
/// its own: its content is there, only that it was the same is lost.
const KEPT: usize = 64 << 20;
/// How much of a path an error shows.
const SHOWN: usize = 300;

/// Writes an archive of the directory: links as links, hard links too; what is no file, directory or link is left out, and
/// so is what lies deeper than a path can name.
///
/// # Errors
/// `BACKUP_FAILED`, with the path that could not be archived.
pub fn pack(root: &Path, output: Box<dyn Write + Send>) -> Result<()> {
    let pack = || -> io::Result<()> {
        let builder = Builder::new(zstd::Encoder::new(output, COMPRESSION_LEVEL)?);
        let mut packer = Packer { builder, root, names: Names::new(KEPT) };
        if root.is_dir() {
            packer.tree()?;
        }
        packer.builder.into_inner()?.finish()?.flush()
    };
    pack().map_err(|error| {
        let text = format!("the workspace could not be archived: {error}");
        Error::precondition("BACKUP_FAILED", text).caused_by(error)
    })
}

/// Unpacks an archive into the directory. Nothing is written outside of it, nor linked from there.
///
/// # Errors
/// When it is no archive, or what is in it cannot be written there.
pub fn unpack(archive: Box<dyn Read + Send>, directory: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(archive)?);
    archive.set_preserve_permissions(true);
    archive.unpack(directory)
}

struct Packer<'a, W: Write> {
    builder: Builder<W>,
    root: &'a Path,
    names: Names,
}

impl<W: Write> Packer<'_, W> {
    /// Not tar's own `append_dir_all`: that fails at the first socket and at what its owner may not read, follows a link
    /// that takes a file's place, and writes a file once for each of its names.
    fn tree(&mut self) -> io::Result<()> {
        let mut walk = Walk::new(self.root)?;
        while let Some(next) = walk.next() {
            match next {
                Ok(directory) => self.directory(directory, &mut walk)?,
                Err((path, error)) => self.left_out(&path, error)?,
            }
        }
        Ok(())
    }

    fn directory(&mut self, directory: Directory, walk: &mut Walk) -> io::Result<()> {
        let Directory { path, found, entries } = directory;
        let mut header = Header::new_gnu();
        header.set_metadata(&found);
        header.set_size(0);
        self.builder.append_data(&mut header, &path, io::empty()).map_err(at(&path))?;
        for entry in entries {
            let entry = entry.map_err(at(&path))?;
            let name = path.join(entry.file_name());
            let kind = entry.file_type().map_err(at(&name))?;
            if kind.is_dir() {
                walk.enter_later(name);
            } else if kind.is_symlink() {
                walk.hold(&name).and_then(|held| self.link(&name, &held)).map_err(at(&name))?;
            } else if kind.is_file()
                && let Err(error) = walk.hold(&name).and_then(|held| self.file(&name, &held))
            {
                self.left_out(&name, error)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, name: &Path, held: &Held) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(&held.metadata()?);
        header.set_size(0);
        self.builder.append_link(&mut header, name, held.target()?)
    }

    fn file(&mut self, name: &Path, held: &Held) -> io::Result<()> {
        let found = held.metadata()?;
        if let Some(first) = self.names.first(&found) {
            let mut header = Header::new_gnu();
            header.set_metadata(&found);
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            return self.builder.append_link(&mut header, name, first);
        }
        let mut file = held.read()?;
        self.builder.append_file(name, &mut file)?;
        self.names.keep(&file.metadata()?, name);
        Ok(())
    }

    /// What lies too deep is left out; any other error is one of the backup.
    fn left_out(&self, name: &Path, error: io::Error) -> io::Result<()> {
        if error.raw_os_error() != Some(libc::ENAMETOOLONG) {
            return Err(at(name)(error));
        }
        tracing::warn!(target: "mi::runtime", root = %self.root.display(), "a path is too long for a backup");
        Ok(())
    }
}

/// The same error, with the path that it is about.
fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| {
        let path = format!("{:?}", path.strip_prefix(".").unwrap_or(path));
        io::Error::new(error.kind(), format!("{}: {error}", &path[..path.floor_char_boundary(SHOWN)]))
    }
}

/// First names of files that have more, by device and inode.
struct Names {
    first: HashMap<(u64, u64), Known>,
    /// Bytes that may yet be kept.
    room: usize,
}

struct Known {
    name: PathBuf,
    /// Names that have not been met.
    left: u64,
}

impl Names {
    fn new(room: usize) -> Self {
        Self { first: HashMap::new(), room }
    }

    fn size(name: &Path) -> usize {
        name.as_os_str().len() + size_of::<((u64, u64), Known)>()
    }

    /// The name under which the file is in the archive, if it is.
    fn first(&mut self, found: &Metadata) -> Option<PathBuf> {
        let Entry::Occupied(mut known) = self.first.entry((found.dev(), found.ino())) else { return None };
        known.get_mut().left -= 1;
        if known.get().left > 0 {
            return Some(known.get().name.clone());
        }
        let name = known.remove().name;
        self.room += Self::size(&name);
        Some(name)
    }

    /// The file is in the archive under this name.
    fn keep(&mut self, found: &Metadata, name: &Path) {
        let size = Self::size(name);
        if found.nlink() > 1 && size <= self.room {
            self.room -= size;
            self.first.insert((found.dev(), found.ino()), Known { name: name.to_owned(), left: found.nlink() - 1 });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("test").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn packed(root: &Path) -> Vec<u8> {
        let memory = Memory::default();
        pack(root, Box::new(memory.clone())).expect("packed");
        let bytes = memory.0.lock().expect("test");
        bytes.clone()
    }

    fn unpacked(bytes: &[u8]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("made");
        unpack(Box::new(io::Cursor::new(bytes.to_vec())), root.path()).expect("unpacked");
        root
    }

    fn mode(path: impl AsRef<Path>) -> u32 {
        fs::symlink_metadata(path).expect("there").mode() & 0o7777
    }

    #[test]
    fn a_file_with_many_names_is_archived_once_and_comes_back_as_one_file() {
        let old = tempfile::tempdir().expect("made");
        let deep = format!("deep/{}/{}", "d".repeat(120), "e".repeat(120));
        fs::create_dir_all(old.path().join(&deep)).expect("made");
        // Nothing compresses this.
        let content: Vec<u8> =
            std::iter::repeat_with(|| uuid::Uuid::new_v4().into_bytes()).take(60_000).flatten().collect();
        fs::write(old.path().join("first"), &content).expect("written");
        let names = ["second".to_owned(), "deep/third".to_owned(), format!("{deep}/fourth")];
        for name in &names {
            fs::hard_link(old.path().join("first"), old.path().join(name)).expect("linked");
        }
        fs::write(old.path().join("other"), "other").expect("written");
        // It has a name outside as well.
        let outside = tempfile::tempdir().expect("made");
        fs::hard_link(old.path().join("other"), outside.path().join("name")).expect("linked");
        let bytes = packed(old.path());
        assert!(bytes.len() < content.len() + 50_000, "{} of {}", bytes.len(), content.len());

        let new = unpacked(&bytes);
        let first = fs::metadata(new.path().join("first")).expect("there");
        assert_eq!((first.nlink(), fs::read(new.path().join("first")).expect("read") == content), (4, true));
        for name in names {
            assert_eq!(fs::metadata(new.path().join(&name)).expect("there").ino(), first.ino(), "{name}");
        }
        assert_eq!(fs::read(new.path().join("other")).expect("there"), b"other");
        assert_eq!(fs::metadata(new.path().join("other")).expect("there").nlink(), 1);
    }

    #[test]
    fn names_that_find_no_room_are_files_of_their_own_and_names_that_were_met_give_room() {
        let root = tempfile::tempdir().expect("made");
        let mut found = Vec::new();
        for name in ["a", "b"] {
            fs::write(root.path().join(name), name).expect("written");
            fs::hard_link(root.path().join(name), root.path().join(format!("{name}2"))).expect("linked");
            found.push(fs::metadata(root.path().join(name)).expect("there"));
        }
        let mut names = Names::new(Names::size(Path::new("a")));
        names.keep(&found[0], Path::new("a"));
        names.keep(&found[1], Path::new("b"));
        assert_eq!(names.first(&found[1]), None);
        assert_eq!(names.first(&found[0]), Some("a".into()));
        assert_eq!(names.first(&found[0]), None);
        names.keep(&found[1], Path::new("b"));
        assert_eq!(names.first(&found[1]), Some("b".into()));
    }

    /// Root reads everything; for another user this is the way in.
    #[test]
    fn what_its_owner_may_not_read_is_archived_with_its_mode_and_stays_so() {
        let old = tempfile::tempdir().expect("made");
        let locked = old.path().join("locked");
        fs::create_dir_all(locked.join("deep")).expect("made");
        fs::write(locked.join("deep/file"), "inside").expect("written");
        fs::write(old.path().join("secret"), "hidden").expect("written");
        for (path, mode) in [("secret", 0), ("locked/deep/file", 0o200), ("locked/deep", 0o300), ("locked", 0)] {
            fs::set_permissions(old.path().join(path), Permissions::from_mode(mode)).expect("set");
        }
        let new = unpacked(&packed(old.path()));
        for root in [old.path(), new.path()] {
            assert_eq!((mode(root.join("secret")), mode(root.join("locked"))), (0, 0));
            fs::set_permissions(root.join("locked"), Permissions::from_mode(0o700)).expect("set");
            assert_eq!((mode(root.join("locked/deep")), mode(root.join("locked/deep/file"))), (0o300, 0o200));
            fs::set_permissions(root.join("locked/deep"), Permissions::from_mode(0o700)).expect("set");
            for (path, content) in [("secret", "hidden"), ("locked/deep/file", "inside")] {
                fs::set_permissions(root.join(path), Permissions::from_mode(0o600)).expect("set");
                assert_eq!(fs::read_to_string(root.join(path)).expect("there"), content);
            }
        }
    }

    #[test]
    fn holes_stay_holes() {
        let old = tempfile::tempdir().expect("made");
        let file = fs::File::create(old.path().join("sparse")).expect("made");
        file.set_len(1 << 30).expect("grown");
        std::os::unix::fs::FileExt::write_at(&file, b"end", (1 << 30) - 3).expect("written");
        let new = unpacked(&packed(old.path()));
        let found = fs::metadata(new.path().join("sparse")).expect("there");
        assert_eq!(found.len(), 1 << 30);
        assert!(found.blocks() * 512 < 1 << 20, "{}", found.blocks());
    }

    /// Archives are the platform's own; one that was tampered with does no harm all the same.
    #[test]
    fn a_link_out_of_the_workspace_is_not_followed_by_what_comes_after_it() {
        let outside = tempfile::tempdir().expect("made");
        fs::write(outside.path().join("secret"), "secret").expect("written");
        let linked = |kind, name: &str, target: &Path| {
            let mut builder = Builder::new(zstd::Encoder::new(Vec::new(), 1).expect("made"));
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            builder.append_link(&mut header, "out", outside.path()).expect("appended");
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            builder.append_link(&mut header, name, target).expect("appended");
            builder.into_inner().and_then(zstd::Encoder::finish).expect("finished")
        };
        for (name, target) in [
            ("stolen", outside.path().join("secret")),
            ("stolen", PathBuf::from("out/secret")),
            ("stolen", PathBuf::from("../secret")),
            ("out/planted", PathBuf::from("out")),
        ] {
            let new = tempfile::tempdir().expect("made");
            let archive = linked(EntryType::Link, name, &target);
            unpack(Box::new(io::Cursor::new(archive)), new.path()).expect_err(name);
            assert!(!new.path().join("stolen").exists() && !outside.path().join("planted").exists(), "{target:?}");
        }
    }

    #[test]
    fn an_error_names_the_path() {
        let error = at(Path::new("./a\nb"))(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(error.to_string(), "\"a\\nb\": permission denied");
        assert!(at(Path::new(&"x".repeat(4000)))(io::Error::other("broken")).to_string().len() < 400);
    }
}
