//! Providers that fail in every way there is.

use std::time::Duration;

use mi_models::Limits;
use serde_json::{Value, json};

use crate::{
    calls::{CHAT, MESSAGES},
    stage::{Does, Stage, data, read, stream, streamed, whole},
};

const BROKEN_OFF: &str = "the answer was broken off before its usage came";
const NO_USAGE: &str = "the provider said nothing of usage";
const WRONG: &str = "the provider's usage cannot be right";

fn asks() -> Value {
    json!({"model": "claude-x", "max_tokens": 50})
}

fn asks_stream() -> Value {
    json!({"model": "claude-x", "max_tokens": 50, "stream": true})
}

/// A vendor's status is its own, and what it refuses costs nothing.
#[tokio::test]
async fn a_refusal_of_the_vendor_passes_as_it_is() {
    for status in [400, 403, 404, 429, 500, 503, 529] {
        let body = json!({"type": "error", "error": {"type": "x", "message": "no"}});
        let mut does = whole(status, &body);
        if let Does::Answers(response) = &mut does {
            response.headers_mut().insert("retry-after", "7".parse().expect("a value"));
        }
        let stage = Stage::new([does]).await;
        let answer = stage.post(MESSAGES, asks()).await;
        assert_eq!((answer.status, answer.json(), answer.header("retry-after")), (status, body, "7"));
        assert_eq!(stage.got().len(), 1, "it is not asked again");
        let settled = stage.only_settled().await;
        assert_eq!((settled.amount, settled.note.as_str()), (Some(0), ""), "{status}");
    }
}

/// Vendors tell parts of it.
#[tokio::test]
async fn a_key_that_the_vendor_refuses_is_not_told_of_in_its_words() {
    let body = json!({"type": "error", "error": {"type": "x", "message": "Incorrect API key provided: sk-an****ed"}});
    let stage = Stage::new([whole(401, &body)]).await;
    let answer = stage.post(MESSAGES, asks()).await;
    let told = json!({"type": "error", "error": {"type": "x", "message": "Incorrect API key provided: [key]"}});
    assert_eq!((answer.status, answer.json()), (401, told));
    assert_eq!(stage.only_settled().await.amount, Some(0));
}

#[tokio::test]
async fn what_is_not_known_costs_what_was_set_aside() {
    let message = |usage: Value| whole(200, json!({"type": "message", "usage": usage}));
    for (does, amount, note) in [
        (whole(200, "<html>"), None, "the provider's answer could not be read"),
        (whole(200, json!({"type": "message"})), None, NO_USAGE),
        (message(json!({"input_tokens": -5, "output_tokens": 1})), None, WRONG),
        (message(json!({"input_tokens": 5, "output_tokens": "1"})), None, WRONG),
        (
            message(json!({"input_tokens": 9_000_000, "output_tokens": 1})),
            None,
            "the provider's usage is more than any request can cause",
        ),
        (message(json!({"input_tokens": 0, "output_tokens": 0})), Some(0), ""),
        (
            message(json!({"input_tokens": 1, "output_tokens": 1, "dream_tokens": 2})),
            Some(3 + 15 + 30),
            "2 tokens of unknown kinds cost what the dearest kind does",
        ),
        (whole(200, json!({"type": "error", "error": {"message": "no"}})), Some(0), ""),
    ] {
        let stage = Stage::new([does]).await;
        assert_eq!(stage.post(MESSAGES, asks()).await.status, 200);
        let settled = stage.only_settled().await;
        assert_eq!((settled.amount, settled.note.as_str()), (amount, note));
    }
}

#[tokio::test]
async fn a_stream_that_ends_oddly_is_settled_once() {
    let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}});
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": {"output_tokens": 2}});
    let stop = json!({"type": "message_stop"});
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}});
    let known = Some(9 * 3 + 2 * 15);
    for (events, amount, note) in [
        // Half of one, that ends as if it were whole.
        (vec![start.clone()], None, NO_USAGE),
        // 200, and then a failure; one that comes first costs nothing.
        (vec![start.clone(), error.clone()], None, NO_USAGE),
        (vec![error.clone()], Some(0), ""),
        // Usage comes twice, and the end too.
        (vec![start.clone(), delta.clone(), delta.clone(), stop.clone(), stop.clone()], known, ""),
        (vec![start.clone(), delta.clone()], known, ""),
        (vec![json!("{garbage"), start.clone(), json!("[]"), delta.clone(), stop.clone()], known, ""),
        (vec![start, json!({"type": "message_delta", "usage": {"output_tokens": -1}}), stop], None, WRONG),
    ] {
        let stage = Stage::new([streamed(&events).await]).await;
        let answer = stage.post(MESSAGES, asks_stream()).await;
        let all: Vec<_> = events.iter().map(data).collect();
        assert_eq!((answer.status, answer.body), (200, String::from_utf8(all.concat()).expect("text")));
        let settled = stage.only_settled().await;
        assert_eq!((settled.amount, settled.note.as_str()), (amount, note), "{events:?}");
    }
}

