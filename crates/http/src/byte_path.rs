//! The gateway as a client sees it: gRPC calls within this process, under the same authentication, limits, deadlines and
//! traces as those that come over a connection.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, OnceLock},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mi_rpc::{HttpRequest, HttpResponse, deadline};
use tonic::{Code, Status, body::Body, transport::server::TcpConnectInfo};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

/// Length of what stands before each message: a byte of flags, and the message's length.
const PREFIX: usize = 5;
/// Largest message that is taken from anybody, in bytes: JSON is longer than what it stands for, and what is too large
/// all the same is refused by its role.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;

/// The way to the gateway.
#[derive(Clone)]
pub(crate) struct BytePath(BoxCloneSyncService<HttpRequest, HttpResponse, Infallible>);

/// Who calls, and how: what passes from a request through a door to the call that it becomes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    headers: HeaderMap,
    peer: Option<TcpConnectInfo>,
}

impl Caller {
    /// The sender of a request.
    pub(crate) fn of(parts: &http::request::Parts) -> Self {
        let mut headers = HeaderMap::new();
        for name in [header::AUTHORIZATION, HeaderName::from_static("traceparent")] {
            // All of them: the gateway refuses two credentials.
            for value in parts.headers.get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        Self { headers, peer: parts.extensions.get().cloned() }
    }

    /// The same caller, who waits no longer than this.
    pub(crate) fn within(mut self, limit: std::time::Duration) -> Self {
        // Digits and a unit: always a header value.
        if let Ok(value) = HeaderValue::try_from(deadline::format(limit)) {
            self.headers.insert(HeaderName::from_static(deadline::GRPC_TIMEOUT), value);
        }
        self
    }
}

impl BytePath {
    pub(crate) fn new<S>(gateway: S) -> Self
    where
        S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(gateway))
    }

    /// Hands a request on as it is.
    pub(crate) async fn pass(&self, request: HttpRequest) -> HttpResponse {
        self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    /// A call with one message, which is made once the gateway lets the caller in, and one answer.
    pub(crate) async fn unary(
        &self,
        caller: Caller,
        path: &str,
        message: impl Future<Output = Result<Bytes, Status>> + Send + 'static,
    ) -> Result<Bytes, Status> {
        self.open(caller, path, stream::once(message)).await?.only().await
    }

    /// A call with any number of messages, each made when the role is ready for it.
    pub(crate) async fn open<M>(&self, caller: Caller, path: &str, messages: M) -> Result<Answer, Status>
    where
        M: Stream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        self.send(caller, path, messages.map_ok(|message| framed(&message))).await
    }

    /// The same with messages that have what stands before them ([`prefix`]), in pieces of any size: large ones are not
    /// copied for it.
    pub(crate) async fn send<P>(&self, caller: Caller, path: &str, pieces: P) -> Result<Answer, Status>
    where
        P: Stream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        let fault = Fault::default();
        let told = fault.clone();
        let frames = pieces.map_ok(Frame::data).inspect_err(move |error| {
            // The first one counts.
            let _ = told.0.set(error.clone());
        });
        let mut request = HttpRequest::new(Body::new(StreamBody::new(frames)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::try_from(path).map_err(|_| Status::unimplemented("there is no such method"))?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = caller.headers;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(peer) = caller.peer {
            request.extensions_mut().insert(peer);
        }
        let (head, body) = self.pass(request).await.into_parts();
        fault.check()?;
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => Err(status),
            ended => Ok(Answer { frames: Frames::new(body), has_ended: ended.is_some(), fault }),
        }
    }
}

/// What was wrong with what the client sent: its own error, which the role would only know as an end before time.
#[derive(Debug, Clone, Default)]
struct Fault(Arc<OnceLock<Status>>);

impl Fault {
    fn check(&self) -> Result<(), Status> {
        self.0.get().map_or(Ok(()), |status| Err(status.clone()))
    }
}

/// The messages of an answer, and how it ended.
pub(crate) struct Answer {
    frames: Frames,
    /// Whether the head has said already that all went well.
    has_ended: bool,
    fault: Fault,
}

