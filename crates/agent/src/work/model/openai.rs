//! Chat completions, as OpenAI and many others serve them.

use serde_json::{Value, json};

use super::{Call, Offer, Reply, Turn, http::Collect};

/// The request of the next answer.
pub(super) fn request(model: &str, system: &str, turns: &[Turn], offers: &[Offer]) -> Value {
    let mut messages = vec![json!({ "role": "system", "content": system })];
    for turn in turns {
        match turn {
            Turn::User(text) => messages.push(json!({ "role": "user", "content": text })),
            Turn::Model { text, calls } => {
                let mut message = json!({ "role": "assistant", "content": text });
                if !calls.is_empty() {
                    let call = |call: &Call| {
                        let function = json!({ "name": call.name, "arguments": call.arguments });
                        json!({ "id": call.id, "type": "function", "function": function })
                    };
                    message["tool_calls"] = calls.iter().map(call).collect();
                }
                messages.push(message);
            }
            Turn::Results(results) => messages.extend(
                results.iter().map(|(id, text)| json!({ "role": "tool", "tool_call_id": id, "content": text })),
            ),
        }
    }
    let tool = |offer: &Offer| {
        let function = json!({ "name": offer.name, "description": offer.description, "parameters": offer.schema });
        json!({ "type": "function", "function": function })
    };
    json!({
        "model": model,
        "messages": messages,
        "tools": offers.iter().map(tool).collect::<Vec<_>>(),
        "stream": true,
        "stream_options": { "include_usage": true },
    })
}

/// An answer as far as it has come.
#[derive(Default)]
pub(super) struct Stream {
    reply: Reply,
    finished: bool,
}

impl Collect for Stream {
    fn take(&mut self, data: &str) -> Result<bool, String> {
        if data == "[DONE]" {
            return Ok(true);
        }
        let chunk: Value = serde_json::from_str(data).map_err(|error| format!("it sent what is no JSON: {error}"))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(error["message"].as_str().unwrap_or("it reports an error").to_owned());
        }
        if let Some(usage) = chunk["usage"].as_object() {
            let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
            self.reply.tokens = count("prompt_tokens") + count("completion_tokens");
        }
        let choice = &chunk["choices"][0];
        self.reply.text += choice["delta"]["content"].as_str().unwrap_or_default();
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            self.call(delta);
        }
        self.finished |= choice["finish_reason"].is_string();
        Ok(false)
    }

    fn finish(self) -> Option<Reply> {
        self.finished.then_some(self.reply)
    }
}

impl Stream {
    fn call(&mut self, delta: &Value) {
        let id = delta["id"].as_str().unwrap_or_default();
        let calls = &mut self.reply.calls;
        // Some servers leave the index out, and send each call whole.
        let index = delta["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        let index = index.unwrap_or(if id.is_empty() { calls.len().saturating_sub(1) } else { calls.len() });
        if index >= calls.len() {
            let id = if id.is_empty() { format!("call-{}", calls.len()) } else { id.to_owned() };
            calls.push(Call { id, name: String::new(), arguments: String::new() });
        }
        let last = calls.len() - 1;
        let call = &mut calls[index.min(last)];
        call.name += delta["function"]["name"].as_str().unwrap_or_default();
        call.arguments += delta["function"]["arguments"].as_str().unwrap_or_default();
    }
}
