//! Routing, headers and deadlines.

use std::time::{Duration, Instant};

use mi_gateway::GatewayConfig;
use mi_proto::{
    internal::v1::{ResolveApiKeyRequest, credential_service_client::CredentialServiceClient},
    v1::{self, agent_service_client::AgentServiceClient},
};
use tonic::{Code, Request, Status, codegen::http::uri::PathAndQuery};
use tonic_types::StatusExt;

use crate::fake::{Edge, bearer, hang, seen};

/// Calls any path with an empty message.
async fn call(edge: &Edge, path: &str, credential: Option<&str>) -> Status {
    let mut client = tonic::client::Grpc::new(edge.gateway.clone());
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let request = match credential {
        Some(credential) => bearer((), credential),
        None => Request::new(()),
    };
    let path: PathAndQuery = path.parse().expect("a path");
    client.ready().await.expect("always");
    client.unary(request, path, codec).await.map(|_| ()).expect_err("the fakes refuse")
}

#[tokio::test]
async fn internal_methods_are_as_unknown_as_those_that_do_not_exist() {
    let edge = Edge::local();
    edge.world.operator("mi_a");
    let unknown = call(&edge, "/mi.v1.OfficeService/Nope", Some("mi_a")).await;
    assert_eq!(unknown.code(), Code::Unimplemented);
    for path in [
        "/mi.internal.v1.CredentialService/ResolveApiKey",
        "/mi.internal.v1.IngestService/AppendEvents",
        "/mi.v2.OfficeService/GetOffice",
        "/",
    ] {
        let answer = call(&edge, path, Some("mi_a")).await;
        assert_eq!(format!("{answer:?}"), format!("{unknown:?}"), "{path}");
    }
    let mut client = CredentialServiceClient::new(edge.gateway.clone());
    let refused = client.resolve_api_key(ResolveApiKeyRequest::default()).await.expect_err("not through here");
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_call_reaches_its_role_and_strangers_reach_what_is_open_to_them() {
    let edge = Edge::local();
    let operator = edge.world.operator("mi_a");
    let told = call(&edge, "/mi.v1.OfficeService/ListOffices", Some("mi_a")).await;
    assert_eq!(told.message(), format!("{operator} /mi.v1.OfficeService/ListOffices"));
    let told = call(&edge, "/mi.v1.AccessService/EnrolAgent", None).await;
    assert_eq!(told.message(), "anonymous /mi.v1.AccessService/EnrolAgent");
    let mut agents = AgentServiceClient::new(edge.gateway.clone());
    let refused = agents.get_agent(v1::GetAgentRequest::default()).await.expect_err("needs a credential");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("authorization: Bearer"), "{}", refused.message());
}

#[tokio::test]
async fn forged_headers_have_no_effect_and_credentials_stay_at_the_edge() {
    for edge in [Edge::local(), Edge::remote(GatewayConfig::default()).await] {
        let operator = edge.world.operator("mi_a");
        let mut request = bearer(v1::ListActivityRequest::default(), "mi_a");
        for (name, value) in [
            ("mi-principal", "eyJhY3RvciI6eyJraW5kIjoic2VydmljZSJ9fQ.AAAA"),
            ("mi-anything", "x"),
            ("cookie", "session=1"),
            ("x-own", "kept"),
        ] {
            request.metadata_mut().append(name, value.parse().expect("a value"));
        }
        let given = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{given}-00f067aa0ba902b7-01");
        request.metadata_mut().insert("traceparent", parent.parse().expect("a value"));
        let seen = seen(edge.activity().list_activity(request).await.expect("answered"));
        assert_eq!((seen.summary, seen.trace_id.as_str()), (operator, given));
        let names: Vec<_> = seen.agent.split(' ').collect();
        assert!(names.contains(&"x-own"), "{names:?}");
        for hidden in ["authorization", "cookie", "mi-anything"] {
            assert!(!names.contains(&hidden), "{names:?}");
        }
    }
}

