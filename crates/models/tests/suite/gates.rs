//! Who may call what: each refusal in the vendor's shape, and nothing sent to the provider.

use http::Method;
use mi_kernel::{AccountId, Actor, ApiKeyId};
use mi_models::Limits;
use serde_json::json;

use crate::{
    calls::{CHAT, MESSAGES},
    roles::out_of_credits,
    stage::{Answer, KEY, Stage, read, stream, whole, with_key},
};

/// Status and reason; asserts that neither the provider nor the ledger heard of it, but for a reservation.
async fn refused(stage: &Stage, path: &str, body: serde_json::Value) -> (u16, String) {
    let before = stage.got().len();
    let answer = stage.post(path, body).await;
    assert_eq!(stage.got().len(), before, "nothing was sent");
    assert_eq!(stage.world.settled.lock().expect("lock").len(), 0);
    let is_final = answer.header("x-should-retry") == "false";
    assert_eq!(is_final, answer.status < 429, "{answer:?}");
    (answer.status, answer.header("mi-reason").to_owned())
}

fn told(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

fn asks(model: &str) -> serde_json::Value {
    json!({"model": model, "max_tokens": 5})
}

#[tokio::test]
async fn only_agents_that_work_are_let_in() {
    let stage = Stage::new([]).await;
    let operator = Actor::Operator { account_id: AccountId::new(), api_key_id: ApiKeyId::new(), administrator: true };
    let service = Actor::Service { role: "gateway".into() };
    for actor in [operator, service, Actor::Anonymous] {
        let answer = stage.send(actor, Method::POST, MESSAGES, &[], asks("claude-x").to_string()).await;
        assert_eq!(answer.status().as_u16(), 403);
    }
    // The very first call of somebody who is not known.
    *stage.world.spender.lock().expect("lock") = None;
    assert_eq!(refused(&stage, MESSAGES, asks("claude-x")).await, told(403, "PERMISSION_DENIED"));

    let stage = Stage::new([]).await;
    stage.spender(|spender| spender.working = false);
    assert_eq!(refused(&stage, MESSAGES, asks("claude-x")).await, told(403, "AGENT_NOT_WORKING"));

    let stage = Stage::new([]).await;
    stage.spender(|spender| {
        spender.working = false;
        let status = mi_proto::v1::AgentStatus {
            phase: mi_proto::v1::AgentPhase::Suspended.into(),
            message: "BUDGET_REACHED: its own".into(),
            ..Default::default()
        };
        spender.agent.as_mut().expect("there").status = Some(status);
    });
    assert_eq!(refused(&stage, MESSAGES, asks("claude-x")).await, told(402, "BUDGET_REACHED"));
    assert!(stage.reserved().is_empty());
}

#[tokio::test]
async fn an_agent_gets_its_own_model_and_no_other() {
    let usage = json!({"usage": {"input_tokens": 0, "output_tokens": 0}, "type": "message"});
    for (asked, sent) in [("claude-x", "claude-x"), ("sonnet", "claude-x"), ("claude-x-20260101", "claude-x-20260101")]
    {
        let stage = Stage::new([whole(200, &usage)]).await;
        assert_eq!(stage.post(MESSAGES, asks(asked)).await.status, 200, "{asked}");
        assert_eq!(stage.got()[0].body, asks(sent).to_string());
    }
    let stage = Stage::new([]).await;
    for other in ["claude-y", "claude-x-latest", "gpt-x", "free", ""] {
        let (status, reason) = refused(&stage, MESSAGES, asks(other)).await;
        let expected = if other.is_empty() { (400, "INVALID_ARGUMENT") } else { (403, "MODEL_NOT_ALLOWED") };
        assert_eq!((status, reason.as_str()), expected, "{other}");
    }
    // Neither by another provider, nor by naming it twice.
    stage.spender(|spender| spender.integrations.push("openai".into()));
    let twice = r#"{"model":"claude-x","model":"claude-y","max_tokens":5}"#;
    assert_eq!(stage.post(MESSAGES, twice).await.status, 400);
    assert!(stage.reserved().is_empty());

    let stage = Stage::new([whole(200, &usage)]).await;
    stage.spender(|spender| spender.allow_any_model = true);
    assert_eq!(stage.post(MESSAGES, asks("claude-y")).await.status, 200);
    assert_eq!(stage.reserved()[0].model, "claude-y");
    // One without a price is none.
    assert_eq!(stage.post(MESSAGES, asks("claude-z")).await.status, 403);
}

#[tokio::test]
async fn a_provider_that_is_switched_off_is_off_whoevers_key_it_would_be() {
    let stage = Stage::new([]).await;
    with_key(&stage, "anthropic", "of-the-installation");
    stage.spender(|spender| spender.integrations.clear());
    assert_eq!(refused(&stage, MESSAGES, asks("claude-x")).await, told(403, "INTEGRATION_DISABLED"));

    // Another provider than its own has to be on, too.
    let stage = Stage::new([]).await;
    stage.spender(|spender| spender.allow_any_model = true);
    assert_eq!(refused(&stage, CHAT, asks("gpt-x")).await, told(403, "INTEGRATION_DISABLED"));

    // One that is no integration has no switch.
    let stage = Stage::new([whole(200, json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}))]).await;
    stage.hired("open", "open");
    stage.spender(|spender| spender.integrations.clear());
    assert_eq!(stage.post("/llm/open/chat/completions", asks("gpt-x")).await.status, 200);
}

