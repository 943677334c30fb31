//! What asks whether the agent is alive and ready, where something does: a small door for a cluster's probes.
//!
//! It is served by the one thread that does everything else, so an answer says that this thread goes on.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};

use crate::error::AgentError;

/// Connections at once; whoever wants another one waits.
const CONNECTIONS: usize = 16;
/// How long a connection may take to say what it wants.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of the headers of one request, the least that there can be.
const HEADER_BYTES: usize = 8 << 10;
/// Between tries when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The door, and what it says.
pub(crate) struct Health {
    listener: Option<TcpListener>,
    ready: Arc<AtomicBool>,
}

impl Health {
    /// Listens at the address; none: nobody asks. To be called before the agent gives up listening.
    pub(crate) async fn bind(address: Option<SocketAddr>) -> Result<Self, AgentError> {
        let listener = match address {
            Some(address) => {
                let failed = |source| AgentError::Health { address, source };
                Some(TcpListener::bind(address).await.map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { listener, ready: Arc::default() })
    }

    /// Where to say that the agent is ready, or no longer.
    pub(crate) fn ready(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(&self) -> Infallible {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if running.len() < CONNECTIONS => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    };
                    let ready = self.ready.clone();
                    let answer = move |request| {
                        std::future::ready(Ok::<_, Infallible>(answer(&request, ready.load(Ordering::Relaxed))))
                    };
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
                    server.max_buf_size(HEADER_BYTES).keep_alive(false);
                    let connection = server.serve_connection(TokioIo::new(stream), service_fn(answer));
                    running.spawn(async move { drop(connection.await) });
                }
                Some(_) = running.join_next(), if !running.is_empty() => {}
            }
        }
    }
}

fn answer(request: &Request<Incoming>, ready: bool) -> Response<String> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "alive\n"),
        (&Method::GET | &Method::HEAD, "/readyz") if ready => (StatusCode::OK, "ready\n"),
        (&Method::GET | &Method::HEAD, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => (StatusCode::NOT_FOUND, "ask for /livez or /readyz\n"),
    };
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response
}
