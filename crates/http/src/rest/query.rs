//! What a URL says behind its `?`, and how a text becomes the value of a field.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde_json::{Value as Json, json};
use tonic::Status;

use super::{routes::message_of, template::decode};
use crate::refusal::invalid;

/// Names and values, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URL behind the `?`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what cannot be decoded.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Status> {
        let one = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As forms have it; a plus of its own is `%2B`.
            let part = |text: &str| decode(&text.replace('+', " "));
            part(name).zip(part(value)).ok_or_else(|| {
                invalid("query", "has a `%` that is not followed by two hexadecimal digits, or is not UTF-8")
            })
        };
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Sets what the query says in a message, where only some fields may be set so.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the names of what is unknown, or what is wrong with a value.
    pub(crate) fn bind(
        &self,
        message: &mut DynamicMessage,
        is_free: impl Fn(&FieldDescriptor) -> bool,
    ) -> Result<(), Status> {
        let descriptor = message.descriptor();
        let mut found: Vec<(Vec<FieldDescriptor>, Vec<&str>)> = Vec::new();
        let mut unknown = Vec::new();
        for (name, value) in &self.0 {
            let path = resolve(&descriptor, name).filter(|path| path.first().is_some_and(&is_free));
            match path {
                None => unknown.push(format!("`{name}`")),
                Some(path) => match found.iter_mut().find(|(other, _)| *other == path) {
                    None => found.push((path, vec![value])),
                    Some((path, values)) if path.last().is_some_and(FieldDescriptor::is_list) => values.push(value),
                    Some(_) => return Err(invalid(name, "is there twice")),
                },
            }
        }
        if !unknown.is_empty() {
            let known: Vec<_> =
                descriptor.fields().filter(&is_free).map(|field| format!("`{}`", field.name())).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            return Err(invalid("query", format!("has {}; here it may have {known}", unknown.join(", "))));
        }
        for (path, values) in found {
            set(message, &path, &values)?;
        }
        Ok(())
    }
}

/// The field of a name such as `page_size`, `pageSize` or `filter.name`, and those around it.
fn resolve(descriptor: &MessageDescriptor, name: &str) -> Option<Vec<FieldDescriptor>> {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let field = descriptor.get_field_by_name(first).or_else(|| descriptor.get_field_by_json_name(first))?;
    match rest {
        None => Some(vec![field]),
        Some(rest) => {
            let inner = message_of(&field).filter(|inner| inner.package_name() != "google.protobuf")?;
            let mut path = resolve(&inner, rest)?;
            path.insert(0, field);
            Some(path)
        }
    }
}

fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], values: &[&str]) -> Result<(), Status> {
    match path {
        [] => Ok(()),
        [field] => {
            message.set_field(field, value(field, values)?);
            Ok(())
        }
        [field, rest @ ..] => match message.get_field_mut(field) {
            Value::Message(inner) => set(inner, rest, values),
            _ => Ok(()),
        },
    }
}

/// The value of a field that these texts stand for: one, or what a list has, each possibly several with commas between.
///
/// # Errors
/// `INVALID_ARGUMENT`, with the field and what it takes.
pub(crate) fn value(field: &FieldDescriptor, texts: &[&str]) -> Result<Value, Status> {
    let json = match texts {
        _ if field.is_map() => return Err(invalid(field.name(), "has keys and values, which a URL has no form for")),
        texts if field.is_list() => {
            let items = texts.iter().flat_map(|text| text.split(','));
            Json::Array(items.map(|item| scalar(field, item)).collect::<Result<_, _>>()?)
        }
        [text] => scalar(field, text)?,
        _ => return Err(invalid(field.name(), "is there twice")),
    };
    let object = json!({ field.json_name(): json });
    let read = DynamicMessage::deserialize(field.parent_message().clone(), object);
    match read {
        Ok(message) => Ok(message.get_field(field).into_owned()),
        Err(_) => Err(invalid(field.name(), format!("must be {}", expected(field)))),
    }
}

/// A text as JSON has it.
fn scalar(field: &FieldDescriptor, text: &str) -> Result<Json, Status> {
    Ok(match field.kind() {
        Kind::Bool => match text {
            "true" => true.into(),
            "false" => false.into(),
            _ => return Err(invalid(field.name(), "must be `true` or `false`")),
        },
        Kind::Enum(kind) => enum_value(&kind, text).unwrap_or_else(|| text.to_owned()).into(),
        Kind::Message(message) => match message.full_name() {
            // JSON has names as Javascript does, and refuses those with an underscore.
            "google.protobuf.FieldMask" => camel_case(text).into(),
            "google.protobuf.Timestamp" | "google.protobuf.Duration" => text.into(),
            _ => return Err(invalid(field.name(), "has fields of its own: name one, as in `a.b`")),
        },
        _ => text.into(),
    })
}

/// `queued` and `TASK_STATUS_QUEUED` are the same.
fn enum_value(descriptor: &EnumDescriptor, text: &str) -> Option<String> {
    if descriptor.get_value_by_name(text).is_some() {
        return Some(text.to_owned());
    }
    let zero = descriptor.default_value();
    let prefix = zero.name().strip_suffix("UNSPECIFIED")?;
    let name = format!("{prefix}{}", text.to_ascii_uppercase());
    let is_short = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (is_short && descriptor.get_value_by_name(&name).is_some()).then_some(name)
}

/// The values of an enum as they may be written in a query.
fn short_names(descriptor: &EnumDescriptor) -> Vec<String> {
    let zero = descriptor.default_value();
    let prefix = zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default();
    let names = descriptor.values().filter(|value| value.number() != 0);
    names.map(|value| value.name().strip_prefix(prefix).unwrap_or(value.name()).to_ascii_lowercase()).collect()
}

fn camel_case(text: &str) -> String {
    let mut is_after_underscore = false;
    let mut camel = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '_' => is_after_underscore = true,
            char if is_after_underscore => {
                camel.push(char.to_ascii_uppercase());
                is_after_underscore = false;
            }
            char => camel.push(char),
        }
    }
    camel
}

/// What a field takes, for whoever sent something else.
fn expected(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a whole number of at most 32 bits".to_owned(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "a whole number of at most 64 bits".to_owned(),
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => "a whole number, not negative".to_owned(),
        Kind::Float | Kind::Double => "a number".to_owned(),
        Kind::Bytes => "base64".to_owned(),
        Kind::Enum(kind) => format!("one of `{}`", short_names(&kind).join("`, `")),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => {
                "a time such as `2026-01-31T12:00:00Z`; a `+` in it is written `%2B`".to_owned()
            }
            "google.protobuf.Duration" => "seconds such as `30s` or `0.5s`".to_owned(),
            _ => "names of fields with commas between, such as `a,b`".to_owned(),
        },
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::String => "text".to_owned(),
    }
}
