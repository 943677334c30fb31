//! Reads what an instance prints, line by line, into the log.

use std::sync::Arc;

use mi_kernel::{Clock, InstanceId};
use mi_runtime::{CapturedLine, Output, Place};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    sync::mpsc,
};

/// Longest line; what is longer continues on the next one.
const MAX_LINE: usize = 64 << 10;

/// Who prints, and where it goes.
pub(super) struct Source {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) instance: InstanceId,
    pub(super) lines: mpsc::Sender<CapturedLine>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Reads both outputs to their ends, or until nobody takes the lines.
pub(super) async fn read_all(stdout: impl AsyncRead + Unpin, stderr: impl AsyncRead + Unpin, source: Source) {
    tokio::join!(read(stdout, Output::Stdout, &source), read(stderr, Output::Stderr, &source));
}

async fn read(pipe: impl AsyncRead + Unpin, output: Output, source: &Source) {
    let mut reader = BufReader::with_capacity(4 << 10, pipe);
    let mut line = Vec::new();
    loop {
        let (ended, used) = match reader.fill_buf().await {
            Ok([]) | Err(_) => (true, 0),
            Ok(bytes) => {
                // One more than a line, to see whether it ends there.
                let room = MAX_LINE + 1 - line.len();
                let upto = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                let take = upto.unwrap_or(bytes.len()).min(room);
                line.extend_from_slice(&bytes[..take]);
                (false, take)
            }
        };
        reader.consume(used);
        let whole = line.ends_with(b"\n") || ended;
        let upto = match line.len() {
            length if whole => length,
            length if length > MAX_LINE => MAX_LINE - begun(&line[..MAX_LINE]),
            _ => 0,
        };
        if upto > 0 {
            let text = String::from_utf8_lossy(&line[..upto]);
            let captured = CapturedLine {
                run: 0,
                place: source.place,
                name: source.name.clone(),
                instance: source.instance,
                time: source.clock.now(),
                output,
                text: text.trim_end_matches(['\n', '\r']).to_owned(),
            };
            line.drain(..upto);
            if source.lines.send(captured).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

/// How many bytes at the end are the beginning of a UTF-8 character that goes on behind it.
fn begun(text: &[u8]) -> usize {
    let goes_on = |count: &usize| match text.len().checked_sub(*count).map(|at| text[at]) {
        Some(0xC0..=0xDF) => *count < 2,
        Some(0xE0..=0xEF) => *count < 3,
        Some(0xF0..=0xF7) => *count < 4,
        _ => false,
    };
    (1..4).find(goes_on).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{process::Stdio, time::Duration};

    use mi_kernel::{AgentId, OfficeId};
    use mi_testkit::ManualClock;
    use tokio::process::Command;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// What is captured of a shell that runs this script.
    async fn captured(script: &str) -> Vec<CapturedLine> {
        // Smaller than any output here: the shell has to wait for its reader.
        let (lines, mut taken) = mpsc::channel(1);
        let source = Source {
            place: Place { office_id: OfficeId::new(), agent_id: AgentId::new() },
            name: "analyst".into(),
            instance: InstanceId::new(),
            lines,
            clock: ManualClock::new().shared(),
        };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("a shell");
        let expected = (source.place, source.name.clone(), source.instance, source.clock.now());
        let reading = read_all(child.stdout.take().expect("piped"), child.stderr.take().expect("piped"), source);
        let mut all = Vec::new();
        let taking = async {
            while let Some(line) = tokio::time::timeout(LONG, taken.recv()).await.expect("in time") {
                assert_eq!((line.place, line.name.clone(), line.instance, line.time), expected);
                all.push(line);
            }
        };
        tokio::join!(reading, taking);
        assert!(child.wait().await.expect("ends").success());
        all
    }

    async fn texts(script: &str) -> Vec<String> {
        captured(script).await.into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn lines_come_in_order_and_each_from_its_output() {
        let lines = captured("echo one; echo two >&2; echo; echo three").await;
        let of = |output| -> Vec<&str> {
            lines.iter().filter(|line| line.output == output).map(|line| line.text.as_str()).collect()
        };
        assert_eq!(of(Output::Stdout), ["one", "", "three"]);
        assert_eq!(of(Output::Stderr), ["two"]);
    }

    #[tokio::test]
    async fn the_last_line_needs_no_end_and_carriage_returns_go() {
        assert_eq!(texts(r"printf 'one\r\ntwo'").await, ["one", "two"]);
        assert_eq!(texts(r"printf '\n'").await, [""]);
        assert_eq!(texts("true").await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_no_utf_8_is_shown_as_such() {
        assert_eq!(texts(r"printf 'a\377b\n\303\274\n'").await, ["a\u{FFFD}b", "ü"]);
    }

    #[tokio::test]
    async fn long_lines_continue_on_the_next_one_and_nothing_is_lost() {
        let cut = |count: usize| texts_of_x(count);
        assert_eq!(cut(MAX_LINE - 1).await, [MAX_LINE - 1]);
        assert_eq!(cut(MAX_LINE + 1).await, [MAX_LINE, 1]);
        assert_eq!(cut(2 * MAX_LINE + 5).await, [MAX_LINE, MAX_LINE, 5]);
    }

    #[tokio::test]
    async fn a_line_of_exactly_the_limit_is_one_line() {
        assert_eq!(texts_of_x(MAX_LINE).await, [MAX_LINE]);
        assert_eq!(texts_of_x(2 * MAX_LINE).await, [MAX_LINE, MAX_LINE]);
    }

    #[tokio::test]
    async fn a_character_at_the_limit_stays_whole() {
        let script = format!("printf 'x%.0s' $(seq {}); printf 'üy\\n'", MAX_LINE - 1);
        let lines = texts(&script).await;
        assert_eq!(lines.concat(), format!("{}üy", "x".repeat(MAX_LINE - 1)));
        assert!(lines.iter().all(|line| line.len() <= MAX_LINE));
    }

    /// Lengths of what is captured of a line of so many letters and an end.
    async fn texts_of_x(count: usize) -> Vec<usize> {
        let lines = texts(&format!("head -c {count} /dev/zero | tr '\\0' x; echo; echo after")).await;
        let (after, lines) = lines.split_last().expect("the last line");
        assert_eq!(after, "after");
        assert!(lines.iter().all(|line| line.bytes().all(|byte| byte == b'x')));
        lines.iter().map(String::len).collect()
    }
}
