//! Who called arrives, and kinds of caller that a rule does not list are refused before any handler runs.

use std::sync::Arc;

use mi_kernel::Actor;
use mi_proto::rules;
use mi_rpc::{HttpRequest, guard::code_name, status::from_status};
use tonic::{Code, body::Body};
use tonic_types::StatusExt;

use crate::{
    on_both_paths,
    stage::{Side, agent, list, operator},
};

on_both_paths! {
    the_handler_sees_who_calls_and_the_trace,
    rules_decide_by_kind_of_caller,
    what_is_not_there_is_unimplemented,
    an_error_keeps_its_details,
}

async fn the_handler_sees_who_calls_and_the_trace(side: Side) {
    for actor in [operator(false), agent()] {
        let mut request = list("answers");
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        request.metadata_mut().insert("traceparent", trace.parse().expect("ASCII"));
        // Whoever a client says it is: the transport knows better.
        let forged = "eyJhY3RvciI6eyJraW5kIjoiYW5vbnltb3VzIn0sImV4cCI6OTk5OTk5OTk5OX0.AAAA";
        request.metadata_mut().insert("mi-principal", forged.parse().expect("ASCII"));
        let answer = side.client(actor.clone()).list_activity(request).await.expect("answers").into_inner();
        assert_eq!(answer.events[0].id, actor.key());
        assert_eq!(answer.events[0].trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    }
}

/// The gRPC code of a call to this path; the feed serves one service only, so that others' admitted calls are known by
/// UNIMPLEMENTED.
async fn code(side: &Side, actor: &Actor, path: &str) -> &'static str {
    let request = HttpRequest::new(Body::empty());
    let (mut parts, body) = request.into_parts();
    parts.method = http::Method::POST;
    parts.uri = format!("http://role{path}").parse().expect("a path");
    parts.headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    parts.headers.insert("te", http::HeaderValue::from_static("trailers"));
    let response = side.transport.call(Arc::new(actor.clone()), HttpRequest::from_parts(parts, body)).await;
    code_name(response.headers().get("grpc-status"))
}

async fn rules_decide_by_kind_of_caller(side: Side) {
    let role = Actor::Service { role: "office".into() };
    let actors = [Actor::Anonymous, operator(false), operator(true), agent(), role];
    let (no, who, yes) = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED");
    let table = [
        ("/mi.v1.AccessService/EnrolAgent", [yes, yes, yes, yes, yes]),
        ("/mi.v1.AccessService/WhoAmI", [who, yes, yes, yes, no]),
        ("/mi.v1.AccessService/CreateApiKey", [who, yes, yes, no, no]),
        ("/mi.v1.AccessService/CreateAccount", [who, no, yes, no, no]),
        // What concerns an office is let through to the role, which knows whose office it is.
        ("/mi.v1.OfficeService/SuspendOffice", [who, yes, yes, yes, no]),
        ("/mi.v1.AccessService/Heartbeat", [who, yes, yes, yes, no]),
        ("/mi.v1.AgentService/ConnectAgent", [who, yes, yes, yes, no]),
        ("/mi.internal.v1.IngestService/AppendEvents", [who, no, no, no, yes]),
        ("/mi.internal.v1.OfficeReplicaService/RemoveOffice", [who, no, no, no, yes]),
    ];
    for (path, expected) in table {
        let mut codes = Vec::new();
        for actor in &actors {
            codes.push(code(&side, actor, path).await);
        }
        assert_eq!(codes, expected, "{path}");
    }
    for rule in rules::all() {
        let anonymous = code(&side, &Actor::Anonymous, rule.path).await;
        let expected = if rule.callers.contains(&mi_proto::v1::Caller::Anyone) { yes } else { who };
        assert_eq!(anonymous, expected, "{}", rule.path);
    }
}

async fn what_is_not_there_is_unimplemented(side: Side) {
    for path in ["/mi.v1.ActivityService/Nonsense", "/mi.v1.Nonsense/ListActivity", "/", "/nonsense"] {
        assert_eq!(code(&side, &operator(true), path).await, "UNIMPLEMENTED", "{path}");
    }
}

async fn an_error_keeps_its_details(side: Side) {
    let refused = side.client(operator(false)).list_activity(list("fails")).await.expect_err("as asked");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "as asked"));
    let info = refused.get_details_error_info().expect("always there");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("AS_ASKED", "mi"));
    assert_eq!(from_status(&refused).retry_after, Some(std::time::Duration::from_secs(7)));
}
