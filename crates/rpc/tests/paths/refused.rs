//! A process that ends refuses calls that come too late for a connection: another one takes them.

use std::sync::Arc;

use http_body_util::{BodyExt, StreamBody};
use mi_kernel::{Actor, SystemClock};
use mi_rpc::{HttpRequest, PrincipalKey, Transport, guard::code_name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::body::Body;

/// Types of HTTP/2 frames.
const DATA: u8 = 0;
const GOAWAY: u8 = 7;

/// An HTTP/2 server that reads one request to its end and answers that it does not handle it.
async fn refuse(mut connection: TcpStream, error_code: u32) {
    connection.write_all(&frame(4, &[])).await.expect("settings");
    let mut preface = [0; 24];
    connection.read_exact(&mut preface).await.expect("a client speaks first");
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).await.expect("a frame");
        let mut rest = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        connection.read_exact(&mut rest).await.expect("its bytes");
        if (head[3], head[4] & 1) == (DATA, 1) {
            break;
        }
    }
    // The last stream that is handled: none.
    let payload = [[0; 4], error_code.to_be_bytes()].concat();
    connection.write_all(&frame(GOAWAY, &payload)).await.expect("goes out");
    let mut nothing_more = Vec::new();
    let _ = connection.read_to_end(&mut nothing_more).await;
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("is short");
    [&[0, 0, length, kind, 0, 0, 0, 0, 0], payload].concat()
}

/// Answers one call, and returns the bytes of its request.
async fn answer(connection: TcpStream) -> Vec<u8> {
    let mut connection = h2::server::handshake(connection).await.expect("speaks HTTP/2");
    let (request, mut respond) = connection.accept().await.expect("a call").expect("is whole");
    let serve = async {
        let (mut body, mut bytes) = (request.into_body(), Vec::new());
        while let Some(part) = body.data().await {
            bytes.extend_from_slice(&part.expect("arrives"));
        }
        let head = http::Response::builder().header("grpc-status", "0").body(()).expect("a response");
        respond.send_response(head, true).expect("goes out");
        bytes
    };
    tokio::pin!(serve);
    tokio::select! {
        bytes = &mut serve => {
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
            bytes
        }
        _ = connection.accept() => panic!("one call"),
    }
}

/// A server of which the first connections refuse, with this code, and the next one answers.
async fn server(refusing: usize, error_code: u32) -> (Transport, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("is bound"));
    let transport = Transport::remote("url", &url, None, PrincipalKey::random(), Arc::new(SystemClock)).expect("a URL");
    let served = tokio::spawn(async move {
        for _ in 0..refusing {
            let (connection, _) = listener.accept().await.expect("connects");
            tokio::spawn(refuse(connection, error_code));
        }
        answer(listener.accept().await.expect("connects").0).await
    });
    (transport, served)
}

async fn call(transport: &Transport) -> &'static str {
    let parts = ["one", "two"].map(|part| Ok::<_, tonic::Status>(http_body::Frame::data(part.into())));
    let body = Body::new(StreamBody::new(futures::stream::iter(parts)).boxed_unsync());
    let request = http::Request::post("/mi.v1.TaskService/CreateTask").header("te", "trailers");
    let request: HttpRequest = request.header("content-type", "application/grpc").body(body).expect("a request");
    let actor = Arc::new(Actor::Service { role: "gateway".into() });
    code_name(transport.call(actor, request).await.headers().get("grpc-status"))
}

#[tokio::test]
async fn what_came_too_late_for_a_connection_is_sent_on_another() {
    let (transport, served) = server(2, 0).await;
    assert_eq!(call(&transport).await, "OK");
    assert_eq!(served.await.expect("serves"), b"onetwo", "from its beginning");
}

#[tokio::test]
async fn what_may_have_been_handled_is_not_sent_again() {
    // INTERNAL_ERROR: whatever was under way ends, begun or not.
    let (transport, served) = server(1, 2).await;
    assert_eq!(call(&transport).await, "UNAVAILABLE");
    served.abort();
}
