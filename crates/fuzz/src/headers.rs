//! Headers that any caller may set: the deadline and the trace context.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use mi_base::trace::TraceContext;
use mi_rpc::deadline::{self, GRPC_TIMEOUT};

/// The value of a header, as each of them.
pub fn headers(data: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return false;
    };
    let traced = value.to_str().is_ok_and(trace);
    deadline(value) | traced
}

fn deadline(value: HeaderValue) -> bool {
    let parse = |value| deadline::parse(&HeaderMap::from_iter([(http::HeaderName::from_static(GRPC_TIMEOUT), value)]));
    let Ok(left) = parse(value) else {
        return false;
    };
    let left = left.expect("the header is there");
    // What eight digits can say.
    assert!(left <= Duration::from_secs(99_999_999 * 3600), "{left:?}");
    // The next role gets no more time, and no less than the format can hold.
    let text = deadline::format(left);
    let handed = HeaderValue::from_str(&text).ok().and_then(|value| parse(value).ok()).flatten();
    let handed = handed.expect("own format");
    let most = Duration::from_millis(99_999_999);
    let lost = left.min(most).checked_sub(handed);
    assert!(lost.is_some_and(|lost| lost < Duration::from_millis(1)), "{left:?} became {text}");
    true
}

fn trace(text: &str) -> bool {
    let Some(context) = TraceContext::parse(text) else {
        return false;
    };
    let header = context.header();
    // One spelling: a later version may append, nothing else changes.
    assert_eq!(header.get(2..), text.get(2..55), "{text}");
    assert!(header.starts_with("00-") && context.trace_id().bytes().any(|byte| byte != b'0'), "{text}");
    assert_eq!(TraceContext::parse(&header), Some(context));
    true
}
