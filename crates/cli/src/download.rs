//! What comes from the platform goes into a file whole and checked, or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
};

use indicatif::ProgressBar;
use ring::digest::{Context, SHA256};
use tempfile::NamedTempFile;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::{failure::Failure, output::unwritten, runtime::stop_signal, wait::bytes_bar};

/// Who may read the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Its owner alone.
    Private,
    /// Whoever may read the file that it replaces; else whom the user's umask allows.
    Plain,
}

enum Target<'a> {
    /// Beside the file that it becomes, so that the rename at the end is one step; removed when it does not.
    File {
        partial: NamedTempFile,
        path: PathBuf,
        stop: Pin<Box<dyn Future<Output = ()>>>,
    },
    /// What is no file of bytes that could be replaced: a device, a pipe.
    Through(File, PathBuf),
    Stdout,
    Memory(&'a mut Vec<u8>),
}

/// Whether a file may be put into this place.
type Check<'a> = Box<dyn Fn(&Path) -> Result<(), Failure> + 'a>;

/// A download in progress.
pub(crate) struct Download<'a> {
    target: Target<'a>,
    hash: Context,
    size: i64,
    bar: ProgressBar,
    check: Option<Check<'a>>,
}

impl<'a> Download<'a> {
    /// Into a file, which stays as it is until the end. Links are followed; what is there and no file is written to.
    pub(crate) fn to_file(path: &Path, mode: Mode, size: i64) -> Result<Self, Failure> {
        let unwritable = |error: io::Error| unwritable(path, &error);
        let (place, kept) = match fs::metadata(path) {
            Ok(found) if found.is_file() => (path.canonicalize().map_err(unwritable)?, Some(found.permissions())),
            Ok(found) if found.is_dir() => return Err(unwritable(io::ErrorKind::IsADirectory.into())),
            Ok(_) => {
                let through = File::options().write(true).open(path).map_err(unwritable)?;
                return Ok(Self::to(Target::Through(through, path.to_owned()), bytes_bar(size.unsigned_abs())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
                Ok(to) => return Self::to_file(&directory(path).join(to), mode, size),
                Err(_) => (path.to_owned(), None),
            },
            Err(error) => return Err(unwritable(error)),
        };
        // Before there is something to remove.
        let stop = Box::pin(stop_signal()?);
        let first = match (mode, &kept) {
            (Mode::Plain, None) => 0o666,
            _ => 0o600,
        };
        // Opened here: tempfile's own errors name the file aside, which nobody has asked for.
        let open = |aside: &Path| File::options().read(true).write(true).create_new(true).mode(first).open(aside);
        let partial = tempfile::Builder::new().prefix(".mi-download-").make_in(directory(&place), open);
        let partial = partial.map_err(unwritable)?;
        if let (Mode::Plain, Some(kept)) = (mode, kept) {
            partial.as_file().set_permissions(Permissions::from_mode(kept.mode() & 0o777)).map_err(unwritable)?;
        }
        Ok(Self::to(Target::File { partial, path: place, stop }, bytes_bar(size.unsigned_abs())))
    }

    /// To standard output, where a wrong checksum is told of only at the end.
    pub(crate) fn to_stdout() -> Self {
        Self::to(Target::Stdout, ProgressBar::hidden())
    }

    /// Into memory.
    pub(crate) fn to_memory(bytes: &'a mut Vec<u8>) -> Self {
        Self::to(Target::Memory(bytes), ProgressBar::hidden())
    }

    fn to(target: Target<'a>, bar: ProgressBar) -> Self {
        Self { target, hash: Context::new(&SHA256), size: 0, bar, check: None }
    }

    /// The same with another bar.
    pub(crate) fn showing(self, bar: ProgressBar) -> Self {
        Self { bar, ..self }
    }

    /// The same with a check of the place, made at the last moment before the file is put there.
    pub(crate) fn if_ok(self, check: impl Fn(&Path) -> Result<(), Failure> + 'a) -> Self {
        Self { check: Some(Box::new(check)), ..self }
    }

    /// Takes the `bytes` of all messages, checks that they are what they must be, and puts them where they belong.
    pub(crate) async fn take_all<M>(
        mut self,
        mut messages: impl Stream<Item = Result<M, Status>> + Unpin,
        bytes: impl Fn(&M) -> &[u8],
        (size, sha256): (i64, &str),
    ) -> Result<(), Failure> {
        while let Some(message) = self.next(&mut messages).await? {
            self.take(bytes(&message))?;
        }
        self.finish(size, sha256)
    }

    /// The next message, unless somebody wants this process to end; without a file to remove it just ends.
    async fn next<M>(
        &mut self,
        messages: &mut (impl Stream<Item = Result<M, Status>> + Unpin),
    ) -> Result<Option<M>, Failure> {
        let message = messages.next();
        let message = match &mut self.target {
            Target::File { stop, .. } => tokio::select! {
                message = message => message,
                () = stop => return Err(Failure::new("interrupted; nothing was written")),
            },
            _ => message.await,
        };
        Ok(message.transpose()?)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.hash.update(bytes);
        self.size += bytes.len() as i64;
        self.bar.inc(bytes.len() as u64);
        match &mut self.target {
            Target::File { partial, path, .. } => {
                partial.as_file_mut().write_all(bytes).map_err(|error| unwritable(path, &error))
            }
            Target::Through(file, path) => file.write_all(bytes).map_err(|error| unwritable(path, &error)),
            Target::Stdout => io::stdout().write_all(bytes).map_err(|error| unwritten(&error)),
            Target::Memory(kept) => {
                kept.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn finish(self, size: i64, sha256: &str) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let found = hex::encode(self.hash.finish().as_ref());
        if self.size != size || found != sha256 {
            let message = format!(
                "the download is not what the platform has: {} bytes of {size}, SHA-256 {found} for {sha256}",
                self.size
            );
            let hint = match self.target {
                Target::File { .. } | Target::Memory(_) => "nothing was written; try again",
                Target::Through(..) | Target::Stdout => "what was written is wrong; try again",
            };
            return Err(Failure::new(message).hint(hint));
        }
        match self.target {
            Target::File { partial, path, .. } => {
                partial.as_file().sync_all().map_err(|error| unwritable(&path, &error))?;
                self.check.map_or(Ok(()), |check| check(&path))?;
                partial.persist(&path).map_err(|error| unwritable(&path, &error.error)).map(drop)
            }
            Target::Stdout => io::stdout().flush().map_err(|error| unwritten(&error)),
            Target::Through(..) | Target::Memory(_) => Ok(()),
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("{} cannot be written", path.display()), error)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{FileTypeExt, symlink},
        process::Command,
        thread,
    };

    use super::*;

    const WHOLE: &[u8] = b"whole";

    fn sha256(bytes: &[u8]) -> String {
        hex::encode(ring::digest::digest(&SHA256, bytes).as_ref())
    }

    /// Downloads in three parts what is said to be of this size and checksum.
    async fn put(path: &Path, mode: Mode, (size, sha256): (i64, &str)) -> Result<(), Failure> {
        let messages = tokio_stream::iter([&b"who"[..], b"", b"le"].map(Ok));
        Download::to_file(path, mode, size)?.take_all(messages, |bytes| bytes, (size, sha256)).await
    }

    async fn put_whole(path: &Path, mode: Mode) {
        put(path, mode, (5, &sha256(WHOLE))).await.expect("whole");
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }

    #[tokio::test]
    async fn a_file_is_replaced_by_what_is_whole_only() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("file");
        fs::write(&path, "old").expect("written");
        for wrong in [(4, sha256(WHOLE).as_str()), (5, "aa")] {
            assert!(put(&path, Mode::Plain, wrong).await.is_err());
            assert_eq!(fs::read(&path).expect("there"), b"old");
        }
        put_whole(&path, Mode::Private).await;
        assert_eq!(fs::read(&path).expect("there"), WHOLE);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_keeps_its_mode_unless_the_content_is_private() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("file");
        for kept in [0o755, 0o600] {
            fs::write(&path, "old").expect("written");
            set_mode(&path, kept);
            put_whole(&path, Mode::Plain).await;
            assert_eq!((fs::read(&path).expect("there").as_slice(), mode(&path)), (WHOLE, kept));
        }
        set_mode(&path, 0o644);
        put_whole(&path, Mode::Private).await;
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn links_are_followed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = |name| dir.path().join(name);
        fs::create_dir(path("far")).expect("made");
        fs::write(path("far/old"), "old").expect("written");
        // To a file, to a link to it, and to what is not there yet.
        for (link, to) in [("a", "far/old"), ("b", "a"), ("c", "far/new"), ("d", "c")] {
            symlink(to, path(link)).expect("linked");
        }
        for (link, file) in [("b", "far/old"), ("d", "far/new")] {
            put_whole(&path(link), Mode::Plain).await;
            assert!(path(link).is_symlink() && !path(file).is_symlink());
            assert_eq!(fs::read(path(file)).expect("there"), WHOLE);
        }
        symlink("round", path("round")).expect("linked");
        for (to, told) in [("round", "symbolic link"), ("far", "directory"), ("no/file", "No such file")] {
            let failure = put(&path(to), Mode::Plain, (5, "")).await.expect_err(to).to_string();
            let start = format!("error: {} cannot be written: ", path(to).display());
            assert!(failure.starts_with(&start) && failure.contains(told), "{failure}");
            assert!(!failure.contains(".mi-download"), "{failure}");
        }
        assert_eq!(fs::read_dir(path("far")).expect("dir").count(), 2, "nothing is left beside them");
    }

    #[tokio::test]
    async fn what_is_no_file_is_written_to() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (pipe, device) = (dir.path().join("pipe"), dir.path().join("device"));
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("ran").success());
        // A link, so that a mistake here would cost no device.
        symlink("/dev/null", &device).expect("linked");
        for mode in [Mode::Plain, Mode::Private] {
            let reader = thread::spawn({
                let pipe = pipe.clone();
                move || fs::read(pipe)
            });
            put_whole(&pipe, mode).await;
            assert!(fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
            assert_eq!(reader.join().expect("ended").expect("read"), WHOLE);
            put_whole(&device, mode).await;
        }
        assert!(fs::metadata(&device).expect("there").file_type().is_char_device());
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2, "nothing is left beside them");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_download_that_is_stopped() {
        for signal in ["TERM", "INT"] {
            let dir = tempfile::tempdir().expect("temp dir");
            let download = Download::to_file(&dir.path().join("file"), Mode::Plain, 5).expect("begun");
            assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "the unfinished one");
            let pid = std::process::id().to_string();
            assert!(Command::new("kill").args(["-s", signal, &pid]).status().expect("ran").success());
            let messages = tokio_stream::iter([Ok(WHOLE)]).chain(tokio_stream::pending());
            let told = download.take_all(messages, |bytes| bytes, (5, "")).await.expect_err("stopped");
            assert_eq!(told.to_string(), "error: interrupted; nothing was written\n");
            assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0);
        }
    }
}
