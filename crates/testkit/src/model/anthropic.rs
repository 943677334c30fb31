//! Messages as Anthropic answers them.

use serde_json::{Value, json};

use super::{Answer, INPUT_TOKENS, OUTPUT_TOKENS, event, halves};

fn stop(answer: &Answer) -> &'static str {
    match answer.calls.as_slice() {
        _ if answer.at_limit => "max_tokens",
        [] => "end_turn",
        _ => "tool_use",
    }
}

pub(super) fn whole(answer: &Answer) -> Value {
    let text = (!answer.text.is_empty()).then(|| json!({ "type": "text", "text": answer.text }));
    let calls = answer.calls.iter().enumerate().map(|(index, (name, arguments))| {
        // This format knows no arguments that are no JSON.
        let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
        json!({ "type": "tool_use", "id": answer.call_id(index), "name": name, "input": input })
    });
    let content: Vec<Value> = text.into_iter().chain(calls).collect();
    json!({
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop(answer),
        "usage": { "input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS },
    })
}

pub(super) fn events(answer: &Answer) -> Vec<String> {
    let message = json!({
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "usage": { "input_tokens": INPUT_TOKENS, "output_tokens": 1 },
    });
    let mut events = vec![event("message_start", &json!({ "type": "message_start", "message": message }))];
    events.push(event("ping", &json!({ "type": "ping" })));
    let mut blocks = Vec::new();
    if !answer.text.is_empty() {
        let deltas = halves(&answer.text).map(|part| json!({ "type": "text_delta", "text": part }));
        blocks.push((json!({ "type": "text", "text": "" }), deltas));
    }
    for (index, (name, arguments)) in answer.calls.iter().enumerate() {
        let deltas = halves(arguments).map(|part| json!({ "type": "input_json_delta", "partial_json": part }));
        let start = json!({ "type": "tool_use", "id": answer.call_id(index), "name": name, "input": {} });
        blocks.push((start, deltas));
    }
    for (index, (start, deltas)) in blocks.into_iter().enumerate() {
        let start = json!({ "type": "content_block_start", "index": index, "content_block": start });
        events.push(event("content_block_start", &start));
        for delta in deltas {
            let delta = json!({ "type": "content_block_delta", "index": index, "delta": delta });
            events.push(event("content_block_delta", &delta));
        }
        events.push(event("content_block_stop", &json!({ "type": "content_block_stop", "index": index })));
    }
    let delta = json!({
        "type": "message_delta",
        "delta": { "stop_reason": stop(answer) },
        "usage": { "output_tokens": OUTPUT_TOKENS },
    });
    events.push(event("message_delta", &delta));
    events.push(event("message_stop", &json!({ "type": "message_stop" })));
    events
}