#[tokio::test]
async fn the_offices_key_goes_before_the_installations() {
    let usage = || whole(200, json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}));
    for (tier, provider, own, installed, shown) in [
        ("gpt", "openai", Some("own\n"), Some("installed"), Some("Bearer own")),
        ("keyless", "keyless", None, Some("installed"), Some("Bearer installed")),
        ("keyless", "keyless", Some("  "), Some("installed"), Some("Bearer installed")),
        ("open", "open", None, None, None),
    ] {
        let stage = Stage::new([usage()]).await;
        stage.hired(tier, provider);
        if let Some(own) = own {
            stage.secret(provider, "api_key", own);
            stage.secret(provider, "organization", "org-1");
        }
        if let Some(installed) = installed {
            with_key(&stage, provider, installed);
        }
        let answer = stage.post(&format!("/llm/{provider}/chat/completions"), asks("gpt-x")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let got = stage.got().remove(0);
        let header = |name: &str| got.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(header("authorization").as_deref(), shown, "{provider}");
        let bills = (own == Some("own\n")).then_some("org-1");
        assert_eq!(header("openai-organization").as_deref(), bills);
    }
    for secret in [None, Some("two\nlines")] {
        let stage = Stage::new([]).await;
        stage.hired("keyless", "keyless");
        if let Some(secret) = secret {
            stage.secret("keyless", "api_key", secret);
        }
        let answer = refused(&stage, "/llm/keyless/chat/completions", asks("gpt-x")).await;
        assert_eq!(answer, told(403, "INTEGRATION_NOT_CONFIGURED"));
    }
}

#[tokio::test]
async fn a_provider_is_known_by_its_aliases() {
    let stage = Stage::new([whole(200, json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}))]).await;
    stage.hired("open", "open");
    assert_eq!(stage.post("/llm/open-too/chat/completions", asks("gpt-x")).await.status, 200);
    assert_eq!(stage.reserved()[0].provider, "open");
}

#[tokio::test]
async fn what_is_not_paid_for_is_not_sent() {
    for (refusal, status, reason) in [
        (out_of_credits(), 402, "OUT_OF_CREDITS"),
        (
            mi_rpc::status(mi_kernel::Error::new(mi_kernel::ErrorKind::Exhausted, "BUDGET_REACHED", "its budget")),
            402,
            "BUDGET_REACHED",
        ),
    ] {
        let stage = Stage::new([]).await;
        *stage.world.refusal.lock().expect("lock") = Some(refusal);
        assert_eq!(refused(&stage, MESSAGES, asks("claude-x")).await, told(status, reason));
    }
    // With the roles away that know who calls.
    let stage = Stage::new([]).await;
    stage.world.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(refused(&stage, MESSAGES, asks("claude-x")).await, told(503, "UNAVAILABLE"));
}

