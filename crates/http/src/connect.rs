//! The Connect protocol: each public RPC by its own path, in JSON or protobuf, with ordinary HTTP around it.
//!
//! <https://connectrpc.com/docs/protocol>

use std::{pin::pin, time::Duration};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;
use mi_kernel::Error;
use mi_rpc::{HttpRequest, HttpResponse, deadline, status};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};
use tonic::{Status, body::Body};

use crate::{
    body,
    byte_path::{BytePath, Caller, Frames, MAX_MESSAGE, put_frame},
    encodings::{self, Encoding},
    json::{self, Style},
    methods::{self, Method},
    refusal::{self, invalid},
};

/// Flag of a message that is compressed.
const COMPRESSED: u8 = 1;
/// Flag of the last message of a stream, which says how it ended.
const END: u8 = 2;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Json,
    Proto,
}

impl Codec {
    /// By the rest of a content type, such as `json; charset=utf-8`.
    fn of(name: &str) -> Option<Self> {
        match name.split(';').next().unwrap_or_default().trim() {
            "json" => Some(Self::Json),
            "proto" => Some(Self::Proto),
            _ => None,
        }
    }

    fn content_type(self, is_stream: bool) -> HeaderValue {
        HeaderValue::from_static(match (self, is_stream) {
            (Self::Json, false) => "application/json",
            (Self::Proto, false) => "application/proto",
            (Self::Json, true) => "application/connect+json",
            (Self::Proto, true) => "application/connect+proto",
        })
    }

    fn read(self, descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
        match self {
            Self::Json => json::to_wire(descriptor, &message).map_err(status),
            Self::Proto => {
                // Its role would take it for a fault of its own.
                let broken = |error| invalid("body", format!("is no {}: {error}", descriptor.name()));
                DynamicMessage::decode(descriptor.clone(), message.clone()).map_err(broken)?;
                Ok(message)
            }
        }
    }

    fn write(self, descriptor: &MessageDescriptor, message: Bytes) -> Result<Bytes, Status> {
        match self {
            Self::Json => json::write(descriptor, &message, Style::Canonical).map(Bytes::from).map_err(status),
            Self::Proto => Ok(message),
        }
    }
}

/// Answers a request whose path looks like that of an RPC.
pub(crate) async fn serve(gateway: &BytePath, request: HttpRequest) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let Some(method) = methods::find(parts.uri.path()) else {
        let unknown =
            Status::unimplemented("there is no such method; proto/mi/v1 and gRPC reflection have all there are");
        let mut response = refusal::connect(&unknown);
        // The status that Connect has for a path that nobody knows.
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let form = match Form::of(&parts, method) {
        Ok(form) => form,
        Err(response) => return response,
    };
    let caller = match time_left(&parts.headers) {
        Ok(None) => Caller::of(&parts),
        // Its answer would be late, however soon it came.
        Ok(Some(Duration::ZERO)) => return refusal::connect(&status(deadline::exceeded())),
        Ok(Some(limit)) => Caller::of(&parts).within(limit),
        Err(error) => return refusal::connect(&status(error)),
    };
    match form {
        Form::Get => unary(gateway, caller, method, asked(&parts, method)).await,
        Form::Unary(codec) => {
            let message = async move { codec.read(&method.input, body::whole(body, MAX_MESSAGE).await?) };
            answered(gateway, caller, method, codec, message).await
        }
        Form::Stream(codec) => {
            let encoding = match encoding(&parts.headers) {
                Ok(encoding) => encoding,
                Err(refused) => return ended(codec, &refused),
            };
            let messages = messages(body, codec, encoding, &method.input);
            let opened = match method.client_streams {
                true => gateway.open(caller, &method.path, messages).await,
                false => gateway.open(caller, &method.path, stream::once(body::in_time(only(messages)))).await,
            };
            match opened {
                Ok(answer) => streamed(codec, outgoing(codec, method, answer.messages())),
                Err(refused) => ended(codec, &refused),
            }
        }
    }
}

/// How a request asks.
enum Form {
    Get,
    Unary(Codec),
    Stream(Codec),
}

