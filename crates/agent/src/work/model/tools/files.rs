//! Files of the workspace, and nothing outside it.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{super::super::output::text, Answer, MAX_ANSWER};

/// Most that is read at once; the answer also says where to go on.
const MAX_READ: usize = MAX_ANSWER - 256;
const MAX_ENTRIES: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    path: String,
    #[serde(default)]
    offset: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    path: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    #[serde(default)]
    path: String,
}

pub(super) fn read(workspace: &Path, asked: &Read) -> Answer {
    let wrong = |error: std::io::Error| format!("{}: {error}", asked.path);
    let path = inside(workspace, &asked.path)?;
    let size = fs::metadata(&path).map_err(wrong)?;
    if !size.is_file() {
        return Err(format!("{}: is no file", asked.path));
    }
    let mut content = vec![0; MAX_READ];
    let file = fs::File::open(&path).map_err(wrong)?;
    let count = file.read_at(&mut content, asked.offset).map_err(wrong)?;
    Ok(part(&content[..count], asked.offset, size.len()))
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
    fs::write(&path, &asked.content).map_err(wrong)?;
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
            Ok(found) if found.starts_with(&root) => return Ok(path),
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
    fn a_long_file_is_read_in_parts() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("long"), "x".repeat(MAX_READ) + "end").expect("written");
        let first = read(dir.path(), &Read { path: "long".into(), offset: 0 }).expect("read");
        assert!(first.len() <= MAX_ANSWER && first.ends_with(&format!("go on with offset {MAX_READ})")), "{first}");
        let rest = read(dir.path(), &Read { path: "long".into(), offset: MAX_READ as u64 });
        assert_eq!(rest.as_deref(), Ok("end"));
    }
}
