//! What the body of a request asks for, as far as it says what it may cost.

mod tools;

use mi_kernel::{Error, Result};
use serde_json::Value;

use crate::{json, route::Call};

/// Tokens that a picture may count as, whatever its bytes.
const PICTURE: i64 = 16_384;
/// Tokens of everything that a model can be shown at once: for what a request points at, and does not bring.
pub(crate) const LARGEST_CONTEXT: i64 = 2_000_000;
/// Tokens that providers add of their own to any request, and to one with tools, which a prompt of theirs explains.
const OVERHEAD: i64 = 64;
const TOOLS_OVERHEAD: i64 = 4096;
/// Most answers that one request asks for.
const MAX_ANSWERS: i64 = 128;
/// Most of a ceiling.
const MAX_CEILING: i64 = 10_000_000;
/// Uses of a tool that bills by call, where the request bounds none.
const TOOL_USES: i64 = 16;

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The model, as the client names it; empty: the path does.
    pub(crate) model: String,
    /// Whether the answer is to be streamed.
    pub(crate) stream: bool,
    /// Whether a stream is to end with usage, which only OpenAI leaves open.
    pub(crate) wants_usage: bool,
    /// Tokens that each answer may have at most; none: it does not say.
    pub(crate) ceiling: Option<i64>,
    /// Answers that it asks for.
    pub(crate) answers: i64,
    /// Tokens of the request at the most.
    pub(crate) input: i64,
    /// Whether it may put something into the provider's cache, which can cost more than to read it once. Anthropic does that
    /// only where it is asked to.
    pub(crate) caches: bool,
    /// Tokens that come on top of the answers at the most.
    pub(crate) extra_output: i64,
    /// Tools that the provider runs, each with how often at the most.
    pub(crate) tools: Vec<(String, i64)>,
    /// Whether uses of tools have to be bounded by us.
    pub(crate) bound_tools: bool,
}

/// A body with what it asks for.
#[derive(Debug)]
pub(crate) struct Body {
    value: Value,
    pub(crate) asked: Asked,
}

impl Body {
    /// Reads a body.
    ///
    /// # Errors
    /// `Invalid` for what is no JSON object, or leaves open what it may cost.
    pub(crate) fn read(call: Call, bytes: &[u8]) -> Result<Self> {
        let value = json::parse(bytes).map_err(|problem| Error::invalid("body", format!("is no JSON: {problem}")))?;
        if !value.is_object() {
            return Err(Error::invalid("body", "must be a JSON object"));
        }
        let asked = Asked {
            model: text(&value, "model")?.unwrap_or_default(),
            stream: call == Call::StreamGenerate || flag(&value, "stream")?,
            wants_usage: value["stream_options"]["include_usage"] == true,
            ceiling: ceiling(call, &value)?,
            answers: answers(call, &value)?,
            input: input(&value, bytes.len())?,
            caches: call != Call::Messages || has_member(&value, "cache_control"),
            extra_output: if value["prediction"].is_object() { length(bytes.len()) } else { 0 },
            ..Asked::default()
        };
        only_priced(call, &value)?;
        let body = Self { value, asked };
        body.with_tools(call)
    }

    fn with_tools(mut self, call: Call) -> Result<Self> {
        let (tools, bound_tools) = tools::used(call, &self.value)?;
        if !tools.is_empty() {
            // What they find is read by the model, too.
            self.asked.input = self.asked.input.saturating_add(LARGEST_CONTEXT);
        }
        (self.asked.tools, self.asked.bound_tools) = (tools, bound_tools);
        Ok(self)
    }

