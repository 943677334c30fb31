//! Text from elsewhere, made fit for a terminal.

use std::borrow::Cow;

use mi_kernel::Time;
use prost_types::Timestamp;

/// Shows what would move the cursor, change colours or reorder text as an escape instead. Tabs stay.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if dangerous(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// The same line by line: the breaks between lines stay.
pub(crate) fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// Control characters, and the marks that reorder or hide text (Unicode Standard Annex 9).
fn dangerous(c: char) -> bool {
    c != '\t'
        && (c.is_control()
            || matches!(c, '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'))
}

/// A time in UTC, to the second.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    time.map_or_else(String::new, |time| Timestamp { nanos: 0, ..*time }.to_string())
}

/// A time in UTC, to the millisecond.
pub(crate) fn precise_time(time: Option<&Timestamp>) -> String {
    let Some(time) = time else { return String::new() };
    let whole = Timestamp { nanos: 0, ..*time }.to_string();
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), time.nanos / 1_000_000)
}

/// How long ago that was, in its largest unit.
pub(crate) fn age(time: Option<&Timestamp>, now: Time) -> String {
    let Some(time) = time else { return String::new() };
    // Clocks differ: what is not yet was just now.
    let seconds = (now.timestamp() - time.seconds).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The name of an enum value as people say it: `AGENT_PHASE_RUNNING` is `running`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

/// The same; nothing for the value that says nothing.
pub(crate) fn word_if_any(name: &str, prefix: &str) -> String {
    Some(word(name, prefix)).filter(|word| word != "unspecified").unwrap_or_default()
}

/// Bytes as people say them.
pub(crate) fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `90s`, `10m`, `2h`, `1d` or a bare number of seconds.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(escape("plain\tté 👩‍💻"), "plain\tté 👩‍💻");
        assert_eq!(escape("a\x1b[31mb\r\nc"), "a\\u{1b}[31mb\\r\\nc");
        assert_eq!(escape_lines("a\x1b\r\nb\n"), "a\\u{1b}\nb");
        assert_eq!(escape("\u{9b}2J\u{202e}x"), "\\u{9b}2J\\u{202e}x");
    }

    #[test]
    fn times_and_sizes() {
        let at = Timestamp { seconds: 1_767_225_600, nanos: 12_345_678 };
        assert_eq!(time(Some(&at)), "2026-01-01T00:00:00Z");
        assert_eq!(precise_time(Some(&at)), "2026-01-01T00:00:00.012Z");
        assert_eq!(time(None), "");
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(word("AGENT_PHASE_RUNNING", "AGENT_PHASE_"), "running");
        let now = Time::from_timestamp(1_767_225_600, 0).expect("a time");
        let ages = [0, 59, 60, 3600, 172_799, 172_800].map(|ago| {
            let then = Timestamp { seconds: now.timestamp() - ago, nanos: 0 };
            age(Some(&then), now)
        });
        assert_eq!(ages, ["0s", "59s", "1m", "1h", "47h", "2d"]);
        assert_eq!(age(Some(&Timestamp { seconds: now.timestamp() + 9, nanos: 0 }), now), "0s");
    }
}
