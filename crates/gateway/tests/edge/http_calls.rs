//! Plain HTTP: what agents ask of models, from any SDK.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mi_gateway::GatewayConfig;
use mi_proto::internal::v1::AgentKeyName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{Agent, Edge};

const MESSAGES: &str = "/llm/anthropic/v1/messages";
const LONG: Duration = Duration::from_secs(10);

fn token(agent: &Agent) -> String {
    agent.token(&agent.header(), &agent.claims())
}

fn client(h2: bool) -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(h2).build_http()
}

/// Sends; answers status, the reason and the body.
async fn send(
    url: &str,
    h2: bool,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> (StatusCode, String, Value) {
    let mut request = Request::builder().method(Method::POST).uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(body)).expect("a request");
    let (head, body) = client(h2).request(request).await.expect("answered").into_parts();
    let reason = head.headers.get("mi-reason").map(|value| value.to_str().expect("text").to_owned());
    let body = body.collect().await.expect("a whole body").to_bytes();
    (head.status, reason.unwrap_or_default(), serde_json::from_slice(&body).expect("JSON"))
}

/// Wherever an SDK puts its key, over both versions, with roles here and elsewhere: the role sees who calls, and no key.
#[tokio::test]
async fn a_call_passes_unchanged_but_for_its_credential() {
    for (h2, edge) in [(false, Edge::local()), (true, Edge::remote(GatewayConfig::default()).await)] {
        let (agent, url) = (edge.world.agent(), edge.listen().await);
        let token = token(&agent);
        let task = mi_kernel::TaskId::new().to_string();
        let bearer = format!("Bearer {token}");
        for (name, value, query) in [
            ("authorization", bearer.as_str(), "?beta=true".to_owned()),
            ("x-api-key", &token, "?beta=true".to_owned()),
            ("x-goog-api-key", &token, "?beta=true".to_owned()),
            ("accept", "*/*", format!("?key={token}&beta=true")),
        ] {
            let headers = [
                (name, value),
                ("anthropic-version", "2023-06-01"),
                ("user-agent", "sdk/1"),
                ("mi-task-id", &task),
                ("mi-principal", "forged"),
                ("mi-source", "10.0.0.1"),
                ("x-forwarded-host", "evil.example"),
            ];
            let (status, _, told) = send(&url, h2, &format!("{MESSAGES}{query}"), &headers, "{\"a\":1}").await;
            assert_eq!(status.as_u16(), 529, "a vendor's status stays what it is");
            assert_eq!(told["caller"], format!("agent:{}", agent.id), "{told}");
            assert_eq!((&told["method"], &told["body"]), (&json!("POST"), &json!("{\"a\":1}")));
            assert_eq!(told["uri"], format!("{MESSAGES}?beta=true"));
            let kept = &told["headers"];
            assert_eq!(kept["anthropic-version"], "2023-06-01");
            assert_eq!(kept["user-agent"], "sdk/1", "{kept}");
            assert_eq!((&kept["mi-task-id"], &kept["mi-source"]), (&json!(task), &json!("127.0.0.1")));
            assert!(kept["traceparent"].is_string());
            for gone in [
                "authorization",
                "x-api-key",
                "x-goog-api-key",
                "mi-principal",
                "mi-user-agent",
                "x-forwarded-host",
                "host",
            ] {
                assert!(kept[gone].is_null(), "{gone}: {kept}");
            }
            assert!(!told.to_string().contains(&token), "{told}");
        }
        // Of an integration it is a parameter like any other, and no credential.
        let asked = "/proxy/github/actions/caches?key=linux&page=2";
        let (_, _, told) = send(&url, h2, asked, &[("authorization", &bearer)], "{}").await;
        assert_eq!(told["uri"], asked);
        let (status, ..) = send(&url, h2, &format!("/proxy/github/user?key={token}"), &[], "{}").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn only_agents_pass_and_each_refusal_is_in_the_vendors_shape() {
    let edge = Edge::local();
    edge.world.operator("mi_a");
    let (agent, url) = (edge.world.agent(), edge.listen().await);
    let good = token(&agent);
    let other = token(&edge.world.agent());
    let both = [("x-api-key", good.as_str()), ("x-goog-api-key", &other)];
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Headers<'_>, u16, &str); 5] = [
        (&[], 401, "UNAUTHENTICATED"),
        (&[("x-api-key", "nonsense")], 401, "UNAUTHENTICATED"),
        (&[("authorization", "Basic abc")], 401, "UNAUTHENTICATED"),
        (&[("x-api-key", "mi_a")], 403, "PERMISSION_DENIED"),
        (&both, 401, "UNAUTHENTICATED"),
    ];
    for (headers, status, reason) in cases {
        let answer = send(&url, false, MESSAGES, headers, "{}").await;
        assert_eq!((answer.0.as_u16(), answer.1.as_str()), (status, reason), "{headers:?}");
        assert_eq!(answer.2["type"], "error", "{headers:?}");
        let answer = send(&url, false, "/llm/openai/v1/chat/completions", headers, "{}").await;
        assert_eq!(answer.2["error"]["code"], reason, "{headers:?}");
        let answer = send(&url, false, "/llm/gemini/v1beta/models/x:generateContent", headers, "{}").await;
        assert_eq!(answer.2["error"]["code"], status, "{headers:?}");
    }
    // Beside its neighbours, the prefix is nobody's.
    let request = Request::builder().uri(format!("{url}/llm")).body(Full::default()).expect("a request");
    assert_eq!(client(false).request(request).await.expect("answered").status(), StatusCode::NOT_FOUND);
}

/// Sends these lines as they are; answers the status line.
async fn raw(url: &str, head: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.expect("listens");
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; "HTTP/1.1 200".len()];
    tokio::time::timeout(LONG, socket.read_exact(&mut answer)).await.expect("in time").expect("answered");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn a_client_names_a_path_and_no_host() {
    let edge = Edge::local();
    let (agent, url) = (edge.world.agent(), edge.listen().await);
    let rest = format!("x-api-key: {}\r\ncontent-length: 2\r\n\r\n{{}}", token(&agent));
    for (head, status) in [
        (format!("POST {MESSAGES} HTTP/1.1\r\nhost: a\r\n"), "HTTP/1.1 529"),
        (format!("POST http://169.254.169.254{MESSAGES} HTTP/1.1\r\nhost: a\r\n"), "HTTP/1.1 400"),
        (format!("POST {MESSAGES} HTTP/1.1\r\nhost: a\r\nhost: b\r\n"), "HTTP/1.1 400"),
    ] {
        assert_eq!(raw(&url, &format!("{head}{rest}")).await, status, "{head}");
    }
    let large = format!("POST {MESSAGES} HTTP/1.1\r\nhost: a\r\ncontent-length: 33554433\r\n");
    let large = format!("{large}x-api-key: {}\r\n\r\n", token(&agent));
    assert_eq!(raw(&url, &large).await, "HTTP/1.1 413");
}

#[tokio::test]
async fn an_open_answer_is_cut_off_once_the_credential_is_revoked() {
    let edge = Edge::local();
    let (agent, url) = (edge.world.agent(), edge.listen().await);
    let listening = async {
        while edge.world.revoked_agent_keys.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, listening).await.expect("the gateway listens");
    let request = Request::builder().method(Method::POST).uri(format!("{url}{MESSAGES}"));
    let request = request.header("x-api-key", token(&agent)).body(Full::from("endless")).expect("a request");
    let mut body = client(false).request(request).await.expect("answered").into_body();
    let first = body.frame().await.expect("goes on").expect("good").into_data().expect("data");
    assert_eq!(first, "first");
    let key = AgentKeyName { agent_id: agent.id.to_string(), key_id: agent.kid.clone() };
    edge.world.revoked_agent_keys.send(key).expect("heard");
    let end = tokio::time::timeout(LONG, body.frame()).await.expect("ends");
    assert!(end.is_some_and(|frame| frame.is_err()), "not as if it were whole");
}

#[tokio::test]
async fn without_a_models_role_calls_are_refused_until_there_is_one() {
    let edge = Edge::without_models();
    let (agent, url) = (edge.world.agent(), edge.listen().await);
    let (status, reason, _) = send(&url, false, MESSAGES, &[("x-api-key", &token(&agent))], "{}").await;
    assert_eq!((status.as_u16(), reason.as_str()), (503, "UNAVAILABLE"));
}
