//! Which part of a file is wanted, and on what condition: `Range`, `If-Match` and their like.
//!
//! <https://www.rfc-editor.org/rfc/rfc9110#section-13>

use http::{HeaderMap, HeaderName, header};
use mi_kernel::{Error, ErrorKind};
use mi_rpc::status;
use tonic::Status;

use crate::refusal::invalid;

/// The first of a `Range` of bytes, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// `a-b` and `a-`; the last byte is a part of it.
    From(u64, Option<u64>),
    /// `-n`: the last ones.
    Last(u64),
}

impl Range {
    /// Reads the header. None: all is wanted, or something that is not read here, such as several ranges; a server may
    /// answer those with the whole.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let (unit, range) = headers.get(header::RANGE)?.to_str().ok()?.split_once('=')?;
        let (first, last) = range.trim().split_once('-').filter(|_| unit.trim().eq_ignore_ascii_case("bytes"))?;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // What is too large is behind every end.
            is_number.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => Some((number(first)?, number(last)?))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| Self::From(first, Some(last))),
        }
    }

    /// Where it begins in so many bytes, and how many it has; none: it has nothing of them.
    pub(crate) fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first, last) => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Last(count) => (size.saturating_sub(count), size),
        };
        (first < end).then(|| (first, end - first))
    }
}

/// The tags of a header that lists some, such as `"3", W/"4"`; `*` is one of them.
fn tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<String>> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    if values.is_empty() {
        return None;
    }
    Some(values.iter().flat_map(|value| value.split(',')).map(|tag| tag.trim().to_owned()).collect())
}

/// What a reader already has, compared with what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// The reader has it.
    NotModified,
    /// It is not what the reader wants.
    Failed,
}

/// Whether a reader is to be sent what has this tag.
pub(crate) fn verdict(headers: &HeaderMap, etag: &str) -> Verdict {
    let weak = |tag: &String| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
    match (tags(headers, header::IF_MATCH), tags(headers, header::IF_NONE_MATCH)) {
        (Some(wanted), _) if !wanted.iter().any(|tag| tag == "*" || tag == etag) => Verdict::Failed,
        (_, Some(known)) if known.iter().any(weak) => Verdict::NotModified,
        _ => Verdict::Send,
    }
}

/// Whether a range is wanted of what has this tag: `If-Range` asks for the whole when it is another. Dates are too coarse
/// to tell, so one always does.
pub(crate) fn wants_part(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes())
}

/// On what condition something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// Over this revision; 0: where there is nothing.
    Revision(i64),
    /// Whatever there is.
    Any,
}

impl Write {
    /// Reads `If-Match: "REVISION"`, `If-Match: *` and `If-None-Match: *`; none: the headers name no condition.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what cannot be promised, `FAILED_PRECONDITION` for a tag that nothing has.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let matching = match (tags(headers, header::IF_MATCH), tags(headers, header::IF_NONE_MATCH)) {
            (None, None) => return Ok(None),
            (None, Some(none)) if none == ["*"] => return Ok(Some(Self::Revision(0))),
            (Some(_), Some(_)) => return Err(invalid("if-none-match", "cannot be sent together with `if-match`")),
            (None, Some(_)) => {
                return Err(invalid("if-none-match", "of a change can only be `*`: nothing is there yet"));
            }
            (Some(tags), None) => tags,
        };
        let [tag] = matching.as_slice() else {
            return Err(invalid("if-match", "must be one revision, as `etag` had it, such as `\"12\"`"));
        };
        if tag == "*" {
            return Ok(Some(Self::Any));
        }
        let revision = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
        match revision.filter(|revision| *revision > 0) {
            Some(revision) => Ok(Some(Self::Revision(revision))),
            None => Err(conflict(&format!(
                "`if-match: {tag}` is no revision; they are as `etag` had them, such as `\"12\"`"
            ))),
        }
    }
}

