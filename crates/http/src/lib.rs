//! The doors beside gRPC, on the gateway's port: Connect, REST and MCP in JSON.
//!
//! They have no rule of their own. Each request becomes a gRPC call of the gateway in this process, with the credential of
//! whoever sent it, and what a door knows of messages it has from their descriptors.

mod body;
mod byte_path;
mod call;
mod connect;
mod json;
mod mcp;
mod methods;
mod refusal;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, header::CONTENT_TYPE};
use mi_rpc::{HttpRequest, HttpResponse};
use tower::Service;

use crate::{byte_path::BytePath, mcp::Mcp};

/// The doors and the gateway behind them, as one service for [`mi_rpc::server::serve`].
#[derive(Clone)]
pub struct Doors<G> {
    gateway: G,
    path: BytePath,
    mcp: Mcp,
}

impl<G> Doors<G>
where
    G: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
    G::Future: Send + 'static,
{
    /// Puts the doors before a gateway.
    pub fn new(gateway: G) -> Self {
        let path = BytePath::new(gateway.clone());
        Self { gateway, mcp: Mcp::new(path.clone(), Vec::new()), path }
    }
}

/// Which way a request takes.
enum Way {
    /// gRPC, gRPC-Web, and what agents ask of models: the gateway knows all of it.
    Gateway,
    Connect,
    Mcp,
}

impl Way {
    fn of(request: &HttpRequest) -> Self {
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
            return Self::Gateway;
        }
        match request.uri().path() {
            path if path.starts_with("/mi.") => Self::Connect,
            mcp::PATH => Self::Mcp,
            _ => Self::Gateway,
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, Infallible>> + Send>>;

impl<G> Service<HttpRequest> for Doors<G>
where
    G: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
    G::Future: Send + 'static,
{
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.gateway.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Answer {
        match Way::of(&request) {
            Way::Gateway => Box::pin(self.gateway.call(request)),
            Way::Connect => {
                let path = self.path.clone();
                Box::pin(async move { Ok(connect::serve(&path, request).await) })
            }
            Way::Mcp => {
                let mcp = self.mcp.clone();
                Box::pin(async move { Ok(mcp.serve(request).await) })
            }
        }
    }
}
