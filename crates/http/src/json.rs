//! Messages between the wire and canonical proto3 JSON, by their descriptors.

use std::{cell::Cell, collections::HashSet, fmt};

use bytes::Bytes;
use mi_kernel::{Error, Result};
use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// Most values of a text, objects and lists included: many more than any message has. A text of nothing but small ones would be
/// a hundred times as large in memory.
const MAX_VALUES: usize = 100_000;

/// How JSON is written; it is read in all ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As the mapping of proto3 has it: `officeId`, and nothing that has its default.
    Canonical,
    /// As people read it: `office_id`, and every field that cannot be absent.
    Plain,
}

impl Style {
    fn options(self) -> SerializeOptions {
        let plain = self == Self::Plain;
        SerializeOptions::new().use_proto_field_name(plain).skip_default_fields(!plain)
    }
}

/// Reads a message.
///
/// # Errors
/// `Invalid`, with what is wrong and where: no JSON, an unknown field, a field that is there twice, a value that does not fit.
pub(crate) fn read(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage> {
    let refused = |error: serde_json::Error| {
        Error::invalid("body", format!("is not the JSON of a {}: {error}", descriptor.name()))
    };
    checked(text, Expected::message(descriptor)).map_err(refused)?;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let options = DeserializeOptions::new();
    DynamicMessage::deserialize_with_options(descriptor.clone(), &mut reader, &options).map_err(refused)
}

/// Reads a message from a value, and passes over what it does not know: for protocols that say so.
///
/// # Errors
/// `Invalid` for a value that does not fit.
pub(crate) fn read_known(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
        .map_err(|error| Error::invalid("body", format!("is not the JSON of a {}: {error}", descriptor.name())))
}

/// The fields that an object names, by the names of the descriptor.
pub(crate) fn names(descriptor: &MessageDescriptor, text: &[u8]) -> Vec<String> {
    let object: serde_json::Map<String, Value> = serde_json::from_slice(text).unwrap_or_default();
    let field = |name: &String| descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
    object.keys().filter_map(field).map(|field| field.name().to_owned()).collect()
}

/// Reads JSON that is no message.
///
/// # Errors
/// What is wrong with it, a name that is there twice included.
pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Value> {
    check(text)?;
    serde_json::from_slice(text)
}

/// Whether a text is JSON in which no object has a name twice.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn check(text: &[u8]) -> std::result::Result<(), serde_json::Error> {
    checked(text, Expected::Anything)
}

/// Reads a message, for the wire.
///
/// # Errors
/// As [`read`].
pub(crate) fn to_wire(descriptor: &MessageDescriptor, text: &[u8]) -> Result<Bytes> {
    Ok(read(descriptor, text)?.encode_to_vec().into())
}

/// Writes a message that came over the wire.
///
/// # Errors
/// `Internal` when it does not decode.
pub(crate) fn write(descriptor: &MessageDescriptor, message: &[u8], style: Style) -> Result<Vec<u8>> {
    let message = DynamicMessage::decode(descriptor.clone(), message).map_err(Error::internal)?;
    written(&message, style)
}

/// A message that came over the wire, as a value of [`Style::Plain`].
///
/// # Errors
/// `Internal` when it does not decode.
pub(crate) fn value(descriptor: &MessageDescriptor, message: &[u8]) -> Result<Value> {
    as_value(&DynamicMessage::decode(descriptor.clone(), message).map_err(Error::internal)?, Style::Plain)
}

/// A message as a value.
///
/// # Errors
/// `Internal` when it has no JSON, such as a time that is none.
pub(crate) fn as_value(message: &DynamicMessage, style: Style) -> Result<Value> {
    message.serialize_with_options(serde_json::value::Serializer, &style.options()).map_err(Error::internal)
}

/// Writes a message.
///
/// # Errors
/// `Internal` when it has no JSON, such as a time that is none.
pub(crate) fn written(message: &DynamicMessage, style: Style) -> Result<Vec<u8>> {
    // Most messages are a few fields.
    let mut text = Vec::with_capacity(512);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &style.options())
        .map_err(Error::internal)?;
    Ok(text)
}

