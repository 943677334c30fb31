//! What stands before every role: it knows the method, the caller, the deadline and the trace before a handler runs, and
//! counts the call after.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use mi_base::{
    Tasks,
    metrics::{self, OpenStream},
    trace::{TRACEPARENT, TraceContext},
};
use mi_kernel::{Actor, Clock, Error, Result};
use mi_proto::rules::{self, MethodRule};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};
use tracing::Instrument;

use crate::{
    Caller, HttpRequest, HttpResponse, PrincipalKey, Refusals, deadline,
    principal::PRINCIPAL_HEADER,
    status::{mend_too_large, status, unlogged},
    transport::CLIENT_HEADER,
};

/// The actor of an in-process call: an extension, which nothing from the wire can set.
#[derive(Debug, Clone)]
pub(crate) struct LocalActor(pub(crate) Arc<Actor>);

/// Who calls a role over plain HTTP: an extension of each such request.
#[derive(Debug, Clone)]
pub struct HttpCaller {
    /// Who.
    pub actor: Actor,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
}

/// A role's services behind the checks that all of them need.
#[derive(Clone)]
pub struct Guard {
    routes: axum::Router,
    /// What is served besides RPCs.
    http: Option<axum::Router>,
    shared: Arc<Shared>,
}

/// Shared by all clones, of which each call makes one.
struct Shared {
    role: &'static str,
    key: PrincipalKey,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    refusals: Refusals,
}

impl Guard {
    /// Puts the guard before the role's routes. Open streams end with UNAVAILABLE with the process, so that clients reconnect
    /// elsewhere. What is refused is noted in `refusals`.
    pub fn new(
        role: &'static str,
        routes: tonic::service::Routes,
        key: PrincipalKey,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        refusals: Refusals,
    ) -> Self {
        let routes = routes.prepare().into_axum_router();
        Self { routes, http: None, shared: Arc::new(Shared { role, key, clock, tasks, refusals }) }
    }

    /// Serves plain HTTP besides, at every path that is no RPC's. Its requests carry an [`HttpCaller`]; one that carries no
    /// principal is answered as an RPC is. They have no deadline here, and what is sent and answered passes as it is.
    pub fn with_http(self, http: axum::Router) -> Self {
        Self { http: Some(http), ..self }
    }

    /// Whom the gateway, or a role of this process, vouches for.
    fn actor(&self, request: &HttpRequest) -> Result<Actor> {
        match request.extensions().get::<LocalActor>() {
            Some(local) => Ok(Actor::clone(&local.0)),
            None => {
                let token = request.headers().get(PRINCIPAL_HEADER).and_then(|value| value.to_str().ok());
                let token = token.ok_or_else(|| Error::unauthenticated("the call does not come from the gateway"))?;
                self.shared.key.verify(token, self.shared.clock.now())
            }
        }
    }

    async fn handle_http(&self, mut request: HttpRequest, http: axum::Router) -> HttpResponse {
        let started = Instant::now();
        let incoming = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let trace = incoming.and_then(TraceContext::parse).unwrap_or_else(TraceContext::fresh);
        let response = match self.actor(&request) {
            Ok(actor) => {
                let headers = request.headers_mut();
                headers.remove(PRINCIPAL_HEADER);
                if let Some(client) = headers.remove(CLIENT_HEADER) {
                    headers.insert(header::USER_AGENT, client);
                }
                request.extensions_mut().insert(HttpCaller { actor, trace });
                http.oneshot(request).await.unwrap_or_else(|never: Infallible| match never {}).map(Body::new)
            }
            Err(error) => status(error).into_http(),
        };
        metrics::rpc(self.shared.role, "HTTP", response.status().as_str(), started.elapsed());
        response
    }

    fn caller(&self, request: &HttpRequest, rule: &'static MethodRule, trace: &TraceContext) -> Result<Caller> {
        let actor = self.actor(request)?;
        let caller = Caller { actor, rule, trace_id: trace.trace_id(), refusals: self.shared.refusals.clone() };
        caller.admitted()?;
        Ok(caller)
    }

    async fn handle(self, mut request: HttpRequest, rule: &'static MethodRule) -> HttpResponse {
        let started = Instant::now();
        let incoming = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let trace = incoming.and_then(TraceContext::parse).unwrap_or_else(TraceContext::fresh);
        // At debug level: without export or MI_LOG=mi::rpc=debug a span costs nothing.
        let span = tracing::debug_span!(target: "mi::rpc", "rpc", role = self.shared.role, method = rule.path);
        let trace = trace.adopt(&span);
        let admitted = self.caller(&request, rule, &trace).and_then(|caller| {
            request.extensions_mut().insert(caller);
            deadline::parse(request.headers())
        });
        let time_left = match admitted {
            Ok(time_left) => time_left,
            Err(error) => return self.finish_unary(rule, started, status(error).into_http()),
        };
        if rule.streaming {
            request = request.map(|body| Body::new(body.map_err(given_up)));
        }
        let call = self.routes.clone().oneshot(request).instrument(span);
        let response = match time_left {
            None => call.await,
            Some(limit) => match tokio::time::timeout(limit, call).await {
                Ok(response) => response,
                Err(_) => return self.finish_unary(rule, started, status(deadline::exceeded()).into_http()),
            },
        };
        let mut response = response.unwrap_or_else(|never: Infallible| match never {}).map(Body::new);
        mend_too_large(response.headers_mut());
        if code_name(response.headers().get("grpc-status")) == "INTERNAL" {
            let (role, trace_id) = (self.shared.role, trace.trace_id());
            tracing::error!(target: "mi::rpc", role, method = rule.path, trace_id, "answered INTERNAL; the cause is above");
        }
        if !rule.streaming || response.headers().contains_key("grpc-status") {
            return self.finish_unary(rule, started, response);
        }
        let until = time_left.map(|limit| limit.saturating_sub(started.elapsed()));
        let watch = Watch {
            role: self.shared.role,
            path: rule.path,
            started,
            left: until,
            shutdown: end_of(rule, &self.shared.tasks),
            // Whoever is outside is watched at the edge.
            revoked: None,
        };
        response.map(|body| Body::new(WatchedBody::new(body, watch, ())))
    }

