//! Paths as `google.api.http` writes them, and what they match.
//!
//! A request's path is taken as it came: it is cut at its slashes, each part is decoded by itself, and nothing is put in
//! order before, so that no spelling of a path leads anywhere else than it says. `.`, `..` and empty parts are parts like
//! others, which no name of ours is.

use std::cmp::Ordering;

/// A path with places for variables, such as `/v1/offices/{office_id}/agents/{name}:promote`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    /// What stands behind the last colon. It belongs to the template: elsewhere a colon is a part of a name.
    verb: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `{name}` or `{name=*}`: one segment that is not empty.
    One(String),
    /// `{name=**}`: everything that is left, one segment or more.
    Rest(String),
}

impl Template {
    /// Reads a template; none: it is written in a way that no annotation of ours is.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('/')?;
        let colon = text.rfind(':').filter(|colon| text.rfind(['/', '}']).is_none_or(|last| last < *colon));
        let (path, verb) = match colon {
            Some(colon) => (&text[..colon], Some(text[colon + 1..].to_owned())),
            None => (text, None),
        };
        let segments: Option<Vec<_>> = path.split('/').map(Segment::parse).collect();
        let segments = segments?;
        let rest = segments.iter().position(|segment| matches!(segment, Segment::Rest(_)));
        let is_last = rest.is_none_or(|at| at + 1 == segments.len() && verb.is_none());
        is_last.then_some(Self { segments, verb })
    }

    /// The variables, in order.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::One(name) | Segment::Rest(name) => Some(name.as_str()),
        })
    }

    /// The same for templates that match the same paths, whatever their variables are called; and in the order in which
    /// they are to be tried, since a literal comes before a variable.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let rank = |segment: &Segment| match segment {
            Segment::Literal(text) => (0, text.clone()),
            Segment::One(_) => (1, String::new()),
            Segment::Rest(_) => (2, String::new()),
        };
        let ranks = |template: &Self| template.segments.iter().map(rank).collect::<Vec<_>>();
        // With a verb before without one.
        let verb = |template: &Self| (template.verb.is_none(), template.verb.clone());
        ranks(self).cmp(&ranks(other)).then_with(|| verb(self).cmp(&verb(other)))
    }

    /// What the variables stand for in a path that is cut already, not decoded; none: it is another path.
    pub(crate) fn matches(&self, path: &[&str]) -> Option<Vec<String>> {
        let (last, before) = path.split_last()?;
        let last = match &self.verb {
            Some(verb) => last.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => last,
        };
        let mut parts = before.iter().copied().chain([last]);
        let mut found = Vec::new();
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(text) if text == part => {}
                Segment::One(_) if !part.is_empty() => found.push(part.to_owned()),
                Segment::Rest(_) => found.push([part].into_iter().chain(parts.by_ref()).collect::<Vec<_>>().join("/")),
                Segment::Literal(_) | Segment::One(_) => return None,
            }
        }
        parts.next().is_none().then_some(found)
    }

    /// As OpenAPI writes it, where a variable is a name and nothing else.
    pub(crate) fn plain(&self) -> String {
        let mut text = String::new();
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => text.extend(["/", literal]),
                Segment::One(name) | Segment::Rest(name) => text.extend(["/{", name, "}"]),
            }
        }
        if let Some(verb) = &self.verb {
            text.extend([":", verb]);
        }
        text
    }
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        let is_name =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
        let Some(variable) = text.strip_prefix('{') else {
            let is_literal = !text.is_empty() && !text.contains(['{', '}', '*', ':', '%']);
            return is_literal.then(|| Self::Literal(text.to_owned()));
        };
        let variable = variable.strip_suffix('}')?;
        match variable.split_once('=').unwrap_or((variable, "*")) {
            (name, "**") if is_name(name) => Some(Self::Rest(name.to_owned())),
            (name, "*") if is_name(name) => Some(Self::One(name.to_owned())),
            _ => None,
        }
    }
}

/// Cuts a path at its slashes; none: it does not begin with one.
pub(crate) fn cut(path: &str) -> Option<Vec<&str>> {
    Some(path.strip_prefix('/')?.split('/').collect())
}

