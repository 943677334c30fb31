//! Messages, as Anthropic serves them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::conversation::{Call, Collect, Offer, Reply, Turn, Wrong};

/// Longest answer, which this format wants to know.
const MAX_TOKENS: u64 = 8192;

/// The request of the next answer.
pub(super) fn request(model: &str, system: &str, turns: &[Turn], offers: &[Offer]) -> Value {
    let message = |turn: &Turn| match turn {
        Turn::User(text) => json!({ "role": "user", "content": [{ "type": "text", "text": text }] }),
        Turn::Model { text, calls } => {
            // What is blank would be refused.
            let text = (!text.trim().is_empty()).then(|| json!({ "type": "text", "text": text }));
            let tool_use =
                |call: &Call| json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.object() });
            let calls = calls.iter().map(tool_use);
            json!({ "role": "assistant", "content": text.into_iter().chain(calls).collect::<Vec<_>>() })
        }
        Turn::Results(results) => {
            let block =
                |(id, text): &(String, String)| json!({ "type": "tool_result", "tool_use_id": id, "content": text });
            json!({ "role": "user", "content": results.iter().map(block).collect::<Vec<_>>() })
        }
    };
    let tool =
        |offer: &Offer| json!({ "name": offer.name, "description": offer.description, "input_schema": offer.schema });
    json!({
        "model": model,
        "max_tokens": MAX_TOKENS,
        "system": system,
        "messages": turns.iter().map(message).collect::<Vec<_>>(),
        "tools": offers.iter().map(tool).collect::<Vec<_>>(),
        "stream": true,
    })
}

/// An answer as far as it has come.
#[derive(Default)]
pub(super) struct Stream {
    text: String,
    /// By the index of their blocks.
    calls: BTreeMap<u64, Call>,
    input: u64,
    output: u64,
    cut: bool,
    finished: bool,
    /// Something of an answer was read.
    is_known: bool,
}

impl Collect for Stream {
    fn take(&mut self, data: &str) -> Result<bool, Wrong> {
        let event: Value = serde_json::from_str(data).map_err(Wrong::unreadable)?;
        let index = event["index"].as_u64().unwrap_or(0);
        match event["type"].as_str().unwrap_or_default() {
            "error" => return Err(Wrong::reported(&event["error"])),
            "message_start" => {
                self.is_known = true;
                let usage = &event["message"]["usage"];
                let parts = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
                self.input = parts.iter().filter_map(|part| usage[*part].as_u64()).sum();
            }
            "content_block_start" => {
                let block = &event["content_block"];
                self.text += block["text"].as_str().unwrap_or_default();
                if block["type"] == "tool_use" {
                    let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
                    self.calls.insert(index, Call { id: text("id"), name: text("name"), ..Call::default() });
                }
            }
            "content_block_delta" => {
                self.text += event["delta"]["text"].as_str().unwrap_or_default();
                if let Some(call) = self.calls.get_mut(&index) {
                    call.arguments += event["delta"]["partial_json"].as_str().unwrap_or_default();
                }
            }
            "message_delta" => {
                self.output = event["usage"]["output_tokens"].as_u64().unwrap_or(self.output);
                let reason = event["delta"]["stop_reason"].as_str().unwrap_or_default();
                self.cut |= ["max_tokens", "model_context_window_exceeded"].contains(&reason);
            }
            "message_stop" => {
                self.finished = true;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    fn finish(self) -> Result<Reply, Wrong> {
        if !self.finished {
            return Err(Wrong::unfinished(self.is_known));
        }
        let calls = self.calls.into_values().map(|call| match call.arguments.as_str() {
            // A tool without arguments.
            "" => Call { arguments: "{}".into(), ..call },
            _ => call,
        });
        let tokens = self.input + self.output;
        Ok(Reply { text: self.text, calls: calls.collect(), tokens, cut: self.cut })
    }
}