/// What is there is not what the client says.
pub(crate) fn conflict(text: &str) -> Status {
    status(Error::new(ErrorKind::FailedPrecondition, "REVISION_CONFLICT", text))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    #[test]
    fn ranges() {
        for (text, size, found) in [
            ("bytes=0-0", 10, Some(Some((0, 1)))),
            ("bytes=2-5", 10, Some(Some((2, 4)))),
            ("bytes=2-", 10, Some(Some((2, 8)))),
            ("bytes=-3", 10, Some(Some((7, 3)))),
            ("bytes=-30", 10, Some(Some((0, 10)))),
            ("bytes=5-99999999999999999999999", 10, Some(Some((5, 5)))),
            ("Bytes = 2-5", 10, Some(Some((2, 4)))),
            ("bytes=10-", 10, Some(None)),
            ("bytes=99999999999999999999999-", 10, Some(None)),
            ("bytes=-0", 10, Some(None)),
            ("bytes=0-", 0, Some(None)),
            ("bytes=-1", 0, Some(None)),
            ("bytes=5-2", 10, None),
            ("bytes=-", 10, None),
            ("bytes=a-b", 10, None),
            ("bytes=+1-2", 10, None),
            ("bytes=0-1,3-4", 10, None),
            ("lines=0-1", 10, None),
            ("bytes", 10, None),
        ] {
            let range = Range::of(&headers(&[(header::RANGE, text)]));
            assert_eq!(range.map(|range| range.within(size)), found, "{text} of {size}");
        }
        assert_eq!(Range::of(&HeaderMap::new()), None);
    }

    #[test]
    fn readers_have_what_they_have() {
        let (none, some) = (header::IF_NONE_MATCH, header::IF_MATCH);
        for (pairs, expected) in [
            (&[][..], Verdict::Send),
            (&[(none.clone(), "\"7\"")], Verdict::NotModified),
            (&[(none.clone(), "\"6\", W/\"7\"")], Verdict::NotModified),
            (&[(none.clone(), "*")], Verdict::NotModified),
            (&[(none.clone(), "\"6\"")], Verdict::Send),
            (&[(none.clone(), "7")], Verdict::Send),
            (&[(some.clone(), "\"7\"")], Verdict::Send),
            (&[(some.clone(), "*")], Verdict::Send),
            (&[(some.clone(), "W/\"7\"")], Verdict::Failed),
            (&[(some.clone(), "\"6\"")], Verdict::Failed),
            (&[(some.clone(), "\"6\""), (none.clone(), "\"7\"")], Verdict::Failed),
        ] {
            assert_eq!(verdict(&headers(pairs), "\"7\""), expected, "{pairs:?}");
        }
        let range = |tag: &str| wants_part(&headers(&[(header::IF_RANGE, tag)]), "\"7\"");
        assert!(range("\"7\"") && wants_part(&HeaderMap::new(), "\"7\""));
        assert!(!range("\"6\"") && !range("W/\"7\"") && !range("Tue, 15 Nov 1994 12:45:26 GMT"));
    }

    #[test]
    fn writers_say_over_what() {
        let (none, some) = (header::IF_NONE_MATCH, header::IF_MATCH);
        for (pairs, expected) in [
            (&[][..], Ok(None)),
            (&[(some.clone(), "\"7\"")], Ok(Some(Write::Revision(7)))),
            (&[(some.clone(), "*")], Ok(Some(Write::Any))),
            (&[(none.clone(), "*")], Ok(Some(Write::Revision(0)))),
            (&[(some.clone(), "7")], Err("REVISION_CONFLICT")),
            (&[(some.clone(), "\"0\"")], Err("REVISION_CONFLICT")),
            (&[(some.clone(), "W/\"7\"")], Err("REVISION_CONFLICT")),
            (&[(some.clone(), "\"6\", \"7\"")], Err("INVALID_ARGUMENT")),
            (&[(none.clone(), "\"7\"")], Err("INVALID_ARGUMENT")),
            (&[(some.clone(), "\"7\""), (none.clone(), "*")], Err("INVALID_ARGUMENT")),
        ] {
            let found = Write::of(&headers(pairs)).map_err(|refused| {
                tonic_types::StatusExt::get_details_error_info(&refused).map(|info| info.reason).unwrap_or_default()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{pairs:?}");
        }
    }
}