/// Takes `%2F` and the like for what they stand for; none: a `%` without two digits of hex, or no UTF-8 comes out.
///
/// A slash that was written so is a slash like another of a file's path, and no part of any other name.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        bytes.push(match byte {
            b'%' => hex(left.next()?)? << 4 | hex(left.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(template: &str, path: &str) -> Option<Vec<String>> {
        Template::parse(template).expect(template).matches(&cut(path).expect(path))
    }

    fn found(values: &[&str]) -> Option<Vec<String>> {
        Some(values.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_variable_is_one_segment_and_the_rest_is_all_that_is_left() {
        for (template, path, values) in [
            ("/v1/offices", "/v1/offices", found(&[])),
            ("/v1/offices", "/v1/offices/", None),
            ("/v1/offices", "//v1/offices", None),
            ("/v1/offices", "/v1//offices", None),
            ("/v1/offices", "/v1/%6fffices", None),
            ("/v1/offices", "/v1/./offices", None),
            ("/v1/offices/{id}", "/v1/offices/o", found(&["o"])),
            ("/v1/offices/{id}", "/v1/offices/..", found(&[".."])),
            ("/v1/offices/{id}", "/v1/offices/a%2Fb", found(&["a%2Fb"])),
            ("/v1/offices/{id}", "/v1/offices/", None),
            ("/v1/offices/{id}", "/v1/offices/o/", None),
            ("/v1/offices/{id}/files/{path=**}", "/v1/offices/o/files/a/b.txt", found(&["o", "a/b.txt"])),
            ("/v1/offices/{id}/files/{path=**}", "/v1/offices/o/files/a//../b", found(&["o", "a//../b"])),
            ("/v1/offices/{id}/files/{path=**}", "/v1/offices/o/files/", found(&["o", ""])),
            ("/v1/offices/{id}/files/{path=**}", "/v1/offices/o/files", None),
        ] {
            assert_eq!(matched(template, path), values, "{template} {path}");
        }
    }

    #[test]
    fn a_verb_belongs_to_the_template() {
        for (template, path, values) in [
            ("/v1/agents/{name}:promote", "/v1/agents/bob:promote", found(&["bob"])),
            ("/v1/agents/{name}:promote", "/v1/agents/a:b:promote", found(&["a:b"])),
            ("/v1/agents/{name}:promote", "/v1/agents/bob%3Apromote", None),
            ("/v1/agents/{name}:promote", "/v1/agents/bob:PROMOTE", None),
            ("/v1/agents/{name}:promote", "/v1/agents/bobpromote", None),
            ("/v1/agents/{name}:promote", "/v1/agents/:promote", None),
            ("/v1/agents/{name}:promote", "/v1/agents/bob:promote/", None),
            ("/v1/agents:watch", "/v1/agents:watch", found(&[])),
            ("/v1/agents:watch", "/v1/agents", None),
            ("/v1/agents/{name}", "/v1/agents/bob:nonsense", found(&["bob:nonsense"])),
            ("/v1/files/{path=**}", "/v1/files/a/12:30:watch", found(&["a/12:30:watch"])),
        ] {
            assert_eq!(matched(template, path), values, "{template} {path}");
        }
    }

    #[test]
    fn what_is_more_certain_comes_first() {
        let order = [
            "/v1/offices:join",
            "/v1/offices",
            "/v1/offices/{id}/files",
            "/v1/offices/{id}/files/special",
            "/v1/offices/{id}/files/{name}:verb",
            "/v1/offices/{id}/files/{name}",
            "/v1/offices/{id}/files/{path=**}",
            "/v1/offices/{id}:verify",
        ];
        let templates = order.map(|text| Template::parse(text).expect(text));
        let mut sorted = templates.clone();
        sorted.reverse();
        sorted.sort_by(Template::compare);
        let place =
            |text: &str| sorted.iter().position(|one| one.plain() == Template::parse(text).expect(text).plain());
        for pair in [[3, 4], [4, 5], [5, 6]] {
            assert!(place(order[pair[0]]) < place(order[pair[1]]), "{sorted:?}");
        }
        let other = Template::parse("/v1/offices/{office}/files/{file}").expect("a template");
        assert_eq!(templates[5].compare(&other), Ordering::Equal);
    }

    #[test]
    fn only_what_our_annotations_need_is_a_template() {
        for bad in ["", "v1", "/", "/v1/", "/v1/{a.b}", "/v1/{a=**}/b", "/v1/{a=**}:verb", "/v1/*", "/v1/{a=b/*}"] {
            assert_eq!(Template::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_escaped_is_decoded_once_and_wholly() {
        for (text, decoded) in [
            ("plain", Some("plain")),
            ("a%2Fb%2fc", Some("a/b/c")),
            ("%252F", Some("%2F")),
            ("a+b", Some("a+b")),
            ("%E4%BD%A0", Some("你")),
            ("你", Some("你")),
            ("%", None),
            ("%2", None),
            ("%G0", None),
            ("%+1", None),
            ("%FF", None),
            ("%C0%AF", None),
        ] {
            assert_eq!(decode(text).as_deref(), decoded, "{text}");
        }
    }
}