    /// The bytes to send: as they came, but for the model's name where it is another one, a ceiling where there is none, and
    /// usage at the end of a stream.
    pub(crate) fn sent(&self, call: Call, bytes: &[u8], model: &str, ceiling: Option<Ceiling>) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if !self.asked.model.is_empty() && self.asked.model != model {
            bytes = json::set(&bytes, &["model"], &Value::from(model).to_string());
        }
        if let Some(Ceiling { tokens, newer }) = ceiling {
            bytes = json::set(&bytes, &self.ceiling_path(call, newer), &tokens.to_string());
        }
        if call == Call::Chat && self.asked.stream && !self.asked.wants_usage {
            bytes = json::set(&bytes, &["stream_options", "include_usage"], "true");
        }
        if self.asked.bound_tools {
            bytes = json::set(&bytes, &["max_tool_calls"], &TOOL_USES.to_string());
        }
        bytes
    }

    fn ceiling_path(&self, call: Call, newer: bool) -> Vec<&'static str> {
        match call {
            Call::Responses => vec!["max_output_tokens"],
            Call::Chat if newer => vec!["max_completion_tokens"],
            Call::Generate | Call::StreamGenerate => {
                // Google reads both spellings, and one object must not be there in both.
                let old = self.value.get("generation_config").is_some();
                let config = if old { "generation_config" } else { "generationConfig" };
                let old = self.value[config].get("max_output_tokens").is_some();
                vec![config, if old { "max_output_tokens" } else { "maxOutputTokens" }]
            }
            _ => vec!["max_tokens"],
        }
    }
}

/// A ceiling that we set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ceiling {
    /// Tokens.
    pub(crate) tokens: i64,
    /// Whether chat completions know `max_completion_tokens`, as OpenAI's own do.
    pub(crate) newer: bool,
}

/// A member in either of the spellings of protobuf's JSON.
fn either<'a>(value: &'a Value, camel: &str, snake: &str) -> Result<&'a Value> {
    match (value.get(camel), value.get(snake)) {
        (Some(_), Some(_)) => Err(Error::invalid("body", format!("names {camel} in both of its spellings"))),
        (Some(found), None) | (None, Some(found)) => Ok(found),
        (None, None) => Ok(&Value::Null),
    }
}

fn text(value: &Value, name: &'static str) -> Result<Option<String>> {
    match &value[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(Error::invalid(name, "must be a text")),
    }
}

fn flag(value: &Value, name: &'static str) -> Result<bool> {
    match &value[name] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        _ => Err(Error::invalid(name, "must be true or false")),
    }
}

fn number(value: &Value, name: &'static str, most: i64) -> Result<Option<i64>> {
    match value {
        Value::Null => Ok(None),
        value => match value.as_i64() {
            // Some servers take 0 for no bound at all.
            Some(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Error::invalid(name, format!("must be a whole number, 1 to {most}"))),
        },
    }
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn ceiling(call: Call, value: &Value) -> Result<Option<i64>> {
    let of = |name: &'static str| number(&value[name], name, MAX_CEILING);
    match call {
        Call::Messages => of("max_tokens"),
        // Servers know one of them or the other: the larger one may be the one that counts.
        Call::Chat => Ok(of("max_tokens")?.max(of("max_completion_tokens")?)),
        Call::Responses => of("max_output_tokens"),
        Call::Generate | Call::StreamGenerate => {
            let config = either(value, "generationConfig", "generation_config")?;
            let tokens = either(config, "maxOutputTokens", "max_output_tokens")?;
            number(tokens, "maxOutputTokens", MAX_CEILING)
        }
        Call::Embeddings | Call::CountTokens | Call::CountContents | Call::Models => Ok(None),
    }
}

fn answers(call: Call, value: &Value) -> Result<i64> {
    let asked = match call {
        Call::Chat => number(&value["n"], "n", MAX_ANSWERS)?,
        Call::Generate | Call::StreamGenerate => {
            let config = either(value, "generationConfig", "generation_config")?;
            number(either(config, "candidateCount", "candidate_count")?, "candidateCount", MAX_ANSWERS)?
        }
        _ => None,
    };
    Ok(asked.unwrap_or(1).max(1))
}

/// Tokens of the request at the most: a token is a byte at least, but for pictures, and for what is elsewhere.
fn input(value: &Value, bytes: usize) -> Result<i64> {
    let elsewhere =
        ["previous_response_id", "conversation", "prompt", "cachedContent", "cached_content", "mcp_servers"];
    let points = elsewhere.iter().any(|name| !value[*name].is_null());
    let explained = ["tools", "functions", "response_format", "text"];
    let explained = explained.iter().any(|name| !value[*name].is_null());
    let overhead = if explained { TOOLS_OVERHEAD } else { OVERHEAD };
    let mut tokens = length(bytes).saturating_add(overhead);
    if points {
        tokens = tokens.saturating_add(LARGEST_CONTEXT);
    }
    tokens = tokens.saturating_add(beyond_bytes(value));
    // However much it points at, no model is shown more at once than this and the request itself.
    Ok(tokens.min(length(bytes).saturating_add(LARGEST_CONTEXT)))
}

/// Whether an object has a member of this name, wherever it is.
fn has_member(value: &Value, name: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| has_member(item, name)),
        Value::Object(members) => members.contains_key(name) || members.values().any(|member| has_member(member, name)),
        _ => false,
    }
}

