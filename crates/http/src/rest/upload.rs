//! Uploads: a body of bytes as the messages of a stream, never more of it in memory than one of them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, StreamExt, TryStreamExt, channel::oneshot, stream};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use mi_rpc::HttpResponse;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use tonic::{Code, Status, body::Body};

use super::{
    bind::{Asked, encoded},
    conditions::Write,
    on_condition, respond,
    routes::Form,
    wire,
};
use crate::{
    byte_path::{BytePath, Caller, prefix},
    refusal::invalid,
};

/// About how many bytes a message has, when they come fast enough.
const BATCH: usize = 256 << 10;
/// Most bytes that are taken over at once: with what was there before, a message stays below the 1 MiB that roles take.
const MAX_PIECE: usize = 512 << 10;

/// How much is read of a body that was refused, and for how long: most clients hear what is said only when they have sent
/// all, and one that is cut off hears nothing.
const MAX_LEFT: usize = 64 << 20;
const LEFT_TIME: Duration = Duration::from_secs(10);

/// Takes in a body.
pub(crate) async fn serve(
    gateway: &BytePath,
    caller: Caller,
    asked: Asked,
    headers: HeaderMap,
    body: Body,
) -> Result<HttpResponse, Status> {
    let route = asked.route;
    let Form::Upload { chunk, .. } = &route.form else {
        return Err(Status::internal("an upload is asked for that is none"));
    };
    let tag = chunk.number();
    // Whoever waits to be told to go on has sent nothing, and is not to be told so now.
    let has_sent = !headers.contains_key(header::EXPECT);
    let (back, returned) = oneshot::channel();
    let first = async move {
        let message = head(&asked, &headers)?;
        Ok::<_, Status>(vec![prefix(message.len()), message])
    };
    let lent = Lent { content: Some(Content::new(body)), back: Some(back) };
    let content = stream::try_unfold(lent, move |mut lent| async move {
        let batch = match &mut lent.content {
            Some(content) => content.batch().await?,
            None => None,
        };
        Ok(batch.map(|batch| (message(tag, batch), lent)))
    });
    let pieces = stream::once(first).chain(content).map_ok(|pieces| stream::iter(pieces).map(Ok)).try_flatten();
    let outcome = match gateway.send(caller, &route.method.path, pieces).await {
        Ok(mut answer) => answer.only().await,
        Err(refused) => Err(refused),
    };
    match outcome {
        Ok(message) => respond(route, message),
        Err(refused) => {
            if has_sent && refused.code() != Code::Unauthenticated {
                let rest = async { returned.await.ok()?.drain().await };
                // Whatever is left after that is cut off.
                let _ = tokio::time::timeout(LEFT_TIME, rest).await;
            }
            Err(refused)
        }
    }
}

/// A body on its way to the role; what is left of it comes back when the call is over.
struct Lent {
    content: Option<Content>,
    back: Option<oneshot::Sender<Content>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some((content, back)) = self.content.take().zip(self.back.take()) {
            // Nobody waits for it after a call that went well.
            drop(back.send(content));
        }
    }
}

/// The first message, which says what the content is of.
fn head(asked: &Asked, headers: &HeaderMap) -> Result<Bytes, Status> {
    encoded(headers)?;
    let route = asked.route;
    let Form::Upload { header: field, .. } = &route.form else {
        return Err(Status::internal("an upload is asked for that is none"));
    };
    let mut header = DynamicMessage::new(route.input());
    asked.query.bind(&mut header, |field| asked.is_free(field))?;
    asked.set_variables(&mut header)?;
    if let Some(content_type) = headers.get(header::CONTENT_TYPE)
        && let Some(field) = header.descriptor().get_field_by_name("content_type")
        && !header.has_field(&field)
    {
        let text = content_type.to_str().map_err(|_| invalid("content-type", "must be printable ASCII"))?;
        header.set_field(&field, Value::String(text.to_owned()));
    }
    if Write::of(headers)? == Some(Write::Any) {
        // A file that is written whatever is there would be made where there is none, which `If-Match` forbids.
        let problem = "of an upload must be one revision, such as `\"12\"`; to write whatever is there, leave it out and \
                       say `?force=true`";
        return Err(invalid("if-match", problem));
    }
    on_condition(headers, &mut header)?;
    let mut message = DynamicMessage::new(route.method.input.clone());
    message.set_field(field, Value::Message(header));
    Ok(wire(&message))
}

