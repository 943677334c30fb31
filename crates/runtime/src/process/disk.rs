//! How much of the disk an agent takes. The file systems that people have count by user or not at all, so its files are
//! counted from time to time: an agent is above its limit for as long as that at most.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// How long a count may keep a processor busy: one part in this many of the time.
const SHARE: u32 = 20;
/// Size of the blocks that stat(2) counts in.
const BLOCK: u64 = 512;

/// Returns once there is more than `most` below the directory: how much was found.
pub(super) async fn exceeded(directory: &Path, most: u64, every: Duration) -> u64 {
    loop {
        let (path, started) = (directory.to_owned(), std::time::Instant::now());
        let used = tokio::task::spawn_blocking(move || used(&path, most)).await.unwrap_or_default();
        if used > most {
            return used;
        }
        tokio::time::sleep(every.max(started.elapsed() * SHARE)).await;
    }
}

/// Bytes on disk below the directory; stops counting when it is more than `enough`. What vanishes meanwhile counts nothing;
/// a directory that cannot be looked into, such as one deeper than a path can name, counts as too much.
pub(super) fn used(directory: &Path, enough: u64) -> u64 {
    let (mut bytes, mut directories) = (0, vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return u64::MAX,
        };
        for entry in entries.flatten() {
            // Of the entry itself: a link to elsewhere is not followed.
            let Ok(found): io::Result<fs::Metadata> = entry.metadata() else { continue };
            bytes += found.blocks() * BLOCK;
            if found.is_dir() {
                directories.push(entry.path());
            }
            if bytes > enough {
                return bytes;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_lies_below_and_not_where_links_lead() {
        let root = tempfile::tempdir().expect("made");
        let inside = root.path().join("inside");
        fs::create_dir_all(inside.join("deep")).expect("made");
        let before = used(&inside, u64::MAX);
        fs::write(inside.join("deep/file"), vec![1; 100_000]).expect("written");
        fs::write(root.path().join("outside"), vec![1; 1_000_000]).expect("written");
        std::os::unix::fs::symlink(root.path(), inside.join("link")).expect("linked");
        let added = used(&inside, u64::MAX) - before;
        assert!((100_000..200_000).contains(&added), "{added}");
    }
}
