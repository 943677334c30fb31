//! The edge: authentication, limits, routing of bytes, gRPC-Web, reflection and health.
//!
//! A call is routed by its path and forwarded as it came; messages are never decoded here. There is no database: who
//! holds a credential is asked of the roles that keep them, and remembered for a second. What agents ask of models passes as
//! plain HTTP (`http.rs`), under the same checks.

mod auth;
mod config;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod http;
mod limits;
mod reports;
mod revocation;
mod route;
mod token;
mod web;

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mi_base::Tasks;
use mi_kernel::Clock;
use mi_rpc::{HttpRequest, HttpResponse, Refusals};
use tokio::sync::watch;
use tonic_health::server::HealthReporter;
use tower::{Service, ServiceExt};

pub use crate::config::{Backends, GatewayConfig, Limits};
use crate::{auth::Authenticator, forward::Forwarder, limits::Limiter, revocation::Revocations, web::Traffic};

/// The edge as a service: for [`mi_rpc::server::serve`], and for calls within the process.
#[derive(Clone)]
pub struct Gateway {
    grpc: Grpc,
    web: Arc<web::Web>,
    health: HealthReporter,
}

/// Builds the edge and starts its tasks; what it refuses is noted in `refusals`. Must be called inside a tokio runtime.
pub fn build(
    config: GatewayConfig,
    backends: Backends,
    clock: Arc<dyn Clock>,
    refusals: Refusals,
    tasks: &Tasks,
) -> Gateway {
    let revocations = Revocations::default();
    let (health, service) = health::start(&backends, tasks);
    let own = route::own_services(service);
    let forwarder = Forwarder {
        config,
        auth: Authenticator::new(&backends, clock, revocations.clone(), tasks),
        revocations,
        refusals,
        limits: Limiter::new(config.limits, config.anonymous),
        own,
        backends,
        tasks: tasks.clone(),
    };
    let grpc = Grpc(Arc::new(forwarder));
    Gateway { web: Arc::new(web::layered(grpc.clone())), grpc, health }
}

impl Gateway {
    /// Has the health service say under [`mi_base::disk_reserve::HEALTH`] whether the platform's disk has room; `gone` follows whether
    /// the reserve for deletions is given up.
    pub fn report_disk(&self, gone: watch::Receiver<bool>, tasks: &Tasks) {
        tasks.spawn("disk-health", health::watch_disk(self.health.clone(), gone));
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, Infallible>> + Send>>;

impl Service<HttpRequest> for Gateway {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: HttpRequest) -> Answer {
        if http::serves(request.uri().path()) {
            let forwarder = self.grpc.0.clone();
            return Box::pin(async move { Ok(forwarder.handle_http(request).await) });
        }
        match Traffic::of(&request) {
            Traffic::Grpc => self.grpc.call(request),
            Traffic::Web => {
                web::settle_form(request.headers_mut());
                Box::pin(web::Web::clone(&self.web).oneshot(request))
            }
            Traffic::Other => Box::pin(ready(Ok(web::refusal(request.method())))),
        }
    }
}

/// The part of the edge that speaks gRPC proper.
#[derive(Clone)]
struct Grpc(Arc<Forwarder>);

impl Service<HttpRequest> for Grpc {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Answer {
        let forwarder = self.0.clone();
        Box::pin(async move { Ok(forwarder.handle(request).await) })
    }
}
