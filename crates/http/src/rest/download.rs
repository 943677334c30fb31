//! Downloads: the messages of a stream as a body of bytes, whole or in part.
//!
//! What is answered is of one revision: the first message of a call says which, and the content that follows is of that
//! one. When it ends before time the connection does as well, so that nobody takes a part for the whole.

use std::fmt::Write as _;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use mi_kernel::{Error, ErrorKind, Time};
use mi_rpc::{HttpResponse, status};
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};
use tonic::{Code, Status, body::Body};

use super::{
    bare,
    bind::{self, Asked},
    conditions::{self, Range, Verdict, conflict},
    routes::Form,
    wire,
};
use crate::{
    byte_path::{Answer, BytePath, Caller},
    refusal,
};

/// The fields by which a part is asked for: of HTTP it is `Range` that does.
pub(crate) const PART: [&str; 2] = ["offset", "length"];
/// How often a file is asked for that changes each time: its size has to be known for some ranges.
const ATTEMPTS: usize = 4;

/// Answers a request for bytes.
pub(crate) async fn serve(
    gateway: &BytePath,
    caller: &Caller,
    asked: &Asked,
    headers: &HeaderMap,
    body: Body,
) -> Result<HttpResponse, Status> {
    let Form::Download { about, chunk } = &asked.route.form else {
        return Err(Status::internal("a download is asked for that is none"));
    };
    let route = asked.route;
    let mut message = asked.message(headers, Body::empty()).await?;
    let part = PART.map(|name| route.method.input.get_field_by_name(name));
    let range = Range::of(headers).filter(|_| part.iter().all(Option::is_some));
    // What is asked for first: where the size decides, a byte, with which it comes.
    let mut part_asked = match range {
        None => (0, 0),
        Some(Range::From(first, last)) => (first, last.map_or(0, |last| (last - first).saturating_add(1))),
        Some(Range::Last(_)) => (0, 1),
    };
    let mut body = Some(body);
    for _ in 0..ATTEMPTS {
        for (field, number) in part.iter().flatten().zip([part_asked.0, part_asked.1]) {
            message.set_field(field, Value::I64(i64::try_from(number).unwrap_or(i64::MAX)));
        }
        let (wire, body) = (wire(&message), body.take());
        let only = async move {
            bind::empty(body.unwrap_or_else(Body::empty)).await?;
            Ok(wire)
        };
        let opened = match gateway.open(caller.clone(), &route.method.path, stream::once(only)).await {
            Ok(answer) => Content::open(answer, chunk, &route.method.output).await,
            Err(refused) => Err(refused),
        };
        let (first, mut content) = match opened {
            Err(refused) if part_asked.0 > 0 && refused.code() == Code::InvalidArgument => {
                // Behind the end, most likely: where that is comes with any byte.
                part_asked = (0, 1);
                continue;
            }
            opened => opened?,
        };
        let about = About::of(&first, about)?;
        match conditions::verdict(headers, &about.etag) {
            Verdict::Send => {}
            Verdict::NotModified => return Ok(about.head(bare(StatusCode::NOT_MODIFIED), false)),
            Verdict::Failed => return Err(conflict(&format!("`if-match` names another revision than {}", about.etag))),
        }
        let range = range.filter(|_| conditions::wants_part(headers, &about.etag));
        let wanted = match range.map(|range| range.within(about.size)) {
            None => (0, about.size),
            Some(Some(wanted)) => wanted,
            Some(None) => return Ok(not_satisfiable(about.size)),
        };
        let end = match part_asked.1 {
            0 => about.size,
            length => part_asked.0.saturating_add(length).min(about.size),
        };
        if (part_asked.0, end.saturating_sub(part_asked.0)) != wanted {
            part_asked = wanted;
            continue;
        }
        content.left = wanted.1;
        let mut response = HttpResponse::new(content.body());
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {}-{}/{}", wanted.0, wanted.0 + wanted.1 - 1, about.size);
            put(response.headers_mut(), header::CONTENT_RANGE, &value);
        }
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(wanted.1));
        return Ok(about.head(response, part.iter().all(Option::is_some)));
    }
    let text = "it changes faster than it can be read; try again";
    Err(status(Error::new(ErrorKind::Aborted, "CONFLICT", text)))
}

/// The bytes of an answer.
struct Content {
    answer: Answer,
    chunk: FieldDescriptor,
    output: MessageDescriptor,
    /// What came with the first message.
    first: Option<Bytes>,
    /// How many bytes are to come.
    left: u64,
}

impl Content {
    /// Waits for the first message, which says what comes.
    async fn open(
        mut answer: Answer,
        chunk: &FieldDescriptor,
        output: &MessageDescriptor,
    ) -> Result<(DynamicMessage, Self), Status> {
        let first = answer.next().await?.ok_or_else(|| Status::internal("a download has no first message"))?;
        let first = decoded(output, first)?;
        let bytes = bytes(&first, chunk);
        let content = Self { answer, chunk: chunk.clone(), output: output.clone(), first: Some(bytes), left: 0 };
        Ok((first, content))
    }

