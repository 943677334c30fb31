//! The doors beside gRPC, on the gateway's port: Connect, REST and MCP in JSON, and A2A.
//!
//! They have no rule of their own. Each request becomes a gRPC call of the gateway in this process, with the credential of
//! whoever sent it, and what a door knows of messages it has from their descriptors.

mod a2a;
mod body;
mod byte_path;
mod call;
mod compat;
mod connect;
mod credential;
mod encodings;
#[doc(hidden)]
pub mod fuzzing;
mod json;
mod mcp;
mod methods;
mod openapi;
mod origins;
mod refusal;
mod rest;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderValue,
    header::{ACCEPT_ENCODING, CONTENT_TYPE, ORIGIN},
};
use mi_kernel::{Error, ErrorKind};
use mi_rpc::{HttpRequest, HttpResponse, status};
use tonic::Status;
use tower::{Service, ServiceExt};
use tower_http::cors::Cors;

use crate::{a2a::A2a, byte_path::BytePath, mcp::Mcp};
pub use crate::{
    a2a::{CardIssuer, CardKey},
    origins::Origins,
};

/// The doors and the gateway behind them, as one service for [`mi_rpc::server::serve`].
#[derive(Clone)]
pub struct Doors {
    entrance: Entrance,
    /// The same for pages of the web, which hear whether they may read an answer.
    web: Cors<Entrance>,
}

impl Doors {
    /// Puts the doors before a gateway, for programs and for pages of these origins, and has the issuer sign the cards of agents.
    pub fn new<G>(gateway: G, origins: Origins, issuer: CardIssuer) -> Self
    where
        G: Service<HttpRequest, Response = HttpResponse, Error = Infallible> + Clone + Send + Sync + 'static,
        G::Future: Send + 'static,
    {
        let gateway = BytePath::new(gateway);
        let (mcp, a2a) = (Mcp::new(gateway.clone(), origins.clone()), A2a::new(gateway.clone(), issuer));
        let entrance = Entrance { gateway, mcp, a2a };
        Self { web: origins.layered(entrance.clone()), entrance }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, Infallible>> + Send>>;

impl Service<HttpRequest> for Doors {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Answer {
        match request.headers().contains_key(ORIGIN) {
            false => self.entrance.call(request),
            true => Box::pin(self.web.clone().oneshot(request)),
        }
    }
}

/// The description of REST in OpenAPI 3.1, which is served at `/openapi.json`.
pub fn openapi() -> &'static str {
    &openapi::TEXT
}

/// Which way a request takes.
enum Way {
    /// gRPC, gRPC-Web, and what agents ask of models: the gateway knows all of it.
    Gateway,
    OpenApi,
    /// gRPC of another protocol than the gateway's.
    A2aGrpc,
    Door(Door),
}

/// A way in that makes calls of the gateway.
#[derive(Clone, Copy)]
enum Door {
    Connect,
    Rest,
    /// The routes of the hosted product.
    Compat,
    Mcp,
    A2a,
}

impl Way {
    fn of(request: &HttpRequest) -> Self {
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
            return match a2a::serves_grpc(request.uri().path()) {
                true => Self::A2aGrpc,
                false => Self::Gateway,
            };
        }
        match request.uri().path() {
            path if path.starts_with("/mi.") => Self::Door(Door::Connect),
            path if path.starts_with("/llm/") || path.starts_with("/proxy/") => Self::Gateway,
            path if compat::serves(path) => Self::Door(Door::Compat),
            openapi::PATH => Self::OpenApi,
            mcp::PATH => Self::Door(Door::Mcp),
            path if a2a::serves(path) => Self::Door(Door::A2a),
            // Also what leads nowhere: it is told so there.
            _ => Self::Door(Door::Rest),
        }
    }
}

impl Door {
    /// Says no in the form of the door.
    fn refuse(self, refused: &Status) -> HttpResponse {
        match self {
            Self::Connect => refusal::connect(refused),
            Self::Rest | Self::A2a => refusal::rest(refused),
            Self::Compat => compat::refused(refused),
            Self::Mcp => refusal::mcp(refused),
        }
    }

    /// What keeps a request from this door, whatever it asks for.
    fn closed(self, request: &HttpRequest) -> Option<HttpResponse> {
        if !encodings::is_read(request) {
            let mut response = match self {
                // Connect has a code for it.
                Self::Connect => self.refuse(&Status::unimplemented(encodings::UNREAD)),
                _ => {
                    let error = Error::new(ErrorKind::Invalid, "UNSUPPORTED_MEDIA_TYPE", encodings::UNREAD);
                    self.refuse(&status(error))
                }
            };
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static(encodings::READ));
            return Some(response);
        }
        credential::in_query(request.uri().query().unwrap_or_default()).map(|refused| self.refuse(&refused))
    }
}

/// What sends each request its way.
#[derive(Clone)]
struct Entrance {
    gateway: BytePath,
    mcp: Mcp,
    a2a: A2a,
}

impl Service<HttpRequest> for Entrance {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Answer {
        let (way, entrance) = (Way::of(&request), self.clone());
        Box::pin(async move {
            Ok(match way {
                Way::Gateway => entrance.gateway.pass(request).await,
                // What it answers is compressed once, and its requests have no body.
                Way::OpenApi => openapi::serve(&request),
                Way::A2aGrpc => entrance.a2a.serve_grpc(request).await,
                Way::Door(door) => match door.closed(&request) {
                    Some(refused) => refused,
                    None => through(door, entrance, request).await,
                },
            })
        })
    }
}

/// Has a door answer a request: without the encoding of its body, as the client accepts the answer, and with its connection
/// in order afterwards.
async fn through(door: Door, Entrance { gateway, mcp, a2a }: Entrance, request: HttpRequest) -> HttpResponse {
    let (request, progress) = body::watched(request);
    let answer = |request| async move {
        match door {
            Door::Connect => connect::serve(&gateway, request).await,
            Door::Rest => rest::serve(&gateway, request).await,
            Door::Compat => compat::serve(&gateway, request).await,
            Door::Mcp => mcp.serve(request).await,
            Door::A2a => a2a.serve(request).await,
        }
    };
    let mut response = encodings::settled(request, answer).await;
    progress.ends(&mut response);
    response
}