    fn finish_unary(&self, rule: &MethodRule, started: Instant, response: HttpResponse) -> HttpResponse {
        metrics::rpc(self.shared.role, rule.path, code_name(response.headers().get("grpc-status")), started.elapsed());
        response
    }
}

impl Service<HttpRequest> for Guard {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let guard = self.clone();
        Box::pin(async move {
            let Some(rule) = rules::rule(request.uri().path()) else {
                if let Some(http) = guard.http.clone() {
                    return Ok(guard.handle_http(request, http).await);
                }
                return Ok(Status::unimplemented("there is no such method; `grpcurl HOST list` shows what there is")
                    .into_http());
            };
            Ok(guard.handle(request, rule).await)
        })
    }
}

/// The name of a `grpc-status` value; a missing one is success, as unary answers carry theirs in the trailers.
pub fn code_name(value: Option<&HeaderValue>) -> &'static str {
    match value.map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes())) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What a handler reads when its client gives up. As CANCELLED, tonic would show it as the end of what the client sends,
/// and half of that would pass for the whole.
fn given_up(status: Status) -> Status {
    match status.code() {
        Code::Cancelled => Status::unavailable("the client gave up before it had sent all"),
        _ => status,
    }
}

/// What an open call answers whose credential dies.
pub fn revoked() -> Error {
    Error::unauthenticated("the credential was revoked while the call was open")
}

/// When a stream is ended because its process ends: at once where its caller resumes it, else with all the time that there is.
pub fn end_of(rule: &MethodRule, tasks: &Tasks) -> CancellationToken {
    if rule.resumes { tasks.closing() } else { tasks.shutdown() }
}

/// What a stream's body is watched for.
pub struct Watch {
    /// Role that counts it.
    pub role: &'static str,
    /// Its method.
    pub path: &'static str,
    /// When the call began.
    pub started: Instant,
    /// Time left of its deadline; none: it may last.
    pub left: Option<Duration>,
    /// Ends it with UNAVAILABLE, so that the client reconnects elsewhere.
    pub shutdown: CancellationToken,
    /// Ends it with UNAUTHENTICATED: the caller's credential was revoked.
    pub revoked: Option<CancellationToken>,
}

/// The body of a stream: ends at the deadline and at shutdown, and is counted when it ends, however it ends. Keeps what
/// the stream holds until then.
pub struct WatchedBody<H = ()> {
    body: Body,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    done: bool,
    code: &'static str,
    role: &'static str,
    path: &'static str,
    started: Instant,
    _open: OpenStream,
    _held: H,
}

impl<H> WatchedBody<H> {
    /// Watches a body.
    pub fn new(body: Body, watch: Watch, held: H) -> Self {
        Self {
            body,
            deadline: watch.left.map(|left| Box::pin(tokio::time::sleep(left))),
            shutdown: Box::pin(watch.shutdown.cancelled_owned()),
            revoked: watch.revoked.map(|revoked| Box::pin(revoked.cancelled_owned())),
            done: false,
            // What it is when nobody reads it to the end.
            code: "CANCELLED",
            role: watch.role,
            path: watch.path,
            started: watch.started,
            _open: metrics::open_stream(watch.role, watch.path),
            _held: held,
        }
    }

    fn end(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut trailers = HeaderMap::new();
        let wire = unlogged(error);
        self.done = true;
        self.code = code_name(Some(&HeaderValue::from(wire.code() as i32)));
        self.body = Body::empty();
        match wire.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }
}

impl<H: Unpin> http_body::Body for WatchedBody<H> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if self.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            return self.end(deadline::exceeded());
        }
        if self.shutdown.as_mut().poll(cx).is_ready() {
            return self.end(Error::unavailable("the platform is shutting down; connect again"));
        }
        if self.revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
            return self.end(revoked());
        }
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        match &mut frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    mend_too_large(trailers);
                    self.code = code_name(trailers.get("grpc-status"));
                }
            }
            Poll::Ready(Some(Err(_))) => self.code = "UNKNOWN",
            Poll::Ready(None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl<H> Drop for WatchedBody<H> {
    fn drop(&mut self) {
        metrics::rpc(self.role, self.path, self.code, self.started.elapsed());
    }
}
