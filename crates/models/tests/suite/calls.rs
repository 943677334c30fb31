//! What passes, and what it costs: each protocol, whole and streamed.

use std::sync::atomic::Ordering;

use mi_proto::internal::v1::TokenUsage;
use serde_json::{Value, json};

use crate::stage::{KEY, Stage, data, read, stream, streamed, whole};

pub(crate) const MESSAGES: &str = "/llm/anthropic/v1/messages";
pub(crate) const CHAT: &str = "/llm/openai/v1/chat/completions";

/// Tokens of a request, at the most, for a body of this length.
fn input(body: &Value) -> i64 {
    body.to_string().len() as i64 + 64
}

#[tokio::test]
async fn a_message_passes_as_it_is_and_is_paid_for() {
    let said = json!({"type": "message", "model": "claude-x", "usage": {"input_tokens": 10, "output_tokens": 4,
        "cache_read_input_tokens": 2}});
    let stage = Stage::new([whole(200, &said)]).await;
    let body = r#"{ "model":"claude-x", "max_tokens" : 50,"odd":1.0,"messages":[] }"#;
    let task = mi_kernel::TaskId::new().to_string();
    let headers = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "tools-1"),
        ("user-agent", "sdk/1"),
        ("x-stainless-lang", "python"),
        ("mi-task-id", &task),
        ("accept-encoding", "gzip"),
        ("x-api-key", "of-the-client"),
        ("authorization", "Bearer of-the-client"),
        ("cookie", "a=b"),
        ("host", "evil.example"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let answer = read(stage.open(&format!("{MESSAGES}?beta=true&key=x&alt=sse"), &headers, body).await).await;
    assert_eq!((answer.status, answer.json()), (200, said));

    let got = stage.got().remove(0);
    assert_eq!((got.uri.as_str(), got.body.as_str()), ("/v1/messages?beta=true", body));
    let header = |name: &str| got.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    for (name, value) in [
        ("x-api-key", KEY),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "tools-1"),
        ("user-agent", "sdk/1"),
        ("x-stainless-lang", "python"),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
        ("host", &stage.provider.address.to_string()),
    ] {
        assert_eq!(header(name).as_deref(), Some(value), "{name}");
    }
    for name in ["authorization", "cookie", "mi-task-id", "mi-principal", "traceparent"] {
        assert_eq!(header(name), None, "{name}");
    }

    let reserved = stage.reserved().remove(0);
    assert_eq!(reserved.office_id, stage.agent.office_id.to_string());
    let spender = reserved.spender.clone().expect("there");
    assert_eq!((spender.agent_id, spender.agent), (stage.agent.agent_id.to_string(), "analyst".into()));
    assert_eq!(spender.lineage, ["the-hirer"]);
    assert_eq!(
        (reserved.task_id.as_str(), reserved.provider.as_str(), reserved.model.as_str()),
        (&*task, "anthropic", "claude-x")
    );
    assert_eq!(reserved.amount, (body.len() as i64 + 64) * 3 + 50 * 15);
    assert_eq!(reserved.valid_for.map(|time| time.seconds), Some(300));

    let settled = stage.only_settled().await;
    assert_eq!((settled.amount, settled.note.as_str()), (Some(10 * 3 + 4 * 15 + 2), ""));
    assert_eq!(settled.usage, Some(TokenUsage { input: 10, output: 4, cache_read: 2, ..TokenUsage::default() }));
}

#[tokio::test]
async fn a_stream_passes_as_it_comes_and_is_settled_before_its_end_is_seen() {
    let (pieces, does) = stream();
    let stage = Stage::new([does]).await;
    let body = json!({"model": "claude-x", "max_tokens": 50, "stream": true});
    let mut open = stage.open(MESSAGES, &[], body).await.into_body();
    let mut next = async |event: &Value| {
        pieces.send(Ok(data(event))).await.expect("taken");
        let frame = http_body_util::BodyExt::frame(&mut open).await.expect("goes on").expect("good");
        assert_eq!(frame.into_data().expect("data"), data(event));
    };
    let start = json!({"input_tokens": 9, "output_tokens": 1, "cache_creation_input_tokens": 3});
    next(&json!({"type": "message_start", "message": {"usage": start}})).await;
    next(&json!({"type": "content_block_delta"})).await;
    next(&json!({"type": "message_delta", "delta": {"stop_reason": null}, "usage": {"output_tokens": 5}})).await;
    assert!(stage.world.settled.lock().expect("lock").is_empty());
    next(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}})).await;
    next(&json!({"type": "message_stop"})).await;
    assert_eq!(stage.world.settled.lock().expect("lock").len(), 1, "whoever has the end may spend what is left");
    drop(pieces);
    let settled = stage.only_settled().await;
    assert_eq!(settled.amount, Some(9 * 3 + 3 * 3 + 8 * 15));
}

