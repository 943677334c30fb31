//! What may be said, and where.

use mi_kernel::{Error, Result};
use mi_tenancy::{Office, State};

/// Longest message, in bytes.
const MAX_BODY: usize = 64 << 10;

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

#[cfg(test)]
mod tests {
    use super::*;

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
