//! A listener and what it serves: one builder for the gateway and every role.
//!
//! Built on hyper, as tonic's own server is, and not on that: tonic ends calls by `grpc-timeout` itself at the listener, with
//! another answer than ours, and whichever timer is first wins.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use mi_base::Tasks;
use mi_kernel::{Error, Result};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{body::Body, transport::server::Connected};
use tower::{Service, ServiceExt};

use crate::{HttpRequest, HttpResponse};

/// How long open calls may take to end once shutdown has begun.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
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

/// Serves until shutdown, then lets open calls end for at most [`DRAIN`]. HTTP/1.1 is taken for gRPC-Web when asked for.
/// With `tls`, nothing but TLS is spoken. Requests carry the peer's address as tonic's `TcpConnectInfo`.
pub fn serve<S>(
    tasks: &Tasks,
    name: &'static str,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    http1: bool,
    service: S,
) where
    S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let shutdown = tasks.shutdown();
    let builder = connections(http1);
    tasks.spawn_to_end(name, async move {
        let open_calls = GracefulShutdown::new();
        // Dropped at the end, and with it what the drain time was too short for.
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = open.join_next(), if !open.is_empty() => continue,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(target: "mi::rpc", listener = name, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Frames are small and answers are waited for: nothing to gain from holding them back.
            let _ = stream.set_nodelay(true);
            let peer = stream.connect_info();
            let service = service.clone().map_request(move |request: http::Request<hyper::body::Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer.clone());
                request
            });
            let (builder, watcher, tls) = (builder.clone(), open_calls.watcher(), tls.clone());
            let service = TowerToHyperService::new(service);
            open.spawn(async move {
                let ended = match tls {
                    None => watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await
                        }
                        Ok(Err(error)) => Err(error.into()),
                        Err(late) => Err(late.into()),
                    },
                };
                if let Err(error) = ended {
                    tracing::debug!(target: "mi::rpc", listener = name, error, "a connection broke");
                }
            });
        }
        drop(listener);
        if tokio::time::timeout(DRAIN, open_calls.shutdown()).await.is_err() {
            tracing::warn!(target: "mi::rpc", listener = name, "connections cut after the drain time");
        }
    });
}

/// How connections are spoken to.
fn connections(http1: bool) -> auto::Builder<TokioExecutor> {
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
    // A client that opens a connection and says nothing must not keep it for ever.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    if http1 { builder } else { builder.http2_only() }
}
