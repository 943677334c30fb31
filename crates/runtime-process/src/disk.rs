//! How much of the disk an agent takes. The file systems that people have count by user or not at all, so its files are
//! counted from time to time: an agent is above its limit for as long as that at most.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

use mi_archive::walk::{Directory, Walk, is_gone};

/// How long a count may keep a processor busy: one part in this many of the time.
const SHARE: u32 = 20;
/// Size of the blocks that stat(2) counts in.
const BLOCK: u64 = 512;

/// Returns once there is more than `most` below the directory: how much was found.
pub(super) async fn exceeded(directory: &Path, most: u64, every: Duration) -> u64 {
    let count = || {
        let path = directory.to_owned();
        async move { tokio::task::spawn_blocking(move || used(&path, most)).await.unwrap_or_default() }
    };
    loop {
        let started = std::time::Instant::now();
        // What was counted may get a second name and be met again: one count alone ends nobody.
        if count().await > most {
            let used = count().await;
            if used > most {
                return used;
            }
        }
        tokio::time::sleep(every.max(started.elapsed() * SHARE)).await;
    }
}

/// Bytes on disk below the directory; stops counting when it is more than `enough`. What vanishes meanwhile counts nothing;
/// a directory that cannot be looked into, such as one deeper than a path can name, counts as too much.
///
/// A file with several names counts once: each name takes its share, since all of them lie below the directory. That needs
/// no memory, of which an agent could otherwise make the platform use as much as it makes files.
pub(super) fn used(directory: &Path, enough: u64) -> u64 {
    let mut walk = match Walk::new(directory) {
        Ok(walk) => walk,
        Err(error) if is_gone(&error) => return 0,
        Err(_) => return u64::MAX,
    };
    let mut bytes = 0;
    while let Some(next) = walk.next() {
        let Directory { path, entries, .. } = match next {
            Ok(directory) => directory,
            Err((_, error)) if is_gone(&error) => continue,
            Err(_) => return u64::MAX,
        };
        for entry in entries.flatten() {
            // Of the entry itself: a link to elsewhere is not followed.
            let Ok(found): io::Result<fs::Metadata> = entry.metadata() else { continue };
            if found.is_dir() {
                // Its names are no names of the agent's making.
                bytes += found.blocks() * BLOCK;
                walk.enter_later(path.join(entry.file_name()));
            } else {
                bytes += found.blocks() * BLOCK / found.nlink().max(1);
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

    #[test]
    fn a_file_with_many_names_counts_once_wherever_they_are() {
        let root = tempfile::tempdir().expect("made");
        for directory in ["a", "b", "b/c"] {
            fs::create_dir(root.path().join(directory)).expect("made");
        }
        let before = used(root.path(), u64::MAX);
        fs::write(root.path().join("a/file"), vec![1; 1_000_000]).expect("written");
        let one = used(root.path(), u64::MAX) - before;
        for name in ["a/two", "b/three", "b/c/four", "five"] {
            fs::hard_link(root.path().join("a/file"), root.path().join(name)).expect("linked");
        }
        // The shares are rounded down, to less than a byte each.
        let five = used(root.path(), u64::MAX) - before;
        assert!((one - 5..=one).contains(&five), "{five} of {one}");
        fs::remove_file(root.path().join("a/file")).expect("removed");
        assert_eq!(used(root.path(), u64::MAX) - before, one);
    }

    /// Root sees into everything; for another user this is the way in.
    #[test]
    fn what_is_closed_to_its_owner_is_counted_and_stays_closed() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("made");
        let closed = root.path().join("closed");
        fs::create_dir_all(closed.join("deep")).expect("made");
        fs::write(closed.join("deep/file"), vec![1; 1_000_000]).expect("written");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("set");
        let found = used(root.path(), 1 << 40);
        assert!((1_000_000..2_000_000).contains(&found), "{found}");
        // It stops in the middle, too.
        assert!(used(root.path(), 500_000) < 2_000_000);
        assert_eq!(fs::metadata(&closed).expect("there").permissions().mode() & 0o777, 0);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("set");
    }
}