/// A message with these bytes in its only field: what stands before them, and they as they are.
fn message(tag: u32, batch: Vec<Bytes>) -> Vec<Bytes> {
    let length: usize = batch.iter().map(Bytes::len).sum();
    let mut before = BytesMut::new();
    encode_key(tag, WireType::LengthDelimited, &mut before);
    encode_varint(length as u64, &mut before);
    let mut start = BytesMut::from(prefix(before.len() + length));
    start.put(before);
    [start.freeze()].into_iter().chain(batch).collect()
}

/// A body that is read on.
struct Content {
    body: Body,
    /// What was read and not taken over yet.
    left: Bytes,
    is_over: bool,
}

impl Content {
    fn new(body: Body) -> Self {
        Self { body, left: Bytes::new(), is_over: false }
    }

    /// The next bytes: what there is, up to a batch, since who sends slowly is not made to wait; none: it has ended.
    async fn batch(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
        let (mut batch, mut length) = (Vec::new(), 0);
        while length < BATCH {
            if self.left.is_empty() {
                if self.is_over {
                    break;
                }
                let frame = match batch.is_empty() {
                    true => self.body.frame().await,
                    false => match self.body.frame().now_or_never() {
                        Some(frame) => frame,
                        None => break,
                    },
                };
                match frame {
                    None => self.is_over = true,
                    Some(frame) => {
                        let frame =
                            frame.map_err(|error| invalid("body", format!("broke off: {}", error.message())))?;
                        self.left = frame.into_data().unwrap_or_default();
                    }
                }
                continue;
            }
            let piece = self.left.split_to(self.left.len().min(MAX_PIECE));
            length += piece.len();
            batch.push(piece);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Reads what is left, within bounds, and drops it.
    async fn drain(mut self) -> Option<()> {
        let mut read = 0;
        while read < MAX_LEFT {
            let batch = self.batch().await.ok()??;
            read += batch.iter().map(Bytes::len).sum::<usize>();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use http_body::Frame;
    use http_body_util::StreamBody;
    use mi_rpc::HttpRequest;

    use super::*;

    #[tokio::test]
    async fn a_body_becomes_messages_that_roles_take() {
        let pieces = [1, BATCH, 5 * BATCH, 7]
            .map(|length| Bytes::from(vec![u8::try_from(length % 251).expect("small"); length]));
        let whole = pieces.concat();
        let frames = stream::iter(pieces.map(|piece| Ok::<_, Status>(Frame::data(piece))));
        let mut content = Content::new(Body::new(StreamBody::new(frames)));
        let (mut back, mut lengths) = (Vec::new(), Vec::new());
        while let Some(batch) = content.batch().await.expect("a body") {
            let batch = batch.concat();
            lengths.push(batch.len());
            back.extend(batch);
        }
        assert!(back == whole);
        assert_eq!(lengths.iter().sum::<usize>(), whole.len());
        assert!(lengths.iter().all(|length| *length < 1 << 20), "{lengths:?}");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_of() {
        let frames = stream::iter([Ok(Frame::data(Bytes::from_static(b"half"))), Err(Status::unknown("cut"))]);
        let mut content = Content::new(Body::new(StreamBody::new(frames)));
        let refused = content.batch().await.expect_err("broken");
        assert_eq!((refused.code(), refused.message()), (tonic::Code::InvalidArgument, "body broke off: cut"));
    }

    #[tokio::test]
    async fn a_refusal_is_told_when_all_is_sent() {
        for (refused, expect, status, read) in [
            (Status::failed_precondition("it is there"), None, 400, 3),
            (Status::failed_precondition("it is there"), Some("100-continue"), 400, 0),
            (Status::unauthenticated("nobody"), None, 401, 0),
        ] {
            let gateway = tower::service_fn(move |request: HttpRequest| {
                drop(request);
                std::future::ready(Ok::<_, Infallible>(refused.clone().into_http()))
            });
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let frames = stream::iter(0..3).map(move |_| {
                counted.fetch_add(1, Relaxed);
                Ok::<_, Status>(Frame::data(Bytes::from_static(b"bytes")))
            });
            let mut request = HttpRequest::new(Body::new(StreamBody::new(frames)));
            *request.method_mut() = http::Method::PUT;
            *request.uri_mut() = http::Uri::from_static("/v1/offices/o/files/a");
            if let Some(expect) = expect {
                request.headers_mut().insert(header::EXPECT, http::HeaderValue::from_static(expect));
            }
            let response = crate::rest::serve(&BytePath::new(gateway), request).await;
            assert_eq!((response.status().as_u16(), count.load(Relaxed)), (status, read));
        }
    }

    #[test]
    fn a_message_is_as_protobuf_has_it() {
        let pieces = message(2, vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        assert_eq!(pieces.concat(), [&[0, 0, 0, 0, 5, 0x12, 3][..], b"abc"].concat());
    }
}
