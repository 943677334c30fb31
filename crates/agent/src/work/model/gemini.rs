//! Contents, as Google serves them.

use serde_json::{Value, json};

use super::conversation::{Call, Collect, MAX_ANSWER, Offer, Reply, Turn, Wrong};

/// The request of the next answer; the model is named by the path.
pub(super) fn request(system: &str, turns: &[Turn], offers: &[Offer]) -> Value {
    // A result names the function, not the call.
    let mut called: Vec<&Call> = Vec::new();
    let mut contents = Vec::new();
    for turn in turns {
        contents.push(match turn {
            Turn::User(text) => json!({ "role": "user", "parts": [{ "text": text }] }),
            Turn::Model { text, calls } => {
                called = calls.iter().collect();
                let text = (!text.trim().is_empty()).then(|| json!({ "text": text }));
                let call = |call: &Call| match call.signature.as_str() {
                    "" => json!({ "functionCall": { "name": call.name, "args": call.object() } }),
                    // Models that think want to see their thoughts again.
                    signature => json!({
                        "functionCall": { "name": call.name, "args": call.object() },
                        "thoughtSignature": signature,
                    }),
                };
                let parts: Vec<Value> = text.into_iter().chain(calls.iter().map(call)).collect();
                json!({ "role": "model", "parts": parts })
            }
            Turn::Results(results) => {
                let part = |(id, text): &(String, String)| {
                    let name = called.iter().find(|call| call.id == *id).map_or("", |call| call.name.as_str());
                    json!({ "functionResponse": { "name": name, "response": { "output": text } } })
                };
                json!({ "role": "user", "parts": results.iter().map(part).collect::<Vec<_>>() })
            }
        });
    }
    let declaration = |offer: &Offer| json!({ "name": offer.name, "description": offer.description, "parametersJsonSchema": offer.schema });
    json!({
        "systemInstruction": { "parts": [{ "text": system }] },
        "contents": contents,
        "generationConfig": { "maxOutputTokens": MAX_ANSWER },
        "tools": [{ "functionDeclarations": offers.iter().map(declaration).collect::<Vec<_>>() }],
    })
}

/// An answer as far as it has come.
#[derive(Default)]
pub(super) struct Stream {
    reply: Reply,
    finished: bool,
    /// Something of an answer was read.
    is_known: bool,
}

impl Collect for Stream {
    fn take(&mut self, data: &str) -> Result<bool, Wrong> {
        let chunk: Value = serde_json::from_str(data).map_err(Wrong::unreadable)?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(Wrong::reported(error));
        }
        self.is_known |= chunk["candidates"].is_array() || chunk["promptFeedback"].is_object();
        // It answers nothing to this, and would not the next time.
        self.finished |= chunk["promptFeedback"]["blockReason"].is_string();
        if let Some(total) = chunk["usageMetadata"]["totalTokenCount"].as_u64() {
            self.reply.tokens = total;
        }
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            if part["thought"] != true {
                self.reply.text += part["text"].as_str().unwrap_or_default();
            }
            if let Some(call) = part.get("functionCall") {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let arguments = call.get("args").filter(|args| !args.is_null()).map_or("{}".into(), Value::to_string);
                self.reply.calls.push(Call {
                    id: format!("call-{}", self.reply.calls.len()),
                    name: text(&call["name"]),
                    arguments,
                    signature: text(&part["thoughtSignature"]),
                });
            }
        }
        if let Some(reason) = candidate["finishReason"].as_str() {
            self.finished = true;
            self.reply.cut |= reason == "MAX_TOKENS";
        }
        // The stream just ends.
        Ok(false)
    }

    fn finish(self) -> Result<Reply, Wrong> {
        if self.finished { Ok(self.reply) } else { Err(Wrong::unfinished(self.is_known)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_name_the_function_and_thoughts_are_handed_back() {
        let mut stream = Stream::default();
        let call = json!({ "functionCall": { "name": "look", "args": { "at": "it" } }, "thoughtSignature": "s" });
        let parts = json!([{ "text": "hm", "thought": true }, { "text": "Let me see." }, call]);
        let chunk = json!({
            "candidates": [{ "content": { "role": "model", "parts": parts }, "finishReason": "STOP" }],
            "usageMetadata": { "promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 12 },
        });
        assert_eq!(stream.take(&chunk.to_string()), Ok(false));
        let Reply { text, calls, tokens, cut } = stream.finish().expect("whole");
        assert_eq!((&*text, tokens, cut), ("Let me see.", 12, false));
        let results = vec![(calls[0].id.clone(), "seen".to_owned())];
        let request = request("be good", &[Turn::Model { text, calls }, Turn::Results(results)], &[]);
        let expected = json!([
            { "role": "model", "parts": [{ "text": "Let me see." }, call] },
            { "role": "user", "parts": [
                { "functionResponse": { "name": "look", "response": { "output": "seen" } } },
            ] },
        ]);
        assert_eq!(request["contents"], expected);
    }
}