impl Answer {
    /// The next message; none: the call ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let next = self.frames.next().await;
        self.fault.check()?;
        match next? {
            Some((0, message)) => Ok(Some(message)),
            Some(_) => Err(Status::internal("an answer is compressed that nobody asked to be")),
            None => match self.frames.trailers.as_ref().and_then(Status::from_header_map) {
                Some(status) if status.code() != Code::Ok => Err(status),
                None if !self.has_ended => Err(Status::unavailable("the answer broke off")),
                _ => Ok(None),
            },
        }
    }

    /// The only message of a call that is answered with one.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let only = self.next().await?.ok_or_else(|| Status::internal("the call was answered without a message"))?;
        match self.next().await? {
            None => Ok(only),
            Some(_) => Err(Status::internal("the call was answered twice")),
        }
    }

    /// The messages, one by one.
    pub(crate) fn messages(self) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        stream::try_unfold(self, |mut answer| async move { Ok(answer.next().await?.map(|message| (message, answer))) })
    }
}

/// What stands before a message of so many bytes on the wire.
pub(crate) fn prefix(length: usize) -> Bytes {
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(length as u32);
    prefix.freeze()
}

/// A message with what stands before it on the wire.
fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    put_frame(&mut frame, 0, message);
    frame.freeze()
}

/// Appends a message and what stands before it. gRPC and Connect differ in the flags alone.
pub(crate) fn put_frame(into: &mut BytesMut, flags: u8, message: &[u8]) {
    into.put_u8(flags);
    // Messages are far below 4 GiB: [`MAX_MESSAGE`], and what roles answer.
    into.put_u32(message.len() as u32);
    into.put_slice(message);
}

/// The messages of a body, each with its flags.
pub(crate) struct Frames {
    body: Body,
    /// What came last: whole messages are taken out of it without a copy.
    fresh: Bytes,
    /// The beginning of a message that is not here whole.
    buffer: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Frames {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, fresh: Bytes::new(), buffer: BytesMut::new(), trailers: None }
    }

    /// The next one; none: the body has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<(u8, Bytes)>, Status> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(frame) => match frame?.into_data() {
                    Ok(data) if self.buffer.is_empty() => self.fresh = data,
                    Ok(data) => self.buffer.put(data),
                    Err(other) => self.trailers = other.into_trailers().ok(),
                },
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("the body ended in the midst of a message")),
            }
        }
    }

    /// What has come in whole.
    fn take(&mut self) -> Result<Option<(u8, Bytes)>, Status> {
        if let Some((flags, length)) = head(&self.fresh)?
            && self.fresh.len() >= PREFIX + length
        {
            self.fresh.advance(PREFIX);
            return Ok(Some((flags, self.fresh.split_to(length))));
        }
        self.buffer.put(std::mem::take(&mut self.fresh));
        let Some((flags, length)) = head(&self.buffer)? else {
            return Ok(None);
        };
        if self.buffer.len() < PREFIX + length {
            self.buffer.reserve(PREFIX + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        // What is behind it may have whole messages again.
        self.fresh = self.buffer.split().freeze();
        Ok(Some((flags, message)))
    }
}

/// The flags of the first message, and its length; none: not even that is there.
fn head(bytes: &[u8]) -> Result<Option<(u8, usize)>, Status> {
    let Some((mut prefix, _)) = bytes.split_at_checked(PREFIX) else {
        return Ok(None);
    };
    let (flags, length) = (prefix.get_u8(), prefix.get_u32() as usize);
    if length > MAX_MESSAGE {
        let text = format!("a message of {length} bytes is larger than is taken here ({MAX_MESSAGE} bytes)");
        return Err(Status::resource_exhausted(text));
    }
    Ok(Some((flags, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let messages = [&b"a"[..], b"", b"three", &[7; 3000], b"end"];
        let mut wire = BytesMut::new();
        messages.iter().for_each(|message| put_frame(&mut wire, 0, message));
        let wire = wire.freeze();
        for size in [1, 2, 5, 6, 7, 1000, 10_000] {
            let pieces: Vec<_> =
                wire.chunks(size).map(|piece| Ok::<_, Status>(Frame::data(wire.slice_ref(piece)))).collect();
            let mut frames = Frames::new(Body::new(StreamBody::new(stream::iter(pieces))));
            for message in messages {
                assert_eq!(frames.next().await.expect("whole"), Some((0, Bytes::copy_from_slice(message))), "{size}");
            }
            assert_eq!(frames.next().await.expect("over"), None);
            let cut = wire.slice(..wire.len() - 1);
            let mut frames = Frames::new(Body::new(StreamBody::new(stream::iter([Ok::<_, Status>(Frame::data(cut))]))));
            for _ in 1..messages.len() {
                assert!(frames.next().await.expect("whole").is_some());
            }
            assert_eq!(frames.next().await.expect_err("cut").code(), Code::InvalidArgument);
        }
    }
}
