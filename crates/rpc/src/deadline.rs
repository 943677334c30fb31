//! Deadlines are ours: tonic does not enforce `grpc-timeout` when a role is called in-process, so one layer does, alike
//! on both paths.

use std::time::Duration;

use http::HeaderMap;
use mi_kernel::{Error, ErrorKind};

/// Header of the deadline, a number and a unit.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The time left that a call carries.
///
/// # Errors
/// `Invalid` when the header does not parse.
pub fn parse(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(parse_value)
        .map(Some)
        .ok_or_else(|| Error::invalid(GRPC_TIMEOUT, "must be up to 8 digits and one of H, M, S, m, u, n"))
}

// gRPC over HTTP/2: Timeout -> "grpc-timeout" TimeoutValue TimeoutUnit; at most 8 digits.
fn parse_value(text: &str) -> Option<Duration> {
    let (unit_at, unit) = text.char_indices().last()?;
    let digits = &text[..unit_at];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// The header's value for a duration, rounded down to milliseconds where it does not fit in microseconds.
pub fn format(left: Duration) -> String {
    match left.as_micros() {
        micros @ ..=99_999_999 => format!("{micros}u"),
        micros => format!("{}m", (micros / 1000).min(99_999_999)),
    }
}

/// What a call answers whose time is up.
pub fn exceeded() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "DEADLINE_EXCEEDED", "the call took longer than its deadline")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, millis) in [("5S", 5000), ("100m", 100), ("2M", 120_000), ("1H", 3_600_000), ("99999999u", 99_999)] {
            assert_eq!(parse_value(text).map(|d| d.as_millis()), Some(millis), "{text}");
        }
        for bad in ["", "S", "5", "5s", "-5S", "123456789S", "5é", "é"] {
            assert_eq!(parse_value(bad), None, "{bad}");
        }
        for duration in [Duration::from_millis(1500), Duration::from_secs(4000)] {
            assert_eq!(parse_value(&format(duration)), Some(duration));
        }
    }
}