#[tokio::test]
async fn roles_learn_where_a_call_comes_from_and_not_what_it_says_of_itself() {
    let edge = Edge::local();
    edge.world.operator("mi_a");
    let forged = || {
        let mut request = bearer(v1::ListActivityRequest::default(), "mi_a");
        request.metadata_mut().insert(mi_rpc::SOURCE_HEADER, "127.0.0.9".parse().expect("a value"));
        request
    };
    let from_within = edge.activity().list_activity(forged()).await.expect("answered");
    assert_eq!(seen(from_within).id, "");
    let over_tcp = edge.connected().await.list_activity(forged()).await.expect("answered");
    assert_eq!(seen(over_tcp).id, "127.0.0.1");
}

#[tokio::test]
async fn unary_calls_have_a_deadline_and_streams_what_they_ask_for() {
    let edge = Edge::local();
    edge.world.operator("mi_a");
    for (asked, given) in [(None, "30000000u"), (Some("7S"), "7000000u"), (Some("2H"), "300000m")] {
        let mut request = bearer(v1::ListActivityRequest::default(), "mi_a");
        if let Some(asked) = asked {
            request.metadata_mut().insert("grpc-timeout", asked.parse().expect("a value"));
        }
        let event = seen(edge.activity().list_activity(request).await.expect("answered"));
        assert_eq!(event.r#type, given, "{asked:?}");
    }
    for (asked, given) in [(None, ""), (Some("2H"), "7200000m")] {
        let mut request = bearer(v1::WatchActivityRequest::default(), "mi_a");
        if let Some(asked) = asked {
            request.metadata_mut().insert("grpc-timeout", asked.parse().expect("a value"));
        }
        let mut stream = edge.activity().watch_activity(request).await.expect("opened").into_inner();
        let event = stream.message().await.expect("open").expect("first").event.expect("set");
        assert_eq!(event.r#type, given, "{asked:?}");
    }
    let mut request = bearer(v1::ListActivityRequest::default(), "mi_a");
    request.metadata_mut().insert("grpc-timeout", "soon".parse().expect("a value"));
    let refused = edge.activity().list_activity(request).await.expect_err("malformed");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_details_bad_request().expect("names the field");
    assert_eq!(details.field_violations[0].field, "grpc-timeout");
}

#[tokio::test]
async fn a_hung_role_cannot_hang_a_client() {
    let config = GatewayConfig { default_deadline: Duration::from_millis(150), ..Default::default() };
    for (name, edge) in [("local", Edge::with(config)), ("remote", Edge::remote(config).await)] {
        edge.world.operator("mi_a");
        let started = Instant::now();
        let late = edge.activity().list_activity(bearer(hang(), "mi_a")).await.expect_err("hangs");
        assert_eq!(late.code(), Code::DeadlineExceeded, "{name}");
        assert_eq!(late.get_details_error_info().expect("always there").reason, "DEADLINE_EXCEEDED");
        assert!(started.elapsed() < Duration::from_secs(5));
        edge.world.inside(0).await;
    }
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_and_at_shutdown() {
    for edge in [Edge::local(), Edge::remote(GatewayConfig::default()).await] {
        edge.world.operator("mi_a");
        let mut request = bearer(v1::WatchActivityRequest::default(), "mi_a");
        request.metadata_mut().insert("grpc-timeout", "200m".parse().expect("a value"));
        let mut timed = edge.activity().watch_activity(request).await.expect("opened").into_inner();
        timed.message().await.expect("open").expect("first");
        let end = timed.message().await.expect_err("its time is up");
        assert_eq!(end.code(), Code::DeadlineExceeded, "{end:?}");

        let request = bearer(v1::WatchActivityRequest::default(), "mi_a");
        let mut stream = edge.activity().watch_activity(request).await.expect("opened").into_inner();
        stream.message().await.expect("open").expect("first");
        edge.tasks.shutdown().cancel();
        let end = stream.message().await.expect_err("shutdown");
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    }
}
