//! What may be run, and what the feed tells of it.

use mi_kernel::{
    Actor, Error, ExecId, Result, Time,
    event::{Category, Event},
};
use mi_proto::v1::{ExecStart, Terminal, TerminalSize};
use serde_json::json;

use crate::agents::Agent;

const MAX_WORDS: usize = 1000;
const MAX_BYTES: usize = 64 << 10;
const MAX_KIND: usize = 64;
/// What the feed shows of a command.
const SHOWN_WORDS: usize = 32;
const SHOWN_BYTES: usize = 256;
/// What its summary shows of it.
const SHOWN_LINE: usize = 200;

/// Whether this can be run at all.
pub(super) fn start(start: &ExecStart) -> Result<()> {
    let command = &start.command;
    let bytes: usize = command.iter().map(String::len).sum();
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("start.command", "must name a program"));
    }
    if command.len() > MAX_WORDS || bytes > MAX_BYTES || command.iter().any(|word| word.contains('\0')) {
        let problem = format!("must have at most {MAX_WORDS} words of {MAX_BYTES} bytes together and no NUL character");
        return Err(Error::invalid("start.command", problem));
    }
    let Some(Terminal { size: given, kind }) = &start.terminal else { return Ok(()) };
    if kind.len() > MAX_KIND || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = format!("must be the name of a terminal, at most {MAX_KIND} visible ASCII characters");
        return Err(Error::invalid("start.terminal.kind", problem));
    }
    size("start.terminal.size", given.as_ref())
}

/// Whether a terminal can be of this size.
pub(super) fn size(field: &'static str, given: Option<&TerminalSize>) -> Result<()> {
    let given = given.copied().unwrap_or_default();
    let good = [given.rows, given.columns].iter().all(|count| (1..=i32::from(u16::MAX)).contains(count));
    good.then_some(()).ok_or_else(|| Error::invalid(field, "must have 1 to 65535 rows and as many columns"))
}

/// How a command ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The command exited with this code.
    Exited(i32),
    /// Its client left, or its key was revoked.
    Left,
    /// Whoever called did not keep to the rules.
    Refused(Error),
    /// Nothing went in or came out for too long.
    Idle,
    /// Its agent was lost, stopped or replaced.
    Interrupted,
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Left => "client_left",
            Self::Refused(_) => "refused",
            Self::Idle => "idle",
            Self::Interrupted => "interrupted",
        }
    }
}

/// One command, as the feed tells of it.
pub(crate) struct Recorded {
    pub(crate) agent: Agent,
    pub(crate) id: ExecId,
    pub(crate) by: Actor,
    pub(crate) command: Vec<String>,
    pub(crate) terminal: bool,
    pub(crate) trace_id: String,
}

impl Recorded {
    pub(super) fn started(&self, now: Time) -> Event {
        let line = shown(&self.command.join(" "), SHOWN_LINE);
        let command: Vec<String> = self.command.iter().take(SHOWN_WORDS).map(|word| shown(word, SHOWN_BYTES)).collect();
        let (account, key) = match &self.by {
            Actor::Operator { account_id, api_key_id, .. } => (account_id.to_string(), api_key_id.to_string()),
            other => (other.key(), String::new()),
        };
        let about = json!({
            "exec_id": self.id, "agent_id": self.agent.id, "account_id": account, "api_key_id": key,
            "command": command, "words": self.command.len(), "terminal": self.terminal,
        });
        let summary = format!("An operator runs a command in agent {:?}: {line}", self.agent.name);
        self.event("agent.exec_started", summary, about, now)
    }

    pub(super) fn ended(&self, end: &End, began: Time, now: Time) -> Event {
        let millis = (now - began).num_milliseconds().max(0);
        let mut about = json!({
            "exec_id": self.id, "agent_id": self.agent.id, "outcome": end.word(), "duration_millis": millis,
        });
        let how = match end {
            End::Exited(code) => {
                about["exit_code"] = json!(code);
                format!("ended with exit code {code}")
            }
            End::Left => "was ended, since its client left".to_owned(),
            End::Refused(error) => format!("was ended: {error}"),
            End::Idle => "was ended: nothing went in or came out for too long".to_owned(),
            End::Interrupted => "was ended with the agent's instance or session".to_owned(),
        };
        let summary = format!("A command in agent {:?} {how}", self.agent.name);
        self.event("agent.exec_ended", summary, about, now)
    }

    fn event(&self, kind: &str, summary: String, about: serde_json::Value, now: Time) -> Event {
        Event::lifecycle(self.agent.office_id, &self.agent.name, kind, summary, now)
            .category(Category::Security)
            .with(about)
            .traced(&self.trace_id)
    }
}

/// The start of a text, on one line.
fn shown(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    let mut shown: String = text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if end < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> ExecStart {
        ExecStart { command: words.iter().map(|word| (*word).to_owned()).collect(), ..ExecStart::default() }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        let size = |rows, columns| Some(TerminalSize { rows, columns });
        let terminal =
            |kind: &str, size| ExecStart { terminal: Some(Terminal { kind: kind.into(), size }), ..words(&["sh"]) };
        for good in [
            words(&["a", "", "é\n"]),
            words(&["a"; MAX_WORDS]),
            words(&["a", &"a".repeat(MAX_BYTES - 1)]),
            terminal("", size(1, 65535)),
            terminal("xterm-256color", size(65535, 1)),
        ] {
            start(&good).unwrap_or_else(|error| panic!("{error}"));
        }
        for (bad, field) in [
            (words(&[]), "start.command"),
            (words(&["", "a"]), "start.command"),
            (words(&["a\0b"]), "start.command"),
            (words(&["a", "\0"]), "start.command"),
            (words(&["a"; MAX_WORDS + 1]), "start.command"),
            (words(&["a", &"a".repeat(1 << 20)]), "start.command"),
            (terminal("x term", size(1, 1)), "start.terminal.kind"),
            (terminal(&"x".repeat(65), size(1, 1)), "start.terminal.kind"),
            (terminal("", None), "start.terminal.size"),
            (terminal("", size(0, 1)), "start.terminal.size"),
            (terminal("", size(1, 65536)), "start.terminal.size"),
        ] {
            assert_eq!(start(&bad).expect_err("bad").field, Some(field));
        }
    }

    #[test]
    fn what_is_shown_of_a_command_is_one_short_line() {
        assert_eq!(shown("ls -l\na\x1b", 200), "ls -l a ");
        assert_eq!(shown("ééé", 5), "éé…");
    }
}
