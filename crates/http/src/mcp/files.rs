//! Files of the drive: read and written in parts that fit into a message.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::stream;
use prost::Message;
use prost_reflect::{DynamicMessage, Value as Field};
use serde_json::{Map, Value, json};
use tonic::Status;

use super::{
    arguments::{Arguments, Bounded, invalid},
    tool_set::{OFFICE, asked},
};
use crate::{
    byte_path::{BytePath, Caller},
    json::{self, Style},
    methods::{self, Method},
};

/// The field of the first message of an upload.
pub(crate) const HEADER: &str = "header";
/// The field of the bytes, of both an upload and a download.
const CHUNK: &str = "chunk";
const FILE: &str = "file";
const DOWNLOAD: &str = "/mi.v1.DriveService/DownloadFile";
const UPLOAD: &str = "/mi.v1.DriveService/UploadFile";
/// Bytes of a message of an upload.
const PART: usize = 1 << 20;
/// How many bytes are read at once.
pub(crate) const LENGTH: Bounded = Bounded { name: "length", least: 1, most: 256 << 10, usual: 32 << 10 };
const OFFSET: Bounded = Bounded { name: "offset", least: 0, most: 1 << 50, usual: 0 };

/// The arguments that are what is written.
pub(crate) fn content() -> Map<String, Value> {
    let one = |name: &str, description: &str| (name.to_owned(), json!({"type": "string", "description": description}));
    [
        one("text", "The content, if it is text. Of all a call says there may be 4 MiB."),
        one("base64", "The content in base64, if it is no text."),
    ]
    .into_iter()
    .collect()
}

/// What is answered besides the file.
pub(crate) fn read_output() -> Map<String, Value> {
    let properties = json!({
        "offset": {"type": "integer"},
        "text": {"type": "string"},
        "base64": {"type": "string"},
        "next_offset": {"type": "integer"},
    });
    match properties {
        Value::Object(properties) => properties,
        _ => Map::new(),
    }
}

/// A part of a file.
pub(crate) struct Part {
    /// The file, as the API has it.
    pub(crate) file: Value,
    pub(crate) offset: u64,
    pub(crate) content: Content,
    /// Where the next part begins; none: this is the last.
    pub(crate) next_offset: Option<u64>,
}

/// Bytes that are text or not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

impl Content {
    /// Of a part that is not the last, a character that it has not whole is left for the next.
    fn of(bytes: Vec<u8>, is_last: bool) -> Self {
        let whole = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) if error.error_len().is_none() && !is_last => error.valid_up_to(),
            Err(_) => 0,
        };
        let is_text = (whole > 0 || bytes.is_empty()) && !bytes.contains(&0);
        match std::str::from_utf8(&bytes[..whole]) {
            Ok(text) if is_text => Self::Text(text.to_owned()),
            _ => Self::Bytes(bytes),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

fn rpc(path: &str) -> Result<&'static Method, Status> {
    methods::find(path).ok_or_else(|| Status::unimplemented(format!("there is no `{path}`")))
}

/// Reads a part of a file.
///
/// # Errors
/// As the drive refuses it.
pub(crate) async fn read(
    gateway: &BytePath,
    caller: &Caller,
    place: (&str, &str),
    offset: u64,
    length: u64,
) -> Result<Part, Status> {
    let method = rpc(DOWNLOAD)?;
    let request = json!({OFFICE: place.0, "path": place.1, "offset": offset, "length": length});
    let message = json::to_wire(&method.input, request.to_string().as_bytes()).map_err(mi_rpc::status)?;
    let mut answer = gateway.open(caller.clone(), DOWNLOAD, stream::iter([Ok::<Bytes, Status>(message)])).await?;
    let (mut file, mut bytes) = (Value::Null, Vec::new());
    while let Some(message) = answer.next().await? {
        let failed = |error: prost::DecodeError| Status::internal(error.to_string());
        let message = DynamicMessage::decode(method.output.clone(), message).map_err(failed)?;
        if let Some(chunk) = message.get_field_by_name(CHUNK).as_deref().and_then(Field::as_bytes) {
            bytes.extend_from_slice(chunk);
        }
        if message.has_field_by_name(FILE) {
            let text = json::written(&message, Style::Plain).map_err(mi_rpc::status)?;
            let mut whole: Value =
                serde_json::from_slice(&text).map_err(|error| Status::internal(error.to_string()))?;
            file = whole[FILE].take();
        }
    }
    let size = file["size"].as_str().and_then(|size| size.parse().ok()).unwrap_or(0);
    let content = Content::of(bytes, offset.saturating_add(length) >= size);
    let end = offset.saturating_add(content.len() as u64);
    Ok(Part { file, offset, content, next_offset: (end < size).then_some(end) })
}

