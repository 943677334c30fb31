//! A file or a directory as a stream, to be copied from here to an agent or back: a tar archive, written and read alike on
//! both sides.
//!
//! Neither side trusts the other. What is read goes into a directory of its own first, and from there to its place when
//! it is whole. Nothing is written through a link, and no link is kept that leads out of what is copied.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File, Metadata, Permissions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Archive, Builder, Entry, EntryType, Header};
use tempfile::TempDir;

/// What is copied, by whatever name it goes on either side.
const TOP: &str = "it";
/// Comes last: an archive without it was cut off.
const END: &str = "end";
/// Longest name of a file and target of a link, in bytes, as the system has it.
const MAX_PATH: u64 = 4096;
/// What may come after the end, which is nothing but padding.
const PADDING: u64 = 64 << 10;
/// Longest target that fits into a header.
const SHORT: usize = 100;

/// Writes what is at the path; answers what is left out, and why. A link at the path itself is followed.
pub(crate) fn pack(path: &Path, to: impl Write) -> io::Result<Vec<String>> {
    let mut archive = Builder::new(to);
    let mut left_out = Vec::new();
    let mut open = vec![(path.to_owned(), PathBuf::from(TOP))];
    while let Some((path, name)) = open.pop() {
        let top = name.as_os_str() == TOP;
        let found = if top { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let found = found.map_err(|error| at(&path, error))?;
        let kind = found.file_type();
        if kind.is_dir() {
            archive.append_data(&mut header(EntryType::Directory, &found), &name, io::empty())?;
            for entry in fs::read_dir(&path).map_err(|error| at(&path, error))? {
                let entry = entry.map_err(|error| at(&path, error))?;
                open.push((entry.path(), name.join(entry.file_name())));
            }
        } else if kind.is_file() {
            pack_file(&mut archive, &path, &name)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(|error| at(&path, error))?;
            let mut header = header(EntryType::Symlink, &found);
            if target.as_os_str().len() <= SHORT {
                header.set_link_name_literal(target.as_os_str().as_bytes())?;
                archive.append_data(&mut header, &name, io::empty())?;
            } else {
                archive.append_link(&mut header, &name, &target)?;
            }
        } else if top {
            return Err(at(&path, io::Error::other("is neither a file nor a directory")));
        } else {
            left_out.push(format!("{}: neither a file, a directory nor a link", path.display()));
        }
    }
    let mut end = Header::new_gnu();
    end.set_size(0);
    archive.append_data(&mut end, END, io::empty())?;
    archive.into_inner()?.flush()?;
    Ok(left_out)
}

fn pack_file(archive: &mut Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    let named = |error| at(path, error);
    let file = File::open(path).map_err(named)?;
    let found = file.metadata().map_err(named)?;
    let mut header = header(EntryType::Regular, &found);
    header.set_size(found.len());
    // What is written at this moment may grow, which is not looked at, or shrink, for which the archive has no word.
    let mut content = Exactly { from: file.take(found.len()), left: found.len() };
    archive.append_data(&mut header, name, &mut content).map_err(named)
}

/// Reads that fail when there is less than was said.
struct Exactly<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.left -= count as u64;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "became shorter while it was read"));
        }
        Ok(count)
    }
}

fn header(kind: EntryType, found: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o777);
    header.set_mtime(found.mtime().try_into().unwrap_or(0));
    header.set_size(0);
    header
}

