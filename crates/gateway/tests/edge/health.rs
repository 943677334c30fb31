//! Health and reflection, which need no credential.

use std::{sync::atomic::Ordering, time::Duration};

use futures::{StreamExt, stream};
use tonic::{Code, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::fake::Edge;

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.into() }
}

async fn next(stream: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let limit = Duration::from_secs(20);
    let message = tokio::time::timeout(limit, stream.message()).await.expect("a change is seen");
    message.expect("open").expect("more").status()
}

#[tokio::test]
async fn a_role_that_dies_shows_and_so_does_its_return() {
    let edge = Edge::local();
    let mut client = HealthClient::new(edge.gateway.clone());
    let mut whole = client.watch(service("")).await.expect("opened").into_inner();
    assert_eq!(next(&mut whole).await, ServingStatus::Serving);
    edge.world.down.store(true, Ordering::SeqCst);
    assert_eq!(next(&mut whole).await, ServingStatus::NotServing);
    for (name, status) in [
        ("mi.v1.OfficeService", ServingStatus::NotServing),
        ("mi.v1.AccessService", ServingStatus::NotServing),
        ("mi.v1.AgentService", ServingStatus::NotServing),
        // Its fake stays up.
        ("mi.v1.ActivityService", ServingStatus::Serving),
        ("mi.v1.LogService", ServingStatus::Serving),
    ] {
        let answer = client.check(service(name)).await.expect("known").into_inner();
        assert_eq!(answer.status(), status, "{name}");
    }
    edge.world.down.store(false, Ordering::SeqCst);
    assert_eq!(next(&mut whole).await, ServingStatus::Serving);
    let unknown = client.check(service("mi.internal.v1.CredentialService")).await.expect_err("internal");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn the_role_that_calls_models_has_its_health_too() {
    let edge = Edge::local();
    let mut client = HealthClient::new(edge.gateway.clone());
    let mut whole = client.watch(service("")).await.expect("opened").into_inner();
    // It is known once it was asked for the first time.
    let known = async {
        while client.check(service("mi.models")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("there is one");
    let mut models = client.watch(service("mi.models")).await.expect("known").into_inner();
    assert_eq!((next(&mut whole).await, next(&mut models).await), (ServingStatus::Serving, ServingStatus::Serving));
    edge.world.models_down.store(true, Ordering::SeqCst);
    assert_eq!(
        (next(&mut models).await, next(&mut whole).await),
        (ServingStatus::NotServing, ServingStatus::NotServing)
    );
    let office = client.check(service("mi.v1.OfficeService")).await.expect("known").into_inner();
    assert_eq!(office.status(), ServingStatus::Serving);
    edge.world.models_down.store(false, Ordering::SeqCst);
    assert_eq!((next(&mut models).await, next(&mut whole).await), (ServingStatus::Serving, ServingStatus::Serving));

    let edge = Edge::without_models();
    let unknown = HealthClient::new(edge.gateway.clone()).check(service("mi.models")).await.expect_err("there is none");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_what_is_public_in_both_versions() {
    let edge = Edge::local();
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(edge.gateway.clone());
    let mut answers = client
        .server_reflection_info(stream::iter([request]).chain(stream::pending()))
        .await
        .expect("opened")
        .into_inner();
    let answer = answers.message().await.expect("open").expect("answered").message_response.expect("set");
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("not a list: {answer:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            // Served by a door before the gateway.
            "lf.a2a.v1.A2AService",
            "mi.v1.AccessService",
            "mi.v1.ActivityService",
            "mi.v1.AgentService",
            "mi.v1.ChatService",
            "mi.v1.CreditService",
            "mi.v1.DriveService",
            "mi.v1.IntegrationService",
            "mi.v1.LogService",
            "mi.v1.OfficeService",
            "mi.v1.TaskService",
        ]
    );

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "mi.internal.v1.CredentialService".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(edge.gateway.clone());
    let mut answers = client.server_reflection_info(stream::iter([request])).await.expect("opened").into_inner();
    assert_eq!(answers.message().await.expect_err("internal").code(), Code::NotFound);
}