/// Reads what the arguments name.
pub(crate) async fn read_file(
    gateway: &BytePath,
    caller: &Caller,
    arguments: &Arguments,
) -> Result<Map<String, Value>, Status> {
    let place = (text(arguments, OFFICE)?, text(arguments, "path")?);
    let (offset, length) = (arguments.number(&OFFSET)?, arguments.number(&LENGTH)?);
    let part = read(gateway, caller, place, offset, length).await?;
    let mut said = Map::new();
    said.insert(FILE.to_owned(), part.file);
    said.insert(OFFSET.name.to_owned(), part.offset.into());
    match part.content {
        Content::Text(text) => said.insert("text".to_owned(), text.into()),
        Content::Bytes(bytes) => said.insert("base64".to_owned(), STANDARD.encode(bytes).into()),
    };
    if let Some(next) = part.next_offset {
        said.insert("next_offset".to_owned(), next.into());
    }
    Ok(said)
}

fn text<'a>(arguments: &'a Arguments, name: &str) -> Result<&'a str, Status> {
    arguments.text(name).ok_or_else(|| invalid(format!("`{name}` must be a text")))
}

/// Writes what the arguments say.
pub(crate) async fn write_file(
    gateway: &BytePath,
    caller: &Caller,
    mut arguments: Arguments,
) -> Result<Map<String, Value>, Status> {
    let content = content_of(&mut arguments)?;
    let method = rpc(UPLOAD)?;
    let header = Value::Object(arguments.fields).to_string();
    let header = json::read(&asked(method), header.as_bytes()).map_err(mi_rpc::status)?;
    let message = |name: &str, value: Field| {
        let mut message = DynamicMessage::new(method.input.clone());
        message.set_field_by_name(name, value);
        Bytes::from(message.encode_to_vec())
    };
    let mut messages = vec![Ok::<Bytes, Status>(message(HEADER, Field::Message(header)))];
    for start in (0..content.len()).step_by(PART) {
        let chunk = content.slice(start..content.len().min(start + PART));
        messages.push(Ok(message(CHUNK, Field::Bytes(chunk))));
    }
    let mut answer = gateway.open(caller.clone(), UPLOAD, stream::iter(messages)).await?;
    let message = answer.next().await?.ok_or_else(|| Status::internal("the upload was not answered"))?;
    // How it ends says whether it was done.
    while answer.next().await?.is_some() {}
    match json::value(&method.output, &message).map_err(mi_rpc::status)? {
        Value::Object(answer) => Ok(answer),
        _ => Err(Status::internal("a message is an object in JSON")),
    }
}

/// Takes the content out of the arguments; what is said of its type stays, or is added.
fn content_of(arguments: &mut Arguments) -> Result<Bytes, Status> {
    match (arguments.fields.remove("text"), arguments.fields.remove("base64")) {
        (Some(Value::String(text)), None) => {
            arguments.fields.entry("content_type").or_insert_with(|| "text/plain; charset=utf-8".into());
            Ok(text.into())
        }
        (None, Some(Value::String(text))) => {
            let bytes = STANDARD.decode(text).map_err(|error| invalid(format!("`base64` is no base64: {error}")))?;
            Ok(bytes.into())
        }
        _ => Err(invalid("one of `text` and `base64` must be there, as a text".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_cut_within_a_character() {
        let text = |text: &str| Content::Text(text.to_owned());
        assert_eq!(Content::of("aé".into(), true), text("aé"));
        assert_eq!(Content::of("aé".as_bytes()[..2].to_vec(), false), text("a"));
        assert_eq!(Content::of(Vec::new(), true), text(""));
        let broken = "aé".as_bytes()[..2].to_vec();
        assert_eq!(Content::of(broken.clone(), true), Content::Bytes(broken));
        for bytes in [vec![0xff, 0xfe], b"a\0b".to_vec(), vec![b'a', 0xff, b'b']] {
            assert_eq!(Content::of(bytes.clone(), false), Content::Bytes(bytes));
        }
    }
}
