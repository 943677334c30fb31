//! What workers note: each completion that was accepted, kept whatever happens to the worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::Result;

/// Divides a page, so that no note lies on two: the kernel may end a write between pages when its process is killed.
const LENGTH: usize = 128;

/// An accepted completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) task: String,
    pub(super) lease: String,
    pub(super) attempt: i32,
}

/// Opens the file for a worker that adds its own.
pub(super) fn open(path: &Path) -> Result<File> {
    Ok(File::options().append(true).open(path)?)
}

impl Note {
    /// Adds it in one write, which the kernel does whole or not at all; the file is there until the machine dies.
    pub(super) fn add_to(&self, mut file: &File) -> Result {
        let text = format!("{} {} {}", self.task, self.lease, self.attempt);
        file.write_all(format!("{text:<width$}\n", width = LENGTH - 1).as_bytes())?;
        Ok(())
    }
}

/// All that was noted.
pub(super) fn read(path: &Path) -> Result<Vec<Note>> {
    let text = fs::read_to_string(path)?;
    let note = |line: &str| match *line.split_whitespace().collect::<Vec<_>>() {
        [task, lease, attempt] => Ok(Note { task: task.into(), lease: lease.into(), attempt: attempt.parse()? }),
        _ => Err(format!("{line:?} is no note").into()),
    };
    text.lines().map(note).collect()
}

/// How many tasks were completed under more than one lease.
pub(super) fn twice(notes: &[Note]) -> usize {
    let mut leases: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for note in notes {
        leases.entry(&note.task).or_default().insert(&note.lease);
    }
    leases.values().filter(|leases| leases.len() > 1).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(task: &str, lease: &str, attempt: i32) -> Note {
        Note { task: task.into(), lease: lease.into(), attempt }
    }

    #[test]
    fn what_was_noted_is_read() {
        let dir = tempfile::tempdir().expect("made");
        let path = dir.path().join("notes");
        File::create(&path).expect("made");
        let notes = [note("a", "1", 1), note("b", "2", 7)];
        for note in &notes {
            note.add_to(&open(&path).expect("opened")).expect("written");
        }
        assert_eq!(fs::metadata(&path).expect("there").len(), 2 * LENGTH as u64);
        assert_eq!(read(&path).expect("read"), notes);
    }

    #[test]
    fn a_completion_under_a_second_lease_is_seen() {
        let again = [note("a", "1", 1), note("b", "2", 1), note("a", "1", 1)];
        assert_eq!(twice(&again), 0, "the same answer twice is one completion");
        let doubled = [again.as_slice(), &[note("a", "3", 2)]].concat();
        assert_eq!(twice(&doubled), 1);
    }
}