/// However many come at once, each is set aside before it is sent.
#[tokio::test]
async fn parallel_calls_share_one_wall() {
    let usage = || whole(200, json!({"type": "message", "usage": {"input_tokens": 1, "output_tokens": 1}}));
    let stage = Stage::new((0..3).map(|_| usage())).await;
    let each = (asks("claude-x").to_string().len() as i64 + 64) * 3 + 5 * 15;
    *stage.world.balance.lock().expect("lock") = Some(each * 3 + each / 2);
    let answers = futures::future::join_all((0..20).map(|_| stage.post(MESSAGES, asks("claude-x")))).await;
    let passed = answers.iter().filter(|answer: &&Answer| answer.status == 200).count();
    let broke = answers.iter().filter(|answer| answer.status == 402).count();
    assert_eq!((passed, broke, stage.got().len()), (3, 17, 3));
    assert_eq!(stage.settled(3).await.len(), 3);
}

#[tokio::test]
async fn tools_that_the_provider_bills_need_a_price() {
    let stage = Stage::new([]).await;
    let with = |kind: &str| json!({"model": "claude-x", "max_tokens": 5, "tools": [{"type": kind, "max_uses": 2}]});
    let answer = refused(&stage, MESSAGES, with("code_execution_20250522")).await;
    assert_eq!(answer, told(400, "UNPRICED"));

    let usage = json!({"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2}});
    let stage = Stage::new([whole(200, json!({"type": "message", "usage": usage}))]).await;
    assert_eq!(stage.post(MESSAGES, with("web_search_20250305")).await.status, 200);
    let expected = (with("web_search_20250305").to_string().len() as i64 + 4096 + 2_000_000) * 3 + 5 * 15 + 20_000;
    assert_eq!(stage.reserved()[0].amount, expected);
    assert_eq!(stage.only_settled().await.amount, Some(3 + 15 + 20_000));

    let stage = Stage::new([]).await;
    let beta = [("anthropic-beta", "a,context-1m-2025-08-07")];
    assert_eq!(read(stage.open(MESSAGES, &beta, asks("claude-x")).await).await.status, 400);
    let packed = [("content-encoding", "gzip")];
    assert_eq!(read(stage.open(MESSAGES, &packed, asks("claude-x")).await).await.status, 400);
}

#[tokio::test]
async fn a_path_that_is_odd_goes_nowhere() {
    let stage = Stage::new([]).await;
    for path in [
        "/llm/anthropic/v1/../v1/messages",
        "/llm/anthropic/v1%2fmessages",
        "/llm/anthropic/v1/messages/http://evil.example/",
        "/llm/nobody/v1/messages",
        "/llm/openai/v1/messages",
        "/llm/anthropic/v1/files",
        "/proxy/github/user",
    ] {
        let answer = stage.post(path, asks("claude-x")).await;
        assert_eq!((answer.status, answer.header("x-should-retry")), (404, "false"), "{path}");
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert!(stage.got().is_empty() && stage.reserved().is_empty());
}

#[tokio::test]
async fn a_number_of_calls_goes_on_at_once() {
    let limits = Limits { per_agent: 1, ..Limits::default() };
    let (pieces, does) = stream();
    let stage = Stage::with(limits, [does]).await;
    let open = stage.open(MESSAGES, &[], json!({"model": "claude-x", "max_tokens": 5, "stream": true})).await;
    let answer = stage.post(MESSAGES, asks("claude-x")).await;
    assert_eq!((answer.status, answer.header("retry-after"), answer.header("x-should-retry")), (429, "1", ""));
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    drop((open, pieces));
    stage.settled(1).await;
    stage.does(whole(200, json!({"type": "message", "usage": {"input_tokens": 0, "output_tokens": 0}})));
    mi_testkit::until("there is room again", crate::stage::LONG, async || {
        let answer = stage.post(MESSAGES, asks("claude-x")).await;
        Ok::<_, std::convert::Infallible>((answer.status == 200).then_some(()))
    })
    .await;
}

#[tokio::test]
async fn no_key_comes_back() {
    let mut does = whole(200, json!({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}));
    if let crate::stage::Does::Answers(response) = &mut does {
        for name in ["set-cookie", "openai-organization", "mi-principal", "request-id"] {
            response.headers_mut().insert(name, "a".parse().expect("a value"));
        }
    }
    let stage = Stage::new([does]).await;
    stage.hired("gpt", "openai");
    let answer = stage.post(CHAT, asks("gpt-x")).await;
    assert_eq!(answer.header("request-id"), "a");
    for gone in ["set-cookie", "openai-organization", "mi-principal"] {
        assert_eq!(answer.header(gone), "", "{gone}");
    }
    assert!(!format!("{answer:?}").contains(KEY));
}
