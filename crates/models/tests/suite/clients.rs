//! Clients that hang up, or never read.

use std::time::Duration;

use http_body_util::BodyExt;
use mi_models::Limits;
use mi_testkit::until;
use serde_json::{Value, json};

use crate::{
    calls::MESSAGES,
    stage::{Does, LONG, Stage, data, stream},
};

fn asks(stream: bool) -> Value {
    json!({"model": "claude-x", "max_tokens": 50, "stream": stream})
}

#[tokio::test]
async fn who_hangs_up_before_the_answer_pays_for_it() {
    let stage = Stage::new([Does::Hangs]).await;
    {
        let mut open = std::pin::pin!(stage.open(MESSAGES, &[], asks(false)));
        until("the provider was asked", LONG, async || {
            let polled = futures::poll!(open.as_mut());
            assert!(polled.is_pending());
            Ok::<_, std::convert::Infallible>((!stage.got().is_empty()).then_some(()))
        })
        .await;
    }
    let settled = stage.only_settled().await;
    assert_eq!((settled.amount, settled.note.as_str()), (None, "the client gave up before an answer came"));
}

#[tokio::test]
async fn who_hangs_up_in_mid_stream_pays_and_the_provider_hears_of_it() {
    let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}});
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}});
    for (events, amount, note) in [
        (vec![start.clone()], None, "the answer was broken off before its usage came"),
        // What was used is known already.
        (vec![start, delta], Some(9 * 3 + 2 * 15), ""),
    ] {
        let (pieces, does) = stream();
        let stage = Stage::new([does]).await;
        let mut open = stage.open(MESSAGES, &[], asks(true)).await.into_body();
        for event in &events {
            pieces.send(Ok(data(event))).await.expect("taken");
            open.frame().await.expect("goes on").expect("good");
        }
        drop(open);
        tokio::time::timeout(LONG, pieces.closed()).await.expect("the provider's connection is given up");
        let settled = stage.only_settled().await;
        assert_eq!((settled.amount, settled.note.as_str()), (amount, note));
    }
}

#[tokio::test]
async fn who_hangs_up_during_a_whole_answer_pays_what_it_cost() {
    let answer = json!({"type": "message", "usage": {"input_tokens": 9, "output_tokens": 2}}).to_string();
    let (begin, end) = answer.split_at(20);
    for (ends, amount, note) in [
        (true, Some(9 * 3 + 2 * 15), ""),
        // Nobody waits for ever for what nobody reads.
        (false, None, "the answer was broken off before its usage came"),
    ] {
        let (pieces, mut does) = stream();
        if let Does::Answers(response) = &mut does {
            response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        }
        let limits = Limits { silence: Duration::from_secs(if ends { 120 } else { 1 }), ..Limits::default() };
        let stage = Stage::with(limits, [does]).await;
        drop(stage.open(MESSAGES, &[], asks(false)).await);
        pieces.send(Ok(begin.to_owned().into())).await.expect("it goes on");
        if ends {
            pieces.send(Ok(end.to_owned().into())).await.expect("it goes on");
            drop(pieces);
        } else {
            tokio::time::timeout(LONG, pieces.closed()).await.expect("the provider is given up");
        }
        let settled = stage.only_settled().await;
        assert_eq!((settled.amount, settled.note.as_str()), (amount, note));
    }
}

/// It holds up the provider, not memory, and not for ever.
#[tokio::test]
async fn who_never_reads_is_cut_off() {
    let (pieces, does) = stream();
    let limits = Limits { silence: Duration::from_millis(300), ..Limits::default() };
    let stage = Stage::with(limits, [does]).await;
    let open = stage.open(MESSAGES, &[], asks(true)).await;
    let large = data(&json!({"type": "ping", "padding": "x".repeat(256 << 10)}));
    let sending = async { while pieces.send(Ok(large.clone())).await.is_ok() {} };
    tokio::time::timeout(LONG, sending).await.expect("the provider is given up");
    let settled = stage.only_settled().await;
    assert_eq!(settled.amount, None);
    drop(open);
}
