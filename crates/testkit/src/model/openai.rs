//! Chat completions as OpenAI answers them.

use serde_json::{Value, json};

use super::{Answer, INPUT_TOKENS, OUTPUT_TOKENS, halves};

fn usage() -> Value {
    json!({
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    })
}

fn finish(answer: &Answer) -> &'static str {
    match answer.calls.as_slice() {
        _ if answer.at_limit => "length",
        [] => "stop",
        _ => "tool_calls",
    }
}

pub(super) fn whole(answer: &Answer) -> Value {
    let calls: Vec<Value> = answer
        .calls
        .iter()
        .enumerate()
        .map(|(index, (name, arguments))| {
            let function = json!({ "name": name, "arguments": arguments });
            json!({ "id": answer.call_id(index), "type": "function", "function": function })
        })
        .collect();
    let mut message = json!({ "role": "assistant", "content": answer.text });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    let choice = json!({ "index": 0, "message": message, "finish_reason": finish(answer) });
    json!({ "id": answer.id, "object": "chat.completion", "choices": [choice], "usage": usage() })
}

pub(super) fn events(answer: &Answer) -> Vec<String> {
    let chunk = |delta: Value, finish: Option<&str>| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk = json!({ "id": answer.id, "object": "chat.completion.chunk", "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), None)];
    for part in halves(&answer.text).into_iter().filter(|part| !part.is_empty()) {
        events.push(chunk(json!({ "content": part }), None));
    }
    for (index, (name, arguments)) in answer.calls.iter().enumerate() {
        let function = json!({ "name": name, "arguments": "" });
        let first = json!({ "index": index, "id": answer.call_id(index), "type": "function", "function": function });
        events.push(chunk(json!({ "tool_calls": [first] }), None));
        for part in halves(arguments) {
            let more = json!({ "index": index, "function": { "arguments": part } });
            events.push(chunk(json!({ "tool_calls": [more] }), None));
        }
    }
    events.push(chunk(json!({}), Some(finish(answer))));
    let last = json!({ "id": answer.id, "object": "chat.completion.chunk", "choices": [], "usage": usage() });
    events.push(format!("data: {last}\n\n"));
    events.push("data: [DONE]\n\n".to_owned());
    events
}
