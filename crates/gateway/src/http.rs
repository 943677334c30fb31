//! Plain HTTP through the edge: what agents ask of models and integrations, as any SDK or tool sends it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, uri::PathAndQuery};
use http_body::{Frame, SizeHint};
use mi_base::{
    metrics,
    trace::{TRACEPARENT, TraceContext},
};
use mi_kernel::{Actor, Error, ErrorKind, Result, TaskId};
use mi_rpc::{
    HttpRequest, HttpResponse, SOURCE_HEADER,
    connections::network,
    guard,
    vendor::{self, Form},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tracing::Instrument;

use crate::{
    auth::bearer,
    forward::{Forwarder, ROLE, strip},
    revocation::Held,
};

/// Largest body of a request, in bytes.
const MAX_BODY: u64 = 32 << 20;
/// Where vendors' SDKs put their key, besides `authorization`.
const KEY_HEADERS: [&str; 2] = ["x-api-key", "x-goog-api-key"];
/// Parameter of a query in which some put it. It must not get further than here: queries are logged in many places.
const KEY_PARAMETER: &str = "key=";
/// Our only header that a caller may set: the task that it works on.
const TASK_HEADER: &str = "mi-task-id";
/// What concerns one connection only, or says who is on the way, besides what is stripped from every call.
const STAYS_HERE: [&str; 10] = [
    "te",
    "trailer",
    "expect",
    "proxy-authenticate",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-api-key",
    "x-goog-api-key",
];

/// Whether a path is served over plain HTTP.
pub(crate) fn serves(path: &str) -> bool {
    path.starts_with("/llm/") || path.starts_with("/proxy/")
}

impl Forwarder {
    /// Answers such a call, in the form of the vendor whose SDK sent it.
    pub(crate) async fn handle_http(self: Arc<Self>, request: HttpRequest) -> HttpResponse {
        let (started, form) = (Instant::now(), Form::of_path(request.uri().path()));
        let incoming = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let trace = incoming.and_then(TraceContext::parse).unwrap_or_else(TraceContext::fresh);
        let span = tracing::debug_span!(target: "mi::rpc", "http", role = ROLE);
        let trace = trace.adopt(&span);
        let answered = self.pass_http(request, &trace).instrument(span).await;
        let response = answered.unwrap_or_else(|error| vendor::refusal(form, &error));
        metrics::rpc(ROLE, "HTTP", response.status().as_str(), started.elapsed());
        response
    }

    async fn pass_http(&self, mut request: HttpRequest, trace: &TraceContext) -> Result<HttpResponse> {
        let address = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let address = address.map(|address| address.ip());
        let authenticated = match credential(&request) {
            Ok(shown) => self.auth.known(&shown).await.inspect_err(|refused| {
                self.auth.tell_of(&shown, refused, address.map(network));
            }),
            Err(error) => Err(error),
        };
        let identity = match authenticated {
            Ok(identity) => identity,
            Err(refused) => {
                // As often as anybody without a credential.
                drop(self.limits.admit(&Actor::Anonymous, address).await?);
                return Err(refused);
            }
        };
        let permit = self.limits.admit(&identity.actor, address).await?;
        let (Actor::Agent(_), Some(credential)) = (&*identity.actor, &identity.credential) else {
            return Err(Error::denied("only agents call models and integrations here, with their own token"));
        };
        let Some(models) = &self.backends.models else {
            return Err(Error::unavailable("this platform runs no models service"));
        };
        well_formed(&request)?;
        *request.uri_mut() = without_key(request.uri())?;
        *request.version_mut() = Version::HTTP_2;
        let source = address.map(|address| network(address).to_string());
        prepare(request.headers_mut(), trace, source);
        let held = self.revocations.hold(credential);
        let request = request.map(|body| Body::new(held.guard(body)));
        let response = tokio::select! {
            response = models.call(identity.actor.clone(), request) => response,
            () = held.revoked().cancelled_owned() => return Err(guard::revoked()),
        };
        if let Some(error) = vendor::not_reached(&response) {
            return Err(error);
        }
        let revoked = Box::pin(held.revoked().cancelled_owned());
        Ok(response.map(|body| Body::new(OpenBody { body, revoked, _held: held, _permit: permit })))
    }
}

/// The one credential of a request, wherever it is.
fn credential(request: &HttpRequest) -> Result<String> {
    let headers = request.headers();
    let mut shown = Vec::new();
    shown.extend(bearer(headers)?.map(str::to_owned));
    for value in KEY_HEADERS.iter().flat_map(|name| headers.get_all(*name)) {
        let text = value.to_str().map_err(|_| Error::unauthenticated("the key is no text"))?;
        shown.push(text.to_owned());
    }
    let query = request.uri().query().filter(|_| takes_key(request.uri())).unwrap_or_default();
    shown.extend(query.split('&').filter_map(|pair| pair.strip_prefix(KEY_PARAMETER)).map(str::to_owned));
    shown.dedup();
    match &mut shown[..] {
        [] => Err(Error::unauthenticated("this call needs the agent's token where the vendor's SDK puts its key")),
        [one] => Ok(std::mem::take(one)),
        _ => Err(Error::unauthenticated("the call shows several credentials that differ; send one")),
    }
}

/// What a client may say about where its request goes: a path, and nothing else.
fn well_formed(request: &HttpRequest) -> Result<()> {
    let of_1 = request.version() < Version::HTTP_2;
    if of_1 && request.uri().authority().is_some() {
        return Err(Error::invalid("path", "must be a path, not an absolute URL"));
    }
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return Err(Error::invalid("host", "must be there once"));
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MAX_BODY) {
        let text = format!("the body has more than {MAX_BODY} bytes");
        return Err(Error::new(ErrorKind::Exhausted, "MESSAGE_TOO_LARGE", text));
    }
    Ok(())
}

/// Whether a key may stand in the query, as Google has it: elsewhere `key` is a parameter like any other.
fn takes_key(uri: &Uri) -> bool {
    uri.path().starts_with("/llm/")
}

/// The path with what is left of the query.
fn without_key(uri: &Uri) -> Result<Uri> {
    let is_key = |pair: &str| takes_key(uri) && pair.starts_with(KEY_PARAMETER);
    let query = uri.query().unwrap_or_default();
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_key(pair)).collect();
    let text = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let path = PathAndQuery::try_from(text).map_err(|_| Error::invalid("path", "does not parse"))?;
    Ok(Uri::from(path))
}

/// Leaves what the role may see, and sets what it needs to know.
fn prepare(headers: &mut HeaderMap, trace: &TraceContext, source: Option<String>) {
    let task = headers.get(TASK_HEADER).and_then(|value| value.to_str().ok()?.parse::<TaskId>().ok());
    // A connection may say of further headers that they are its own.
    let own: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in own {
        headers.remove(name);
    }
    strip(headers);
    for name in STAYS_HERE {
        headers.remove(name);
    }
    let mut set = |name, value: Option<String>| {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set(TASK_HEADER, task.map(|task| task.to_string()));
    set(TRACEPARENT, Some(trace.header()));
    set(SOURCE_HEADER, source);
}

/// What is answered, until the caller's credential is revoked: then the connection says that it is cut off.
struct OpenBody {
    body: Body,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    _held: Held,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for OpenBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.revoked.as_mut().poll(cx) {
            Poll::Ready(()) => {
                // What it asked for is not waited for.
                self.body = Body::empty();
                Poll::Ready(Some(Err(Status::unauthenticated("the credential was revoked"))))
            }
            Poll::Pending => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
