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
    assert!(body.contains(&operator), "{body:?}");
    assert!(body.contains("grpc-status:0"), "trailers are in the body: {body:?}");

    let (head, _) = send(&url, Method::POST, LIST, &headers[..1], &[0, 0, 0, 0, 0]).await;
    assert_eq!(head.headers()["grpc-status"], "16");
}

#[tokio::test]
async fn text_is_answered_as_text_unless_it_asks_for_more() {
    const TEXT: &str = "application/grpc-web-text";
    let edge = Edge::local();
    let (operator, url) = (edge.world.operator("mi_a"), edge.listen().await);
    for (sent, accepted, answered) in [
        (TEXT, None, true),
        ("application/grpc-web-text+proto", None, true),
        (TEXT, Some("*/*"), true),
        (TEXT, Some("text/html, application/grpc-web-text;q=0.9"), true),
        (TEXT, Some("application/grpc-web+proto"), false),
        ("application/grpc-web", None, false),
        ("application/grpc-web+proto", Some("application/grpc-web-text"), true),
    ] {
        let body: &[u8] = if sent.starts_with(TEXT) { b"AAAAAAA=" } else { &[0, 0, 0, 0, 0] };
        let mut headers = vec![("content-type", sent), ("authorization", "Bearer mi_a")];
        headers.extend(accepted.map(|accepted| ("accept", accepted)));
        let (head, body) = send(&url, Method::POST, LIST, &headers, body).await;
        let form = if answered { "application/grpc-web-text+proto" } else { "application/grpc-web+proto" };
        assert_eq!(head.headers()["content-type"], form, "{sent} {accepted:?}");
        assert_eq!(body.contains(&operator), !answered, "{sent} {accepted:?}: {body:?}");
    }
}

/// A frame of zstd with so many zeros, in blocks that say how often.
fn zeros(size: usize) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    for start in (0..size).step_by(BLOCK) {
        let length = BLOCK.min(size - start);
        let is_last = u32::from(start + length == size);
        let header = u32::try_from(length).expect("short") << 3 | 1 << 1 | is_last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[tokio::test]
async fn what_a_browser_compresses_is_read_and_bounded_by_what_it_becomes() {
    for edge in [Edge::local(), Edge::remote(GatewayConfig::default()).await] {
        let (operator, url) = (edge.world.operator("mi_a"), edge.listen().await);
        let headers = [
            ("content-type", "application/grpc-web+proto"),
            ("authorization", "Bearer mi_a"),
            ("grpc-encoding", "zstd"),
        ];
        let framed = |message: Vec<u8>| -> &'static [u8] {
            let length = u32::try_from(message.len()).expect("short").to_be_bytes();
            [&[1][..], &length, &message].concat().leak()
        };
        // An empty message: one block of nothing.
        let (_, body) =
            send(&url, Method::POST, LIST, &headers, framed(vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0])).await;
        assert!(body.contains(&operator) && body.contains("grpc-status:0"), "{body:?}");
        let (head, _) = send(&url, Method::POST, LIST, &headers, framed(zeros((4 << 20) + 1))).await;
        assert_eq!(head.headers()["grpc-status"], "8", "{head:?}");
        // One byte less fits, and is no message then: a field has no number 0.
        let (head, _) = send(&url, Method::POST, LIST, &headers, framed(zeros(4 << 20))).await;
        assert_eq!(head.headers()["grpc-status"], "13", "{head:?}");
    }
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
