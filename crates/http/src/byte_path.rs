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
        let mut answer = self.open(caller, path, stream::once(message)).await?;
        let only = answer.next().await?.ok_or_else(|| Status::internal("the call was answered without a message"))?;
        match answer.next().await? {
            None => Ok(only),
            Some(_) => Err(Status::internal("the call was answered twice")),
        }
    }

    /// A call with any number of messages, each made when the role is ready for it.
    pub(crate) async fn open<M>(&self, caller: Caller, path: &str, messages: M) -> Result<Answer, Status>
    where
        M: Stream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        let fault = Fault::default();
        let told = fault.clone();
        let frames = messages.map_ok(|message| Frame::data(framed(&message))).inspect_err(move |error| {
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

    /// The messages, one by one.
    pub(crate) fn messages(self) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        stream::try_unfold(self, |mut answer| async move { Ok(answer.next().await?.map(|message| (message, answer))) })
    }
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
    buffer: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Frames {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), trailers: None }
    }

    /// The next one; none: the body has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<(u8, Bytes)>, Status> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(frame) => match frame?.into_data() {
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
        let Some((mut prefix, _)) = self.buffer.split_at_checked(PREFIX) else {
            return Ok(None);
        };
        let (flags, length) = (prefix.get_u8(), prefix.get_u32() as usize);
        if length > MAX_MESSAGE {
            let text = format!("a message of {length} bytes is larger than is taken here ({MAX_MESSAGE} bytes)");
            return Err(Status::resource_exhausted(text));
        }
        if self.buffer.len() < PREFIX + length {
            self.buffer.reserve(PREFIX + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some((flags, self.buffer.split_to(length).freeze())))
    }
}
