//! Streams of messages: events as browsers read them, or JSON a line.
//!
//! `Accept: text/event-stream` asks for events: each has the id after which a client goes on that sends it as
//! `Last-Event-ID`, and silence is broken by comments, so that what stands between knows that the stream lives. Everybody
//! else is answered with a JSON object a line. An error ends either: as an event `error`, or as a line with `error` alone.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use mi_rpc::{HttpResponse, status};
use prost_reflect::DynamicMessage;
use tonic::{Status, body::Body};

use super::{
    answered, query,
    routes::{Form, Resume, Route},
};
use crate::{
    byte_path::Answer,
    json::{self, Style},
    refusal::{self, invalid},
};

/// How long a stream of events may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a browser waits before it comes again, in milliseconds.
const RETRY_MILLIS: u32 = 2000;
/// Header in which a browser says what it saw last.
const LAST_EVENT: &str = "last-event-id";

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Events,
    Lines,
}

impl Shape {
    /// What a client accepts; whichever it names first.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut names =
            accepted.flat_map(|value| value.split(',')).map(|name| name.split(';').next().unwrap_or_default());
        names
            .find_map(|name| match name.trim().to_ascii_lowercase().as_str() {
                "text/event-stream" => Some(Self::Events),
                "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Self::Lines),
                _ => None,
            })
            .unwrap_or(Self::Lines)
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    fn message(self, id: Option<String>, text: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(text.len() + 64);
        if self == Self::Lines {
            out.extend_from_slice(text);
            out.push(b'\n');
            return out.into();
        }
        if let Some(id) = id.filter(|id| !id.contains(['\r', '\n', '\0'])) {
            out.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        // JSON has no line break of its own.
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(text);
        out.extend_from_slice(b"\n\n");
        out.into()
    }

    fn error(self, refused: &Status) -> Bytes {
        let error = refusal::rest_error(refused, refusal::rest_status(refused));
        match self {
            Self::Events => format!("event: error\ndata: {error}\n\n").into(),
            Self::Lines => format!("{error}\n").into(),
        }
    }
}

/// Lets a request go on after what its client saw last: what a browser sends when it comes again counts more than what is
/// in the address.
pub(crate) fn resume(route: &Route, headers: &HeaderMap, message: &mut DynamicMessage) -> Result<(), Status> {
    let Form::Events(Some(Resume { after, .. })) = &route.form else {
        return Ok(());
    };
    let Some(last) = headers.get(LAST_EVENT).filter(|last| !last.is_empty()) else {
        return Ok(());
    };
    let value = last.to_str().ok().and_then(|last| query::value(after, &[last]).ok());
    match value {
        Some(value) => message.set_field(after, value),
        None => return Err(invalid(LAST_EVENT, "is no id that an event of this stream has")),
    }
    Ok(())
}

/// The answer to a request for a stream.
pub(crate) fn streamed(route: &'static Route, shape: Shape, answer: Answer) -> HttpResponse {
    let written = answer.messages().map(move |message| written(route, shape, message?));
    let first = match shape {
        // Also a sign that the stream is open.
        Shape::Events => Some(Bytes::from(format!("retry: {RETRY_MILLIS}\n\n"))),
        Shape::Lines => None,
    };
    let messages = until_error(shape, written);
    let pieces = match shape {
        Shape::Events => kept_alive(messages).left_stream(),
        Shape::Lines => messages.right_stream(),
    };
    let frames = stream::iter(first).chain(pieces).map(|piece| Ok::<_, Status>(Frame::data(piece)));
    stream_of(Body::new(StreamBody::new(frames)), shape.content_type())
}

/// The answer whose body is a stream that goes on.
pub(crate) fn stream_of(body: Body, content_type: &'static str) -> HttpResponse {
    let mut response = HttpResponse::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // A proxy that collects answers would hold messages back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn written(route: &Route, shape: Shape, message: Bytes) -> Result<Bytes, Status> {
    let decoded = DynamicMessage::decode(route.method.output.clone(), message);
    let message = decoded.map_err(|error| Status::internal(error.to_string()))?;
    let id = match &route.form {
        Form::Events(Some(resume)) => resume.id(&message),
        _ => None,
    };
    let text = json::written(&answered(route, message), Style::Plain).map_err(status)?;
    Ok(shape.message(id, &text))
}

/// After an error nothing follows.
fn until_error(
    shape: Shape,
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> impl Stream<Item = Bytes> + Send + 'static {
    messages.scan(false, move |is_over, message| {
        let piece = match message {
            _ if *is_over => None,
            Ok(piece) => Some(piece),
            Err(refused) => {
                *is_over = true;
                Some(shape.error(&refused))
            }
        };
        std::future::ready(piece)
    })
}

/// The same with a comment wherever nothing is said for long.
pub(crate) fn kept_alive(
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold(Box::pin(messages), |mut messages| async move {
        match tokio::time::timeout(KEEP_ALIVE, messages.next()).await {
            Ok(message) => message.map(|message| (message, messages)),
            Err(_) => Some((Bytes::from_static(b": still here\n\n"), messages)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_events_gets_them_and_everybody_else_lines() {
        for (accept, shape) in [
            ("text/event-stream", Shape::Events),
            ("Text/Event-Stream; q=0.9, application/x-ndjson", Shape::Events),
            ("application/x-ndjson, text/event-stream", Shape::Lines),
            ("*/*", Shape::Lines),
            ("application/json", Shape::Lines),
        ] {
            let headers = [(header::ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
            assert_eq!(Shape::of(&headers), shape, "{accept}");
        }
        assert_eq!(Shape::of(&HeaderMap::new()), Shape::Lines);
    }

    #[test]
    fn events_and_lines() {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
        assert_eq!(text(Shape::Events.message(Some("7".into()), b"{}")), "id: 7\ndata: {}\n\n");
        assert_eq!(text(Shape::Events.message(None, b"{}")), "data: {}\n\n");
        assert_eq!(text(Shape::Events.message(Some("7\ndata: forged".into()), b"{}")), "data: {}\n\n");
        assert_eq!(text(Shape::Lines.message(Some("7".into()), b"{}")), "{}\n");
        let gone = Status::not_found("gone");
        let error = r#"{"error":{"code":404,"details":[],"message":"gone","status":"NOT_FOUND"}}"#;
        assert_eq!(text(Shape::Events.error(&gone)), format!("event: error\ndata: {error}\n\n"));
        assert_eq!(text(Shape::Lines.error(&gone)), format!("{error}\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_and_an_error_is_the_end() {
        let messages = stream::iter([Ok(Bytes::from_static(b"a")), Err(Status::aborted("no")), Ok(Bytes::new())]);
        let pieces: Vec<_> = until_error(Shape::Lines, messages).collect().await;
        assert_eq!((pieces.len(), &pieces[0][..]), (2, &b"a"[..]));

        let never = stream::pending::<Bytes>();
        let mut alive = Box::pin(kept_alive(never));
        let before = tokio::time::Instant::now();
        for _ in 0..2 {
            assert_eq!(alive.next().await.as_deref(), Some(&b": still here\n\n"[..]));
        }
        assert_eq!(before.elapsed(), 2 * KEEP_ALIVE);
    }
}
