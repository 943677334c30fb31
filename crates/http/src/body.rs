//! Bodies of requests: read whole, and what becomes of one that nobody read.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Version, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use mi_kernel::{Error, ErrorKind};
use mi_rpc::{HttpRequest, HttpResponse, status};
use tonic::{Status, body::Body};

use crate::refusal::invalid;

/// Of a body that is too large so many bytes are read and thrown away: whoever still sends hears why only afterwards.
const THROWN_AWAY: usize = 64 << 20;

/// How long a body may take that is read before a stream begins.
const IN_TIME: Duration = Duration::from_secs(30);

/// Reads a body to its end, decompressed as it is.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` beyond so many bytes; what broke the body off.
pub(crate) async fn whole(mut body: Body, limit: usize) -> Result<Bytes, Status> {
    let (mut whole, mut length) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let broken = |error: Status| invalid("body", format!("broke off: {}", error.message()));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        length += data.len();
        match length {
            length if length > limit + THROWN_AWAY => break,
            length if length > limit => whole = BytesMut::new(),
            _ => whole.put(data),
        }
    }
    match length > limit {
        false => Ok(whole.freeze()),
        true => {
            let text = format!("the body has more than {limit} bytes");
            Err(status(Error::new(ErrorKind::Exhausted, "MESSAGE_TOO_LARGE", text)))
        }
    }
}

/// Gives a message that a client sends once a bounded time to come in, where the call that it begins may last.
pub(crate) async fn in_time<T>(message: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(IN_TIME, message).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("the body did not come in within {} s", IN_TIME.as_secs())))
    })
}

/// Whether the body of a request was read to its end.
pub(crate) struct Progress {
    is_read: Arc<AtomicBool>,
    version: Version,
}

/// Watches the body of a request.
pub(crate) fn watched(request: HttpRequest) -> (HttpRequest, Progress) {
    let is_read = Arc::new(AtomicBool::new(http_body::Body::is_end_stream(request.body())));
    let progress = Progress { is_read: is_read.clone(), version: request.version() };
    (request.map(|body| Body::new(Watched { body, is_read })), progress)
}

impl Progress {
    /// Has the answer say that its connection of HTTP/1.1 ends where the request is still on it: the next one would come
    /// after the rest of a body that nobody reads.
    pub(crate) fn ends(&self, response: &mut HttpResponse) {
        if self.version < Version::HTTP_2 && !self.is_read.load(Ordering::Acquire) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

struct Watched {
    body: Body,
    is_read: Arc<AtomicBool>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.is_read.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
