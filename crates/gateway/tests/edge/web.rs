//! Browsers: gRPC-Web over HTTP/1.1, and what is not gRPC.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mi_gateway::GatewayConfig;

use crate::fake::Edge;

const LIST: &str = "/mi.v1.ActivityService/ListActivity";

/// Sends over HTTP/1.1; answers the head and the body as text.
async fn send(
    url: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static [u8],
) -> (Response<()>, String) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(body)).expect("a request");
    let response = client.request(request).await.expect("answered");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    (Response::from_parts(head, ()), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_browser_calls_over_http_1() {
    let edge = Edge::local();
    let (operator, url) = (edge.world.operator("mi_a"), edge.listen().await);
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("authorization", "Bearer mi_a"),
        ("origin", "https://console.example"),
        ("x-grpc-web", "1"),
    ];
    let (head, body) = send(&url, Method::POST, LIST, &headers, &[0, 0, 0, 0, 0]).await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-type"], "application/grpc-web+proto");
    assert_eq!(head.headers()["access-control-allow-origin"], "*");
    assert!(
        head.headers()["access-control-expose-headers"].to_str().expect("text").contains("grpc-status-details-bin")
    );
    assert!(body.contains(&operator), "{body:?}");
    assert!(body.contains("grpc-status:0"), "trailers are in the body: {body:?}");

    let (head, _) = send(&url, Method::POST, LIST, &headers[..1], &[0, 0, 0, 0, 0]).await;
    assert_eq!(head.headers()["grpc-status"], "16");
}

#[tokio::test]
async fn the_listener_answers_late_calls_with_our_code() {
    for edge in [Edge::local(), Edge::remote(GatewayConfig::default()).await] {
        edge.world.operator("mi_a");
        let url = edge.listen().await;
        let headers =
            [("content-type", "application/grpc-web"), ("authorization", "Bearer mi_a"), ("grpc-timeout", "40m")];
        // Tonic has timers of its own at the listener and at the channel to a role, with other answers. This client has none.
        for _ in 0..10 {
            let hang = b"\0\0\0\0\x06\x12\x04hang";
            let (head, _) = send(&url, Method::POST, LIST, &headers, hang).await;
            assert_eq!(head.headers()["grpc-status"], "4", "{head:?}");
        }
        edge.world.inside(0).await;
    }
}

#[tokio::test]
async fn a_browser_may_ask_first() {
    let edge = Edge::local();
    let url = edge.listen().await;
    let headers = [
        ("origin", "https://console.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-grpc-web"),
    ];
    let (head, _) = send(&url, Method::OPTIONS, LIST, &headers, b"").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["access-control-allow-origin"], "*");
    assert!(head.headers()["access-control-allow-headers"].to_str().expect("text").contains("authorization"));
    assert!(!head.headers().contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn what_is_not_grpc_gets_a_short_answer() {
    let edge = Edge::local();
    let url = edge.listen().await;
    for (method, path, content_type, status) in [
        (Method::GET, "/", "text/html", StatusCode::NOT_FOUND),
        (Method::GET, LIST, "application/grpc-web", StatusCode::NOT_FOUND),
        (Method::POST, LIST, "application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::POST, LIST, "application/grpc-web+thrift", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::OPTIONS, "/", "text/plain", StatusCode::NOT_FOUND),
    ] {
        let (head, body) = send(&url, method.clone(), path, &[("content-type", content_type)], b"").await;
        assert_eq!(head.status(), status, "{method} {content_type}");
        assert!(body.contains("gRPC"), "{body}");
    }
}
