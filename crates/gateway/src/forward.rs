//! One call through the edge: found, timed, traced, authenticated, limited, and forwarded as it came.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use mi_base::{
    Tasks, metrics,
    trace::{TRACEPARENT, TraceContext},
};
use mi_kernel::{Actor, Result};
use mi_proto::rules::MethodRule;
use mi_rpc::{
    Caller, HttpRequest, HttpResponse, Refusals, SOURCE_HEADER, compression,
    connections::network,
    deadline::{self, GRPC_TIMEOUT},
    guard::{self, Watch, WatchedBody, code_name, end_of},
    status::{mend_too_large, status},
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::ServiceExt;
use tracing::Instrument;

use crate::{
    auth::Authenticator,
    config::{Backends, GatewayConfig},
    limits::Limiter,
    revocation::{Held, Revocations},
    route::{self, Target},
};

pub(crate) const ROLE: &str = "gateway";
/// How much earlier than asked our deadlines end: tonic has timers of its own at the listener and at the channel, which
/// would answer something else.
const HEAD_START: Duration = Duration::from_millis(2);

/// Everything that a call needs.
pub(crate) struct Forwarder {
    pub(crate) config: GatewayConfig,
    pub(crate) auth: Authenticator,
    pub(crate) limits: Limiter,
    pub(crate) revocations: Revocations,
    pub(crate) refusals: Refusals,
    pub(crate) own: axum::Router,
    pub(crate) backends: Backends,
    pub(crate) tasks: Tasks,
}

impl Forwarder {
    /// Answers a gRPC call.
    pub(crate) async fn handle(self: Arc<Self>, request: HttpRequest) -> HttpResponse {
        let Some((rule, target)) = route::find(request.uri().path()) else {
            return Status::unimplemented("there is no such method; `grpcurl HOST list` shows what there is")
                .into_http();
        };
        let incoming = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let trace = incoming.and_then(TraceContext::parse).unwrap_or_else(TraceContext::fresh);
        let span = tracing::debug_span!(target: "mi::rpc", "rpc", role = ROLE, method = rule.path);
        let trace = trace.adopt(&span);
        self.run(request, rule, target, trace).instrument(span).await
    }

    async fn run(
        &self,
        mut request: HttpRequest,
        rule: &'static MethodRule,
        target: Target,
        trace: TraceContext,
    ) -> HttpResponse {
        let started = Instant::now();
        let time_left = self.time_left(request.headers(), rule);
        let outcome = match time_left {
            Err(error) => Err(error),
            Ok(time_left) => {
                prepare(request.headers_mut(), &trace, time_left);
                *request.version_mut() = Version::HTTP_2;
                let call = self.pass(request, rule, target, &trace);
                let answered = match time_left {
                    None => call.await,
                    Some(limit) => within(limit, call).await,
                };
                answered.map(|(response, open)| (response, open, time_left))
            }
        };
        let count = |response: &HttpResponse| {
            let code = code_name(response.headers().get("grpc-status"));
            metrics::rpc(ROLE, rule.path, code, started.elapsed());
        };
        let (response, open, time_left) = match outcome {
            Ok(answered) => answered,
            Err(error) => {
                let response = status(error).into_http();
                count(&response);
                return response;
            }
        };
        if !rule.streaming || response.headers().contains_key("grpc-status") {
            count(&response);
            return response;
        }
        let watch = Watch {
            role: ROLE,
            path: rule.path,
            started,
            left: time_left.map(|limit| limit.saturating_sub(started.elapsed())),
            shutdown: end_of(rule, &self.tasks),
            revoked: open.held.as_ref().map(Held::revoked),
        };
        response.map(|body| Body::new(WatchedBody::new(body, watch, open)))
    }

    /// Unary calls always have a deadline, streams only what the client asked for.
    fn time_left(&self, headers: &HeaderMap, rule: &MethodRule) -> Result<Option<Duration>> {
        let asked = deadline::parse(headers)?;
        Ok(match rule.streaming {
            true => asked,
            false => Some(asked.unwrap_or(self.config.default_deadline).min(self.config.max_deadline)),
        })
    }

    async fn pass(
        &self,
        mut request: HttpRequest,
        rule: &'static MethodRule,
        target: Target,
        trace: &TraceContext,
    ) -> Result<(HttpResponse, Open)> {
        let address = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let address = address.map(|address| address.ip());
        let identity = match target {
            Target::Own => self.auth.anonymous(),
            Target::Role(_) => match self.auth.authenticate(request.headers()).await {
                Ok(identity) => identity,
                Err(refused) => {
                    // Whoever guesses is answered, and told of, no more often than anybody without a credential.
                    drop(self.limits.admit(&Actor::Anonymous, address).await?);
                    self.auth.tell(request.headers(), &refused, address.map(network));
                    return Err(refused);
                }
            },
        };
        let permit = self.limits.admit(&identity.actor, address).await?;
        strip(request.headers_mut());
        compression::negotiate(request.headers_mut());
        if let Some(Ok(source)) = address.map(|address| HeaderValue::try_from(network(address).to_string())) {
            request.headers_mut().insert(HeaderName::from_static(SOURCE_HEADER), source);
        }
        let role = match target {
            Target::Own => {
                let response = self.own.clone().oneshot(request).await;
                let mut response = response.unwrap_or_else(|never| match never {}).map(Body::new);
                mend_too_large(response.headers_mut());
                return Ok((response, Open { _permit: permit, held: None }));
            }
            Target::Role(role) => role,
        };
        let (actor, refusals) = (Actor::clone(&identity.actor), self.refusals.clone());
        Caller { actor, rule, trace_id: trace.trace_id(), refusals }.admitted()?;
        let Some(credential) = identity.credential.filter(|_| rule.streaming) else {
            let response = self.backends.of(role).call(identity.actor, request).await;
            return Ok((response, Open { _permit: permit, held: None }));
        };
        // A client may stream for long before there is an answer, and after it stopped reading the answers.
        let held = self.revocations.hold(&credential);
        let request = request.map(|body| Body::new(held.guard(body)));
        let response = tokio::select! {
            response = self.backends.of(role).call(identity.actor, request) => response,
            () = held.revoked().cancelled_owned() => return Err(guard::revoked()),
        };
        Ok((response, Open { _permit: permit, held: Some(held) }))
    }
}

/// What an open call holds.
struct Open {
    _permit: OwnedSemaphorePermit,
    held: Option<Held>,
}

/// Ends the call a moment before its time is up. What came back as unreachable after that was a timer of tonic's.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<(HttpResponse, T)>>,
) -> Result<(HttpResponse, T)> {
    let (limit, started) = (limit - HEAD_START.min(limit / 4), Instant::now());
    match tokio::time::timeout(limit, call).await {
        Ok(Ok((response, _))) if started.elapsed() >= limit && is_unavailable(&response) => Err(deadline::exceeded()),
        Ok(answered) => answered,
        Err(_) => Err(deadline::exceeded()),
    }
}

fn is_unavailable(response: &HttpResponse) -> bool {
    code_name(response.headers().get("grpc-status")) == "UNAVAILABLE"
}

/// Sets what the role needs to know.
fn prepare(headers: &mut HeaderMap, trace: &TraceContext, time_left: Option<Duration>) {
    let mut set = |name, value: String| {
        // Hex digits, digits and units: always a header value.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set(TRACEPARENT, trace.header());
    if let Some(limit) = time_left {
        set(GRPC_TIMEOUT, deadline::format(limit));
    }
}

/// Removes what must not get past the edge: our own headers, which only we may set, credentials, and what concerns one
/// connection only.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let stays_here = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("mi-")
            || matches!(
                name,
                "authorization"
                    | "proxy-authorization"
                    | "cookie"
                    | "connection"
                    | "keep-alive"
                    | "proxy-connection"
                    | "transfer-encoding"
                    | "upgrade"
                    | "host"
            )
    };
    let found: Vec<HeaderName> = headers.keys().filter(stays_here).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}