impl Form {
    /// By its method and its content type.
    fn of(parts: &Parts, method: &Method) -> Result<Self, HttpResponse> {
        match parts.method {
            HttpMethod::GET if method.reads_only && !method.is_stream() => return Ok(Self::Get),
            HttpMethod::POST => {}
            _ => {
                let allowed = if method.reads_only && !method.is_stream() { "GET, POST" } else { "POST" };
                let text = format!("{} is not for this call, which takes {allowed}", parts.method);
                return Err(wrong(StatusCode::METHOD_NOT_ALLOWED, &text, (header::ALLOW, allowed)));
            }
        }
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let name = content_type.unwrap_or_default().to_ascii_lowercase();
        let name = name.strip_prefix("application/").unwrap_or_default();
        let (name, accepted) = match method.is_stream() {
            true => (name.strip_prefix("connect+"), "application/connect+json, application/connect+proto"),
            false => (Some(name), "application/json, application/proto"),
        };
        match name.and_then(Codec::of) {
            Some(codec) if method.is_stream() => Ok(Self::Stream(codec)),
            Some(codec) => Ok(Self::Unary(codec)),
            None => {
                let what = if method.is_stream() { "a stream" } else { "a call with one message" };
                let text = format!("the content type does not fit; this is {what}, which takes {accepted}");
                let name = HeaderName::from_static("accept-post");
                Err(wrong(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text, (name, accepted)))
            }
        }
    }
}

/// The answer to a request that is none of the protocol, with what would be.
fn wrong(code: StatusCode, text: &str, (name, value): (HeaderName, &'static str)) -> HttpResponse {
    let mut response = refusal::connect(&Status::unknown(text));
    *response.status_mut() = code;
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// A call with one message and one answer.
async fn answered(
    gateway: &BytePath,
    caller: Caller,
    method: &'static Method,
    codec: Codec,
    message: impl Future<Output = Result<Bytes, Status>> + Send + 'static,
) -> HttpResponse {
    let answer = gateway.unary(caller, &method.path, message).await;
    match answer.and_then(|answer| codec.write(&method.output, answer)) {
        Ok(text) => {
            let mut response = HttpResponse::new(Body::new(axum::body::Body::from(text)));
            response.headers_mut().insert(header::CONTENT_TYPE, codec.content_type(false));
            response
        }
        Err(refused) => refusal::connect(&refused),
    }
}

async fn unary(
    gateway: &BytePath,
    caller: Caller,
    method: &'static Method,
    asked: Result<(Codec, Bytes), Status>,
) -> HttpResponse {
    match asked {
        Ok((codec, message)) => answered(gateway, caller, method, codec, async move { Ok(message) }).await,
        Err(refused) => refusal::connect(&refused),
    }
}

/// What a GET asks for in its query.
fn asked(parts: &Parts, method: &Method) -> Result<(Codec, Bytes), Status> {
    let (mut codec, mut message, mut is_base64) = (None, None, false);
    let query = parts.uri.query().unwrap_or_default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match (&*name, &*value) {
            ("connect", "v1") | ("compression", "identity") => {}
            ("encoding", name) => codec = Codec::of(name),
            ("message", text) => message = Some(text.to_owned()),
            ("base64", flag) => is_base64 = flag == "1",
            ("compression", _) => return Err(unread()),
            (name, _) => {
                let text = format!("has `{name}`; there are `message`, `encoding`, `base64` and `connect`");
                return Err(status(Error::invalid("query", text)));
            }
        }
    }
    let codec = codec.ok_or_else(|| status(Error::invalid("encoding", "must be `json` or `proto`")))?;
    let message = message.ok_or_else(|| status(Error::invalid("message", "is missing")))?;
    let message = match is_base64 {
        true => URL_SAFE.decode(message).map_err(|_| status(Error::invalid("message", "is no base64 for URLs")))?,
        false => message.into_bytes(),
    };
    Ok((codec, codec.read(&method.input, message.into())?))
}

/// Base64 for URLs; padding may be there.
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How long the client waits.
fn time_left(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    const NAME: &str = "connect-timeout-ms";
    let Some(value) = headers.get(NAME) else {
        return Ok(None);
    };
    let digits = value.to_str().ok().filter(|text| (1..=10).contains(&text.len()));
    let millis =
        digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok());
    millis
        .map(|millis| Some(Duration::from_millis(millis)))
        .ok_or_else(|| Error::invalid(NAME, "must be up to 10 digits"))
}

