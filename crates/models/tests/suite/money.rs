//! The ledger is away, or says no while a call is under way.

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use http_body_util::BodyExt;
use mi_models::Limits;
use mi_testkit::until;
use serde_json::{Value, json};

use crate::{
    calls::{CHAT, MESSAGES},
    roles::out_of_credits,
    stage::{LONG, Stage, data, read, stream, whole},
};

fn asks() -> Value {
    json!({"model": "claude-x", "max_tokens": 50, "stream": true})
}

#[tokio::test]
async fn a_settlement_waits_for_the_office_role_and_is_made_once() {
    let stage =
        Stage::new([whole(200, json!({"type": "message", "usage": {"input_tokens": 1, "output_tokens": 1}}))]).await;
    stage.world.settling_fails.store(true, Ordering::SeqCst);
    let answer = stage.post(MESSAGES, json!({"model": "claude-x", "max_tokens": 50})).await;
    assert_eq!(answer.status, 200, "the client does not wait for it");
    assert!(stage.world.settled.lock().expect("lock").is_empty());
    stage.world.settling_fails.store(false, Ordering::SeqCst);
    stage.settled(1).await;
    assert_eq!(stage.only_settled().await.amount, Some(18));
}

#[tokio::test]
async fn a_reservation_is_renewed_for_as_long_as_the_call_lasts() {
    let (pieces, does) = stream();
    let limits = Limits { renewed_every: Duration::from_millis(20), ..Limits::default() };
    let stage = Stage::with(limits, [does]).await;
    let open = stage.open(MESSAGES, &[], asks()).await;
    until("it is renewed", LONG, async || Ok::<_, Infallible>((stage.reserved().len() > 3).then_some(()))).await;
    let reserved = stage.reserved();
    assert!(reserved.iter().all(|again| *again == reserved[0]), "the same call and the same amount");
    // An office role that is away ends nothing.
    stage.world.down.store(true, Ordering::SeqCst);
    let count = stage.reserved().len();
    pieces.send(Ok(data(&json!({"type": "ping"})))).await.expect("taken");
    stage.world.down.store(false, Ordering::SeqCst);
    until("it goes on", LONG, async || Ok::<_, Infallible>((stage.reserved().len() > count).then_some(()))).await;
    drop(pieces);
    read(open).await;
    assert_eq!(stage.only_settled().await.amount, None);
}

/// The credits may be set aside although nobody heard of it.
#[tokio::test]
async fn a_reservation_whose_answer_is_lost_is_given_back() {
    for lost in [tonic::Status::unavailable("lost"), tonic::Status::deadline_exceeded("lost")] {
        let stage = Stage::new([]).await;
        *stage.world.refusal.lock().expect("lock") = Some(lost);
        let answer = stage.post(MESSAGES, asks()).await;
        assert!(answer.status >= 500, "{}", answer.status);
        let settled = stage.only_settled().await;
        assert_eq!((&settled.call_id, settled.amount), (&stage.reserved()[0].call_id, Some(0)));
    }
}

#[tokio::test]
async fn a_renewal_that_is_refused_for_a_moment_ends_nothing() {
    let (pieces, does) = stream();
    let limits = Limits { renewed_every: Duration::from_millis(20), ..Limits::default() };
    let stage = Stage::with(limits, [does]).await;
    let open = stage.open(MESSAGES, &[], asks()).await;
    let busy = mi_kernel::Error::exhausted("CREDITS_BUSY", "much is asked", Duration::from_secs(1));
    *stage.world.refusal.lock().expect("lock") = Some(mi_rpc::status(busy));
    let refused = stage.reserved().len() + 3;
    until("it is asked again", LONG, async || Ok::<_, Infallible>((stage.reserved().len() > refused).then_some(())))
        .await;
    let usage = json!({"type": "message_delta", "usage": {"input_tokens": 1, "output_tokens": 1}});
    for event in [usage, json!({"type": "message_stop"})] {
        pieces.send(Ok(data(&event))).await.expect("taken");
    }
    drop(pieces);
    read(open).await;
    assert_eq!(stage.only_settled().await.amount, Some(18));
}

