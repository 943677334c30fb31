//! Names and ids that callers choose.

use mi_kernel::{
    AgentId, ErrorKind,
    text::{MAX_AGENT_NAME, MAX_DISPLAY_NAME, agent_name, display_name, lookup_name},
};

/// A text as every kind of name, and as an id.
pub fn names(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    // No `||`: all of them are to be tried.
    agent(text) | display(text) | id(text)
}

fn agent(text: &str) -> bool {
    let agent = agent_name("name", text);
    match lookup_name("agent", text) {
        Ok(found) => assert_eq!(agent.as_ref().ok(), Some(&found)),
        Err(error) => {
            assert!(agent.is_err(), "{text:?} can be hired but not found");
            assert_eq!(error.kind, if text.is_empty() { ErrorKind::Invalid } else { ErrorKind::NotFound });
        }
    }
    let Ok(name) = agent else {
        return false;
    };
    assert_eq!(name, text.to_ascii_lowercase());
    assert!((1..=MAX_AGENT_NAME).contains(&name.len()), "{name:?}");
    assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{name:?}");
    assert!(!name.starts_with('-') && !name.ends_with('-'), "{name:?}");
    assert_eq!(agent_name("name", &name).as_ref().ok(), Some(&name));
    true
}

fn display(text: &str) -> bool {
    let Ok(name) = display_name("name", text) else {
        return false;
    };
    assert_eq!(name, text.trim());
    assert!((1..=MAX_DISPLAY_NAME).contains(&name.chars().count()), "{name:?}");
    let reordering = ['\u{2028}', '\u{2029}', '\u{202A}', '\u{202E}', '\u{2066}', '\u{2069}', '\u{200F}', '\u{FEFF}'];
    assert!(!name.chars().any(|char| char.is_control() || reordering.contains(&char)), "{name:?}");
    assert_eq!(display_name("name", &name).as_ref().ok(), Some(&name));
    true
}

fn id(text: &str) -> bool {
    let Ok(id) = AgentId::parse(text) else {
        return false;
    };
    assert_eq!(id.to_string(), text.to_ascii_lowercase());
    assert_eq!(AgentId::parse(&id.to_string()).ok(), Some(id));
    true
}
