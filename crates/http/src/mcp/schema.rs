//! JSON schemas of messages, with the comments of the API as descriptions.

use std::{collections::HashMap, sync::LazyLock};

use mi_proto::rules::POOL;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

/// Longest description, in bytes, unless its first sentence is longer.
const DESCRIPTION: usize = 200;
/// Messages within messages that are described.
const DEPTH: usize = 6;

/// For what a schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// What a caller may say, with descriptions.
    Input,
    /// What is answered: numbers of 64 bits are strings there.
    Output,
}

/// The schema of a field, as JSON of proto3 has it.
pub(crate) fn field(field: &FieldDescriptor, purpose: For) -> Value {
    let mut schema = at(field, purpose, &|_| true, DEPTH);
    if purpose == For::Input
        && let Some(text) = COMMENTS.get(&place(field))
    {
        schema["description"] = text.as_str().into();
    }
    schema
}

/// The properties of what is answered, without fields that are left out of answers.
pub(crate) fn output(message: &MessageDescriptor, is_kept: &dyn Fn(&str) -> bool) -> Map<String, Value> {
    properties(message, For::Output, is_kept, DEPTH)
}

fn properties(
    message: &MessageDescriptor,
    purpose: For,
    is_kept: &dyn Fn(&str) -> bool,
    depth: usize,
) -> Map<String, Value> {
    let fields = message.fields().filter(|field| is_kept(field.name()));
    fields.map(|field| (field.name().to_owned(), at(&field, purpose, is_kept, depth))).collect()
}

fn at(field: &FieldDescriptor, purpose: For, is_kept: &dyn Fn(&str) -> bool, depth: usize) -> Value {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let value = entry.map_entry_value_field();
            json!({"type": "object", "additionalProperties": of(&value.kind(), purpose, is_kept, depth)})
        }
        kind if field.is_list() => json!({"type": "array", "items": of(&kind, purpose, is_kept, depth)}),
        kind => of(&kind, purpose, is_kept, depth),
    }
}

fn of(kind: &Kind, purpose: For, is_kept: &dyn Fn(&str) -> bool, depth: usize) -> Value {
    match kind {
        Kind::String => json!({"type": "string"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 if purpose == For::Output => {
            json!({"type": "string"})
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer"}),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => json!({"type": "integer"}),
        Kind::Enum(descriptor) => json!({"type": "string", "enum": names(descriptor, purpose)}),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" | "google.protobuf.FieldMask" => json!({"type": "string"}),
            name if name.starts_with("google.protobuf.") || depth == 0 => json!({"type": "object"}),
            _ => json!({"type": "object", "properties": properties(message, purpose, is_kept, depth - 1)}),
        },
    }
}

/// What may be said is without the name for nothing.
fn names(descriptor: &EnumDescriptor, purpose: For) -> Vec<String> {
    let values = descriptor.values().filter(|value| purpose == For::Output || value.number() != 0);
    values.map(|value| value.name().to_owned()).collect()
}

/// A file, and where in it something is declared.
type Place = (String, Vec<i32>);

fn place(field: &FieldDescriptor) -> Place {
    (field.parent_file().name().to_owned(), field.path().to_owned())
}

/// What the API says of each field.
static COMMENTS: LazyLock<HashMap<Place, String>> = LazyLock::new(|| {
    let mut comments = HashMap::new();
    for file in POOL.files().filter(|file| file.package_name() == "mi.v1") {
        let info = file.file_descriptor_proto().source_code_info.as_ref();
        for location in info.into_iter().flat_map(|info| &info.location) {
            if let Some(text) = &location.leading_comments {
                comments.insert((file.name().to_owned(), location.path.clone()), shortened(text));
            }
        }
    }
    comments
});

/// The sentences of a comment, on one line, that are not too much together: at least the first.
fn shortened(comment: &str) -> String {
    let line = comment.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    for sentence in line.split_inclusive(". ") {
        if !text.is_empty() && text.len() + sentence.len() > DESCRIPTION {
            break;
        }
        text += sentence;
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> MessageDescriptor {
        POOL.get_message_by_name(name).expect("there is one")
    }

    #[test]
    fn fields_are_described_by_the_api_itself() {
        let create = message("mi.v1.CreateTaskRequest");
        let of = |name: &str| field(&create.get_field_by_name(name).expect("there is one"), For::Input);
        assert_eq!(of("title"), json!({"type": "string", "description": "1 to 200 characters."}));
        assert_eq!(of("priority"), json!({"type": "integer", "description": "0 critical to 100 low. Default 50."}));
        let kinds = ["GENERAL", "CODE", "RESEARCH", "REVIEW", "COMMAND"].map(|kind| format!("TASK_KIND_{kind}"));
        assert_eq!(of("kind"), json!({"type": "string", "enum": kinds, "description": "Unset: general."}));
        let description = "Tasks that must be done first, at most 1000, and 10000 in all tasks of a batch.";
        assert_eq!(of("depends_on"), json!({"type": "array", "items": {"type": "string"}, "description": description}));
        let hire = message("mi.v1.HireAgentRequest");
        let env = field(&hire.get_field_by_name("env").expect("there is one"), For::Input);
        assert_eq!(env["additionalProperties"], json!({"type": "string"}));
    }

    #[test]
    fn answers_are_as_they_are_written() {
        let file = output(&message("mi.v1.StatFileResponse"), &|name| name != "sha256");
        let string = json!({"type": "string"});
        let expected = json!({"file": {"type": "object", "properties": {
            "path": string, "size": string, "revision": string, "content_type": string, "modified_by": string,
            "modified_at": {"type": "string", "format": "date-time"}}}});
        assert_eq!(Value::Object(file), expected);
    }
}
