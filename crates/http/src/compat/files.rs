//! Files of the drive: a list, uploads as forms, downloads as they are.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::{BodyDataStream, StreamBody};
use mi_kernel::Error;
use mi_rpc::{HttpResponse, status};
use multer::{Constraints, Field, Multipart, SizeLimit};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value as Proto};
use serde_json::{Value, json};
use tonic::{Status, body::Body};

use super::{
    Reply, answer,
    ask::{Ask, method, plain},
    list::{self, Window},
    shape::{Both, int, text},
};

/// The field of a form that has the file.
const FIELD: &str = "file";
/// Most bytes of any other field, which nobody reads.
const MOST_OTHER: usize = 64 << 10;
/// Bytes of a message of an upload.
const CHUNK: usize = 256 << 10;

pub(super) async fn list(ask: Ask) -> Reply {
    let window = Window::of(&ask)?;
    let request = json!({"office_id": ask.office()});
    let page = list::walk(&ask, "DriveService/ListFiles", request, "files", window, list::any).await?;
    Ok(answer::list(page.entries.iter().map(shown).collect(), page.total))
}

pub(super) fn shown(file: &Value) -> Value {
    Both::default()
        .with("name", file["path"].clone())
        .with("size", int(&file["size"]))
        .with("modifiedAt", file["modified_at"].clone())
        .with("modifiedBy", file["modified_by"].clone())
        .with("contentType", file["content_type"].clone())
        .done()
}

/// Writes the file of a form over whatever is there.
pub(super) async fn upload(mut ask: Ask) -> Reply {
    let content_type = ask.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(content_type).map_err(|_| {
        status(Error::invalid(
            "content-type",
            "must be multipart/form-data with a boundary; the file is its field `file`",
        ))
    })?;
    let method = method("DriveService/UploadFile")?;
    let form = Form::new(ask.take_body(), boundary, ask.office().to_owned(), method.input.clone());
    ask.stream(method, form.messages()).await?;
    Ok(answer::none())
}

/// A form on its way into the drive: nothing of it is read before the drive wants it.
struct Form {
    parts: Multipart<'static>,
    /// See [`Paced`].
    given: Arc<AtomicUsize>,
    /// The file, once its head was read.
    file: Option<Field<'static>>,
    is_done: bool,
    office: String,
    descriptor: MessageDescriptor,
}

impl Form {
    fn new(body: Body, boundary: String, office: String, descriptor: MessageDescriptor) -> Self {
        let limits = SizeLimit::new().per_field(MOST_OTHER as u64).for_field(FIELD, u64::MAX);
        let limits = Constraints::new().size_limit(limits);
        let given = Arc::new(AtomicUsize::new(0));
        let body = Paced { body: BodyDataStream::new(body), has_given: false, given: given.clone() };
        let parts = Multipart::with_constraints(body, boundary, limits);
        Self { parts, given, file: None, is_done: false, office, descriptor }
    }

    fn messages(self) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        stream::try_unfold(self, |mut form| async move { Ok(form.next().await?.map(|message| (message, form))) })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.is_done {
            return Ok(None);
        }
        let Some(file) = &mut self.file else {
            let (header, file) = self.begin().await?;
            self.file = Some(file);
            return Ok(Some(header));
        };
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK {
            match file.chunk().await.map_err(broken)? {
                Some(bytes) => {
                    self.given.store(0, Ordering::Relaxed);
                    chunk.extend_from_slice(&bytes);
                }
                None => {
                    self.is_done = true;
                    break;
                }
            }
        }
        Ok(Some(self.message("chunk", Proto::Bytes(chunk.freeze()))))
    }

    /// The header, which is made of the field's head.
    async fn begin(&mut self) -> Result<(Bytes, Field<'static>), Status> {
        loop {
            let Some(field) = self.parts.next_field().await.map_err(broken)? else {
                return Err(status(Error::invalid("file", "is missing: the form has no such field")));
            };
            self.given.store(0, Ordering::Relaxed);
            if field.name() != Some(FIELD) {
                continue;
            }
            let name = field.file_name().map(unescaped).unwrap_or_default();
            if name.is_empty() {
                return Err(status(Error::invalid("file", "has no filename")));
            }
            let content_type = field.content_type().map(ToString::to_string).unwrap_or_default();
            let header = json!({
                "header": {"office_id": self.office, "path": name, "content_type": content_type, "force": true}});
            let header = crate::json::to_wire(&self.descriptor, header.to_string().as_bytes()).map_err(status)?;
            return Ok((header, field));
        }
    }

    fn message(&self, field: &str, value: Proto) -> Bytes {
        let mut message = DynamicMessage::new(self.descriptor.clone());
        message.set_field_by_name(field, value);
        message.encode_to_vec().into()
    }
}

/// A name as whoever made the form wrote it: browsers and `fetch` write these three so.
fn unescaped(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

fn broken(error: multer::Error) -> Status {
    match error {
        multer::Error::StreamReadFailed(error) => {
            let told = error.downcast::<Status>().map_or_else(|error| error.to_string(), |it| it.message().to_owned());
            Status::invalid_argument(format!("the body broke off: {told}"))
        }
        error => status(Error::invalid("body", format!("is no whole form: {error}"))),
    }
}

/// A body that hands out one part at a time: a parser of forms would otherwise keep all that has arrived. It keeps what it
/// makes nothing of, too, such as a head that does not end: so much of that is enough.
struct Paced {
    body: BodyDataStream<Body>,
    has_given: bool,
    /// Bytes given since something came of them.
    given: Arc<AtomicUsize>,
}

impl Stream for Paced {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.has_given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.given.load(Ordering::Relaxed) > MOST_OTHER {
            let text = format!("has more than {MOST_OTHER} bytes that are neither the file nor the end of a head");
            return Poll::Ready(Some(Err(status(Error::invalid("body", text)))));
        }
        let next = self.body.poll_next_unpin(cx);
        self.has_given = next.is_ready();
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            self.given.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        next
    }
}

pub(super) async fn download(ask: Ask) -> Reply {
    let request = json!({"office_id": ask.office(), "path": ask.part(1)});
    let (mut answer, method) = ask.open("DriveService/DownloadFile", &request).await?;
    let first = answer.next().await?.ok_or_else(|| Status::internal("the file came without a head"))?;
    let file = plain(method, &first)?["file"].take();
    let descriptor = &method.output;
    let chunk = move |message: Bytes| chunk_of(descriptor, message);
    let head = chunk(first)?;
    let rest = answer.messages().and_then(move |message| async move { chunk(message) });
    let frames = stream::once(async move { Ok(head) }).chain(rest).map_ok(Frame::data);
    let mut response = HttpResponse::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    let content_type = HeaderValue::try_from(text(&file["content_type"]));
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(octets));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(int(&file["size"])));
    // What agents write is no page of this platform.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

fn chunk_of(descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let message = DynamicMessage::decode(descriptor.clone(), message);
    let message = message.map_err(|error| status(Error::internal(error)))?;
    let chunk = message.get_field_by_name("chunk");
    Ok(chunk.and_then(|value| value.as_bytes().cloned()).unwrap_or_default())
}

pub(super) async fn delete(ask: Ask) -> Reply {
    let request = json!({"office_id": ask.office(), "path": ask.part(1), "force": true});
    ask.call("DriveService/DeleteFile", request).await?;
    Ok(answer::none())
}
