//! What comes from the platform goes into a file whole and checked, or not at all.

use std::{
    fs::Permissions,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use indicatif::ProgressBar;
use mi_kernel::receipt::hex;
use ring::digest::{Context, SHA256};
use tempfile::NamedTempFile;

use crate::{failure::Failure, wait::bytes_bar};

/// Who may read the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Its owner alone.
    Private,
    /// Whoever the user's umask allows.
    Plain,
}

enum Target {
    /// Beside the file that it becomes, so that the rename at the end is one step; removed when it does not.
    File(NamedTempFile, PathBuf),
    Stdout,
}

/// A download in progress.
pub(crate) struct Download {
    target: Target,
    hash: Context,
    size: i64,
    bar: ProgressBar,
}

impl Download {
    /// Into a file, which stays as it is until the end.
    pub(crate) fn to_file(path: &Path, mode: Mode, size: i64) -> Result<Self, Failure> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = Permissions::from_mode(match mode {
            Mode::Private => 0o600,
            Mode::Plain => 0o666,
        });
        let partial = tempfile::Builder::new().prefix(".mi-download-").permissions(mode).tempfile_in(dir);
        let partial = partial.map_err(|error| unwritable(path, &error))?;
        Ok(Self::to(Target::File(partial, path.to_owned()), bytes_bar(size.unsigned_abs())))
    }

    /// To standard output, where a wrong checksum is told of only at the end.
    pub(crate) fn to_stdout() -> Self {
        Self::to(Target::Stdout, ProgressBar::hidden())
    }

    fn to(target: Target, bar: ProgressBar) -> Self {
        Self { target, hash: Context::new(&SHA256), size: 0, bar }
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.hash.update(bytes);
        self.size += bytes.len() as i64;
        self.bar.inc(bytes.len() as u64);
        match &mut self.target {
            Target::File(partial, path) => partial.write_all(bytes).map_err(|error| unwritable(path, &error)),
            Target::Stdout => io::stdout().write_all(bytes).map_err(|error| unwritten(&error)),
        }
    }

    /// Checks that it is what it must be, and puts it where it belongs.
    pub(crate) fn finish(self, size: i64, sha256: &str) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let found = hex(self.hash.finish().as_ref());
        if self.size != size || found != sha256 {
            let message = format!(
                "the download is not what the platform has: {} bytes of {size}, SHA-256 {found} for {sha256}",
                self.size
            );
            let hint = match self.target {
                Target::File(..) => "nothing was written; try again",
                Target::Stdout => "what was printed is wrong; try again",
            };
            return Err(Failure::new(message).hint(hint));
        }
        match self.target {
            Target::File(partial, path) => {
                partial.as_file().sync_all().map_err(|error| unwritable(&path, &error))?;
                partial.persist(&path).map_err(|error| unwritable(&path, &error.error)).map(drop)
            }
            Target::Stdout => io::stdout().flush().map_err(|error| unwritten(&error)),
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{} cannot be written", path.display()), error)
}

fn unwritten(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::io("standard output cannot be written", error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_by_what_is_whole_only() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("file");
        fs::write(&path, "old").expect("written");
        let sha256 = hex(ring::digest::digest(&SHA256, b"whole").as_ref());
        for (size, sha256) in [(4, sha256.as_str()), (5, "aa")] {
            let mut download = Download::to_file(&path, Mode::Plain, 5).expect("begun");
            download.take(b"whole").expect("taken");
            assert!(download.finish(size, sha256).is_err());
            assert_eq!(fs::read(&path).expect("there"), b"old");
        }
        let mut download = Download::to_file(&path, Mode::Private, 5).expect("begun");
        for part in ["who", "", "le"] {
            download.take(part.as_bytes()).expect("taken");
        }
        download.finish(5, &sha256).expect("whole");
        assert_eq!(fs::read(&path).expect("there"), b"whole");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing is left beside it");
    }
}