/// How the compressed messages of a stream are written; none: there are none.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Status> {
    match headers.get("connect-content-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(name) => Encoding::of(name).map(Some).ok_or_else(unread),
    }
}

fn unread() -> Status {
    Status::unimplemented(encodings::UNREAD)
}

/// What a client sends in a stream.
fn messages(
    body: Body,
    codec: Codec,
    encoding: Option<Encoding>,
    descriptor: &MessageDescriptor,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let descriptor = descriptor.clone();
    let frames = stream::try_unfold(Frames::new(body), |mut frames| async move {
        Ok(frames.next().await?.map(|frame| (frame, frames)))
    });
    frames.and_then(move |(flags, message)| {
        let message = match (flags, encoding) {
            (0, _) => Ok(message),
            (COMPRESSED, Some(encoding)) => decompressed(encoding, &message),
            (COMPRESSED, None) => Err(Status::invalid_argument("a message is compressed, and no header says how")),
            _ => Err(Status::invalid_argument("a message of the client has flags that only the server sets")),
        };
        std::future::ready(message.and_then(|message| codec.read(&descriptor, message)))
    })
}

fn decompressed(encoding: Encoding, message: &[u8]) -> Result<Bytes, Status> {
    let too_large = || Status::resource_exhausted(format!("a message has more than {MAX_MESSAGE} bytes"));
    let message = encoding.read(message, MAX_MESSAGE);
    message
        .map_err(|error| Status::invalid_argument(format!("a compressed message is broken: {error}")))?
        .ok_or_else(too_large)
}

/// The message of a client that sends one.
async fn only(messages: impl Stream<Item = Result<Bytes, Status>>) -> Result<Bytes, Status> {
    let mut messages = pin!(messages);
    let missing = || Status::invalid_argument("the body has no message; this call takes one");
    let message = messages.next().await.ok_or_else(missing)??;
    match messages.next().await {
        None => Ok(message),
        Some(_) => Err(Status::invalid_argument("the body has more than one message; this call takes one")),
    }
}

/// What goes out in a stream: each message, and then how it ended.
fn outgoing(
    codec: Codec,
    method: &'static Method,
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let written = messages.and_then(move |message| std::future::ready(codec.write(&method.output, message)));
    let whole = written.map(Some).chain(stream::iter([None]));
    // After an error nothing follows, not even that all went well.
    whole.scan(false, |is_over, item| {
        let envelope = match item {
            _ if *is_over => None,
            Some(Ok(message)) => Some(envelope(0, &message)),
            Some(Err(refused)) => {
                *is_over = true;
                Some(last(&refused))
            }
            None => Some(envelope(END, b"{}")),
        };
        std::future::ready(envelope)
    })
}

fn envelope(flags: u8, message: &[u8]) -> Bytes {
    let mut envelope = BytesMut::with_capacity(message.len() + 5);
    put_frame(&mut envelope, flags, message);
    envelope.freeze()
}

/// The end of a stream that failed.
fn last(refused: &Status) -> Bytes {
    let end: Value = json!({"error": refusal::connect_error(refused)});
    envelope(END, end.to_string().as_bytes())
}

/// A stream that was refused before it began: it is answered as one that ends at once.
fn ended(codec: Codec, refused: &Status) -> HttpResponse {
    streamed(codec, stream::iter([last(refused)]))
}

fn streamed(codec: Codec, envelopes: impl Stream<Item = Bytes> + Send + 'static) -> HttpResponse {
    let frames = envelopes.map(|envelope| Ok::<_, Status>(Frame::data(envelope)));
    let mut response = HttpResponse::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, codec.content_type(true));
    response
}
