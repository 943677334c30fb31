//! Messages between the wire and canonical proto3 JSON, by their descriptors.

use std::{collections::HashSet, fmt};

use bytes::Bytes;
use mi_kernel::{Error, Result};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

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
    check(text).map_err(refused)?;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let options = DeserializeOptions::new();
    DynamicMessage::deserialize_with_options(descriptor.clone(), &mut reader, &options).map_err(refused)
}

/// The fields that an object names, by the names of the descriptor.
pub(crate) fn names(descriptor: &MessageDescriptor, text: &[u8]) -> Vec<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).unwrap_or_default();
    let field = |name: &String| descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
    object.keys().filter_map(field).map(|field| field.name().to_owned()).collect()
}

/// Reads JSON that is no message.
///
/// # Errors
/// What is wrong with it, a name that is there twice included.
pub(crate) fn parse(text: &[u8]) -> serde_json::Result<serde_json::Value> {
    serde_json::from_slice::<Unique>(text)?;
    serde_json::from_slice(text)
}

/// Whether a text is JSON in which no object has a name twice.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn check(text: &[u8]) -> std::result::Result<(), serde_json::Error> {
    serde_json::from_slice::<Unique>(text).map(drop)
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

/// JSON in which no object has a name twice: readers differ in which one they take, so what one has checked would not be what
/// another one does.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Unique, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Unique>()?;
            if names.contains(&name) {
                return Err(de::Error::custom(format_args!("`{name}` is there twice")));
            }
            names.insert(name);
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Unique, A::Error> {
        while list.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> std::result::Result<Unique, E> {
        Ok(Unique)
    }
}
