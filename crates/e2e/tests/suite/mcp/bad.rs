//! What is no request, and who may not send one.

use mi_e2e::World;
use mi_testkit::{Arrangement, Backend};
use serde_json::{Value, json};

use super::{Mcp, office};

/// Code of the error, and its message.
fn error(answer: &Value) -> (i64, &str) {
    let error = &answer["error"];
    let message = error["message"].as_str().unwrap_or_default();
    assert!(answer["jsonrpc"] == "2.0" && !message.is_empty(), "{answer}");
    (error["code"].as_i64().expect("a code"), message)
}

#[tokio::test]
async fn nobody_gets_in_without_a_credential_or_from_a_page_of_elsewhere() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let known = Mcp::of_account(&world, "acme").await;
    let list = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}"#;
    let query = format!("{}?access_token={}", known.url, known.key.as_deref().expect("a key"));
    let nobody = Mcp { key: None, ..known.clone() };
    for stranger in [
        nobody.clone(),
        Mcp { url: query, ..nobody },
        Mcp { key: Some("mi_nonsense".into()), ..known.clone() },
        Mcp { key: Some("a.b.c".into()), ..known.clone() },
    ] {
        // Who is nobody is told so whatever they send.
        for body in [list, "{", ""] {
            let response = stranger.post(body).send().await.expect("answered");
            assert_eq!(response.status(), 401, "{:?}", stranger.key);
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            let answer = serde_json::from_str(&response.text().await.expect("whole")).expect("JSON");
            assert_eq!(error(&answer).0, -32000);
        }
    }
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost:3000", 200),
        (world.platform.endpoint(), 200),
    ] {
        let response = known.post(list).header("origin", origin).send().await.expect("answered");
        assert_eq!(response.status(), status, "{origin}");
    }
    let response = known.get().send().await.expect("answered");
    assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"POST".parse().expect("a value")));
    let key = known.key.as_deref().expect("a key");
    let plain = known.http.post(&known.url).bearer_auth(key).header("content-type", "text/plain").body(list);
    let response = plain.header("accept", "application/json, text/event-stream").send().await.expect("answered");
    assert_eq!(response.status(), 415);
    let response = known.post(list).header("mcp-protocol-version", "1999-01-01").send().await.expect("answered");
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn what_is_no_request_is_told_what_is_wrong() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mcp = Mcp::of_account(&world, "acme").await;
    let list = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}"#;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"tools/list\"} trailing", -32700),
        (r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "method": "initialize"}"#, -32700),
        (deep.as_str(), -32700),
        ("[]", -32600),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}"#, -32600),
        (r#"{"jsonrpc": "2.0", "id": 1, "method": 7}"#, -32600),
        (r#"{"jsonrpc": "2.0", "id": 1, "result": {}}"#, -32600),
    ] {
        let (status, answer) = mcp.raw(body.to_owned()).await;
        assert_eq!((status.as_u16(), error(&answer).0), (400, code), "{:.80}: {answer}", body);
    }
    let (status, answer) = mcp.raw(format!("[{list}, {list}]")).await;
    assert_eq!((status.as_u16(), error(&answer).0), (400, -32600));
    let (status, answer) = mcp.raw(r#"{"jsonrpc": "1.0", "id": "mine", "method": "tools/list"}"#).await;
    assert_eq!((status.as_u16(), &answer["id"]), (400, &json!("mine")));

    for (method, params, code) in [
        ("nonsense", json!({}), -32601),
        ("prompts/list", json!({}), -32601),
        ("tools/call", json!({}), -32602),
        ("tools/call", json!({"name": 7}), -32602),
        ("tools/call", json!({"name": "nonsense"}), -32602),
        ("tools/call", json!({"name": "whoami", "arguments": []}), -32602),
        ("tools/list", json!({"cursor": "x"}), -32602),
        ("resources/list", json!({"cursor": "x"}), -32602),
        ("resources/read", json!({"uri": "file:///etc/passwd"}), -32602),
        ("resources/read", json!({}), -32602),
    ] {
        let error = mcp.request(method, params.clone()).await.expect_err("refused");
        assert_eq!(error["code"], code, "{method} {params}: {error}");
    }
    let huge = format!(r#"{{"jsonrpc": "2.0", "id": 1, "method": "{}"}}"#, "x".repeat(4 << 20));
    let (status, answer) = mcp.raw(huge).await;
    assert_eq!((status.as_u16(), error(&answer).0), (413, -32000));
    let name = "x".repeat(1 << 20);
    let error = mcp.request("tools/call", json!({"name": name})).await.expect_err("refused");
    assert!(error["message"].as_str().is_some_and(|message| message.len() < 200), "{error}");
}

#[tokio::test]
async fn a_tool_that_is_used_wrongly_says_what_to_change() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mcp = Mcp::of_account(&world, "acme").await;
    let id = office(&mcp, "Wrong").await;
    let long = "x".repeat(300_000);
    for (tool, arguments, said) in [
        ("create_task", json!({"title": "t"}), "`office_id` is missing"),
        ("create_task", json!({"office_id": id}), "`title` is missing"),
        ("create_task", json!({"office_id": id, "title": "t", "prio": 1}), "`prio` is no argument of create_task"),
        ("create_task", json!({"office_id": id, "title": "t", "priority": 101}), "priority"),
        (
            "create_task",
            json!({"office_id": id, "title": "t", "priority": "high"}),
            "`priority` must be a whole number",
        ),
        ("create_task", json!({"office_id": id, "title": "t", "kind": "command"}), "TASK_KIND_COMMAND"),
        ("create_task", json!({"office_id": id, "title": "t", "description": long}), "description"),
        ("create_task", json!({"office_id": id, "title": ["t"]}), "`title` must be a text"),
        ("list_tasks", json!({"office_id": id, "page_size": 1000}), "`page_size` must be a whole number from 1 to 50"),
        ("list_tasks", json!({"office_id": id, "page_token": "nonsense"}), "page_token"),
        ("get_office", json!({"office_id": "nonsense"}), "office_id"),
        ("hire_agent", json!({"office_id": id, "name": "Not A Name!"}), "name"),
        ("hire_agent", json!({"office_id": id, "name": "a", "model_tier": "nonsense"}), "sonnet"),
        ("write_file", json!({"office_id": id, "path": "a"}), "`text` and `base64`"),
        ("write_file", json!({"office_id": id, "path": "a", "text": "x", "base64": "eA=="}), "`text` and `base64`"),
        ("write_file", json!({"office_id": id, "path": "a", "base64": "!"}), "`base64` is no base64"),
        ("write_file", json!({"office_id": id, "path": "../a", "text": "x"}), "path"),
        ("read_file", json!({"office_id": id, "path": "a", "length": 10_000_000}), "`length`"),
    ] {
        let refused = mcp.refused(tool, arguments.clone()).await;
        assert_eq!(refused["code"], "INVALID_ARGUMENT", "{tool}: {refused}");
        let message = refused["message"].as_str().expect("a message");
        assert!(message.contains(said), "{tool} says {message:?}, not {said:?}");
        assert!(refused["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{refused}");
    }
    assert_eq!(mcp.done("list_tasks", json!({"office_id": id})).await, json!({"tasks": []}));
    assert_eq!(mcp.done("list_agents", json!({"office_id": id})).await, json!({"agents": []}));
}