/// Members that hold what somebody's tools take or answer, or say of themselves: no content, whatever it looks like.
const OF_TOOLS: [&str; 11] = [
    "tools",
    "functions",
    "input_schema",
    "parameters",
    "arguments",
    "args",
    "functionCall",
    "function_call",
    "functionResponse",
    "function_response",
    "metadata",
];

/// Tokens of what counts as more than its bytes, wherever it is.
fn beyond_bytes(value: &Value) -> i64 {
    match value {
        Value::Array(items) => items.iter().map(beyond_bytes).fold(0, i64::saturating_add),
        Value::Object(members) => {
            let kind = members.get("type").and_then(Value::as_str).unwrap_or_default();
            let has = |name: &str| members.get(name).is_some_and(|value| !value.is_null());
            let own = match kind {
                "document" | "file" | "input_file" | "container_upload" | "item_reference" | "compaction" => {
                    LARGEST_CONTEXT
                }
                _ if has("file_id") || has("file_url") || has("video_url") || has("audio_url") => LARGEST_CONTEXT,
                // An item of a response by its id alone stands for the whole of it.
                "" | "reasoning" if has("id") && !["content", "role", "function", "name"].into_iter().any(has) => {
                    LARGEST_CONTEXT
                }
                "image" | "image_url" | "input_image" | "computer_screenshot" => PICTURE,
                _ if has("image_url") => PICTURE,
                _ => 0,
            };
            let of_google = members.iter().map(|(name, value)| match name.as_str() {
                "fileData" | "file_data" if value.is_object() => LARGEST_CONTEXT,
                "inlineData" | "inline_data" => {
                    let kind = value["mimeType"].as_str().or_else(|| value["mime_type"].as_str()).unwrap_or_default();
                    if kind.starts_with("image/") { PICTURE } else { LARGEST_CONTEXT }
                }
                _ => 0,
            });
            let of_tools = |name: &str| OF_TOOLS.contains(&name) || (name == "input" && kind.ends_with("tool_use"));
            let below = members.iter().filter(|(name, _)| !of_tools(name)).map(|(_, value)| beyond_bytes(value));
            of_google.chain(below).fold(own, i64::saturating_add)
        }
        _ => 0,
    }
}

