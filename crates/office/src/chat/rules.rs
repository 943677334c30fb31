//! What may be said, and who is spoken to.

use std::collections::BTreeSet;

use mi_kernel::{Error, Result, text};

use crate::offices::{Office, State};

/// Longest message, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Most agents that one message may name.
pub(super) const MAX_MENTIONS: usize = 10;

/// What a message says.
pub(super) fn body(text: &str) -> Result<()> {
    if text.len() > MAX_BODY {
        let problem =
            format!("has {} bytes; a message has at most {MAX_BODY}, put longer texts into the drive", text.len());
        return Err(Error::invalid("body", problem));
    }
    if text.trim().is_empty() {
        return Err(Error::invalid("body", "must not be blank"));
    }
    if text.contains('\0') {
        return Err(Error::invalid("body", "must not contain NUL characters"));
    }
    Ok(())
}

/// Whether messages can be sent in the office.
pub(super) fn open(office: &Office) -> Result<()> {
    let state = match office.state {
        State::Active => return Ok(()),
        State::Provisioning => "still being provisioned; try again in a moment",
        State::Suspended => "suspended; its messages can be read, and sent again when it is resumed",
        State::Deleting => return Err(State::deleting()),
    };
    Err(Error::precondition("OFFICE_NOT_ACTIVE", format!("the office is {state}")))
}

/// The names that a text calls as `@name`, in lower case: whole words, so that an address of mail is none.
pub(super) fn called(body: &str) -> BTreeSet<String> {
    let of_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (at, _) in body.match_indices('@') {
        let before = body[..at].chars().next_back();
        if before.is_some_and(|c| of_word(c) || "@.-+%".contains(c)) {
            continue;
        }
        let rest = &body[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        let after = rest[end..].chars().next();
        if after.is_some_and(|c| of_word(c) || c == '@') {
            continue;
        }
        // A dash behind a name is punctuation.
        if let Ok(name) = text::agent_name("body", rest[..end].trim_end_matches('-')) {
            names.insert(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_called_by_whole_words() {
        let cases: [(&str, &[&str]); 12] = [
            ("@analyst please look", &["analyst"]),
            ("hey @Analyst, and @bob-2: now", &["analyst", "bob-2"]),
            ("(@a) \"@b\" @c. @d? \n@e", &["a", "b", "c", "d", "e"]),
            ("@bob @BOB @bob", &["bob"]),
            ("@bob- or @bob--", &["bob"]),
            ("mail to eve@bob or a.@bob", &[]),
            ("@bob_builder @bobé @bob@example", &[]),
            ("@ @- @-bob @@bob", &[]),
            ("é@bob", &[]),
            ("שלום @bob שלום", &["bob"]),
            ("@bob/@eve", &["bob", "eve"]),
            ("", &[]),
        ];
        for (body, expected) in cases {
            assert_eq!(called(body).iter().map(String::as_str).collect::<Vec<_>>(), expected, "{body:?}");
        }
        let long = format!("@{}", "a".repeat(41));
        assert_eq!(called(&long), BTreeSet::new());
    }

    #[test]
    fn bodies() {
        for good in ["x", " x ", "two\nlines\t\u{1b}[31m", &"x".repeat(MAX_BODY)] {
            assert!(body(good).is_ok(), "{good:.20}");
        }
        let cases = [
            ("", "body must not be blank"),
            (" \n\t\u{a0}", "body must not be blank"),
            ("a\0b", "body must not contain NUL characters"),
            (
                &"x".repeat(1 << 20),
                "body has 1048576 bytes; a message has at most 65536, put longer texts into the drive",
            ),
        ];
        for (bad, text) in cases {
            let error = body(bad).expect_err(text);
            assert_eq!((error.field, error.message.as_str()), (Some("body"), text));
        }
    }
}
