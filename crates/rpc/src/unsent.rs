//! Requests that nobody has begun to handle: they may be sent once more.

use std::{
    error::Error,
    iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::Reason;
use http::request::Parts;
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::HttpRequest;

/// How much of a body is kept: what a connection sends of a stream that its other end does not read, besides the frame that
/// goes beyond it.
const KEPT_BYTES: usize = 256 << 10;

/// A request that can be had again as long as all that was read of its body is kept.
pub(crate) struct Unsent {
    parts: Parts,
    body: Arc<Mutex<Source>>,
}

/// The body, of which every try reads.
struct Source {
    rest: Body,
    /// What was read of it; none: more than is kept.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// The newest of the tries, the others have ended.
    tries: u32,
}

fn locked(body: &Mutex<Source>) -> MutexGuard<'_, Source> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unsent {
    pub(crate) fn new(request: HttpRequest) -> Self {
        let (parts, rest) = request.into_parts();
        let source = Source { rest, kept: Some(Vec::new()), kept_bytes: 0, tries: 0 };
        Self { parts, body: Arc::new(Mutex::new(source)) }
    }

    /// The request, to be sent from its beginning.
    pub(crate) fn request(&self) -> HttpRequest {
        let number = {
            let mut source = locked(&self.body);
            source.tries += 1;
            source.tries
        };
        // It is looked at here, so the lock is free again.
        let body = Body::new(Try { number, read: 0, from: self.body.clone() });
        HttpRequest::from_parts(self.parts.clone(), body)
    }

    /// Whether it can be sent once more after this error: certainly nothing of it was handled.
    pub(crate) fn is_unsent(&self, error: &(dyn Error + 'static)) -> bool {
        let source = locked(&self.body);
        let Some(kept) = &source.kept else { return false };
        // No RPC begins before its first message. What has no body at all may have gone out whole.
        let nothing_went = kept.is_empty() && !source.rest.is_end_stream();
        nothing_went || is_refused(error)
    }
}

/// Whether the other end said that it does not handle the request: the connection was to end, and it had come too late for
/// it (RFC 9113, section 8.7).
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut causes = iter::successors(Some(error), |error| (*error).source());
    let error = causes.find_map(|cause| cause.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        let reason = error.reason();
        // With another reason a connection that ends takes with it what was begun.
        let is_late = error.is_go_away() && reason == Some(Reason::NO_ERROR);
        error.is_remote() && (is_late || error.is_reset() && reason == Some(Reason::REFUSED_STREAM))
    })
}

/// The body of one try.
struct Try {
    number: u32,
    /// How many of the parts that are kept it has had.
    read: usize,
    from: Arc<Mutex<Source>>,
}

impl http_body::Body for Try {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let from = self.from.clone();
        let mut source = locked(&from);
        if source.tries != self.number {
            return Poll::Ready(Some(Err(Status::cancelled("the request is sent once more"))));
        }
        if let Some(part) = source.kept.as_ref().and_then(|kept| kept.get(self.read)) {
            self.read += 1;
            return Poll::Ready(Some(Ok(Frame::data(part.clone()))));
        }
        let frame = ready!(Pin::new(&mut source.rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.read += 1;
                source.keep(frame);
            }
            // A body that broke off is not whole: read once more, it would seem to end there.
            Some(Err(_)) => source.kept = None,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = locked(&self.from);
        let has_more = source.kept.as_ref().is_some_and(|kept| self.read < kept.len());
        !has_more && source.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let source = locked(&self.from);
        let kept = source.kept.iter().flatten().skip(self.read).map(|part| part.len() as u64).sum::<u64>();
        let rest = source.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(rest.lower() + kept);
        hint
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let room = self.kept_bytes <= KEPT_BYTES;
        match (frame.data_ref().filter(|_| room), &mut self.kept) {
            (Some(part), Some(kept)) => {
                self.kept_bytes += part.len();
                kept.push(part.clone());
            }
            // Trailers are none of gRPC's requests.
            _ => self.kept = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    fn of(body: Body) -> Unsent {
        Unsent::new(http::Request::post("/a.B/C").header("name", "value").body(body).expect("a request"))
    }

    fn parts(parts: impl IntoIterator<Item = Bytes>) -> Body {
        let frames: Vec<_> = parts.into_iter().map(|part| Ok::<_, Status>(Frame::data(part))).collect();
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    fn lost() -> std::io::Error {
        std::io::ErrorKind::ConnectionReset.into()
    }

    fn refused() -> h2::Error {
        h2::Error::from(Reason::REFUSED_STREAM)
    }

    async fn first(request: HttpRequest) -> Bytes {
        let frame = request.into_body().frame().await.expect("a frame").expect("read");
        frame.into_data().expect("data")
    }

    #[tokio::test]
    async fn a_request_can_be_had_again_until_it_is_read() {
        let call = of(Body::new(Full::new(Bytes::from_static(b"once"))));
        drop(call.request());
        assert!(call.is_unsent(&lost()));
        let request = call.request();
        assert_eq!((request.uri().path(), &request.headers()["name"]), ("/a.B/C", &"value".parse().expect("ASCII")));
        assert_eq!((request.body().is_end_stream(), request.body().size_hint().exact()), (false, Some(4)));
        assert_eq!(request.into_body().collect().await.expect("read").to_bytes(), "once");
        assert!(!call.is_unsent(&lost()));
    }

    #[tokio::test]
    async fn what_was_read_of_it_is_sent_again() {
        let call = of(parts(["one", "two", "three"].map(Bytes::from)));
        assert_eq!(first(call.request()).await, "one");
        let old = call.request();
        let request = call.request();
        assert_eq!(request.body().size_hint().lower(), 3);
        assert_eq!(request.into_body().collect().await.expect("read").to_bytes(), "onetwothree");
        let request = call.request();
        assert_eq!((request.body().is_end_stream(), request.body().size_hint().lower()), (false, 11));
        assert_eq!(request.into_body().collect().await.expect("read").to_bytes(), "onetwothree");
        // Whoever still reads for an earlier try takes nothing away.
        assert_eq!(old.into_body().collect().await.expect_err("is over").code(), tonic::Code::Cancelled);
    }

    #[tokio::test]
    async fn of_a_long_body_no_more_is_kept_than_goes_out_unread() {
        let part = Bytes::from(vec![7; KEPT_BYTES]);
        let call = of(parts([part.clone(), part.slice(..1), part.clone()]));
        let mut body = call.request().into_body();
        for _ in 0..2 {
            body.frame().await.expect("a frame").expect("read");
        }
        assert_eq!(locked(&call.body).kept.as_ref().map(Vec::len), Some(2));
        body.frame().await.expect("a frame").expect("read");
        assert_eq!(locked(&call.body).kept, None);
        assert!(!call.is_unsent(&lost()));
    }

    #[tokio::test]
    async fn a_body_that_broke_off_is_not_sent_again() {
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(Status::cancelled("the client left"))];
        let call = of(Body::new(StreamBody::new(stream::iter(frames))));
        call.request().into_body().collect().await.expect_err("broke off");
        assert_eq!(locked(&call.body).kept, None);
    }

    #[test]
    fn what_has_no_body_may_have_gone_out() {
        assert!(!of(Body::empty()).is_unsent(&lost()));
    }

    #[test]
    fn only_the_other_end_refuses() {
        // Made here, as everything that this process finds wrong itself.
        assert!(!is_refused(&refused()));
        assert!(!is_refused(&lost()));
    }
}