/// What is looked at in JSON before it becomes a message or anything else: that no object has a name twice, since readers differ
/// in which one they take, and that it is not too much. Of what should be a message, its names as well: whoever misspells one
/// hears which there are.
struct Checked<'a> {
    expected: Expected,
    values: &'a Cell<usize>,
}

/// What a value should be, as far as it is looked at.
#[derive(Clone)]
enum Expected {
    Message(MessageDescriptor),
    Enum(EnumDescriptor),
    Anything,
}

impl Expected {
    /// The value of a field, or each of its values.
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind() {
            // The names of a map are its own.
            _ if field.is_map() => Self::Anything,
            Kind::Message(message) => Self::message(&message),
            Kind::Enum(numbers) => Self::Enum(numbers),
            _ => Self::Anything,
        }
    }

    fn message(message: &MessageDescriptor) -> Self {
        // Times, masks and their like are no objects in JSON, or objects of any names.
        match message.full_name().starts_with("google.protobuf.") {
            true => Self::Anything,
            false => Self::Message(message.clone()),
        }
    }
}

fn checked(text: &[u8], expected: Expected) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    Checked { expected, values: &Cell::new(0) }.deserialize(&mut reader)?;
    reader.end()
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(de::Error::custom(format_args!("it has more than {MAX_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let (name, expected) = match &self.expected {
                Expected::Message(message) => {
                    let field = message.get_field_by_json_name(&name).or_else(|| message.get_field_by_name(&name));
                    let Some(field) = field else {
                        let known: Vec<_> = message.fields().map(|field| format!("`{}`", field.name())).collect();
                        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                        return Err(de::Error::custom(format_args!("there is no field `{name}`; there are {known}")));
                    };
                    // One name, however it is spelled.
                    (field.name().to_owned(), Expected::of(&field))
                }
                _ => (name, Expected::Anything),
            };
            map.next_value_seed(Checked { expected, values: self.values })?;
            if names.contains(&name) {
                return Err(de::Error::custom(format_args!("`{name}` is there twice")));
            }
            names.insert(name);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let one = || Checked { expected: self.expected.clone(), values: self.values };
        while list.next_element_seed(one())?.is_some() {}
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<(), E> {
        match &self.expected {
            Expected::Enum(numbers) if numbers.get_value_by_name(text).is_none() => {
                let known: Vec<_> = numbers.values().map(|value| format!("`{}`", value.name())).collect();
                Err(E::custom(format_args!("there is no `{text}`; there are {}", known.join(", "))))
            }
            _ => Ok(()),
        }
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mi_proto::rules::POOL;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_text_is_named() {
        let task = POOL.get_message_by_name("mi.v1.CreateTaskRequest").expect("known");
        let many = format!(r#"{{"required_tools": [{}""]}}"#, "\"\",".repeat(MAX_VALUES));
        for (text, words) in [
            (r#"{"titel": "x"}"#, "there is no field `titel`; there are `office_id`, `title`,"),
            (r#"{"kind": "command"}"#, "there is no `command`; there are `TASK_KIND_UNSPECIFIED`,"),
            (r#"{"officeId": "a", "office_id": "b"}"#, "`office_id` is there twice"),
            (r#"{"title": "a"} x"#, "trailing"),
            (&many, "more than 100000 values"),
        ] {
            let refused = read(&task, text.as_bytes()).expect_err("refused");
            assert!(refused.message.contains(words), "{refused}");
        }
        // The names of a map are whoever's.
        let hire = POOL.get_message_by_name("mi.v1.HireAgentRequest").expect("known");
        let read = read(&hire, br#"{"env": {"office_id": "a", "officeId": "b"}, "resources": {"pids": 1}}"#);
        assert!(read.is_ok(), "{read:?}");
        assert!(check(br#"{"a": {"b": 1, "b": 2}}"#).is_err() && check(br#"{"a": [{"b": 1}, {"b": 2}]}"#).is_ok());
    }
}
