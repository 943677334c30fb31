//! What is wrong, foreign, missing or unknown there.

use hyper::body::Bytes;
use serde_json::json;

use super::{Program, start};

const INVALID: (u16, &str) = (400, "INVALID_ARGUMENT");

#[tokio::test]
async fn what_is_wrong_is_named() {
    let (_world, program) = start().await;
    let office = program.office("Strict").await;
    let json = [("content-type", "application/json")];
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    for (body, said) in [
        ("{", "body is not JSON"),
        ("[]", "body must be a JSON object"),
        ("{\"name\":\"a\",\"name\":\"b\"}", "`name` is there twice"),
        ("{\"name\":7}", "name must be a string"),
        ("{\"name\":\"a\"}x", "body is not JSON"),
        ("\u{7}", "body is not JSON"),
        ("{\"name\":\"\"}", "name"),
        ("{\"name\":\"a\",\"skills\":{}}", "skills must be a list of strings"),
        ("{\"name\":\"a\",\"env\":{\"X\":1}}", "env must be an object of strings"),
        ("{\"name\":\"a\",\"integrations\":{\"github\":\"yes\"}}", "integrations must be an object"),
        ("{\"name\":\"a\",\"modelTier\":\"cheapest\"}", "cheapest"),
        (&*deep, "body is not JSON"),
    ] {
        let answer = program.raw("POST", &format!("{office}/employees"), &json, Bytes::from(body.to_owned())).await;
        assert_eq!(answer.refused(), (INVALID.0, INVALID.1.into()), "{said}");
        assert!(answer.json()["message"].as_str().expect("text").contains(said), "{said}: {answer:?}");
    }
    // Just over the limit: a client that is still sending when it is refused may not get to read why.
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(8 << 20));
    let answer = program.raw("POST", &format!("{office}/employees"), &json, huge.into()).await;
    assert_eq!(answer.refused(), (413, "MESSAGE_TOO_LARGE".into()));
    assert_eq!(program.get(&format!("{office}/employees")).await.ok(), json!([]));
    for query in ["limit=0", "limit=-1", "limit=x", "offset=1e3", "offset=10001", "limit=99999999999999999999"] {
        let answer = program.get(&format!("{office}/tasks?{query}")).await;
        assert_eq!(answer.refused(), (INVALID.0, INVALID.1.into()), "{query}");
    }
    assert_eq!(program.get(&format!("{office}/tasks?limit=1000")).await.ok(), json!([]));
    for (path, body) in [
        ("tasks", json!({"title": "t", "priority": "high"})),
        ("tasks", json!({"title": "t", "kind": "dance"})),
        ("tasks", json!({"title": ["t"]})),
        ("tasks/claim", json!({"kind": "dance"})),
        ("integrations/github/secret", json!({})),
        ("integrations/github/agents/a", json!({"enabled": 1})),
    ] {
        let answer = program.post(&format!("{office}/{path}"), body).await;
        assert_eq!(answer.refused(), (INVALID.0, INVALID.1.into()), "{path}");
    }
    assert_eq!(program.get("/api/v1/offices/nonsense").await.refused().0, 400);
}

/// A path of each kind below an office, with whatever it takes.
const BELOW: [(&str, &str); 30] = [
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/status"),
    ("GET", "/settings"),
    ("PATCH", "/settings"),
    ("POST", "/suspend"),
    ("GET", "/employees"),
    ("POST", "/employees"),
    ("GET", "/employees/bob"),
    ("GET", "/employees/bob/logs"),
    ("GET", "/employees/bob/activity"),
    ("POST", "/employees/bob/promote"),
    ("POST", "/employees/bob/lifecycle"),
    ("GET", "/employees/bob/integrations"),
    ("GET", "/tasks"),
    ("POST", "/tasks"),
    ("POST", "/tasks/claim"),
    ("GET", "/tasks/stats"),
    ("GET", "/files"),
    ("GET", "/files/a.md"),
    ("DELETE", "/files/a.md"),
    ("GET", "/files/_changes"),
    ("GET", "/integrations"),
    ("GET", "/provider-models"),
    ("GET", "/credits"),
    ("GET", "/credits/history"),
    ("GET", "/backups"),
    ("GET", "/xmtp/groups"),
    ("GET", "/xmtp/stream"),
    ("POST", "/invites"),
];

#[tokio::test]
async fn foreign_is_missing_and_nobody_gets_in() {
    let (world, program) = start().await;
    let office = program.office("Private").await;
    program.agent(&office, "bob").await;
    let stranger = Program::start(&world, "stranger").await;
    let nobody = Program::with(&world, "");
    let id = office.rsplit_once('/').expect("an id").1;
    let missing_id = uuid::Uuid::now_v7().to_string();
    let missing = format!("/api/v1/offices/{missing_id}");
    let body = || Bytes::from_static(br#"{"name":"x","title":"x","modelTier":"opus","action":"stop"}"#);
    for (method, path) in BELOW {
        let foreign = stranger.raw(method, &format!("{office}{path}"), &[], body()).await;
        assert_eq!(foreign.refused(), (404, "NOT_FOUND".into()), "{method} {path}");
        let none = stranger.raw(method, &format!("{missing}{path}"), &[], body()).await;
        let text = |answer: &super::Answer| String::from_utf8_lossy(&answer.bytes).replace(id, &missing_id);
        assert_eq!(text(&foreign), text(&none), "{method} {path}");
        let unknown = nobody.raw(method, &format!("{office}{path}"), &[], body()).await;
        assert_eq!(unknown.refused(), (401, "UNAUTHENTICATED".into()), "{method} {path}");
        assert_eq!(unknown.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(stranger.upload(&format!("{office}/files"), "a", b"x").await.refused().0, 404);
    assert_eq!(nobody.upload(&format!("{office}/files"), "a", b"x").await.refused().0, 401);
    assert_eq!(stranger.get(&format!("/api/offices/{id}/integrations")).await.refused().0, 404);
    // The key belongs into the header.
    for query in ["token", "access_token", "api_key"] {
        let answer = nobody.get(&format!("{office}?{query}={}", program.key)).await;
        assert_eq!(answer.refused(), (401, "UNAUTHENTICATED".into()), "{query}");
    }
    let basic = [("authorization", "Basic eDp5")];
    assert_eq!(nobody.raw("GET", &office, &basic, Bytes::new()).await.refused().0, 401);
    assert_eq!(Program::with(&world, "mi_wrong").get(&office).await.refused().0, 401);
    assert_eq!(program.get(&format!("{office}/employees/bob")).await.ok()["status"]["phase"], "Running");

    assert_eq!(program.get("/api/v1/nonsense").await.refused(), (404, "ROUTE_NOT_FOUND".into()));
    let wrong = program.raw("PUT", &format!("{office}/settings"), &[], Bytes::new()).await;
    assert_eq!((wrong.refused(), wrong.header("allow")), ((405, "METHOD_NOT_ALLOWED".into()), Some("GET, PATCH")));
    for absent in ["/api/marketplace", "/api/snapshots/1"] {
        assert_eq!(program.get(absent).await.refused(), (501, "NOT_IMPLEMENTED".into()), "{absent}");
    }
    for absent in ["extensions", "whatsapp/qr", "browser", "wallets", "terminal", "employees/bob/terminal"] {
        let answer = program.post_nothing(&format!("{office}/{absent}")).await;
        assert_eq!(answer.refused(), (501, "NOT_IMPLEMENTED".into()), "{absent}");
    }
}
