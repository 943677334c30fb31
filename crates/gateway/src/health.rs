//! `grpc.health.v1`: whether the roles behind the edge answer, asked every two seconds.

use std::time::Duration;

use http::{Uri, Version};
use mi_base::Tasks;
use mi_kernel::ErrorKind;
use mi_proto::internal::v1::{
    AppendEventsRequest, ResolveAgentKeyRequest, ResolveApiKeyRequest,
    agent_registry_service_client::AgentRegistryServiceClient, credential_service_client::CredentialServiceClient,
    ingest_service_client::IngestServiceClient,
};
use mi_rpc::{RoleClient, Transport, vendor};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tonic::{Code, Request};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};
use tower::ServiceExt;

use crate::{config::Backends, route::Role};

const PERIOD: Duration = Duration::from_secs(2);
/// What the health service calls the role that calls models, which has no service of its own.
const MODELS: &str = "mi.models";

/// The health service, kept true by a background task. The whole counts as serving until a probe fails.
pub(crate) fn start(backends: &Backends, tasks: &Tasks) -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = health_reporter();
    tasks.spawn("gateway-health", watch(reporter.clone(), backends.clone()));
    (reporter, server)
}

/// Keeps the health of the disk true, by what follows whether its reserve is given up.
pub(crate) async fn watch_disk(reporter: HealthReporter, mut gone: watch::Receiver<bool>) {
    loop {
        let up = !*gone.borrow_and_update();
        reporter.set_service_status(mi_base::disk_reserve::HEALTH, status(up)).await;
        if gone.changed().await.is_err() {
            // Nothing will change any more.
            return std::future::pending().await;
        }
    }
}

async fn watch(reporter: HealthReporter, backends: Backends) {
    let (mut serving, mut models) = (Role::ALL.map(|_| true), true);
    for role in Role::ALL {
        report(&reporter, role, true).await;
    }
    if backends.models.is_some() {
        reporter.set_service_status(MODELS, status(true)).await;
    }
    let mut timer = interval(PERIOD);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let probed = tokio::join!(
            reachable(Role::Office, &backends),
            reachable(Role::Scheduler, &backends),
            reachable(Role::Activity, &backends),
            models_reachable(&backends),
        );
        let now = [probed.0, probed.1, probed.2];
        // Watchers are woken by each report, so only changes are reported.
        for ((role, was), is) in Role::ALL.into_iter().zip(serving).zip(now) {
            if was != is {
                tracing::warn!(target: "mi::gateway", role = role.as_str(), reachable = is, "a role changed its health");
                report(&reporter, role, is).await;
            }
        }
        if models != probed.3 {
            tracing::warn!(target: "mi::gateway", role = "models", reachable = probed.3, "a role changed its health");
            reporter.set_service_status(MODELS, status(probed.3)).await;
        }
        let (was, is) = (models && serving.iter().all(|up| *up), probed.3 && now.iter().all(|up| *up));
        if was != is {
            reporter.set_service_status("", status(is)).await;
        }
        (serving, models) = (now, probed.3);
    }
}

async fn report(reporter: &HealthReporter, role: Role, up: bool) {
    for service in role.services() {
        reporter.set_service_status(service, status(up)).await;
    }
}

fn status(up: bool) -> ServingStatus {
    if up { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Asks the role for something that is not there: any answer will do, also a refusal.
async fn reachable(role: Role, backends: &Backends) -> bool {
    let client = RoleClient::new(Transport::clone(backends.of(role)), "gateway");
    let refused = match role {
        Role::Office => {
            let question = ResolveApiKeyRequest { sha256: vec![0; 32].into() };
            CredentialServiceClient::new(client).resolve_api_key(within(question)).await.err()
        }
        Role::Scheduler => {
            let question = ResolveAgentKeyRequest {
                agent_id: "00000000-0000-0000-0000-000000000000".into(),
                key_id: "k0000000000000000".into(),
            };
            AgentRegistryServiceClient::new(client).resolve_agent_key(within(question)).await.err()
        }
        Role::Activity => {
            let nothing = AppendEventsRequest::default();
            IngestServiceClient::new(client).append_events(within(nothing)).await.err()
        }
    };
    !refused.is_some_and(|status| matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded))
}

/// Asks the role that calls models, if there is one, for a path that it does not serve: whatever it says itself will do.
async fn models_reachable(backends: &Backends) -> bool {
    let Some(models) = &backends.models else { return true };
    let mut request = http::Request::new(tonic::body::Body::empty());
    *request.uri_mut() = Uri::from_static("http://models/");
    *request.version_mut() = Version::HTTP_2;
    let answer = RoleClient::new(models.clone(), "gateway").oneshot(request);
    match tokio::time::timeout(PERIOD, answer).await {
        Ok(Ok(answer)) => vendor::not_reached(&answer).is_none_or(|error| error.kind != ErrorKind::Unavailable),
        Ok(Err(never)) => match never {},
        Err(_) => false,
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PERIOD);
    request
}
