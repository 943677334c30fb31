//! A listener and what it serves: one builder for the gateway and every role.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use mi_base::Tasks;
use mi_kernel::{Error, Result};
use tokio::net::TcpListener;
use tonic::{service::Routes, transport::Server};
use tower::Service;

use crate::{HttpRequest, HttpResponse};

/// How long open calls may take to end once shutdown has begun.
pub const DRAIN: Duration = Duration::from_secs(10);

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
pub fn serve<S>(tasks: &Tasks, name: &'static str, listener: TcpListener, http1: bool, service: S)
where
    S: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    use tower::ServiceExt;
    let service = service.map_request(|request: http::Request<axum::body::Body>| request.map(tonic::body::Body::new));
    let routes = Routes::from(axum::Router::new().fallback_service(service));
    let shutdown = tasks.shutdown();
    let begun = shutdown.clone();
    tasks.spawn_to_end(name, async move {
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = Server::builder()
            .accept_http1(http1)
            .max_concurrent_streams(1024)
            .initial_connection_window_size(4 << 20)
            .initial_stream_window_size(1 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .http2_max_header_list_size(16 << 10)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, async move { begun.cancelled().await });
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            result = serving => if let Err(error) = result {
                tracing::error!(target: "mi::rpc", listener = name, %error, "the listener failed");
                shutdown.cancel();
            },
            () = drained => tracing::warn!(target: "mi::rpc", listener = name, "connections cut after the drain time"),
        }
    });
}
