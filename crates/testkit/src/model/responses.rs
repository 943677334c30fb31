//! Responses and embeddings, as OpenAI answers them.

use serde_json::{Value, json};

use super::{Answer, INPUT_TOKENS, OUTPUT_TOKENS, event, halves};

/// When every answer was made, in seconds since 1970.
const CREATED: u64 = 1_700_000_000;

fn message(answer: &Answer, text: &str, status: &str) -> Value {
    let content = json!([{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }]);
    let content = if text.is_empty() { json!([]) } else { content };
    let id = format!("msg-{}", answer.id);
    json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
}

fn call(answer: &Answer, index: usize, arguments: &str, status: &str) -> Value {
    json!({
        "id": format!("fc-{}", answer.call_id(index)),
        "type": "function_call",
        "call_id": answer.call_id(index),
        "name": answer.calls[index].0,
        "arguments": arguments,
        "status": status,
    })
}

fn response(answer: &Answer, status: &str, output: &[Value], done: bool) -> Value {
    let usage = json!({
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    });
    json!({
        "id": answer.id,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "model": "a-model",
        "output": output,
        "parallel_tool_calls": true,
        "tool_choice": "auto",
        "tools": [],
        "error": null,
        "incomplete_details": answer.at_limit.then(|| json!({ "reason": "max_output_tokens" })),
        "instructions": null,
        "metadata": {},
        "temperature": 1,
        "top_p": 1,
        "usage": if done { usage } else { Value::Null },
    })
}

fn ended(answer: &Answer) -> &'static str {
    if answer.at_limit { "incomplete" } else { "completed" }
}

fn output(answer: &Answer) -> Vec<Value> {
    let said = (!answer.text.is_empty()).then(|| message(answer, &answer.text, "completed"));
    let calls = answer.calls.iter().enumerate();
    let calls = calls.map(|(index, (_, arguments))| call(answer, index, arguments, "completed"));
    said.into_iter().chain(calls).collect()
}

pub(super) fn whole(answer: &Answer) -> Value {
    response(answer, ended(answer), &output(answer), true)
}

pub(super) fn events(answer: &Answer) -> Vec<String> {
    let mut events = Vec::new();
    let mut push = |kind: &str, mut data: Value| {
        data["type"] = kind.into();
        data["sequence_number"] = events.len().into();
        events.push(event(kind, &data));
    };
    push("response.created", json!({ "response": response(answer, "in_progress", &[], false) }));
    let first_call = usize::from(!answer.text.is_empty());
    if !answer.text.is_empty() {
        let place = json!({ "item_id": format!("msg-{}", answer.id), "output_index": 0, "content_index": 0 });
        let with = |name: &str, value: Value| {
            let mut data = place.clone();
            data[name] = value;
            data
        };
        let empty = json!({ "type": "output_text", "text": "", "annotations": [] });
        push("response.output_item.added", json!({ "output_index": 0, "item": message(answer, "", "in_progress") }));
        push("response.content_part.added", with("part", empty));
        for part in halves(&answer.text) {
            let mut delta = with("delta", part.into());
            delta["logprobs"] = json!([]);
            push("response.output_text.delta", delta);
        }
        let mut done = with("text", answer.text.clone().into());
        done["logprobs"] = json!([]);
        push("response.output_text.done", done);
        let full = json!({ "type": "output_text", "text": answer.text, "annotations": [] });
        push("response.content_part.done", with("part", full));
        let item = message(answer, &answer.text, "completed");
        push("response.output_item.done", json!({ "output_index": 0, "item": item }));
    }
    for (index, (name, arguments)) in answer.calls.iter().enumerate() {
        let place = first_call + index;
        let id = format!("fc-{}", answer.call_id(index));
        let item = call(answer, index, "", "in_progress");
        push("response.output_item.added", json!({ "output_index": place, "item": item }));
        for part in halves(arguments) {
            let delta = json!({ "item_id": id, "output_index": place, "delta": part });
            push("response.function_call_arguments.delta", delta);
        }
        let done = json!({ "item_id": id, "output_index": place, "name": name, "arguments": arguments });
        push("response.function_call_arguments.done", done);
        let item = call(answer, index, arguments, "completed");
        push("response.output_item.done", json!({ "output_index": place, "item": item }));
    }
    push(&format!("response.{}", ended(answer)), json!({ "response": whole(answer) }));
    events
}

/// What a request says, oldest first.
pub(super) fn texts(body: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut texts: Vec<String> = text(&body["instructions"]).into_iter().chain(text(&body["input"])).collect();
    for item in body["input"].as_array().into_iter().flatten() {
        texts.extend(text(&item["content"]).or_else(|| text(&item["output"])));
        let parts = item["content"].as_array().into_iter().flatten();
        texts.extend(parts.filter_map(|part| text(&part["text"])));
    }
    texts
}

/// A vector for each input.
pub(super) fn embeddings(body: &Value) -> Value {
    let count = body["input"].as_array().map_or(1, Vec::len);
    // Clients ask for base64 by themselves: the same three numbers, as bytes.
    let vector = match body["encoding_format"].as_str() {
        Some("base64") => json!("AACAPgAAAD8AAIC+"),
        _ => json!([0.25, 0.5, -0.25]),
    };
    let data: Vec<Value> =
        (0..count).map(|index| json!({ "object": "embedding", "index": index, "embedding": vector })).collect();
    json!({
        "object": "list",
        "model": "a-model",
        "data": data,
        "usage": { "prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS },
    })
}
