//! Requests of which nothing was sent: they may be sent once more.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::HttpRequest;

/// A request that can be had again until somebody has begun to read its body.
pub(crate) struct Unsent {
    parts: Parts,
    body: Arc<Mutex<Option<Body>>>,
}

impl Unsent {
    pub(crate) fn new(request: HttpRequest) -> Self {
        let (parts, body) = request.into_parts();
        Self { parts, body: Arc::new(Mutex::new(Some(body))) }
    }

    /// The request, to be sent.
    pub(crate) fn request(&self) -> HttpRequest {
        let lent = Lent { body: None, from: self.body.clone() };
        HttpRequest::from_parts(self.parts.clone(), Body::new(lent))
    }

    /// Whether certainly nothing of it was handled: no RPC begins before its first message. What has no body at all may have
    /// gone out whole.
    pub(crate) fn is_unsent(&self) -> bool {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().is_some_and(|body| !body.is_end_stream())
    }
}

/// The body of a request, taken when it is read.
struct Lent {
    body: Option<Body>,
    from: Arc<Mutex<Option<Body>>>,
}

impl Lent {
    fn peek<T>(&self, look: impl Fn(&Body) -> T) -> Option<T> {
        match &self.body {
            Some(body) => Some(look(body)),
            None => self.from.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look),
        }
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.body.is_none() {
            let taken = self.from.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.body = taken;
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.peek(Body::is_end_stream).unwrap_or(true)
    }

    fn size_hint(&self) -> SizeHint {
        self.peek(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn of(body: Body) -> Unsent {
        Unsent::new(http::Request::post("/a.B/C").header("name", "value").body(body).expect("a request"))
    }

    #[tokio::test]
    async fn a_request_can_be_had_again_until_it_is_read() {
        let call = of(Body::new(Full::new(Bytes::from_static(b"once"))));
        drop(call.request());
        assert!(call.is_unsent());
        let request = call.request();
        assert_eq!((request.uri().path(), &request.headers()["name"]), ("/a.B/C", &"value".parse().expect("ASCII")));
        assert_eq!((request.body().is_end_stream(), request.body().size_hint().exact()), (false, Some(4)));
        assert_eq!(request.into_body().collect().await.expect("read").to_bytes(), "once");
        assert!(!call.is_unsent());
        assert!(call.request().body().is_end_stream());
    }

    #[test]
    fn what_has_no_body_may_have_gone_out() {
        assert!(!of(Body::empty()).is_unsent());
    }
}
