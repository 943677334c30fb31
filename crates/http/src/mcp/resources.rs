//! Files of offices as resources: `mi://office/ID/files/PATH`.

use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rmcp::model::{ListResourcesResult, MetaObject, ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{
    arguments::invalid,
    files::{self, Content, Part},
    tool_set::OFFICE,
    who::Who,
};
use crate::byte_path::BytePath;

const LIST_OFFICES: &str = "/mi.v1.OfficeService/ListOffices";
const LIST_FILES: &str = "/mi.v1.DriveService/ListFiles";
const START: &str = "mi://office/";
const FILES: &str = "/files/";
/// Files of a page.
const PAGE: u32 = 50;
/// Offices that are looked through for one page: many have no files.
const OFFICES: usize = 10;
/// Bytes that are read at once.
const LENGTH: u64 = 256 << 10;
/// What is written as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a file is named.
pub(crate) fn template() -> ResourceTemplate {
    ResourceTemplate::new("mi://office/{office_id}/files/{+path}", "file")
        .with_title("A file of an office's drive")
        .with_description(
            "At most 256 KiB are read; `?offset=N` reads on from byte N, and `_meta` of what was read says where that is.",
        )
}

/// A part of a file.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    office_id: String,
    path: String,
    offset: u64,
}

impl Address {
    fn parse(uri: &str) -> Result<Self, Status> {
        let unknown = || invalid("a resource is `mi://office/ID/files/PATH`, with `?offset=N` if you like".to_owned());
        let (office_id, rest) = uri.strip_prefix(START).and_then(|rest| rest.split_once(FILES)).ok_or_else(unknown)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = percent_decode_str(path).decode_utf8().map_err(|_| unknown())?.into_owned();
        let offset = match query.strip_prefix("offset=") {
            Some(number) => number.parse().map_err(|_| unknown())?,
            None if query.is_empty() => 0,
            None => return Err(unknown()),
        };
        match office_id.is_empty() || path.is_empty() {
            false => Ok(Self { office_id: office_id.to_owned(), path, offset }),
            true => Err(unknown()),
        }
    }
}

fn uri(office_id: &str, path: &str) -> String {
    format!("{START}{office_id}{FILES}{}", utf8_percent_encode(path, PLAIN))
}

/// Reads a file, or the part that begins at an offset.
pub(crate) async fn read(gateway: &BytePath, who: &Who, asked: &str) -> Result<ReadResourceResult, Status> {
    let Address { office_id, path, offset } = Address::parse(asked)?;
    let Part { file, content, next_offset, .. } =
        files::read(gateway, &who.caller, (&office_id, &path), offset, LENGTH).await?;
    let contents = match content {
        Content::Text(text) => ResourceContents::text(text, asked),
        Content::Bytes(bytes) => ResourceContents::blob(STANDARD.encode(bytes), asked),
    };
    let mut contents = contents.with_mime_type(file["content_type"].as_str().unwrap_or_default());
    if let Some(next) = next_offset {
        let rest = json!({"mi/size": file["size"], "mi/next": format!("{}?offset={next}", uri(&office_id, &path))});
        if let Value::Object(rest) = rest {
            contents = contents.with_meta(MetaObject(rest));
        }
    }
    Ok(ReadResourceResult::new(vec![contents]))
}

/// Where a list goes on: the page of offices, each of which has one, and within it the page of files.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    office: String,
    files: String,
}

impl Cursor {
    fn parse(text: &str) -> Result<Self, Status> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let cursor = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        cursor.ok_or_else(|| invalid("the cursor is not one of this list".to_owned()))
    }

    fn write(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }
}

/// Lists files: an agent's of its own office, an operator's of one office after the other.
pub(crate) async fn list(gateway: &BytePath, who: &Who, cursor: Option<&str>) -> Result<ListResourcesResult, Status> {
    let mut at = cursor.map(Cursor::parse).transpose()?.unwrap_or_default();
    let mut result = ListResourcesResult::default();
    for _ in 0..OFFICES {
        let (office_id, next_office) = match &who.office_id {
            Some(own) => (Some(own.clone()), String::new()),
            None => office(gateway, who, &at.office).await?,
        };
        let Some(office_id) = office_id else { return Ok(result) };
        let request = json!({OFFICE: office_id, "page_size": PAGE, "page_token": at.files});
        let next_files = match gateway.call(&who.caller, LIST_FILES, &request).await {
            Ok(page) => {
                let files = page["files"].as_array().into_iter().flatten();
                result.resources.extend(files.map(|file| resource(&office_id, file)));
                page["next_page_token"].as_str().unwrap_or_default().to_owned()
            }
            // It was deleted meanwhile.
            Err(status) if status.code() == Code::NotFound && who.office_id.is_none() => String::new(),
            Err(status) => return Err(status),
        };
        let next = match (next_files.is_empty(), next_office.is_empty()) {
            (false, _) => Cursor { files: next_files, ..at },
            (true, false) => Cursor { office: next_office, files: String::new() },
            (true, true) => return Ok(result),
        };
        result.next_cursor = Some(next.write());
        if !result.resources.is_empty() {
            return Ok(result);
        }
        at = next;
    }
    Ok(result)
}

/// The one office of a page of offices, and the token of the next one.
async fn office(gateway: &BytePath, who: &Who, page_token: &str) -> Result<(Option<String>, String), Status> {
    let request = json!({"page_size": 1, "page_token": page_token});
    let page = gateway.call(&who.caller, LIST_OFFICES, &request).await?;
    let next = page["next_page_token"].as_str().unwrap_or_default().to_owned();
    Ok((page["offices"][0]["id"].as_str().map(str::to_owned), next))
}

fn resource(office_id: &str, file: &Value) -> Resource {
    let text = |name: &str| file[name].as_str().unwrap_or_default();
    let path = text("path");
    let resource = Resource::new(uri(office_id, path), path).with_mime_type(text("content_type"));
    match text("size").parse() {
        Ok(size) => resource.with_size(size),
        Err(_) => resource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_name_that_leads_back_to_it() {
        for path in ["a.txt", "notes/2026/a b.txt", "100%?#.txt", "ü/日本", "a//files/b", "..", "a+b"] {
            let named = uri("0198", path);
            assert!(named.is_ascii() && !named.contains(['?', '#', ' ']), "{named}");
            let expected = Address { office_id: "0198".into(), path: path.into(), offset: 0 };
            assert_eq!(Address::parse(&named).expect("it is one"), expected);
        }
        let part = Address::parse("mi://office/0198/files/a.txt?offset=7").expect("it is one");
        assert_eq!((part.path.as_str(), part.offset), ("a.txt", 7));
        let encoded = Address::parse("mi://office/0198/files/a%2Fb.txt").expect("it is one");
        assert_eq!(encoded.path, "a/b.txt");
    }

    #[test]
    fn other_names_are_refused() {
        let others = [
            "",
            "mi://office/0198",
            "mi://office//files/a",
            "mi://office/0198/files/",
            "file:///etc/passwd",
            "mi://office/0198/files/a?offset=x",
            "mi://office/0198/files/a?length=1",
            "mi://office/0198/files/%ff",
        ];
        for other in others {
            assert!(Address::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = Cursor { office: "two".into(), files: "three".into() };
        assert_eq!(Cursor::parse(&cursor.write()).expect("it is one"), cursor);
        assert!(Cursor::parse("nonsense").is_err());
    }
}
