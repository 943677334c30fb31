//! How a role is reached: in this process, or over HTTP/2 on another machine. Callers see one type.

use std::{
    convert::Infallible,
    error::Error as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use http::{HeaderValue, header};
use mi_base::trace::{TRACEPARENT, TraceContext};
use mi_kernel::{Actor, Clock, Error, Result};
use tonic::{
    TimeoutExpired,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tower::{Service, ServiceExt};

use crate::{
    Guard, HttpRequest, HttpResponse, PrincipalKey, deadline, guard::LocalActor, principal::PRINCIPAL_HEADER,
    server::FRAME, status, unsent::Unsent,
};

/// Connections to one remote role: one HTTP/2 connection serialises its frames behind a lock, several do not.
const CONNECTIONS: usize = 4;
/// How long a call between roles may take when its caller set no deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// How often a call is sent that nobody has begun to handle: a process that ends tells all of the connections to it at once, and
/// each is found out by the call that takes it.
const TRIES: usize = CONNECTIONS + 1;
/// No more tries after that long: who cannot be reached is waited for once.
const ELSEWHERE: Duration = Duration::from_secs(3);

/// Header of the client's own name, on the way to a role elsewhere.
pub(crate) const CLIENT_HEADER: &str = "mi-user-agent";

/// The way to one role.
#[derive(Clone)]
pub struct Transport(Kind);

#[derive(Clone)]
enum Kind {
    Local(Box<Guard>),
    Later(Arc<OnceLock<Guard>>),
    Remote(Arc<Remote>),
}

/// Where a role of this process will be, for roles that call each other: one of them has to be built first.
pub struct Promised(Arc<OnceLock<Guard>>);

impl Promised {
    /// The role is there now.
    pub fn keep(self, guard: Guard) {
        // Nobody else has this cell to set.
        let _ = self.0.set(guard);
    }
}

struct Remote {
    channels: Vec<Channel>,
    next: AtomicUsize,
    key: PrincipalKey,
    clock: Arc<dyn Clock>,
}

impl Transport {
    /// A role of this process.
    pub fn local(guard: Guard) -> Self {
        Self(Kind::Local(Box::new(guard)))
    }

    /// A role of this process that is built later; until then its calls answer UNAVAILABLE.
    pub fn promised() -> (Self, Promised) {
        let cell = Arc::new(OnceLock::new());
        (Self(Kind::Later(cell.clone())), Promised(cell))
    }

    /// A role at `https://host:port`, or `http://` where no TLS is given. Connects at the first call, and again whenever a
    /// connection is lost.
    ///
    /// # Errors
    /// `Invalid` when the URL does not parse. Must be called inside a tokio runtime.
    pub fn remote(
        field: &'static str,
        url: &str,
        tls: Option<ClientTlsConfig>,
        key: PrincipalKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let invalid = || Error::invalid(field, format!("must be a URL such as {scheme}://127.0.0.1:7410"));
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| invalid().caused_by(error))?
            .connect_timeout(Duration::from_secs(3))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            // Answers that are not read fill no more of a connection than their own share, for as many as that are.
            .initial_connection_window_size(64 << 20)
            .initial_stream_window_size(256 << 10)
            .max_frame_size(FRAME)
            .tcp_nodelay(true);
        if endpoint.uri().scheme_str() != Some(scheme) {
            return Err(invalid());
        }
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).map_err(|error| invalid().caused_by(error))?;
        }
        let channels = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
        let next = AtomicUsize::new(0);
        Ok(Self(Kind::Remote(Arc::new(Remote { channels, next, key, clock }))))
    }

    /// Sends a call on behalf of the actor. What fails on the way answers UNAVAILABLE.
    pub async fn call(&self, actor: Arc<Actor>, mut request: HttpRequest) -> HttpResponse {
        match &self.0 {
            Kind::Local(guard) => local(guard, actor, request).await,
            Kind::Later(cell) => match cell.get() {
                Some(guard) => local(guard, actor, request).await,
                None => status(Error::unavailable("the platform is starting; try again")).into_http(),
            },
            Kind::Remote(remote) => {
                let token = remote.key.sign(&actor, remote.clock.now());
                if let Ok(token) = HeaderValue::try_from(token) {
                    request.headers_mut().insert(PRINCIPAL_HEADER, token);
                }
                // Tonic would add its own name to the client's.
                if let Some(client) = request.headers_mut().remove(header::USER_AGENT) {
                    request.headers_mut().insert(CLIENT_HEADER, client);
                }
                remote.send(Unsent::new(request)).await
            }
        }
    }
}

impl Remote {
    async fn send(&self, call: Unsent) -> HttpResponse {
        let until = Instant::now() + ELSEWHERE;
        let mut tries = 0;
        loop {
            tries += 1;
            let index = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
            match self.channels[index].clone().oneshot(call.request()).await {
                Ok(response) => return response,
                // Tonic watches the deadline of a channel itself.
                Err(error) if error.source().is_some_and(|cause| cause.is::<TimeoutExpired>()) => {
                    return status(deadline::exceeded()).into_http();
                }
                // The other end was told to go when the call was about to: another process takes it.
                Err(error) if tries < TRIES && call.is_unsent(&error) && Instant::now() < until => {}
                Err(error) => {
                    let told = Error::unavailable("a part of the platform cannot be reached; try again");
                    return status(told.caused_by(error)).into_http();
                }
            }
        }
    }
}

async fn local(guard: &Guard, actor: Arc<Actor>, mut request: HttpRequest) -> HttpResponse {
    request.extensions_mut().insert(LocalActor(actor));
    let response = Guard::clone(guard).oneshot(request).await;
    response.unwrap_or_else(|never: Infallible| match never {})
}

/// A role as another role calls it: what the generated clients of `mi.internal.v1` are built on.
#[derive(Clone)]
pub struct RoleClient {
    transport: Transport,
    actor: Arc<Actor>,
}

impl RoleClient {
    /// Calls go out as the role `own`.
    pub fn new(transport: Transport, own: &str) -> Self {
        Self { transport, actor: Arc::new(Actor::Service { role: own.to_owned() }) }
    }
}

impl Service<HttpRequest> for RoleClient {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        let (transport, actor) = (self.transport.clone(), self.actor.clone());
        Box::pin(async move {
            let headers = request.headers_mut();
            if !headers.contains_key(deadline::GRPC_TIMEOUT)
                && let Ok(value) = HeaderValue::try_from(deadline::format(DEFAULT_DEADLINE))
            {
                headers.insert(deadline::GRPC_TIMEOUT, value);
            }
            if !headers.contains_key(TRACEPARENT) {
                let trace = TraceContext::fresh().adopt(&tracing::Span::current());
                if let Ok(value) = HeaderValue::try_from(trace.header()) {
                    headers.insert(TRACEPARENT, value);
                }
            }
            Ok(transport.call(actor, request).await)
        })
    }
}