/// Asks for usage, and keeps to itself what the client did not ask for.
#[tokio::test]
async fn a_chat_stream_ends_with_usage_only_for_whom_asked_for_it() {
    let part = json!({"model": "gpt-x-2026-01-01", "choices": [{"delta": {"content": "a"}, "finish_reason": null}]});
    let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 5}}});
    let events = [part.clone(), end.clone(), usage.clone(), json!("[DONE]")];
    for asks in [false, true] {
        let stage = Stage::new([streamed(&events).await]).await;
        stage.hired("gpt", "openai");
        let body = match asks {
            true => r#"{"model":"gpt-x","stream":true,"max_tokens":9,"stream_options":{"include_usage":true}}"#,
            false => r#"{"model":"gpt-x","stream":true,"max_tokens":9}"#,
        };
        let answer = stage.post(CHAT, body).await;
        let expected: Vec<_> = events.iter().filter(|event| asks || **event != usage).map(data).collect();
        assert_eq!(answer.body, String::from_utf8(expected.concat()).expect("text"));
        let got = stage.got().remove(0);
        assert_eq!(got.uri, "/v1/chat/completions");
        assert_eq!(got.headers["authorization"], format!("Bearer {KEY}"));
        let sent: Value = serde_json::from_str(&got.body).expect("JSON");
        assert_eq!(sent["stream_options"], json!({"include_usage": true}));
        let settled = stage.only_settled().await;
        assert_eq!(settled.amount, Some(6 * 3 + 4 + 6 * 15));
        let usage = TokenUsage { input: 6, output: 1, cache_read: 4, reasoning: 5, ..TokenUsage::default() };
        assert_eq!((settled.usage, settled.note.as_str()), (Some(usage), ""));
    }
}

#[tokio::test]
async fn every_other_protocol_is_spoken() {
    let usage = json!({"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 2});
    let content = json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage});
    let response =
        json!({"object": "response", "status": "completed", "usage": {"input_tokens": 10, "output_tokens": 6}});
    let completed = json!({"type": "response.completed", "response": response});
    let embedded = json!({"data": [], "usage": {"prompt_tokens": 10, "total_tokens": 10}});
    let gemini = 6 * 3 + 4 + 5 * 15;
    let openai = 10 * 3 + 6 * 15;
    for (tier, provider, path, uri, body, does, cost) in [
        (
            "gem",
            "gemini",
            "/llm/gemini/v1beta/models/gemini-x:generateContent?key=gone",
            "/v1beta/models/gemini-x:generateContent",
            json!({}),
            whole(200, &content),
            gemini,
        ),
        (
            "gem",
            "gemini",
            "/llm/gemini/v1beta/models/gem:streamGenerateContent?alt=sse",
            "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
            json!({}),
            streamed(std::slice::from_ref(&content)).await,
            gemini,
        ),
        (
            "gem",
            "gemini",
            "/llm/gemini/v1beta/models/gemini-x:streamGenerateContent",
            "/v1beta/models/gemini-x:streamGenerateContent",
            json!({}),
            whole(200, json!([content])),
            gemini,
        ),
        (
            "gpt",
            "openai",
            "/llm/openai/responses",
            "/v1/responses",
            json!({"model": "gpt-x"}),
            whole(200, &response),
            openai,
        ),
        (
            "gpt",
            "openai",
            "/llm/openai/v1/responses",
            "/v1/responses",
            json!({"model": "gpt-x", "stream": true}),
            streamed(&[completed]).await,
            openai,
        ),
        (
            "embed",
            "openai",
            "/llm/openai/v1/embeddings",
            "/v1/embeddings",
            json!({"model": "embed-x"}),
            whole(200, &embedded),
            30,
        ),
    ] {
        let stage = Stage::new([does]).await;
        stage.hired(tier, provider);
        let answer = stage.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let got = stage.got().remove(0);
        assert_eq!(got.uri, uri);
        if provider == "gemini" {
            assert_eq!(got.headers["x-goog-api-key"], KEY);
        }
        assert_eq!(stage.only_settled().await.amount, Some(cost), "{path}");
    }
}

#[tokio::test]
async fn a_request_without_a_ceiling_gets_the_models_and_several_answers_have_it_each() {
    let body = json!({"model": "gpt-x", "n": 3});
    let stage = Stage::new([whole(200, json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}))]).await;
    stage.hired("gpt", "openai");
    assert_eq!(stage.post(CHAT, &body).await.status, 200);
    assert_eq!(stage.got()[0].body, r#"{"max_tokens":100,"model":"gpt-x","n":3}"#);
    assert_eq!(stage.reserved()[0].amount, input(&body) * 3 + 3 * 100 * 15);
    assert_eq!(stage.only_settled().await.amount, Some(0), "an explicit zero is one");
}

#[tokio::test]
async fn counting_tokens_is_free_but_not_open() {
    let stage = Stage::new([whole(200, json!({"input_tokens": 5})), whole(200, json!({"totalTokens": 5}))]).await;
    let path = "/llm/anthropic/v1/messages/count_tokens";
    assert_eq!(stage.post(path, json!({"model": "claude-x"})).await.json(), json!({"input_tokens": 5}));
    assert_eq!(stage.got()[0].body, r#"{"model":"claude-x"}"#);
    assert_eq!(stage.post(path, json!({"model": "claude-y"})).await.status, 403);
    assert!(stage.reserved().is_empty());
    assert_eq!(stage.world.lookups.load(Ordering::SeqCst), 1, "asked once a second");
}

#[tokio::test]
async fn the_models_that_an_agent_may_use_are_listed_here() {
    let stage = Stage::new([]).await;
    let answer = stage.get("/llm/anthropic/v1/models").await;
    assert_eq!(answer.json()["data"][0]["id"], "claude-x");
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(1));

    let stage = Stage::new([]).await;
    stage.hired("gpt", "openai");
    stage.spender(|spender| spender.allow_any_model = true);
    let expected = json!({"object": "list", "data": [
        {"id": "embed-x", "object": "model", "created": 0, "owned_by": "openai"},
        {"id": "gpt-x", "object": "model", "created": 0, "owned_by": "openai"},
    ]});
    assert_eq!(stage.get("/llm/openai/models").await.json(), expected);
    assert!(stage.got().is_empty());
}
