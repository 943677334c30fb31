//! Bodies of requests: read strictly, and changed where something is missing, with every other byte left as it came.

use std::{collections::HashSet, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// Most objects, lists and members of a body: each takes many times the memory of its bytes.
const MAX_PARTS: usize = 200_000;

/// Reads a body. An object that names a member twice, in whatever case, is refused: whoever reads it after us might take
/// the other one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(body: &[u8]) -> Result<Value, String> {
    // Every part but the first follows one of these, which may stand in texts as well: those count only where there are
    // many of them.
    let marks = body.iter().filter(|byte| matches!(byte, b',' | b'{' | b'[')).count();
    if marks > MAX_PARTS && parts(body) > MAX_PARTS {
        return Err(format!("it has more than {MAX_PARTS} members and items"));
    }
    serde_json::from_slice::<Strict>(body).map(|strict| strict.0).map_err(|error| error.to_string())
}

/// How many objects, lists, and further members and items there are, outside of texts.
fn parts(body: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'{' | b'[' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let (mut map, mut folded) = (Map::new(), HashSet::new());
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            // Some servers do not tell the cases of names apart.
            if map.contains_key(&name) || !folded.insert(name.to_ascii_lowercase()) {
                return Err(A::Error::custom(format_args!("{name:?} is there twice")));
            }
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

/// The body with this value at the path; objects on the way that are missing, or `null`, are made. Nothing else changes.
/// The body is JSON that [`parse`] took, an object.
pub(crate) fn set(body: &[u8], path: &[&str], value: &str) -> Vec<u8> {
    let mut at = skip_space(body, 0);
    for (depth, name) in path.iter().enumerate() {
        let rest = &path[depth + 1..];
        let Some(found) = member(body, at, name) else {
            let (start, comma) = (at + 1, if is_empty(body, at) { "" } else { "," });
            return splice(body, start..start, &format!("{}:{}{comma}", quoted(name), nested(rest, value)));
        };
        if rest.is_empty() || body.get(found.start) != Some(&b'{') {
            return splice(body, found, &nested(rest, value));
        }
        at = found.start;
    }
    body.to_vec()
}

fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

/// The value within objects of these names.
fn nested(path: &[&str], value: &str) -> String {
    path.iter().rev().fold(value.to_owned(), |inner, name| format!("{{{}:{inner}}}", quoted(name)))
}

fn splice(body: &[u8], range: Range<usize>, text: &str) -> Vec<u8> {
    [&body[..range.start], text.as_bytes(), &body[range.end..]].concat()
}

fn is_empty(body: &[u8], object: usize) -> bool {
    body.get(skip_space(body, object + 1)) == Some(&b'}')
}

/// Where the value of a member is, of the object that begins here.
fn member(body: &[u8], object: usize, name: &str) -> Option<Range<usize>> {
    let mut at = skip_space(body, object + 1);
    while body.get(at) == Some(&b'"') {
        let key = at..end_of_string(body, at);
        let value = skip_space(body, skip_space(body, key.end) + 1);
        let end = end_of_value(body, value);
        if serde_json::from_slice::<String>(&body[key]).is_ok_and(|key| key == name) {
            return Some(value..end);
        }
        at = skip_space(body, end);
        if body.get(at) != Some(&b',') {
            return None;
        }
        at = skip_space(body, at + 1);
    }
    None
}

fn skip_space(body: &[u8], at: usize) -> usize {
    let rest = body.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// The end of the string whose quote is here.
fn end_of_string(body: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    body.len()
}

fn end_of_value(body: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while let Some(byte) = body.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(body, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            byte if depth == 0 && byte.is_ascii_whitespace() => return at,
            _ => {}
        }
        at += 1;
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_changes() {
        for (body, path, value, expected) in [
            (r#" { "b" : 1.0 }"#, &["a"][..], "2", r#" {"a":2, "b" : 1.0 }"#),
            (r#"{}"#, &["a"], "2", r#"{"a":2}"#),
            (r#"{"x":"}\"a\":","a":null,"z":[{"a":3}]}"#, &["a"], "2", r#"{"x":"}\"a\":","a":2,"z":[{"a":3}]}"#),
            (r#"{"z":[{"a":3}]}"#, &["a"], "2", r#"{"a":2,"z":[{"a":3}]}"#),
            (r#"{"o":{"b":1}}"#, &["o", "a"], "2", r#"{"o":{"a":2,"b":1}}"#),
            (r#"{"o":{ },"p":1}"#, &["o", "a"], "2", r#"{"o":{"a":2 },"p":1}"#),
            (r#"{"o":null}"#, &["o", "a"], "2", r#"{"o":{"a":2}}"#),
            (r#"{"p":"\\"}"#, &["o", "a"], "true", r#"{"o":{"a":true},"p":"\\"}"#),
            (r#"{"o":{"a":false , "b":[1,2]}}"#, &["o", "a"], "true", r#"{"o":{"a":true , "b":[1,2]}}"#),
            ("{\"m\\u006fdel\":\"sonnet\"}", &["model"], "\"x\"", "{\"m\\u006fdel\":\"x\"}"),
        ] {
            let changed = set(body.as_bytes(), path, value);
            assert_eq!(String::from_utf8(changed.clone()).expect("text"), expected);
            parse(&changed).expect("JSON still");
        }
    }

    #[test]
    fn a_member_is_there_once() {
        for bad in [r#"{"a":1,"a":2}"#, r#"{"o":[{"a":1,"\u0061":2}]}"#] {
            assert!(parse(bad.as_bytes()).expect_err(bad).contains("\"a\" is there twice"));
        }
        let body = r#"{"a":[1,-2,0.5,null,true,"x",18446744073709551615],"b":{"a":1}}"#;
        assert_eq!(parse(body.as_bytes()).expect("fine"), serde_json::from_str::<Value>(body).expect("fine"));
        assert!(parse(&b"[".repeat(1000)).is_err() && parse(b"{} x").is_err() && parse(b"\xff").is_err());
    }
}