    async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => match self.answer.next().await? {
                None => Ok(None),
                Some(message) => Ok(Some(bytes(&decoded(&self.output, message)?, &self.chunk))),
            },
        }
    }

    /// The next bytes. The last ones are given out when the call has ended well.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while self.left > 0 {
            let Some(chunk) = self.message().await? else {
                return Err(Status::data_loss("the content ended before time"));
            };
            self.left = match self.left.checked_sub(chunk.len() as u64) {
                Some(left) => left,
                None => return Err(Status::data_loss("there is more content than there should be")),
            };
            if self.left == 0 {
                self.end().await?;
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    async fn end(&mut self) -> Result<(), Status> {
        while let Some(chunk) = self.message().await? {
            if !chunk.is_empty() {
                return Err(Status::data_loss("there is more content than there should be"));
            }
        }
        Ok(())
    }

    fn body(self) -> Body {
        let frames = stream::try_unfold(self, |mut content| async move {
            Ok::<_, Status>(content.next().await?.map(|chunk| (Frame::data(chunk), content)))
        });
        Body::new(StreamBody::new(frames))
    }
}

fn decoded(descriptor: &MessageDescriptor, message: Bytes) -> Result<DynamicMessage, Status> {
    DynamicMessage::decode(descriptor.clone(), message).map_err(|error| Status::internal(error.to_string()))
}

fn bytes(message: &DynamicMessage, chunk: &FieldDescriptor) -> Bytes {
    message.get_field(chunk).as_bytes().cloned().unwrap_or_default()
}

/// What is known of a download before its bytes.
struct About {
    etag: String,
    size: u64,
    content_type: String,
    changed: Option<String>,
    name: String,
}

impl About {
    fn of(first: &DynamicMessage, field: &FieldDescriptor) -> Result<Self, Status> {
        let value = first.get_field(field);
        let message = value.as_message().ok_or_else(|| Status::internal("a download does not say what it is"))?;
        let number = |name: &str| message.get_field_by_name(name).and_then(|value| value.as_i64());
        let text = |name: &str| {
            let value = message.get_field_by_name(name)?;
            value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let size = number("size").or(number("size_bytes")).and_then(|size| u64::try_from(size).ok());
        let changed = ["modified_at", "created_at"].into_iter().find_map(|name| message.get_field_by_name(name));
        Ok(Self {
            etag: format!(
                "\"{}\"",
                number("revision").map(|number| number.to_string()).or(text("sha256")).unwrap_or_default()
            ),
            size: size.ok_or_else(|| Status::internal("a download does not say how large it is"))?,
            content_type: text("content_type").unwrap_or_else(|| "application/octet-stream".to_owned()),
            changed: changed.as_deref().and_then(Value::as_message).and_then(http_date),
            name: match text("path") {
                Some(path) => path.rsplit('/').next().unwrap_or_default().to_owned(),
                // The form of every backup.
                None => format!("{}-{}.tar.zst", text("agent").unwrap_or_default(), text("id").unwrap_or_default()),
            },
        })
    }

    /// Puts it into the head of an answer.
    fn head(&self, mut response: HttpResponse, has_parts: bool) -> HttpResponse {
        let is_content = response.status() != StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        put(headers, header::ETAG, &self.etag);
        if let Some(changed) = &self.changed {
            put(headers, header::LAST_MODIFIED, changed);
        }
        // Others' credentials are asked for it each time, and what is signed or counted is not to be changed on its way.
        put(headers, header::CACHE_CONTROL, "private, no-cache, no-transform");
        if is_content {
            put(headers, header::CONTENT_TYPE, &self.content_type);
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
            put(headers, header::ACCEPT_RANGES, if has_parts { "bytes" } else { "none" });
            // Whoever wrote it chose its type: no browser is to run it as a page of ours.
            put(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            put(headers, header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'");
            put(headers, header::CONTENT_DISPOSITION, &format!("attachment; filename*=UTF-8''{}", escaped(&self.name)));
        }
        response
    }
}

/// The tag of what has revisions and content, such as a file; none: it is something else.
pub(crate) fn revision(message: &DynamicMessage) -> Option<HeaderValue> {
    message.get_field_by_name("sha256")?;
    let revision = message.get_field_by_name("revision")?.as_i64()?;
    HeaderValue::try_from(format!("\"{revision}\"")).ok()
}

fn not_satisfiable(size: u64) -> HttpResponse {
    let text = format!("the range has nothing of the {size} bytes that there are");
    let mut response = refusal::rest(&status(Error::new(ErrorKind::Invalid, "RANGE_NOT_SATISFIABLE", text)));
    put(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{size}"));
    response
}

/// Sets a header, unless the value cannot be one.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// A name as `filename*` has it, by RFC 8187.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => text.push(char::from(byte)),
            // Never fails: it is a text.
            other => drop(write!(text, "%{other:02X}")),
        }
    }
    text
}

/// A time as HTTP writes it.
fn http_date(timestamp: &DynamicMessage) -> Option<String> {
    let seconds = timestamp.get_field_by_name("seconds")?.as_i64()?;
    Some(Time::from_timestamp(seconds, 0)?.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use mi_proto::rules::POOL;

    use super::*;

    #[test]
    fn names_and_times_as_headers_have_them() {
        assert_eq!(escaped("Bericht 1.txt\"\r\n; 你"), "Bericht%201.txt%22%0D%0A%3B%20%E4%BD%A0");
        let descriptor = POOL.get_message_by_name("google.protobuf.Timestamp").expect("compiled in");
        let mut time = DynamicMessage::new(descriptor);
        time.set_field_by_name("seconds", Value::I64(784_111_777));
        assert_eq!(http_date(&time).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }
}
