//! Plain HTTP behind a guard: what is sent and answered passes as it is, from whom the gateway vouches for.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use mi_base::Tasks;
use mi_rpc::{
    Connections, Guard, HttpCaller, PrincipalKey, Refusals, Transport,
    server::{self, Listener},
    vendor,
};
use mi_testkit::ManualClock;
use tonic::service::Routes;

use crate::stage::{LONG, agent};

/// Answers with what it got; a body `streams` with one that does not end.
async fn echo(request: axum::extract::Request) -> http::Response<Body> {
    let (head, body) = request.into_parts();
    let caller = head.extensions.get::<HttpCaller>().expect("the guard puts it there").actor.key();
    let body = body.collect().await.expect("whole").to_bytes();
    let mut response = match &body[..] {
        b"streams" => {
            let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("first"))]);
            http::Response::new(Body::from_stream(first.chain(stream::pending())))
        }
        _ => {
            let agent = head.headers.get("user-agent").map_or("none", |agent| agent.to_str().expect("text"));
            let principal = head.headers.contains_key("mi-principal");
            http::Response::new(Body::from(format!("{caller} {} {} {agent} {principal}", head.method, head.uri.path())))
        }
    };
    *response.status_mut() = StatusCode::from_u16(529).expect("a status");
    response.headers_mut().insert("x-vendor", "a".parse().expect("a value"));
    response
}

fn guard(key: &PrincipalKey, clock: &ManualClock, tasks: &Tasks) -> Guard {
    let http = axum::Router::new().fallback(echo);
    Guard::new("models", Routes::default(), key.clone(), clock.shared(), tasks.clone(), Refusals::default())
        .with_http(http)
}

/// The ways to such a role: in this process, and over the network, for whose key this is.
async fn ways(forged: bool) -> (Transport, Transport, Tasks) {
    let (key, clock, tasks) = (PrincipalKey::random(), ManualClock::new(), Tasks::new());
    let socket = server::bind("--listen", ([127, 0, 0, 1], 0).into()).await.expect("binds");
    let address = socket.local_addr().expect("bound");
    let listener = Listener { name: "models", socket, tls: None, http1: false, connections: Connections::default() };
    server::serve(&tasks, listener, guard(&key, &clock, &tasks));
    let shown = if forged { PrincipalKey::random() } else { key.clone() };
    let remote = Transport::remote("models", &format!("http://{address}"), None, shown, clock.shared());
    (Transport::local(guard(&key, &clock, &tasks)), remote.expect("a URL"), tasks)
}

fn request(body: &'static str) -> mi_rpc::HttpRequest {
    let request = Request::builder().method(Method::PUT).uri("/llm/a?b=c").header("user-agent", "sdk/1");
    request.body(tonic::body::Body::new(Body::from(body))).expect("a request")
}

#[tokio::test]
async fn both_ways_look_the_same() {
    let (local, remote, tasks) = ways(false).await;
    for way in [local, remote] {
        let actor = Arc::new(agent());
        let (head, body) = way.call(actor.clone(), request("hello")).await.into_parts();
        assert_eq!((head.status.as_u16(), &head.headers["x-vendor"]), (529, &"a".parse().expect("a value")));
        let told = body.collect().await.expect("whole").to_bytes();
        assert_eq!(told, format!("{} PUT /llm/a sdk/1 false", actor.key()));
        let mut body = way.call(actor, request("streams")).await.into_body();
        let first = tokio::time::timeout(LONG, body.frame()).await.expect("comes before the end");
        assert_eq!(first.expect("goes on").expect("good").into_data().expect("data"), "first");
    }
    tasks.stop(LONG).await;
}

#[tokio::test]
async fn a_stranger_does_not_get_through() {
    let (_, remote, tasks) = ways(true).await;
    let response = remote.call(Arc::new(agent()), request("hello")).await;
    assert_eq!(vendor::not_reached(&response).expect("refused").kind, mi_kernel::ErrorKind::Unauthenticated);
    assert!(!response.headers().contains_key("x-vendor"));
    tasks.stop(LONG).await;
}
