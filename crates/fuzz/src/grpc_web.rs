//! The edge, called as a browser would.

use std::{num::NonZeroU32, sync::LazyLock, time::Duration};

use axum::extract::Request;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use mi_base::Tasks;
use mi_gateway::{Backends, Gateway, GatewayConfig, Limits};
use mi_kernel::SystemClock;
use mi_rpc::{Guard, HttpRequest, HttpResponse, PrincipalKey, Refusals, Transport};
use tokio::runtime::{self, Runtime};
use tonic::{Status, body::Body, service::Routes};
use tower::ServiceExt;

/// What is read of an answer: far more than any answer to an input of a few kilobytes needs.
const MOST_ANSWERED: usize = 16 << 20;
/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

const TYPES: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];
/// What can be called without a credential, served by the edge and by a role, and what cannot.
const PATHS: [&str; 4] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/mi.v1.AccessService/EnrolAgent",
    "/mi.v1.OfficeService/ListOffices",
];

static EDGE: LazyLock<(Runtime, Gateway)> = LazyLock::new(|| {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let gateway = runtime.block_on(async { edge() });
    (runtime, gateway)
});

/// A byte that picks content type, path and whether to encode the body as text, the size of the body's chunks, and the
/// body. Accepted is a call that the edge or a role read to its end.
pub fn grpc_web(data: &[u8]) -> bool {
    let [choice, chunk, body @ ..] = data else {
        return false;
    };
    let choice = usize::from(*choice);
    let (content_type, path) = (TYPES[choice & 3], PATHS[choice >> 2 & 3]);
    let body = if choice & 16 == 0 { body.to_vec() } else { STANDARD.encode(body).into_bytes() };
    let sent = body.len();
    let chunks: Vec<_> = body
        .chunks(usize::from(*chunk).max(1))
        .map(|chunk| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(chunk))))
        .collect();
    let request = HttpRequest::new(Body::new(StreamBody::new(stream::iter(chunks))));
    let (mut head, body) = request.into_parts();
    head.method = http::Method::POST;
    head.uri = http::Uri::from_static(path);
    for name in ["content-type", "accept"] {
        head.headers.insert(name, http::HeaderValue::from_static(content_type));
    }
    let (runtime, gateway) = &*EDGE;
    let status = runtime.block_on(async {
        let answer = async {
            let Ok(response) = gateway.clone().oneshot(HttpRequest::from_parts(head, body)).await;
            status(response).await
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("answered in time")
    });
    if let Some(read) = status.strip_prefix("6 ") {
        // How much the role read, which text and frames only make less.
        assert!(read.parse::<usize>().expect("a number") <= sent, "{status}, {sent} sent");
        return true;
    }
    status.starts_with("0 ")
}

/// Status and message of an answer, from its head or from the trailers in its body.
async fn status(response: HttpResponse) -> String {
    assert_eq!(response.status(), http::StatusCode::OK);
    let text = response.headers()["content-type"].as_bytes().starts_with(b"application/grpc-web-text");
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (code, message) = (header("grpc-status"), header("grpc-message"));
    let mut body = Limited::new(response.into_body(), MOST_ANSWERED);
    let mut last = Bytes::new();
    while let Some(frame) = body.frame().await {
        let data = frame.expect("a body that ends well and is bounded").into_data().expect("trailers are data");
        // Each piece is text of its own.
        last = if text { STANDARD.decode(&data).expect("base64").into() } else { data };
    }
    if let Some(code) = code {
        return format!("{code} {}", message.unwrap_or_default());
    }
    // Trailers: a flag, the length, lines.
    let trailers = last.get(5..).and_then(|lines| str::from_utf8(lines).ok()).expect("trailers");
    let line = |name: &str| trailers.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    format!("{} {}", line("grpc-status:").expect("a status"), line("grpc-message:").unwrap_or_default())
}

/// The edge before roles that read a call to its end and answer with its length.
fn edge() -> Gateway {
    let every = NonZeroU32::MAX;
    let anonymous = Limits { per_second: every, burst: every, concurrent: 64 };
    let config = GatewayConfig { anonymous, ..GatewayConfig::default() };
    let (key, tasks) = (PrincipalKey::random(), Tasks::new());
    let role = |name| {
        let read = |request: Request| async move {
            match request.into_body().collect().await {
                Ok(body) => Status::already_exists(body.to_bytes().len().to_string()),
                Err(error) => Status::invalid_argument(error.to_string()),
            }
            .into_http::<axum::body::Body>()
        };
        let routes = Routes::from(axum::Router::new().fallback(read));
        let clock = SystemClock::shared();
        Transport::local(Guard::new(name, routes, key.clone(), clock, tasks.clone(), Refusals::default()))
    };
    let backends =
        Backends { office: role("office"), scheduler: role("scheduler"), activity: role("activity"), models: None };
    mi_gateway::build(config, backends, SystemClock::shared(), Refusals::default(), &tasks)
}
