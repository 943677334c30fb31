//! What an agent reports of a command, taken apart.
//!
//! ```text
//! exit code: 0
//! --- stdout (the last 49152 of 50000 bytes; the whole is PATH in the drive)
//! ...
//! --- stderr
//! ...
//! --- left out of what is published
//! ...
//! ```
//!
//! A section without output is left out; one that does not end its last line gets a newline, and ` (no newline at the end)`
//! in its head. What is no text is `(9 bytes, shown as 13 bytes of text; the whole is PATH in the drive)`.

/// What an agent reports of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran<'a> {
    pub(crate) exit_code: i32,
    pub(crate) stdout: Section<'a>,
    pub(crate) stderr: Section<'a>,
    /// What it wanted published and the drive does not have, a line each; may be empty.
    pub(crate) left_out: &'a str,
}

/// Head of the last section of a report, which is not about an output.
const LEFT_OUT: &str = "--- left out of what is published\n";

/// What the command printed on one of its outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Section<'a> {
    pub(crate) text: &'a str,
    /// None: that is all of it, byte for byte.
    pub(crate) cut: Option<Cut<'a>>,
}

/// Only the end of an output was reported, or only what it looks like as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut<'a> {
    /// How many bytes the command printed.
    pub(crate) total: u64,
    /// Where the drive has the whole, if it does.
    pub(crate) path: Option<&'a str>,
    /// Why it does not, or not to the end; may be empty.
    pub(crate) why: &'a str,
}

impl<'a> Ran<'a> {
    /// Reads a report; none when this is no such text, or the command was stopped.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let exit_code = first.strip_prefix("exit code: ")?.parse().ok()?;
        let (rest, left_out) = match rest.rfind(LEFT_OUT) {
            Some(at) if rest[..at].is_empty() || rest[..at].ends_with('\n') => {
                (&rest[..at], &rest[at + LEFT_OUT.len()..])
            }
            _ => (rest, ""),
        };
        let (stdout, stderr) = sections(rest)?;
        Some(Self { exit_code, stdout, stderr, left_out })
    }
}

fn sections(text: &str) -> Option<(Section<'_>, Section<'_>)> {
    // What a command prints may look like the head of the second section. A count of bytes that fits tells it from that;
    // without one the last is taken.
    let starts = text.rmatch_indices("\n--- stderr").map(|(at, _)| at + 1).chain([0, text.len()]);
    let mut readings = starts.filter_map(|at| {
        let (stdout, stderr) = text.split_at(at);
        Some((Section::read(stdout, "stdout")?, Section::read(stderr, "stderr")?))
    });
    let last = readings.next()?;
    let is_counted = |(_, stderr): &(Section<'_>, Section<'_>)| stderr.cut.is_some();
    if is_counted(&last) { Some(last) } else { readings.find(is_counted).or(Some(last)) }
}

impl<'a> Section<'a> {
    /// Reads a text that is this section and nothing else, or nothing at all.
    fn read(text: &'a str, name: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let (head, text) = text.split_once('\n')?;
        let head = head.strip_prefix("--- ")?.strip_prefix(name)?;
        if head.is_empty() {
            return Some(Self { text, cut: None });
        }
        let head = head.strip_prefix(" (")?.strip_suffix(')')?;
        if head == "no newline at the end" {
            return Some(Self { text: text.strip_suffix('\n')?, cut: None });
        }
        let (kept, total, note) = counts(head)?;
        // The newline that was added is not counted.
        let text = if text.len() == kept { text } else { text.strip_suffix('\n').filter(|it| !it.ends_with('\n'))? };
        let note = note.strip_prefix("; ").unwrap_or(note);
        let (path, why) = match note.strip_prefix("the whole is ").and_then(|it| it.split_once(" in the drive")) {
            Some((path, why)) => (Some(path), why.strip_prefix(", but ").unwrap_or(why)),
            None => (None, note),
        };
        (text.len() == kept).then_some(Self { text, cut: Some(Cut { total, path, why }) })
    }
}