/// Where something of this name is to go: into a directory that is there, or that the path asks for by a slash at its end;
/// else it is what the path says. A link is followed.
pub(crate) fn destination(to: &Path, name: &OsStr) -> io::Result<PathBuf> {
    let into = to.as_os_str().as_bytes().ends_with(b"/");
    match fs::metadata(to) {
        Ok(found) if found.is_dir() => Ok(to.join(name)),
        Ok(_) => fs::canonicalize(to).map_err(|error| at(to, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && into => {
            fs::create_dir_all(to).map_err(|error| at(to, error))?;
            Ok(to.join(name))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(to.to_owned()),
        Err(error) => Err(at(to, error)),
    }
}

/// What was read, beside the place that it is for; gone when this is dropped.
pub(crate) struct Staged {
    stage: TempDir,
    place: PathBuf,
    directories: Vec<(PathBuf, u32)>,
    /// The permissions that something new may have here.
    allowed: u32,
    /// What is not there, and why.
    pub(crate) left_out: Vec<String>,
}

/// Reads all of it, for this place.
pub(crate) fn stage(from: impl Read, place: PathBuf) -> io::Result<Staged> {
    let beside = place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // What is wrong with it is told by its name, and not by that of what is made in it.
    fs::metadata(beside).map_err(|error| at(beside, error))?;
    let stage = tempfile::Builder::new().prefix(".mi-cp-").tempdir_in(beside).map_err(|error| at(&place, error))?;
    let allowed = allowed(stage.path()).map_err(|error| at(&place, error))?;
    let mut staged = Staged { stage, place, directories: Vec::new(), allowed, left_out: Vec::new() };
    let mut known = HashSet::from([PathBuf::new()]);
    let (mut long_name, mut long_target) = (None, None);
    let mut archive = Archive::new(from);
    let mut whole = false;
    // Raw: of what stands for long names no more is read than a name may be long.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            long_name = Some(long(&mut entry)?);
            continue;
        }
        if kind.is_gnu_longlink() {
            long_target = Some(long(&mut entry)?);
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let target = long_target.take().or_else(|| entry.link_name_bytes().map(|target| target.into_owned()));
        if name == END.as_bytes() {
            whole = true;
            break;
        }
        let name = inside(&name)?;
        // Made here as a directory, and not by way of a link.
        if !name.parent().is_some_and(|parent| known.contains(parent)) {
            return Err(untrusted(format!("names {:?} before the directory that it is in", name.display())));
        }
        staged.take(&mut entry, kind, &name, target.as_deref())?;
        if kind.is_dir() {
            known.insert(name);
        }
    }
    if !whole {
        return Err(untrusted("was cut off"));
    }
    if staged.top().symlink_metadata().is_err() {
        return Err(untrusted("holds nothing"));
    }
    // Whoever writes it is not to find that nobody reads any more.
    io::copy(&mut archive.into_inner().take(PADDING), &mut io::sink())?;
    Ok(staged)
}

/// The permissions that something new may have in this directory: what the umask leaves. It is seen by what it does, as a
/// process cannot ask for it without changing it.
fn allowed(dir: &Path) -> io::Result<u32> {
    let probe = dir.join("probe");
    fs::create_dir(&probe)?;
    let allowed = probe.symlink_metadata()?.mode() & 0o777;
    fs::remove_dir(&probe)?;
    Ok(allowed)
}

/// The name of something in the archive, which is relative and leads nowhere else.
fn inside(name: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(name));
    let plain = |part: Component| matches!(part, Component::Normal(_));
    if path.components().all(plain) && path.starts_with(TOP) && !name.contains(&0) {
        // Component by component: no slash is left at the end.
        return Ok(path.components().collect());
    }
    Err(untrusted(format!("names {:?}, which is outside of what is copied", path.display())))
}

/// A name that is too long for a header.
fn long(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let mut name = Vec::new();
    entry.take(MAX_PATH + 1).read_to_end(&mut name)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    if name.len() as u64 > MAX_PATH {
        return Err(untrusted("has a name that is too long"));
    }
    Ok(name)
}

fn untrusted(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive {why}; nothing was written"))
}

impl Staged {
    fn top(&self) -> PathBuf {
        self.stage.path().join(TOP)
    }

    /// Takes one entry.
    fn take(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        name: &Path,
        target: Option<&[u8]>,
    ) -> io::Result<()> {
        let path = self.stage.path().join(name);
        let named = |error| at(name, error);
        let mode = entry.header().mode()? & self.allowed;
        if kind.is_dir() {
            fs::create_dir(&path).map_err(named)?;
            fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(named)?;
            self.directories.push((name.to_owned(), mode));
        } else if kind.is_file() {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(named)?;
            let size = entry.size();
            if io::copy(entry, &mut file).map_err(named)? != size {
                return Err(untrusted("was cut off"));
            }
            file.set_permissions(Permissions::from_mode(mode)).map_err(named)?;
            let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.header().mtime()?));
            if let Some(modified) = modified {
                // A time that the file system does not know is no reason to fail.
                let _ = file.set_modified(modified);
            }
        } else if kind.is_symlink() && name.as_os_str() != TOP {
            let target = Path::new(OsStr::from_bytes(target.unwrap_or_default()));
            match leads_inside(name, target) {
                true => symlink(target, &path).map_err(named)?,
                false => {
                    let target = target.display();
                    self.leave_out(name, &format!("a link to {target}, which may lead outside of what is copied"));
                }
            }
        } else {
            self.leave_out(name, "neither a file, a directory nor a link");
        }
        Ok(())
    }

    fn leave_out(&mut self, name: &Path, why: &str) {
        let name = name.strip_prefix(TOP).unwrap_or(name);
        self.left_out.push(format!("{}: {why}", name.display()));
    }

    /// Puts it into its place: in one step when nothing is there, else file by file. Directories that are there stay, with
    /// what else they hold; links that are there are replaced and not followed.
    pub(crate) fn place(self) -> io::Result<Vec<String>> {
        let placed = |name: &Path| match name.strip_prefix(TOP) {
            Ok(below) if !below.as_os_str().is_empty() => self.place.join(below),
            _ => self.place.clone(),
        };
        let directories = self.directories.iter().map(|(name, mode)| (placed(name), *mode));
        let new: Vec<_> = directories.filter(|(path, _)| path.symlink_metadata().is_err()).collect();
        place(&self.top(), &self.place)?;
        // From below: one that may not be written to takes in no more.
        for (path, mode) in new.iter().rev() {
            fs::set_permissions(path, Permissions::from_mode(*mode)).map_err(|error| at(path, error))?;
        }
        Ok(self.left_out)
    }
}

fn place(from: &Path, to: &Path) -> io::Result<()> {
    let new = from.symlink_metadata().map_err(|error| at(from, error))?;
    match to.symlink_metadata() {
        Ok(old) if new.is_dir() && old.is_dir() => {
            for entry in fs::read_dir(from).map_err(|error| at(from, error))? {
                let name = entry.map_err(|error| at(from, error))?.file_name();
                place(&from.join(&name), &to.join(&name))?;
            }
            Ok(())
        }
        Ok(_) if new.is_dir() => Err(at(to, io::Error::other("is there and no directory; a link is not followed"))),
        Ok(old) if old.is_dir() => Err(at(to, io::ErrorKind::IsADirectory.into())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(to, error)),
        Ok(_) | Err(_) => fs::rename(from, to).map_err(|error| at(to, error)),
    }
}

/// Whether a link of this name stays in what is copied, wherever other links lead that are kept. It is in a directory, and
/// from one `..` leads to the one above; after a name it leads to what is above the end of another link, which may be
/// outside. So it is taken at the start only, and from there names lead down or through links of which the same is true.
fn leads_inside(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count() - 1;
    let mut is_named = false;
    for part in target.components() {
        match part {
            Component::Normal(_) => is_named = true,
            Component::CurDir => {}
            // What is copied is itself one deep.
            Component::ParentDir if !is_named && depth > 1 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !target.as_os_str().is_empty()
}

/// The same error, with the path that it is about.
fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
