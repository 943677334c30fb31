//! A listener and what it serves: one builder for the gateway and every role.
//!
//! Built on hyper, as tonic's own server is, and not on that: tonic ends calls by `grpc-timeout` itself at the listener, with
//! another answer than ours, and whichever timer is first wins.

use std::{
    convert::Infallible,
    error::Error as StdError,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use mi_base::{Tasks, metrics};
use mi_kernel::{Error, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    transport::server::{Connected, TcpConnectInfo},
};
use tower::{Service, ServiceExt};

use crate::{
    Connections, HttpRequest, HttpResponse,
    connections::{Call, Connection, Due, Limit},
};

/// How long open calls may take to end once the process closes.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a client has to hear that its connection ends for a limit of time.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a connection of HTTP/1.1 may take for the head of its next request, and so how long it is kept without one.
const NEXT_HEAD: Duration = Duration::from_secs(30);
/// Largest frame that may be sent to us. A file comes in messages of up to 1 MiB, and in frames of 16 KiB, which are the
/// default, each takes 64 wake-ups on both sides.
pub(crate) const FRAME: u32 = 256 << 10;
/// After a failed accept, such as for want of file descriptors, which need a moment to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds a listener; port 0 picks a free one.
///
/// # Errors
/// `FailedPrecondition` when the port is in use or the address is not ours.
pub async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "it is in use; stop what listens there, or choose another port (0 picks a free one)"
            }
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose a higher one",
            _ => "check that the address belongs to this machine",
        };
        Error::precondition("CANNOT_LISTEN", format!("cannot listen on {address} ({flag}): {hint}")).caused_by(error)
    })
}

/// A bound listener and how it is served.
pub struct Listener {
    /// In logs and metrics.
    pub name: &'static str,
    /// Where it listens.
    pub socket: TcpListener,
    /// With it, nothing but TLS is spoken.
    pub tls: Option<TlsAcceptor>,
    /// Take HTTP/1.1, too: for gRPC-Web, and for what is not gRPC.
    pub http1: bool,
    /// What its connections count among.
    pub connections: Connections,
}

/// Serves until the process closes, then lets open calls end for at most [`DRAIN`]. A connection ends as its limits say; its client
/// is told beforehand where the protocol has a way. Requests carry the peer's address as tonic's `TcpConnectInfo`.
pub fn serve<S>(tasks: &Tasks, listener: Listener, service: S)
where
    S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let shutdown = tasks.closing();
    let Listener { name, socket, tls, http1, connections } = listener;
    let builder = builder(http1);
    tasks.spawn_door(name, async move {
        // Dropped at the end, and with it what the drain time was too short for.
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                Some(_) = open.join_next(), if !open.is_empty() => continue,
                () = shutdown.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(target: "mi::rpc", listener = name, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = match connections.admit(name, address.ip()) {
                Ok(connection) => Arc::new(connection),
                Err(limit) => {
                    // All that are open have calls under way. A flood must not flood the log.
                    metrics::refused_connection(name, limit.as_str());
                    tracing::debug!(target: "mi::rpc", listener = name, limit = limit.as_str(), "a connection is refused");
                    continue;
                }
            };
            // Frames are small and answers are waited for: nothing to gain from holding them back.
            let _ = stream.set_nodelay(true);
            let task = ConnectionTask { name, builder: builder.clone(), connection, shutdown: shutdown.clone() };
            let (tls, service) = (tls.clone(), service.clone());
            open.spawn(async move {
                if let Err(error) = task.serve(stream, tls, service).await {
                    tracing::debug!(target: "mi::rpc", listener = name, error, "a connection broke");
                }
            });
        }
        drop(socket);
        let ended = async { while open.join_next().await.is_some() {} };
        if timeout(DRAIN, ended).await.is_err() {
            tracing::warn!(target: "mi::rpc", listener = name, "connections cut after the drain time");
        }
    });
}

