//! Connections that say nothing, do nothing, or are too many.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mi_base::Tasks;
use mi_rpc::{
    ConnectionLimits, Connections, RoleTls,
    server::{self, Listener},
};
use mi_testkit::until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::stage::LONG;

const SHORT: Duration = Duration::from_millis(100);
/// What a client of HTTP/2 says first, with settings that are empty.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Answers at once, or begins to and never ends.
async fn serve(tasks: &Tasks, limits: ConnectionLimits, tls: Option<TlsAcceptor>, http1: bool) -> SocketAddr {
    let endless = || async { axum::body::Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>()) };
    let router = Router::new().route("/", get(|| async { "here" })).route("/endless", get(endless));
    let socket = server::bind("--listen", "127.0.0.1:0".parse().expect("an address")).await.expect("binds");
    let address = socket.local_addr().expect("bound");
    let listener = Listener { name: "test", socket, tls, http1, connections: Connections::new(limits) };
    server::serve_http(tasks, listener, router);
    address
}

/// A connection of HTTP/2, and what becomes of it.
async fn connect(address: SocketAddr) -> (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("shakes hands");
    (sender, tokio::spawn(connection))
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> hyper::Result<Response<Incoming>> {
    sender.ready().await?;
    let request = Request::get(format!("http://test{path}")).body(Empty::new()).expect("a request");
    sender.send_request(request).await
}

/// Whether a call over a new connection is answered.
async fn is_served(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address).await else { return false };
    let Ok((mut sender, connection)) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await else {
        return false;
    };
    let connection = tokio::spawn(connection);
    let answered = ask(&mut sender, "/").await.is_ok_and(|response| response.status() == StatusCode::OK);
    drop(sender);
    let _ = connection.await;
    answered
}

/// Says this, and waits until the connection is closed.
async fn closed(address: SocketAddr, said: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(said).await.expect("sends");
    let mut heard = Vec::new();
    // A reset ends it as well.
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut heard)).await;
    read.map(drop).unwrap_or_else(|_| panic!("still open after {LONG:?}, having said {said:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_no_request_is_closed_and_who_does_stays() {
    let dir = tempfile::tempdir().expect("made");
    let tls = || Some(RoleTls::development(dir.path(), "activity").expect("made").acceptor().expect("good"));
    let tasks = Tasks::new();
    let limits = ConnectionLimits { first_request: SHORT, ..ConnectionLimits::default() };
    let plain = serve(&tasks, limits, None, true).await;
    let (mut sender, connection) = connect(plain).await;
    let mut endless = ask(&mut sender, "/endless").await.expect("answered").into_body();

    let half_a_head: &[u8] = b"GET / HTTP/1.1\r\nhost: te";
    for (address, said) in [
        (plain, &[][..]),
        (plain, &PREFACE[..10]),
        (plain, PREFACE),
        (plain, half_a_head),
        (serve(&tasks, limits, None, false).await, &[]),
        (serve(&tasks, limits, None, false).await, PREFACE),
        (serve(&tasks, limits, tls(), true).await, &[]),
        (serve(&tasks, limits, tls(), false).await, b"\x16\x03\x01"),
    ] {
        futures::future::join_all((0..20).map(|_| closed(address, said))).await;
    }
    // The one with a request has outlasted them all, many times its limit for the first one.
    assert!(tokio::time::timeout(SHORT, endless.frame()).await.is_err(), "the stream is open");
    let answer = ask(&mut sender, "/").await.expect("answered").into_body().collect().await.expect("whole");
    assert_eq!(answer.to_bytes(), "here");
    assert!(!connection.is_finished());
    drop((sender, endless));
    assert_eq!(tasks.stop(LONG).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_ends_in_good_order_and_one_with_a_call_stays() {
    let tasks = Tasks::new();
    let limits = ConnectionLimits { idle: SHORT, ..ConnectionLimits::default() };
    let address = serve(&tasks, limits, None, true).await;
    let (mut used, using) = connect(address).await;
    let endless = ask(&mut used, "/endless").await.expect("answered").into_body();
    let (mut idle, idling) = connect(address).await;
    drop(ask(&mut idle, "/").await.expect("answered").into_body().collect().await.expect("whole"));
    let ended = tokio::time::timeout(LONG, idling).await.expect("ends").expect("no panic");
    assert!(ended.is_ok(), "the client is told, and nothing is cut: {ended:?}");
    assert!(!using.is_finished());
    drop(endless);
    let ended = tokio::time::timeout(LONG, using).await.expect("ends once its call has").expect("no panic");
    assert!(ended.is_ok(), "{ended:?}");
    assert!(is_served(address).await, "a new connection is as good as ever");
    assert_eq!(tasks.stop(LONG).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_connections_and_gets_new_ones_for_those_it_closes() {
    let tasks = Tasks::new();
    let limits = ConnectionLimits { per_address: 100, ..ConnectionLimits::default() };
    let address = serve(&tasks, limits, None, true).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let (mut sender, connection) = connect(address).await;
        let endless = ask(&mut sender, "/endless").await.expect("answered").into_body();
        open.push((sender, endless, connection));
    }
    closed(address, PREFACE).await;
    assert!(!is_served(address).await);
    for (sender, endless, connection) in open.drain(..10) {
        drop((sender, endless));
        connection.await.expect("no panic").expect("closes");
    }
    let served = async || Ok::<_, Infallible>(is_served(address).await.then_some(()));
    until("there is room again", LONG, served).await;
    assert!(open.iter().all(|(_, _, connection)| !connection.is_finished()), "the others stay");
    drop(open);
    assert_eq!(tasks.stop(LONG).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_holds_connections_keeps_nobody_out() {
    let tasks = Tasks::new();
    let limits = ConnectionLimits { per_address: 100, first_request: 10 * LONG, ..ConnectionLimits::default() };
    let address = serve(&tasks, limits, None, true).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(address).await.expect("connects"));
    }
    assert!(is_served(address).await);
    let heard = tokio::time::timeout(LONG, silent[0].read(&mut [0])).await.expect("the oldest is closed");
    assert_eq!(heard.unwrap_or(0), 0, "closed or reset");
    let is_open = |stream: &TcpStream| {
        stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert!(silent[1..].iter().all(is_open), "the others stay");
    drop(silent);
    assert_eq!(tasks.stop(LONG).await, None);

    let tasks = Tasks::new();
    let address = serve(&tasks, limits, None, true).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let (mut sender, connection) = connect(address).await;
        drop(ask(&mut sender, "/").await.expect("answered").into_body().collect().await.expect("whole"));
        open.push((sender, connection));
    }
    let mut newcomer = connect(address).await;
    assert!(ask(&mut newcomer.0, "/").await.is_ok());
    let ended = until("one that is idle makes room", LONG, async || {
        let ended = open.iter().filter(|(_, connection)| connection.is_finished()).count();
        Ok::<_, Infallible>((ended > 0).then_some(ended))
    })
    .await;
    assert_eq!(ended, 1);
    let at = open.iter().position(|(_, connection)| connection.is_finished()).expect("seen above");
    let told = open.swap_remove(at).1.await.expect("no panic");
    assert!(told.is_ok(), "the client is told, and nothing is cut: {told:?}");
    drop((open, newcomer));
    assert_eq!(tasks.stop(LONG).await, None);
}