#[tokio::test]
async fn half_an_answer_does_not_pass_for_a_whole_one() {
    let (pieces, does) = stream();
    let stage = Stage::new([does]).await;
    let open = stage.open(MESSAGES, &[], asks_stream()).await;
    pieces.send(Ok(data(&json!({"type": "ping"})))).await.expect("taken");
    pieces.send(Err(std::io::Error::other("cut"))).await.expect("taken");
    let read = http_body_util::BodyExt::collect(open.into_body()).await;
    assert!(read.is_err(), "the client sees that it was cut off");
    let settled = stage.only_settled().await;
    assert_eq!((settled.amount, settled.note.as_str()), (None, BROKEN_OFF));
}

#[tokio::test]
async fn a_provider_that_never_answers_is_not_waited_for() {
    let short = Duration::from_millis(100);
    for body in [asks(), asks_stream()] {
        let limits = Limits { silence: short, whole_answer: short, ..Limits::default() };
        let stage = Stage::with(limits, [Does::Hangs]).await;
        let answer = stage.post(MESSAGES, body).await;
        assert_eq!((answer.status, answer.header("mi-reason")), (504, "DEADLINE_EXCEEDED"));
        assert_eq!(answer.json()["error"]["type"], "timeout_error");
        let settled = stage.only_settled().await;
        assert_eq!((settled.amount, settled.note.as_str()), (None, "the provider never answered"));
    }
    // Nor one that falls silent, or goes on for ever.
    for limits in [Limits { silence: short, ..Limits::default() }, Limits { total: short, ..Limits::default() }] {
        let (pieces, does) = stream();
        let stage = Stage::with(limits, [does]).await;
        let open = stage.open(MESSAGES, &[], asks_stream()).await;
        assert!(http_body_util::BodyExt::collect(open.into_body()).await.is_err());
        assert_eq!(stage.only_settled().await.amount, None);
        drop(pieces);
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_costs_nothing() {
    let stage = Stage::new([]).await;
    let mut catalogue = mi_catalogue::Catalogue::clone(&stage.catalogues.current());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    catalogue.providers[0].base_url = format!("http://{nobody}").parse().expect("a URL");
    stage.catalogues.replace(catalogue);
    let answer = stage.post(MESSAGES, asks()).await;
    assert_eq!((answer.status, answer.header("mi-reason")), (503, "UNAVAILABLE"));
    assert!(!answer.body.contains(&nobody.to_string()), "{}", answer.body);
    assert_eq!(stage.only_settled().await.amount, Some(0));
}

#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    let mut does = whole(307, "");
    if let Does::Answers(response) = &mut does {
        response.headers_mut().insert("location", "http://169.254.169.254/".parse().expect("a value"));
    }
    let stage = Stage::new([does]).await;
    let answer = stage.post(MESSAGES, asks()).await;
    assert_eq!((answer.status, answer.header("location")), (503, ""));
    assert_eq!(stage.got().len(), 1);
    assert_eq!(stage.only_settled().await.amount, Some(0));
}

#[tokio::test]
async fn an_answer_in_another_encoding_passes_unread() {
    let mut does = whole(200, "packed");
    if let Does::Answers(response) = &mut does {
        response.headers_mut().insert("content-encoding", "br".parse().expect("a value"));
    }
    let stage = Stage::new([does]).await;
    let answer = stage.post(MESSAGES, asks()).await;
    assert_eq!((answer.body.as_str(), answer.header("content-encoding")), ("packed", "br"));
    let settled = stage.only_settled().await;
    assert_eq!((settled.amount, settled.note.as_str()), (None, "the provider's answer is encoded"));
}

/// The dearer price counts, as far as the reservation goes.
#[tokio::test]
async fn a_model_that_answers_in_anothers_place_is_noted() {
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    let stage = Stage::new([whole(200, json!({"type": "message", "model": "claude-y", "usage": usage}))]).await;
    let mut catalogue = mi_catalogue::Catalogue::clone(&stage.catalogues.current());
    let other = catalogue.models.iter_mut().find(|model| model.id == "claude-y").expect("known");
    other.price.input = 9_000_000;
    stage.catalogues.replace(catalogue);
    assert_eq!(stage.post(MESSAGES, asks()).await.status, 200);
    let settled = stage.only_settled().await;
    assert_eq!((settled.amount, settled.note.as_str()), (Some(9 + 15), "answered by \"claude-y\""));
}

#[tokio::test]
async fn an_answer_that_goes_on_past_its_ceiling_is_ended() {
    let (pieces, does) = stream();
    let stage = Stage::new([does]).await;
    stage.hired("gpt", "openai");
    let open = stage.open(CHAT, &[], json!({"model": "gpt-x", "max_tokens": 5, "stream": true})).await;
    let part = json!({"choices": [{"finish_reason": null}], "usage": {"prompt_tokens": 1, "completion_tokens": 5000}});
    pieces.send(Ok(data(&part))).await.expect("taken");
    let answer = read(open).await;
    let last: Value =
        serde_json::from_str(answer.body.trim().strip_prefix("data: ").expect("one event")).expect("JSON");
    assert_eq!(last["error"]["code"], "OUT_OF_CREDITS");
    let settled = stage.only_settled().await;
    assert_eq!((settled.amount, settled.note.as_str()), (None, "the answer went on past its ceiling"));
}