/// Serves what is not gRPC, over HTTP/1.1 and HTTP/2, in the same way.
pub fn serve_http(tasks: &Tasks, listener: Listener, router: axum::Router) {
    let service =
        ServiceExt::<HttpRequest>::map_response(router, |response: axum::response::Response| response.map(Body::new));
    serve(tasks, listener, service);
}

/// How one connection goes.
enum Phase {
    /// Until its time is up, as far as calls keep it not.
    Open,
    /// Its client was told that it ends.
    Ending,
    /// The same, and calls keep it no longer: it makes room for another one.
    Leaving,
    /// The process ends; how long that may take is decided for all connections together.
    Draining,
}

/// What serves one connection.
struct ConnectionTask {
    name: &'static str,
    builder: auto::Builder<TokioExecutor>,
    connection: Arc<Connection>,
    shutdown: CancellationToken,
}

type Ended = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

impl ConnectionTask {
    async fn serve<S>(self, stream: TcpStream, tls: Option<TlsAcceptor>, service: S) -> Ended
    where
        S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let peer = stream.connect_info();
        let Some(tls) = tls else {
            return self.speak(stream, peer, service).await;
        };
        let shaken = tokio::select! {
            shaken = timeout_at(self.connection.deadline(), tls.accept(stream)) => shaken,
            () = self.connection.ousted() => return Ok(()),
            () = self.shutdown.cancelled() => return Ok(()),
        };
        match shaken {
            Ok(stream) => self.speak(stream?, peer, service).await,
            Err(late) => {
                metrics::refused_connection(self.name, Limit::FirstRequest.as_str());
                Err(late.into())
            }
        }
    }

    async fn speak<I, S>(self, io: I, peer: TcpConnectInfo, service: S) -> Ended
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let calls = Arc::clone(&self.connection);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let call = calls.call();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            let answer = service.clone().oneshot(request);
            async move { answer.await.map(|response| response.map(|body| Answered { body, _call: call })) }
        });
        let mut spoken = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        let mut timer = pin!(sleep_until(self.connection.first_look()));
        let mut phase = Phase::Open;
        loop {
            let is_draining = matches!(phase, Phase::Draining);
            let may_be_ousted = matches!(phase, Phase::Open | Phase::Ending);
            tokio::select! {
                ended = spoken.as_mut() => return ended,
                () = self.shutdown.cancelled(), if !is_draining => {
                    spoken.as_mut().graceful_shutdown();
                    phase = Phase::Draining;
                }
                () = self.connection.ousted(), if may_be_ousted => {
                    if !self.connection.takes_leave() {
                        return Ok(());
                    }
                    spoken.as_mut().graceful_shutdown();
                    phase = Phase::Leaving;
                    timer.as_mut().reset(Instant::now() + FAREWELL);
                }
                () = timer.as_mut(), if !is_draining => {
                    let now = Instant::now();
                    match (&phase, self.connection.due(now)) {
                        (Phase::Open, Due::Later(then)) => timer.as_mut().reset(then),
                        (Phase::Open, Due::Now(limit)) => {
                            metrics::refused_connection(self.name, limit.as_str());
                            spoken.as_mut().graceful_shutdown();
                            phase = Phase::Ending;
                            timer.as_mut().reset(now + FAREWELL);
                        }
                        // A call came in before its client heard of the end.
                        (Phase::Ending, _) if self.connection.is_used() => timer.as_mut().reset(now + FAREWELL),
                        _ => return Ok(()),
                    }
                }
            }
        }
    }
}

/// The body of an answer, which keeps its call open.
struct Answered {
    body: Body,
    _call: Call,
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How connections are spoken to.
fn builder(http1: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .initial_connection_window_size(4 << 20)
        .initial_stream_window_size(1 << 20)
        .max_frame_size(FRAME)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_header_list_size(16 << 10);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(NEXT_HEAD);
    if http1 { builder } else { builder.http2_only() }
}
