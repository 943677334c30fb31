//! What a script prints: each line to the log, the end of it for the result, and the whole in a file when that is longer.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use mi_proto::v1::LogStream;
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    blocking::blocking,
    logs::{Log, MAX_LINE},
};

/// How much is kept for the result.
pub(super) const KEPT: usize = 48 << 10;
/// How much is kept in the file.
const MAX_WHOLE: u64 = 64 << 20;
const CHUNK: usize = 16 << 10;

/// The lines of an output, on their way to the log.
pub(super) struct Lines {
    stream: LogStream,
    /// How each line begins in the log.
    prefix: String,
    /// None: the lines are not for the log.
    log: Option<Log>,
    /// The log did not keep up: lines that find no room are dropped, and the script does not wait.
    behind: bool,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: LogStream, prefix: String, log: Option<Log>) -> Self {
        Self { stream, prefix, log, behind: false, line: Vec::new() }
    }

    /// Reads to the end.
    pub(super) async fn read(&mut self, mut pipe: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            self.take(&chunk[..count]).await;
        }
        self.end().await;
    }

    async fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.line.len());
            let ends = part.ends_with(b"\n");
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.say().await;
            }
        }
    }

    async fn end(&mut self) {
        if !self.line.is_empty() {
            self.say().await;
        }
    }

    async fn say(&mut self) {
        let line = std::mem::take(&mut self.line);
        if let Some(log) = &self.log {
            let text = format!("{}{}", self.prefix, text(&line));
            self.behind = !log.pass(self.stream, text, !self.behind).await;
        }
    }
}

/// One output of a script.
pub(super) struct Output {
    lines: Lines,
    tail: Vec<u8>,
    total: u64,
    whole: Option<Arc<File>>,
    /// Bytes in `whole`.
    written: u64,
    /// Why `whole` is not the whole.
    cut: Option<String>,
}

impl Output {
    pub(super) fn new(stream: LogStream, prefix: String, log: Option<Log>) -> Self {
        let lines = Lines::new(stream, prefix, log);
        Self { lines, tail: Vec::new(), total: 0, whole: None, written: 0, cut: None }
    }

    /// Reads to the end. What was read stays when this is dropped before.
    pub(super) async fn read(&mut self, mut pipe: impl AsyncRead + Unpin, directory: &Path) {
        let mut chunk = vec![0; CHUNK];
        // A pipe that cannot be read has nothing more to say.
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            self.keep(&chunk[..count], directory).await;
            self.lines.take(&chunk[..count]).await;
        }
        self.lines.end().await;
    }

    async fn keep(&mut self, bytes: &[u8], directory: &Path) {
        // First of all here, where it stays if this is dropped.
        self.total += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        if self.whole.is_some() {
            self.write(bytes).await;
        } else if self.total > KEPT as u64 {
            self.keep_whole(directory).await;
        }
        if self.tail.len() > 2 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }

    /// Ends it. What is no text cannot be in the result as it is, so that the whole of it is kept, however short.
    pub(super) async fn finish(&mut self, directory: &Path) {
        if self.total > KEPT as u64 || !self.is_text() {
            self.keep_whole(directory).await;
        }
    }

    /// Begins the file with what was read so far, unless there is one.
    async fn keep_whole(&mut self, directory: &Path) {
        if self.whole.is_some() || self.cut.is_some() {
            return;
        }
        let directory = directory.to_owned();
        match blocking(move || tempfile::tempfile_in(directory)).await {
            Ok(file) => {
                self.whole = Some(Arc::new(file));
                let so_far = self.tail.clone();
                self.write(&so_far).await;
            }
            Err(error) => self.cut = Some(error.to_string()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let Some(file) = self.whole.clone().filter(|_| self.cut.is_none()) else { return };
        let most = largest_file();
        let fits = bytes.len().min(usize::try_from(most - self.written).unwrap_or(usize::MAX));
        let written = bytes[..fits].to_vec();
        match blocking(move || (&*file).write_all(&written)).await {
            Ok(()) => self.written += fits as u64,
            Err(error) => self.cut = Some(error.to_string()),
        }
        if fits < bytes.len() {
            self.cut = Some(format!("it is cut after {most} bytes"));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Whether what is kept here would be the same bytes as a text. The start of what is longer is not looked at.
    pub(super) fn is_text(&self) -> bool {
        self.total > KEPT as u64 || str::from_utf8(&self.tail).is_ok_and(|text| !text.contains('\0'))
    }

    /// All of it, when that is more than is kept here, or no text; and what is wrong with it.
    pub(super) fn whole(&self) -> Option<(&Arc<File>, Option<&str>)> {
        Some((self.whole.as_ref()?, self.cut.as_deref()))
    }

    /// The last bytes of it, and whether there were more.
    pub(super) fn tail(&self, most: usize) -> (String, bool) {
        let start = self.tail.len().saturating_sub(most);
        // Not in the middle of a character.
        let skip = self.tail[start..].iter().take(3).take_while(|byte| start > 0 && **byte & 0xc0 == 0x80).count();
        let text = text(&self.tail[start + skip..]);
        // What stands for bytes that are no text is longer than these.
        let text = tail(&text, most);
        (text.to_owned(), self.total > text.len() as u64 && self.total > most as u64)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

/// Never more than this process may write: it would be killed for that.
fn largest_file() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(MAX_WHOLE, |(soft, _)| soft.min(MAX_WHOLE))
}

/// As text: what is none is replaced, and so are zero bytes, which no database takes.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")
}

/// The end of a text, at most this many bytes.
pub(super) fn tail(text: &str, most: usize) -> &str {
    let start = text.len().saturating_sub(most);
    &text[text.ceil_char_boundary(start)..]
}
