//! A terminal session, written down.

use std::{fmt::Write, process::Stdio};

use mi_e2e::LIMIT;
use mi_testkit::Platform;
use tokio::io::{AsyncBufReadExt, BufReader};

/// A terminal session: every command with what it printed, ids and times replaced by names.
pub(super) struct Session<'a> {
    platform: &'a Platform,
    /// Where the commands run.
    pub(super) directory: tempfile::TempDir,
    known: Vec<(String, String)>,
    pub(super) transcript: String,
}

impl<'a> Session<'a> {
    pub(super) fn new(platform: &'a Platform) -> Self {
        let directory = tempfile::tempdir().expect("made");
        let mut session = Self { platform, directory, known: Vec::new(), transcript: String::new() };
        session.name(platform.endpoint(), "endpoint");
        session.name(&platform.config_dir().display().to_string(), "config");
        session.name(&mi_testkit::platform::binary().display().to_string(), "mi");
        session
    }
}

impl Session<'_> {
    /// Runs `mi` with these arguments, `{name}` standing for what was named.
    pub(super) async fn run(&mut self, line: &str) -> String {
        let output = tokio::time::timeout(LIMIT, self.command(line).output()).await.expect("ends by itself");
        let output = output.expect("ran");
        let stdout = String::from_utf8(output.stdout).expect("text");
        let stderr = String::from_utf8(output.stderr).expect("text");
        self.record(line, &format!("{stdout}{stderr}"));
        if let Some(code @ 1..) = output.status.code() {
            let _ = writeln!(self.transcript, "[exit {code}]");
        }
        stdout
    }

    /// The same for several commands.
    pub(super) async fn run_all(&mut self, lines: &[&str]) {
        for line in lines {
            self.run(line).await;
        }
    }

    /// Runs a command that prints one word, such as with `-q`, and gives that a name from now on.
    pub(super) async fn run_naming(&mut self, line: &str, name: &str) {
        let at = self.transcript.len();
        let word = self.run(line).await.trim().to_owned();
        assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{line}: {word:?}");
        self.name(&word, name);
        self.transcript.truncate(at);
        self.record(line, &format!("{word}\n"));
    }

    /// Runs a command until it has printed this many lines, and ends it.
    pub(super) async fn run_for(&mut self, line: &str, lines: usize) {
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().expect("ran");
        let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut text = String::new();
        for _ in 0..lines {
            let next = tokio::time::timeout(LIMIT, printed.next_line()).await.expect("prints").expect("text");
            text.push_str(&next.expect("goes on"));
            text.push('\n');
        }
        child.kill().await.expect("runs");
        self.record(line, &text);
        self.transcript.push_str("[goes on]\n");
    }

    /// Runs a command until what it prints holds this, for what is told a moment later; leaves no trace.
    pub(super) async fn run_until(&mut self, line: &str, text: &str) {
        mi_testkit::until(&format!("`mi {line}` prints {text:?}"), LIMIT, async || {
            let output = self.command(line).output().await.map_err(|error| error.to_string())?;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if printed.contains(text) { Ok(Some(())) } else { Err(printed) }
        })
        .await;
    }

    fn command(&self, line: &str) -> tokio::process::Command {
        let known = self.known.iter();
        let filled = known.fold(line.to_owned(), |line, (text, name)| line.replace(&format!("{{{name}}}"), text));
        let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
        command
            .args(split(&filled))
            .current_dir(self.directory.path())
            .env("MI_CONFIG_DIR", self.platform.config_dir())
            .env_remove("MI_ENDPOINT")
            .env_remove("MI_API_KEY")
            .env_remove("MI_COLONY")
            .env("COLUMNS", "200")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn record(&mut self, line: &str, printed: &str) {
        let masked = self.mask(printed);
        let end = if masked.is_empty() || masked.ends_with('\n') { "" } else { "\n" };
        let _ = write!(self.transcript, "$ mi {line}\n{masked}{end}");
    }

    /// Takes what was recorded so far.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    /// Gives an id, a key or a path a name from now on.
    pub(super) fn name(&mut self, id: &str, name: &str) {
        self.known.push((id.to_owned(), name.to_owned()));
    }

    /// Replaces what differs from run to run: ids, times, hashes, addresses, durations.
    fn mask(&self, text: &str) -> String {
        let named = self.known.iter().fold(text.to_owned(), |text, (id, name)| {
            match uuid::Uuid::try_parse(id) {
                // Kept as wide as it was, so that tables stay tables.
                Ok(_) => text.replace(id, &format!("{:<width$}", format!("<{name}>"), width = id.len())),
                // How long it is differs, too.
                Err(_) => text.replace(id, &format!("<{name}>")),
            }
        });
        let line = |line: &str| {
            let timed = line.contains(" ms)");
            line.split_inclusive(' ').map(|word| mask_word(word, timed)).collect::<String>()
        };
        named.split_inclusive('\n').map(line).collect()
    }
}

/// In a line that tells a latency a number in brackets is one.
fn mask_word(word: &str, timed: bool) -> String {
    let text = word.trim_end();
    // In JSON and YAML it stands in quotes, in no table.
    let bare = text.trim_end_matches(',').trim_matches('"');
    if bare.len() < text.len() {
        let name = match bare {
            _ if is_time(bare) => "<time>",
            _ if uuid::Uuid::try_parse(bare).is_ok() => "<id>",
            _ if bare.starts_with("mi_") => "<key>",
            _ => return word.to_owned(),
        };
        return word.replace(bare, name);
    }
    let is_uuid = uuid::Uuid::try_parse(text).is_ok();
    let is_hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_age = (2..=3).contains(&text.len()) && text.ends_with('s') && text.as_bytes()[0].is_ascii_digit();
    let is_latency = timed && text.strip_prefix('(').is_some_and(|number| number.parse::<f64>().is_ok());
    let name = match text {
        _ if is_uuid => "<id>",
        _ if is_time(text) => "<time>",
        _ if is_hex => "<hex>",
        // A table's column is as wide as its head, so one digit and two take the same space.
        _ if is_age => return "<age>".to_owned() + &" ".repeat(text.len() - 2) + &word[text.len()..],
        _ if text.starts_with("mi_") => "<key>",
        // How long these are differs, too.
        _ if is_latency => return "(<n>".to_owned() + &word[text.len()..],
        _ if text.starts_with("eyJ") => return "<jws>".to_owned() + &word[text.len()..],
        _ => return word.to_owned(),
    };
    format!("{name:<width$}", width = text.len()) + &word[text.len()..]
}

/// Splits a command line at spaces, outside of double quotes.
fn split(line: &str) -> Vec<String> {
    let pieces = line.split('"').enumerate();
    pieces
        .flat_map(|(index, piece)| match index % 2 {
            1 => vec![piece.to_owned()],
            _ => piece.split_whitespace().map(str::to_owned).collect(),
        })
        .collect()
}

fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[4] == b'-' && text.contains('T')
}
