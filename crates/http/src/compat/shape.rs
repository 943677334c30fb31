//! Values as that product writes them.

use base64::{Engine, engine::general_purpose::STANDARD};
use mi_kernel::{Error, Result, clock::Time};
use serde_json::{Map, Value, json};

/// Micro-credits of a credit.
const MICRO: i64 = 1_000_000;

/// A name in snake_case.
pub(super) fn snake(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// An object of which each name of two words is there in both spellings.
#[derive(Debug, Default)]
pub(super) struct Both(Map<String, Value>);

impl Both {
    /// Adds a value by its name in camelCase.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let other = snake(name);
        if other != name {
            self.0.insert(other, value.clone());
        }
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Adds one that may be absent.
    pub(super) fn maybe(self, name: &str, value: &Value) -> Self {
        if value.is_null() { self } else { self.with(name, value.clone()) }
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// The word of an enum's value: of `TASK_STATUS_DONE` it is `done`.
pub(super) fn word(value: &Value, prefix: &str) -> String {
    text(value).strip_prefix(prefix).unwrap_or_default().to_lowercase()
}

/// A phase as that product spells it, such as `Running`.
pub(super) fn phase(value: &Value) -> String {
    let word = word(value, "AGENT_PHASE_");
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// A text; anything else is empty.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number, which JSON of protobuf has as text when it is of 64 bits.
pub(super) fn int(value: &Value) -> i64 {
    value.as_i64().or_else(|| text(value).parse().ok()).unwrap_or_default()
}

/// The entries of a list.
pub(super) fn entries(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Credits of micro-credits: whole ones without a fraction.
pub(super) fn credits(micro: i64) -> Value {
    if micro % MICRO == 0 { json!(micro / MICRO) } else { json!(micro as f64 / MICRO as f64) }
}

/// Micro-credits of credits.
pub(super) fn micro(name: &'static str, credits: &Value) -> Result<i64> {
    let given = credits.as_f64().ok_or_else(|| Error::invalid(name, "must be a number of credits"))?;
    let micro = (given * MICRO as f64).round();
    // Beyond, a float has no whole micro-credits any more; far more than may be granted.
    if micro.abs() > (1_i64 << 53) as f64 {
        return Err(Error::invalid(name, "is too large"));
    }
    Ok(micro as i64)
}

/// A time in microseconds since 1970; none: it is unset.
pub(super) fn micros(time: &Value) -> Option<i64> {
    text(time).parse::<Time>().ok().map(|time| time.timestamp_micros())
}

/// Milliseconds of microseconds, with three places if there are any.
pub(super) fn millis(micros: i64) -> Value {
    if micros % 1000 == 0 { json!(micros / 1000) } else { json!(micros as f64 / 1000.0) }
}

/// Bytes, which JSON of protobuf has in base64, as hex digits.
pub(super) fn hex(value: &Value) -> String {
    let bytes = STANDARD.decode(text(value)).unwrap_or_default();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key in base64, given as hex digits or in base64.
pub(super) fn key(given: &str) -> String {
    let is_hex = given.len().is_multiple_of(2) && given.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hex {
        return given.to_owned();
    }
    let digits = given.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Vec<u8> = digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
    STANDARD.encode(bytes)
}

/// A word as an enum's value, if it is one of these.
pub(super) fn value(name: &'static str, word: &str, prefix: &str, known: &[&str]) -> Result<String> {
    if known.contains(&word) {
        return Ok(format!("{prefix}{}", word.to_uppercase()));
    }
    Err(Error::invalid(name, format!("{word:?} is unknown; there are {}", known.join(", "))))
}
