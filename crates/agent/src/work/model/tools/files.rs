//! Files of the workspace, and nothing outside it.

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use nix::libc;

use super::{super::super::output::text, Answer, MAX_ANSWER};

/// Most that is read at once; the answer also says where to go on.
const MAX_READ: usize = MAX_ANSWER - 256;
const MAX_ENTRIES: usize = 500;

tool!(Read, "read_file", "Read a text file of your workspace.", {
    path: String = "string", "Path in the workspace.";
    #[serde(default)] offset: u64 = "integer?", "First byte; 0 by default.";
});

tool!(Write, "write_file", "Write a file of your workspace, over whatever is there.", {
    path: String = "string", "Path in the workspace.";
    content: String = "string", "The whole content.";
});

tool!(List, "list_files", "List a directory of your workspace.", {
    #[serde(default)] path: String = "string?", "Path in the workspace; the workspace itself by default.";
});

pub(super) fn read(workspace: &Path, asked: &Read) -> Answer {
    let wrong = |error: std::io::Error| format!("{}: {error}", asked.path);
    let path = inside(workspace, &asked.path)?;
    let (file, size) = open(fs::File::options().read(true), &path).map_err(wrong)?;
    let mut content = vec![0; MAX_READ];
    let count = file.read_at(&mut content, asked.offset).map_err(wrong)?;
    Ok(part(&content[..count], asked.offset, size))
}

/// A part of a file as text; says so if it is not the end.
pub(super) fn part(bytes: &[u8], offset: u64, size: u64) -> String {
    let (mut text, end) = (text(bytes), offset + bytes.len() as u64);
    if end < size {
        text += &format!("\n(bytes {offset} to {end} of {size}; go on with offset {end})");
    }
    text
}

pub(super) fn write(workspace: &Path, asked: &Write) -> Answer {
    let wrong = |error: std::io::Error| format!("{}: {error}", asked.path);
    let path = inside(workspace, &asked.path)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    let (mut file, _) = open(fs::File::options().write(true).create(true), &path).map_err(wrong)?;
    file.set_len(0).and_then(|()| file.write_all(asked.content.as_bytes())).map_err(wrong)?;
    Ok(format!("wrote {} bytes", asked.content.len()))
}

pub(super) fn list(workspace: &Path, asked: &List) -> Answer {
    let wrong = |error: std::io::Error| format!("{:?}: {error}", asked.path);
    let mut lines = Vec::new();
    for entry in fs::read_dir(inside(workspace, &asked.path)?).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        lines.push(match entry.metadata() {
            Ok(found) if found.is_dir() => format!("{name}/"),
            Ok(found) => format!("{name} ({} bytes)", found.len()),
            Err(_) => name,
        });
    }
    lines.sort();
    let more = lines.len().saturating_sub(MAX_ENTRIES);
    lines.truncate(MAX_ENTRIES);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Ok(if lines.is_empty() { "(empty)".into() } else { lines.join("\n") })
}

/// Opens a regular file, and nothing else: a pipe would have the agent wait for its other end. Also answers the size.
fn open(options: &mut fs::OpenOptions, path: &Path) -> io::Result<(fs::File, u64)> {
    let opened = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let found = opened.as_ref().map_or_else(|_| path.symlink_metadata(), fs::File::metadata);
    match (opened, found) {
        (_, Ok(found)) if !found.is_file() => Err(io::Error::other("is no file")),
        (Err(error), _) | (_, Err(error)) => Err(error),
        (Ok(file), Ok(found)) => Ok((file, found.len())),
    }
}

/// The path in the workspace, links followed as far as it exists.
fn inside(workspace: &Path, asked: &str) -> Result<PathBuf, String> {
    let outside = || format!("{asked:?} is not in the workspace: give a path below it, without ..");
    let relative = Path::new(asked);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let wrong = |error: std::io::Error| format!("{asked:?}: {error}");
    let root = workspace.canonicalize().map_err(wrong)?;
    let path = root.join(relative);
    // The part of it that is there decides; what is below does not exist, so that no link can lead it away.
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Ok(found) if found.starts_with(&root) => {
                let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
                // Nothing that is there gets a slash at its end.
                return Ok(if rest.as_os_str().is_empty() { found } else { found.join(rest) });
            }
            Ok(_) => return Err(outside()),
            // A link that leads nowhere is there, and would be written through.
            Err(_) if ancestor.is_symlink() => return Err(outside()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
        }
    }
    Err(outside())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(workspace: &Path, path: &str) -> Answer {
        write(workspace, &Write { path: path.into(), content: "text".into() })
    }

    #[test]
    fn files_stay_inside_the_workspace() {
        let (dir, other) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
        std::os::unix::fs::symlink(other.path(), dir.path().join("out")).expect("linked");
        std::os::unix::fs::symlink(other.path().join("new"), dir.path().join("nowhere")).expect("linked");
        for path in ["../x", "/etc/passwd", "a/../../x", "out/x", "nowhere", "out"] {
            let error = written(dir.path(), path).expect_err(path);
            assert!(error.contains("is not in the workspace"), "{error}");
        }
        assert_eq!(fs::read_dir(other.path()).expect("there").count(), 0);
        assert_eq!(written(dir.path(), "a/b/./c.txt").as_deref(), Ok("wrote 4 bytes"));
        let listed = list(dir.path(), &List { path: "a/b".into() });
        assert_eq!(listed.as_deref(), Ok("c.txt (4 bytes)"));
    }

    #[test]
    fn a_link_that_stays_inside_is_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join("real")).expect("made");
        fs::write(dir.path().join("real/a"), "much longer").expect("written");
        std::os::unix::fs::symlink("real", dir.path().join("dir")).expect("linked");
        std::os::unix::fs::symlink("real/a", dir.path().join("file")).expect("linked");
        for path in ["file", "dir/a", "dir/new/b"] {
            assert_eq!(written(dir.path(), path).as_deref(), Ok("wrote 4 bytes"));
            assert_eq!(read(dir.path(), &Read { path: path.into(), offset: 0 }).as_deref(), Ok("text"));
        }
        assert_eq!(fs::read_to_string(dir.path().join("real/a")).expect("there"), "text");
        assert!(dir.path().join("file").is_symlink() && dir.path().join("real/new/b").is_file());
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let asked = Read { path: "pipe".into(), offset: 0 };
        assert_eq!(written(dir.path(), "pipe"), Err("pipe: is no file".to_owned()), "nobody reads it");
        assert_eq!(read(dir.path(), &asked), Err("pipe: is no file".to_owned()));
        let _reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).expect("opened");
        assert_eq!(written(dir.path(), "pipe"), Err("pipe: is no file".to_owned()), "somebody does");
        assert_eq!(written(dir.path(), "."), Err(".: is no file".to_owned()));
        assert_eq!(read(dir.path(), &Read { path: ".".into(), offset: 0 }), Err(".: is no file".to_owned()));
    }

    #[test]
    fn a_long_file_is_read_in_parts() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("long"), "x".repeat(MAX_READ) + "end").expect("written");
        let first = read(dir.path(), &Read { path: "long".into(), offset: 0 }).expect("read");
        assert!(first.len() <= MAX_ANSWER && first.ends_with(&format!("go on with offset {MAX_READ})")), "{first}");
        let rest = read(dir.path(), &Read { path: "long".into(), offset: MAX_READ as u64 });
        assert_eq!(rest.as_deref(), Ok("end"));
    }
}