/// Refuses what changes the price of the rest, or whom the call is to.
fn only_priced(call: Call, value: &Value) -> Result<()> {
    let refused =
        |name: &'static str, problem: &str| Err(Error { reason: "UNPRICED", ..Error::invalid(name, problem) });
    let usual = |name: &str, known: &[&str]| match &value[name] {
        Value::Null => true,
        value => value.as_str().is_some_and(|text| known.contains(&text)),
    };
    let usual_tiers = ["auto", "default", "flex", "standard_only", "standard"];
    if !usual("service_tier", &usual_tiers) || !usual("serviceTier", &usual_tiers) {
        return refused("service_tier", "is one that has no price here; leave it out");
    }
    if !usual("inference_geo", &["global", "not_available"]) {
        return refused("inference_geo", "is one that has no price here; leave it out");
    }
    let edits = value["context_management"]["edits"].as_array().map(Vec::as_slice).unwrap_or_default();
    if edits.iter().any(|edit| edit["type"].as_str().is_some_and(|kind| kind.starts_with("compact"))) {
        return refused("context_management", "asks for compaction, which is billed apart and has no price here");
    }
    if !usual("speed", &["standard"]) {
        return refused("speed", "has no price here; leave it out");
    }
    if value["background"] == true {
        return refused("background", "cannot be metered; ask for a stream");
    }
    for name in ["models", "plugins", "fallbacks", "web_search_options"] {
        if !value[name].is_null() {
            return refused("body", &format!("names {name}, which may call what is not paid for; leave it out"));
        }
    }
    let config = either(value, "generationConfig", "generation_config")?;
    let modalities = match call {
        Call::Generate | Call::StreamGenerate => either(config, "responseModalities", "response_modalities")?,
        _ => &value["modalities"],
    };
    let is_text = |one: &Value| one.as_str().is_some_and(|one| one.eq_ignore_ascii_case("text"));
    let only_text = match modalities {
        Value::Null => true,
        Value::Array(all) => all.iter().all(is_text),
        // Google takes one for a list of it.
        one => is_text(one),
    };
    if !only_text {
        return refused("modalities", "has no price here but for text");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(call: Call, value: Value) -> Result<Asked> {
        Body::read(call, value.to_string().as_bytes()).map(|body| body.asked)
    }

    fn sent(call: Call, body: &str, model: &str, ceiling: Option<i64>) -> String {
        let ceiling = ceiling.map(|tokens| Ceiling { tokens, newer: false });
        let read = Body::read(call, body.as_bytes()).expect("good");
        String::from_utf8(read.sent(call, body.as_bytes(), model, ceiling)).expect("text")
    }

    #[test]
    fn each_format_says_its_ceiling_in_its_own_way() {
        for (call, body, ceiling, answers) in [
            (Call::Messages, json!({"model": "m", "max_tokens": 5}), Some(5), 1),
            (Call::Messages, json!({"model": "m"}), None, 1),
            (Call::Chat, json!({"max_tokens": 5, "max_completion_tokens": 7, "n": 3}), Some(7), 3),
            (Call::Chat, json!({"max_tokens": null, "n": null}), None, 1),
            (Call::Responses, json!({"max_output_tokens": 9}), Some(9), 1),
            (Call::Generate, json!({"generationConfig": {"maxOutputTokens": 4, "candidateCount": 2}}), Some(4), 2),
            (Call::Generate, json!({"generation_config": {"max_output_tokens": 4}}), Some(4), 1),
            (Call::Embeddings, json!({"input": "a"}), None, 1),
        ] {
            let asked = read(call, body.clone()).expect("good");
            assert_eq!((asked.ceiling, asked.answers), (ceiling, answers), "{body}");
        }
    }

    #[test]
    fn what_leaves_its_price_open_is_refused() {
        for (call, body, field) in [
            (Call::Chat, json!([]), "body"),
            (Call::Chat, json!({"model": 7}), "model"),
            (Call::Chat, json!({"stream": "yes"}), "stream"),
            (Call::Chat, json!({"n": -1}), "n"),
            (Call::Chat, json!({"n": 1.5}), "n"),
            (Call::Chat, json!({"max_tokens": -1}), "max_tokens"),
            (Call::Chat, json!({"max_completion_tokens": 1e18}), "max_completion_tokens"),
            (Call::Messages, json!({"max_tokens": "9"}), "max_tokens"),
            (Call::Chat, json!({"models": ["a", "b"]}), "body"),
            (Call::Chat, json!({"plugins": [{"id": "web"}]}), "body"),
            (Call::Chat, json!({"service_tier": "priority"}), "service_tier"),
            (Call::Messages, json!({"speed": "fast"}), "speed"),
            (Call::Responses, json!({"background": true}), "background"),
            (Call::Chat, json!({"modalities": ["text", "audio"]}), "modalities"),
            (Call::Generate, json!({"generationConfig": {"responseModalities": ["IMAGE"]}}), "modalities"),
            (Call::Generate, json!({"generationConfig": {}, "generation_config": {}}), "body"),
        ] {
            assert_eq!(read(call, body.clone()).expect_err("refused").field, Some(field), "{body}");
        }
        let twice = Body::read(Call::Chat, br#"{"model":"cheap","model":"dear"}"#).expect_err("refused");
        assert!(twice.message.contains("there twice"), "{twice}");
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let full = r#"{ "model":"m", "max_tokens" : 5, "x": 1.0}"#;
        assert_eq!(sent(Call::Messages, full, "m", None), full);
        assert_eq!(sent(Call::Messages, r#"{"model":"m"}"#, "m", Some(8)), r#"{"max_tokens":8,"model":"m"}"#);
        assert_eq!(sent(Call::Messages, r#"{"model":"tier"}"#, "m", None), r#"{"model":"m"}"#);
        assert_eq!(
            sent(Call::Chat, r#"{"model":"m","stream":true,"max_tokens":null}"#, "m", Some(8)),
            r#"{"stream_options":{"include_usage":true},"model":"m","stream":true,"max_tokens":8}"#
        );
        let asks = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(sent(Call::Chat, asks, "m", None), asks);
        assert_eq!(sent(Call::Responses, r#"{"model":"m"}"#, "m", Some(8)), r#"{"max_output_tokens":8,"model":"m"}"#);
        assert_eq!(
            sent(Call::Generate, r#"{"generation_config":{"top_k":1}}"#, "m", Some(8)),
            r#"{"generation_config":{"maxOutputTokens":8,"top_k":1}}"#
        );
        assert_eq!(
            sent(Call::Generate, r#"{"contents":[]}"#, "m", Some(8)),
            r#"{"generationConfig":{"maxOutputTokens":8},"contents":[]}"#
        );
        let newer = Body::read(Call::Chat, br#"{"model":"m"}"#).expect("good");
        let newer = newer.sent(Call::Chat, br#"{"model":"m"}"#, "m", Some(Ceiling { tokens: 8, newer: true }));
        assert_eq!(newer, br#"{"max_completion_tokens":8,"model":"m"}"#);
    }

    /// The wall holds for what a request only points at, too.
    #[test]
    fn a_request_has_no_more_tokens_than_its_bound() {
        let bound = |call, body: Value| read(call, body.clone()).expect("good").input - body.to_string().len() as i64;
        assert_eq!(bound(Call::Chat, json!({"messages": [{"content": "hi"}]})), OVERHEAD);
        let picture = json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://a"}}]}]});
        assert_eq!(bound(Call::Chat, picture), OVERHEAD + PICTURE);
        let inline = |kind: &str| json!({"contents": [{"parts": [{"inlineData": {"mimeType": kind, "data": ""}}]}]});
        assert_eq!(bound(Call::Generate, inline("image/png")), OVERHEAD + PICTURE);
        for (call, body) in [
            (Call::Generate, inline("application/pdf")),
            (Call::Generate, json!({"cachedContent": "cachedContents/1"})),
            (Call::Generate, json!({"contents": [{"parts": [{"fileData": {"fileUri": "a"}}]}]})),
            (Call::Responses, json!({"previous_response_id": "r"})),
            (Call::Responses, json!({"prompt": {"id": "p"}})),
            (Call::Messages, json!({"messages": [{"content": [{"type": "document", "source": {}}]}]})),
            (Call::Responses, json!({"input": [{"id": "msg_1"}]})),
            (Call::Chat, json!({"messages": [{"content": [{"video_url": {"url": "https://a"}}, {"type": "file"}]}]})),
        ] {
            assert_eq!(bound(call, body.clone()), LARGEST_CONTEXT, "{body}");
        }
        // What tools take and answer is text, whatever it looks like.
        for body in [
            json!({"messages": [{"tool_calls": [{"id": "call_1", "function": {"arguments": "{}"}}]}]}),
            json!({"messages": [{"content": [{"type": "tool_use", "id": "a", "input": {"type": "file"}}]}]}),
        ] {
            assert_eq!(bound(Call::Chat, body.clone()), OVERHEAD, "{body}");
        }
        let caches = |body: Value| read(Call::Messages, body).expect("good").caches;
        assert!(!caches(json!({"system": "cache_control"})));
        assert!(caches(json!({"system": [{"type": "text", "cache_control": {"type": "ephemeral"}}]})));
        let predicted = json!({"prediction": {"content": "abc"}});
        assert_eq!(read(Call::Chat, predicted.clone()).expect("good").extra_output, predicted.to_string().len() as i64);
    }
}