/// In the vendor's words, so that an SDK raises its error and takes nothing for the end.
#[tokio::test]
async fn a_stream_whose_credits_are_gone_ends_with_the_vendors_error() {
    for (tier, provider, path, model) in
        [("sonnet", "anthropic", MESSAGES, "claude-x"), ("gpt", "openai", CHAT, "gpt-x")]
    {
        let (pieces, does) = stream();
        let limits = Limits { renewed_every: Duration::from_millis(20), ..Limits::default() };
        let stage = Stage::with(limits, [does]).await;
        stage.hired(tier, provider);
        let body = json!({"model": model, "max_tokens": 50, "stream": true});
        let mut open = stage.open(path, &[], body).await.into_body();
        pieces.send(Ok(data(&json!({"type": "ping"})))).await.expect("taken");
        open.frame().await.expect("goes on").expect("good");
        *stage.world.refusal.lock().expect("lock") = Some(out_of_credits());
        let told = open.frame().await.expect("goes on").expect("good").into_data().expect("data");
        let told = String::from_utf8(told.to_vec()).expect("text");
        match provider {
            "anthropic" => {
                assert!(told.starts_with("event: error\ndata: {\"error\":{") && told.contains("billing_error"))
            }
            _ => assert!(told.starts_with("data: {\"error\":{\"code\":\"OUT_OF_CREDITS\""), "{told}"),
        }
        assert!(open.frame().await.is_some_and(|end| end.is_err()), "and it is cut off");
        tokio::time::timeout(LONG, pieces.closed()).await.expect("the provider is given up");
        assert_eq!(stage.only_settled().await.amount, None);
    }
}

#[tokio::test]
async fn a_provider_that_has_not_answered_when_credits_are_gone_is_given_up() {
    let limits = Limits { renewed_every: Duration::from_millis(20), ..Limits::default() };
    let stage = Stage::with(limits, [crate::stage::Does::Hangs]).await;
    let refuse = async {
        until("the provider was asked", LONG, async || Ok::<_, Infallible>((!stage.got().is_empty()).then_some(())))
            .await;
        *stage.world.refusal.lock().expect("lock") = Some(out_of_credits());
    };
    let (answer, ()) = tokio::join!(stage.post(MESSAGES, asks()), refuse);
    assert_eq!((answer.status, answer.header("mi-reason")), (402, "OUT_OF_CREDITS"));
    assert_eq!(stage.only_settled().await.amount, None);
}

#[tokio::test]
async fn calls_are_counted_by_model_and_outcome() {
    let stage = Stage::new([
        whole(200, json!({"type": "message", "usage": {"input_tokens": 2, "output_tokens": 1}})),
        whole(529, "{}"),
    ])
    .await;
    let body = json!({"model": "claude-x", "max_tokens": 50});
    stage.post(MESSAGES, &body).await;
    stage.post(MESSAGES, &body).await;
    stage.post(MESSAGES, json!({"model": "claude-y"})).await;
    stage.settled(2).await;
    assert_eq!(stage.tasks.stop(LONG).await, None);
    let request = http::Request::get("/metrics").body(axum::body::Body::empty()).expect("a request");
    let metrics = tower::ServiceExt::oneshot(mi_base::metrics::router(), request).await.expect("answers");
    let text = metrics.into_body().collect().await.expect("whole").to_bytes();
    let text = String::from_utf8(text.to_vec()).expect("text");
    for line in [
        r#"mi_model_calls_total{model="claude-x",outcome="ok",provider="anthropic"} 1"#,
        r#"mi_model_calls_total{model="claude-x",outcome="vendor_error",provider="anthropic"} 1"#,
        r#"mi_model_calls_total{model="",outcome="refused",provider=""} 1"#,
        r#"mi_model_tokens_total{kind="input",model="claude-x",provider="anthropic"} 2"#,
        r#"mi_model_cost_micro_credits_total{model="claude-x",provider="anthropic"} 21"#,
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for id in [stage.agent.office_id.to_string(), stage.agent.agent_id.to_string()] {
        assert!(!text.contains(&id));
    }
}
