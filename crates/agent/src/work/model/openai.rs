//! Chat completions, as OpenAI and many others serve them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::conversation::{Call, Collect, MAX_ANSWER, Offer, Reply, Turn, Wrong};

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
                        let function = json!({ "name": call.name, "arguments": call.object().to_string() });
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
        "max_completion_tokens": MAX_ANSWER,
        "stream": true,
        "stream_options": { "include_usage": true },
    })
}

/// An answer as far as it has come.
#[derive(Default)]
pub(super) struct Stream {
    reply: Reply,
    /// The place of the call that came last with each index of the server's; some count from 1, some not at all.
    places: BTreeMap<u64, usize>,
    finished: bool,
    /// Something of an answer was read.
    is_known: bool,
}

impl Collect for Stream {
    fn take(&mut self, data: &str) -> Result<bool, Wrong> {
        if data == "[DONE]" {
            return Ok(true);
        }
        let chunk: Value = serde_json::from_str(data).map_err(Wrong::unreadable)?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(Wrong::reported(error));
        }
        self.is_known |= chunk["choices"].is_array();
        if let Some(usage) = chunk["usage"].as_object() {
            let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or(0);
            self.reply.tokens = count("prompt_tokens") + count("completion_tokens");
        }
        let choice = &chunk["choices"][0];
        self.reply.text += choice["delta"]["content"].as_str().unwrap_or_default();
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            self.call(delta);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finished = true;
            self.reply.cut |= reason == "length";
        }
        Ok(false)
    }

    fn finish(self) -> Result<Reply, Wrong> {
        if self.finished { Ok(self.reply) } else { Err(Wrong::unfinished(self.is_known)) }
    }
}

impl Stream {
    fn call(&mut self, delta: &Value) {
        let id = delta["id"].as_str().unwrap_or_default();
        let calls = &mut self.reply.calls;
        let known = match delta["index"].as_u64() {
            Some(index) => self.places.get(&index).copied(),
            // Some servers leave the index out, and send each call whole.
            None => calls.len().checked_sub(1).filter(|_| id.is_empty()),
        };
        // Some give every call the same index: another id is another call.
        let place = known.filter(|place| id.is_empty() || calls[*place].id == id).unwrap_or_else(|| {
            let id = if id.is_empty() { format!("call-{}", calls.len()) } else { id.to_owned() };
            calls.push(Call { id, ..Call::default() });
            calls.len() - 1
        });
        if let Some(index) = delta["index"].as_u64() {
            self.places.insert(index, place);
        }
        let call = &mut calls[place];
        call.name += delta["function"]["name"].as_str().unwrap_or_default();
        call.arguments += delta["function"]["arguments"].as_str().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id, name and arguments of each call that these deltas make.
    fn calls(deltas: &[Value]) -> Vec<(String, String, String)> {
        let mut stream = Stream::default();
        for delta in deltas {
            let chunk = json!({ "choices": [{ "delta": { "tool_calls": [delta] } }] });
            assert_eq!(stream.take(&chunk.to_string()), Ok(false));
        }
        stream.reply.calls.into_iter().map(|call| (call.id, call.name, call.arguments)).collect()
    }

    fn first(index: Option<u64>, id: &str, name: &str, arguments: &str) -> Value {
        json!({ "index": index, "id": id, "function": { "name": name, "arguments": arguments } })
    }

    fn more(index: Option<u64>, arguments: &str) -> Value {
        json!({ "index": index, "function": { "arguments": arguments } })
    }

    #[test]
    fn parallel_calls_are_told_apart_however_the_server_counts() {
        let expected = [("x", "look", "{\"a\":1}"), ("y", "go", "{\"b\":2}")]
            .map(|(id, name, arguments)| (id.to_owned(), name.to_owned(), arguments.to_owned()));
        let whole = |one, two| [first(one, "x", "look", "{\"a\":1}"), first(two, "y", "go", "{\"b\":2}")];
        for (one, two) in [(Some(0), Some(1)), (Some(0), Some(0)), (Some(1), Some(2)), (None, None)] {
            assert_eq!(calls(&whole(one, two)), expected, "{one:?} {two:?}");
        }
        let in_parts = |one, two| {
            [first(one, "x", "look", "{\"a\""), more(one, ":1}"), first(two, "y", "go", ""), more(two, "{\"b\":2}")]
        };
        for (one, two) in [(Some(0), Some(1)), (Some(0), Some(0)), (Some(1), Some(2)), (None, None)] {
            assert_eq!(calls(&in_parts(one, two)), expected, "{one:?} {two:?}");
        }
        // Parts of both in turn; and some repeat the id with each part.
        let in_turn = [
            first(Some(1), "x", "look", "{\"a\""),
            first(Some(2), "y", "go", "{\"b\""),
            first(Some(1), "x", "", ":1}"),
            more(Some(2), ":2}"),
        ];
        assert_eq!(calls(&in_turn), expected);
    }
}
