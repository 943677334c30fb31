//! Messages as JSON schemas.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::comment;

/// The schemas that a document refers to, by name.
#[derive(Default)]
pub(crate) struct Schemas {
    done: BTreeMap<String, Value>,
    /// Messages that somebody may send: what is answered always has more.
    sent: BTreeSet<String>,
}

impl Schemas {
    /// Notes that a message, and all that it has, may be sent.
    pub(crate) fn send(&mut self, message: &MessageDescriptor) {
        if self.sent.insert(message.full_name().to_owned()) {
            message.fields().filter_map(|field| field.kind().as_message().cloned()).for_each(|inner| self.send(&inner));
        }
    }

    /// A reference to the schema of a message, or the schema of one that JSON has a form of its own for.
    pub(crate) fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(message) {
            return known;
        }
        let name = name(message.full_name());
        if !self.done.contains_key(&name) {
            // So that a message within itself finds its name.
            self.done.insert(name.clone(), Value::Null);
            let schema = self.object(message, |_| true);
            self.done.insert(name.clone(), schema);
        }
        reference(&name)
    }

    /// The schema of a message with only some of its fields.
    pub(crate) fn object(&mut self, message: &MessageDescriptor, has: impl Fn(&FieldDescriptor) -> bool) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields().filter(has) {
            properties.insert(field.name().to_owned(), self.field(&field));
            if !field.supports_presence() {
                required.push(Value::from(field.name()));
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if let Some(text) = comment(&message.parent_file(), message.path()) {
            schema["description"] = text.into();
        }
        // What is answered has every field that cannot be absent.
        if !required.is_empty() && !self.sent.contains(message.full_name()) {
            schema["required"] = required.into();
        }
        schema
    }

    /// The schema of a field, with what is said of it.
    pub(crate) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = match field.cardinality() {
            Cardinality::Repeated if field.is_map() => {
                let entry = field.kind();
                let value = entry.as_message().map(MessageDescriptor::map_entry_value_field);
                let values = value.map_or(json!({}), |value| self.one(&value.kind()));
                json!({"type": "object", "additionalProperties": values})
            }
            Cardinality::Repeated => json!({"type": "array", "items": self.one(&field.kind())}),
            _ => self.one(&field.kind()),
        };
        if let Some(text) = comment(&field.parent_message().parent_file(), field.path()) {
            schema["description"] = text.into();
        }
        schema
    }

    fn one(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0}),
            // A number of Javascript would lose digits.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "format": "int64"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Message(message) => self.message(message),
            Kind::Enum(kind) => self.choice(kind),
        }
    }

    fn choice(&mut self, kind: &EnumDescriptor) -> Value {
        let name = name(kind.full_name());
        if !self.done.contains_key(&name) {
            let about = comment(&kind.parent_file(), kind.path()).unwrap_or_default();
            let lines = kind.values().map(|value| {
                let text = comment(&kind.parent_file(), value.path()).unwrap_or_default();
                format!("\n- `{}`: {text}", value.name())
            });
            let text = format!("{about}\n{}", lines.collect::<String>());
            let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
            self.done.insert(name.clone(), json!({"type": "string", "enum": names, "description": text}));
        }
        reference(&name)
    }

    /// All of them.
    pub(crate) fn finish(self) -> BTreeMap<String, Value> {
        self.done
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `mi.v1.Office` without its package.
fn name(full: &str) -> String {
    full.strip_prefix("mi.v1.").unwrap_or(full).to_owned()
}

fn well_known(message: &MessageDescriptor) -> Option<Value> {
    let name = message.full_name().strip_prefix("google.protobuf.")?;
    Some(match name {
        "Timestamp" => json!({"type": "string", "format": "date-time"}),
        "Duration" => json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["30s"]}),
        "FieldMask" => json!({"type": "string", "examples": ["max_agents,default_model_tier"]}),
        "Struct" => json!({"type": "object", "additionalProperties": true}),
        "ListValue" => json!({"type": "array", "items": {}}),
        "Value" => json!({}),
        "Any" => json!({"type": "object", "properties": {"@type": {"type": "string"}}, "additionalProperties": true}),
        _ => json!({"type": "object"}),
    })
}
