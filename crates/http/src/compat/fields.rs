//! What a request says, read field by field: each in camelCase or snake_case, null as if it were not there.

use mi_kernel::{Error, Result, clock::Time};
use serde_json::{Map, Value};

use super::shape::snake;
use crate::json;

/// The object that a body is.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    /// Reads a body; an empty one is an empty object.
    ///
    /// # Errors
    /// `Invalid` when it is anything else.
    pub(super) fn read(body: &[u8]) -> Result<Self> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        match json::parse(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(Error::invalid("body", "must be a JSON object")),
            Err(error) => Err(Error::invalid("body", format!("is not JSON: {error}"))),
        }
    }

    /// A value by its name in camelCase.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| self.0.get(&snake(name))).filter(|value| !value.is_null())
    }

    /// A text; absent: empty.
    pub(super) fn text(&self, name: &'static str) -> Result<&str> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Error::invalid(name, "must be a string")),
        }
    }

    /// The text of the first of these names that is there.
    pub(super) fn either(&self, names: [&'static str; 2]) -> Result<&str> {
        self.text(if self.get(names[0]).is_some() { names[0] } else { names[1] })
    }

    /// An id, which that product has as a number here and there.
    pub(super) fn id(&self, name: &'static str) -> Result<String> {
        match self.get(name) {
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => Ok(self.text(name)?.to_owned()),
        }
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(Error::invalid(name, "must be true or false")),
        }
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<i64>> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| Error::invalid(name, "must be a whole number")),
        }
    }

    /// A list of texts, or one text in which commas part them; absent: none.
    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<String>> {
        let wrong = || Error::invalid(name, "must be a list of strings, or one string with commas");
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(parted(text)),
            Some(Value::Array(entries)) => {
                let entry = |entry: &Value| match entry {
                    Value::String(text) => Ok(text.clone()),
                    Value::Number(number) => Ok(number.to_string()),
                    _ => Err(wrong()),
                };
                entries.iter().map(entry).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// An object of texts; absent: none.
    pub(super) fn map(&self, name: &'static str) -> Result<Option<&Map<String, Value>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) if map.values().all(Value::is_string) => Ok(Some(map)),
            Some(_) => Err(Error::invalid(name, "must be an object of strings")),
        }
    }
}

/// The parts of a text between its commas.
pub(super) fn parted(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A time as a query has it: milliseconds since 1970, or as ISO 8601 writes it.
pub(super) fn time(name: &'static str, text: &str) -> Result<Time> {
    let millis = text.parse().ok().and_then(Time::from_timestamp_millis);
    millis
        .or_else(|| text.parse().ok())
        .ok_or_else(|| Error::invalid(name, "must be milliseconds since 1970, or a time such as 2026-01-31T12:00:00Z"))
}
