//! The rules of names that people and programs choose.

use crate::{Error, Result};

/// Longest display name, in characters.
pub const MAX_DISPLAY_NAME: usize = 80;
/// Longest agent name, in characters.
pub const MAX_AGENT_NAME: usize = 40;
/// What operators are called where agents go by their names: in messages and tasks.
pub const OPERATOR: &str = "operator";
/// Longest path on the drive, in bytes.
pub const MAX_DRIVE_PATH: usize = 1024;

/// A display name: 1 to 80 characters after trimming, any script, nothing invisible that could make it look like another.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn display_name(field: &'static str, text: &str) -> Result<String> {
    let name = text.trim();
    if name.is_empty() {
        return Err(Error::invalid(field, "must not be blank"));
    }
    if name.chars().nth(MAX_DISPLAY_NAME).is_some() {
        return Err(Error::invalid(field, format!("must have at most {MAX_DISPLAY_NAME} characters")));
    }
    if name.chars().any(|c| c.is_control() || is_format(c)) {
        return Err(Error::invalid(field, "must not contain control, line-breaking or text-direction characters"));
    }
    Ok(name.to_owned())
}

/// Characters that show nothing and reorder or hide what is around them: line and paragraph separators, zero-width
/// characters, the bidirectional marks of Unicode Standard Annex 9 and tags. The joiners U+200C and U+200D stay: scripts need them.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{061C}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// An agent name: a DNS label (RFC 1123) of 1 to 40 characters, returned in lower case, since DNS knows no case.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn agent_name(field: &'static str, text: &str) -> Result<String> {
    let name = text.to_ascii_lowercase();
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if name.len() > MAX_AGENT_NAME || !inner || !edge(name.chars().next()) || !edge(name.chars().last()) {
        return Err(Error::invalid(
            field,
            format!(
                "must be 1 to {MAX_AGENT_NAME} letters, digits and hyphens, starting and ending with a letter or digit"
            ),
        ));
    }
    Ok(name)
}

/// The name of an agent that is to be: like [`agent_name`], and not one that stands for somebody else.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn new_agent_name(field: &'static str, text: &str) -> Result<String> {
    let name = agent_name(field, text)?;
    if name == OPERATOR {
        return Err(Error::invalid(field, format!("{OPERATOR:?} is reserved for operators; choose another name")));
    }
    Ok(name)
}

/// The name of an agent to look up; what cannot be a name is simply not found.
///
/// # Errors
/// `Invalid` when empty, `NotFound` when no agent can be called so.
pub fn lookup_name(field: &'static str, text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(Error::invalid(field, "is required"));
    }
    agent_name(field, text)
        .map_err(|_| Error::not_found("agent", text.chars().take(MAX_AGENT_NAME).collect::<String>()))
}

/// A path on the drive: relative, components separated by `/`, none of which leads elsewhere or hides what it is. Paths
/// are compared byte for byte: nothing is normalised.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn drive_path<'a>(field: &'static str, text: &'a str) -> Result<&'a str> {
    let wrong = |problem| Err(Error::invalid(field, problem));
    if text.is_empty() {
        return wrong("is required");
    }
    if text.len() > MAX_DRIVE_PATH {
        return Err(Error::invalid(field, format!("must have at most {MAX_DRIVE_PATH} bytes")));
    }
    if text.chars().any(|c| c.is_control() || is_format(c) || c == '\\') {
        return wrong("must not contain backslashes, or control, line-breaking or text-direction characters");
    }
    if text.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return wrong("must be relative, without empty components, `.` and `..`: such as reports/2026.md");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drive_paths() {
        for good in ["a", "reports/2026.md", ".env", "a/...", "מסמך", "a b/👩‍💻", &format!("{}x", "é/".repeat(341))]
        {
            assert_eq!(drive_path("path", good).expect(good), good);
        }
        for bad in
            ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "a\\b", "a\0b", "a\nb", "\u{202E}a"]
        {
            assert_eq!(drive_path("path", bad).expect_err(bad).field, Some("path"));
        }
        assert!(drive_path("path", &"x".repeat(1024)).is_ok());
        for bad in ["x".repeat(1025), "é".repeat(1000)] {
            let error = drive_path("path", &bad).expect_err(&bad);
            assert_eq!(error.message, "path must have at most 1024 bytes");
        }
    }

    #[test]
    fn display_names() {
        for (given, kept) in [("My Colony", "My Colony"), ("  a ", "a"), ("משרד", "משרד"), ("👩‍💻 crew", "👩‍💻 crew")]
        {
            assert_eq!(display_name("name", given).expect(given), kept);
        }
        assert!(display_name("name", &"é".repeat(80)).is_ok());
        for bad in ["", "   ", "a\0b", "a\nb", "a\u{202E}b", "a\u{200B}b", &"é".repeat(81), &"x".repeat(10_000)] {
            assert_eq!(display_name("name", bad).expect_err(bad).field, Some("name"));
        }
    }

    #[test]
    fn agent_names() {
        for (given, kept) in [("analyst", "analyst"), ("Analyst", "analyst"), ("a", "a"), ("7-up", "7-up")] {
            assert_eq!(agent_name("name", given).expect(given), kept);
        }
        for bad in ["", "-a", "a-", "a_b", "a b", "a.b", "ä", "a\0", "../x", &"a".repeat(41)] {
            assert_eq!(agent_name("name", bad).expect_err(bad).field, Some("name"));
        }
    }

    #[test]
    fn nobody_new_is_called_as_operators_are() {
        assert_eq!(new_agent_name("name", "Operators").expect("another name"), "operators");
        for bad in ["operator", "Operator", "OPERATOR"] {
            let error = new_agent_name("name", bad).expect_err(bad);
            let text = "name \"operator\" is reserved for operators; choose another name";
            assert_eq!((error.field, error.message.as_str()), (Some("name"), text));
        }
        assert_eq!(new_agent_name("name", "a b").expect_err("no name").field, Some("name"));
    }
}