/// How many bytes are here, how many there were, and what else is said.
fn counts(head: &str) -> Option<(usize, u64, &str)> {
    let (kept, total, note) = match head.strip_prefix("the last ") {
        Some(rest) => {
            let (counts, note) = rest.split_once(" bytes")?;
            let (kept, total) = counts.split_once(" of ")?;
            (kept, total, note)
        }
        None => {
            let (total, rest) = head.split_once(" bytes, shown as ")?;
            let (kept, note) = rest.split_once(" bytes of text")?;
            (kept, total, note)
        }
    };
    Some((kept.parse().ok()?, total.parse().ok()?, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_taken_apart() {
        let all = |text| Section { text, cut: None };
        let ran =
            |exit_code, stdout, stderr| Some(Ran { exit_code, stdout: all(stdout), stderr: all(stderr), left_out: "" });
        for (text, expect) in [
            ("exit code: 0\n", ran(0, "", "")),
            ("exit code: 0", ran(0, "", "")),
            ("exit code: 0\n--- stdout\na\n\nb\n", ran(0, "a\n\nb\n", "")),
            ("exit code: 3\n--- stderr\nno\n", ran(3, "", "no\n")),
            ("exit code: 137\n--- stdout\na\n--- stderr\nb\n", ran(137, "a\n", "b\n")),
            ("exit code: 0\n--- stdout\n--- stderr\n--- stderr\nb\n", ran(0, "--- stderr\n", "b\n")),
            ("exit code: 3\n--- stderr\na\n--- stderr\nb\n", ran(3, "", "a\n--- stderr\nb\n")),
            ("exit code: 0\n--- stdout (no newline at the end)\na\n", ran(0, "a", "")),
            ("exit code: 0\n--- stdout (no newline at the end)\na\nb\n--- stderr\nc\n", ran(0, "a\nb", "c\n")),
            ("exit code: 0\n--- stdout\na\n--- stderr (no newline at the end)\nc\n", ran(0, "a\n", "c")),
            // Only a whole line is a head.
            ("exit code: 0\n--- stdout\na\n--- stderr?\n", ran(0, "a\n--- stderr?\n", "")),
            ("exit code: 0\n--- stdout\na\n--- stderr", ran(0, "a\n--- stderr", "")),
            ("exit code: 0\nall is well\n", None),
            ("no exit code: stopped after 600 s, the time limit\n--- stdout\na\n", None),
            ("exit code: many\n", None),
            ("done", None),
            ("", None),
        ] {
            assert_eq!(Ran::read(text), expect, "{text:?}");
        }
    }

    #[test]
    fn an_output_that_was_cut_says_how_long_it_was_and_where_it_is() {
        let all = |text| Section { text, cut: None };
        let cut = |text, path, why| Section { text, cut: Some(Cut { total: 9, path, why }) };
        let kept = " (the last 3 of 9 bytes; the whole is tasks/t/1/stdout.log in the drive)";
        for (text, stdout, stderr) in [
            (format!("--- stdout{kept}\nab\n"), cut("ab\n", Some("tasks/t/1/stdout.log"), ""), all("")),
            // What the command did not end with a newline does not gain one here.
            (format!("--- stdout{kept}\nabc\n"), cut("abc", Some("tasks/t/1/stdout.log"), ""), all("")),
            (format!("--- stdout{kept}\nab\n--- stderr\nb\n"), cut("ab\n", Some("tasks/t/1/stdout.log"), ""), all("b\n")),
            (
                "--- stderr (the last 3 of 9 bytes; the whole is a in the drive, but it is cut after 8 bytes)\nab\n".into(),
                all(""),
                cut("ab\n", Some("a"), "it is cut after 8 bytes"),
            ),
            (
                "--- stdout (the last 3 of 9 bytes)\nab\n--- stderr (the last 3 of 9 bytes; the rest is lost: no)\n\né\n".into(),
                cut("ab\n", None, ""),
                cut("\né", None, "the rest is lost: no"),
            ),
            (
                "--- stdout (9 bytes, shown as 16 bytes of text; the whole is a in the drive)\na\n--- stderr\n\u{fffd}\n".into(),
                cut("a\n--- stderr\n\u{fffd}", Some("a"), ""),
                all(""),
            ),
            // Bytes that are counted are not taken for a head.
            (
                "--- stdout (the last 14 of 9 bytes)\na\n--- stderr\nb\n".into(),
                cut("a\n--- stderr\nb", None, ""),
                all(""),
            ),
            (
                "--- stdout (the last 15 of 9 bytes)\na\n--- stderr\nb\n--- stderr\nc\n--- stderr\nd\n".into(),
                cut("a\n--- stderr\nb\n", None, ""),
                all("c\n--- stderr\nd\n"),
            ),
            (
                "--- stdout\na\n--- stderr (the last 14 of 9 bytes)\nb\n--- stderr\nc\n".into(),
                all("a\n"),
                cut("b\n--- stderr\nc", None, ""),
            ),
        ] {
            let text = format!("exit code: 0\n{text}");
            assert_eq!(Ran::read(&text), Some(Ran { exit_code: 0, stdout, stderr, left_out: "" }), "{text:?}");
            let text = format!("{text}{LEFT_OUT}a: a device\n");
            assert_eq!(Ran::read(&text), Some(Ran { exit_code: 0, stdout, stderr, left_out: "a: a device\n" }), "{text:?}");
        }
        // Counts that do not fit: nobody knows what this is.
        assert_eq!(Ran::read("exit code: 0\n--- stdout (the last 5 of 9 bytes)\nab\n"), None);
    }
}
