//! Contents as Google answers them.

use serde_json::{Value, json};

use super::{Answer, INPUT_TOKENS, OUTPUT_TOKENS, halves};

fn chunk(answer: &Answer, parts: &[Value], finish: Option<&str>) -> Value {
    let mut candidate = json!({ "index": 0, "content": { "role": "model", "parts": parts } });
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": INPUT_TOKENS,
            "candidatesTokenCount": OUTPUT_TOKENS,
            "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
        },
        "responseId": answer.id,
        "modelVersion": "a-model",
    })
}

fn finish(answer: &Answer) -> &'static str {
    if answer.at_limit { "MAX_TOKENS" } else { "STOP" }
}

fn calls(answer: &Answer) -> impl Iterator<Item = Value> {
    answer.calls.iter().map(|(name, arguments)| {
        // This format knows no arguments that are no JSON.
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
        json!({ "functionCall": { "name": name, "args": arguments } })
    })
}

pub(super) fn whole(answer: &Answer) -> Value {
    let text = (!answer.text.is_empty()).then(|| json!({ "text": answer.text }));
    let parts: Vec<Value> = text.into_iter().chain(calls(answer)).collect();
    chunk(answer, &parts, Some(finish(answer)))
}

pub(super) fn events(answer: &Answer) -> Vec<String> {
    let texts = halves(&answer.text).into_iter().filter(|part| !part.is_empty()).map(|part| json!({ "text": part }));
    let parts: Vec<Value> = texts.chain(calls(answer)).collect();
    let mut chunks: Vec<Value> = parts.into_iter().map(|part| chunk(answer, &[part], None)).collect();
    chunks.push(chunk(answer, &[json!({ "text": "" })], Some(finish(answer))));
    chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect()
}

/// What a request says, oldest first.
pub(super) fn texts(body: &Value) -> Vec<String> {
    let contents = body["contents"].as_array().into_iter().flatten();
    let parts = std::iter::once(&body["systemInstruction"]).chain(contents);
    let parts = parts.flat_map(|content| content["parts"].as_array().into_iter().flatten());
    parts
        .filter_map(|part| {
            let answer = &part["functionResponse"]["response"]["output"];
            part["text"].as_str().or(answer.as_str()).map(str::to_owned)
        })
        .collect()
}
