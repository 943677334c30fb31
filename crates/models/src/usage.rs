//! What a provider says was used: read from its answer, whole or streamed. Pure.
//!
//! Absent and zero are two things. What is sent later replaces what was sent before, since providers count cumulatively;
//! and nothing counts for sure until the answer has ended.

mod anthropic;
mod gemini;
mod openai;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{asked::LARGEST_CONTEXT, route::Call};

/// More tokens than any call has: a number above it is taken for no number.
const MOST: i64 = 1_000_000_000;

/// Tokens by kind, each token as one kind; and calls of tools that the provider ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: i64,
    pub(crate) output: i64,
    pub(crate) cache_read: i64,
    pub(crate) cache_write: i64,
    /// Of those, the ones that are kept for an hour, which cost more.
    pub(crate) cache_write_hour: i64,
    pub(crate) reasoning: i64,
    /// Of kinds that are not known here.
    pub(crate) unknown: i64,
    /// By what the tool's type begins with.
    pub(crate) tools: BTreeMap<String, i64>,
}

impl Usage {
    /// Whether some call of some model can have used it.
    pub(crate) fn is_possible(&self) -> bool {
        let shown = self.input + self.cache_read + self.cache_write + self.cache_write_hour;
        shown.max(self.output + self.reasoning).max(self.unknown) <= LARGEST_CONTEXT
    }
}

/// A number that cannot be a number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Absurd;

/// What the provider said, as far as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// This was used.
    Used(Usage),
    /// Nothing was done at all.
    Nothing,
    /// It is not known, and why.
    Unknown(&'static str),
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A part of the answer.
    Part,
    /// Nothing but usage, which OpenAI sends to whom asks for it.
    UsageOnly,
    /// The last one that matters.
    Last,
}

/// Follows one answer.
#[derive(Debug)]
pub(crate) struct Meter {
    call: Call,
    usage: Option<Result<Usage, Absurd>>,
    anthropic: anthropic::Parts,
    /// Whether the usage is that of the whole answer.
    is_final: bool,
    failed: bool,
    /// Whether there is any answer besides an error.
    answered: bool,
    unreadable: bool,
    events: i64,
    model: Option<String>,
}

impl Meter {
    /// Nothing has come yet.
    pub(crate) fn new(call: Call) -> Self {
        Self {
            call,
            usage: None,
            anthropic: anthropic::Parts::default(),
            is_final: false,
            failed: false,
            answered: false,
            unreadable: false,
            events: 0,
            model: None,
        }
    }

    /// Reads the data of one event of a stream.
    pub(crate) fn event(&mut self, data: &str) -> Kind {
        if data.is_empty() {
            return Kind::Part;
        }
        if data.trim() == "[DONE]" {
            self.is_final |= self.usage.is_some();
            return Kind::Last;
        }
        let Ok(value) = serde_json::from_str::<Value>(data) else {
            self.unreadable = true;
            return Kind::Part;
        };
        let kind = self.value(&value);
        self.events += 1;
        kind
    }

    /// Reads an answer that is not streamed, or one that Google streams as a list.
    pub(crate) fn whole(&mut self, body: &[u8]) {
        match serde_json::from_slice::<Value>(body) {
            Ok(Value::Array(parts)) => {
                for part in &parts {
                    self.value(part);
                    self.events += 1;
                }
            }
            Ok(value) => {
                self.value(&value);
                self.is_final |= self.usage.is_some();
            }
            Err(_) => self.unreadable = true,
        }
    }

    fn value(&mut self, value: &Value) -> Kind {
        if value["error"].is_object() || value["type"] == "error" {
            self.failed = true;
        }
        let parts = ["choices", "content", "candidates", "output", "response", "message", "delta", "usage"];
        self.answered |= parts.iter().any(|name| !value[*name].is_null());
        match self.call {
            Call::Messages | Call::CountTokens => self.message(value),
            Call::Chat | Call::Embeddings => self.chat(value),
            Call::Responses => self.response(value),
            Call::Generate | Call::StreamGenerate | Call::CountContents | Call::Models => self.content(value),
        }
    }

    fn message(&mut self, value: &Value) -> Kind {
        self.named(&value["message"]["model"]);
        self.named(&value["model"]);
        let is_whole = value["type"] == "message";
        let usage = if value["type"] == "message_start" { &value["message"]["usage"] } else { &value["usage"] };
        if usage.is_object() {
            let merged = self.anthropic.merge(usage);
            // A start's number of output tokens is a placeholder.
            if is_whole || value["type"] == "message_delta" {
                self.usage = Some(merged.and_then(|()| self.anthropic.usage()));
                self.is_final = is_whole || !value["delta"]["stop_reason"].is_null();
            } else if merged.is_err() {
                self.usage = Some(Err(Absurd));
            }
        }
        if value["type"] == "message_stop" { Kind::Last } else { Kind::Part }
    }

    fn chat(&mut self, value: &Value) -> Kind {
        self.named(&value["model"]);
        let choices = value["choices"].as_array();
        if !value["usage"].is_object() {
            return Kind::Part;
        }
        let is_only = choices.is_some_and(Vec::is_empty);
        let ends = |choice: &Value| !choice["finish_reason"].is_null();
        self.is_final = is_only || choices.is_some_and(|choices| choices.iter().any(ends));
        self.usage = openai::chat(&value["usage"], self.call == Call::Embeddings).transpose();
        if is_only { Kind::UsageOnly } else { Kind::Part }
    }

    fn response(&mut self, value: &Value) -> Kind {
        let kind = value["type"].as_str().unwrap_or_default();
        let is_last = matches!(kind, "response.completed" | "response.incomplete" | "response.failed");
        let response = if value["response"].is_object() { &value["response"] } else { value };
        self.named(&response["model"]);
        self.failed |= kind == "response.failed" || response["status"] == "failed";
        if (is_last || value["object"] == "response") && response["usage"].is_object() {
            self.usage = openai::response(response).transpose();
            self.is_final = is_last || self.usage.is_some();
        }
        if is_last { Kind::Last } else { Kind::Part }
    }

    fn content(&mut self, value: &Value) -> Kind {
        self.named(&value["modelVersion"]);
        let candidates = value["candidates"].as_array();
        let ends = |candidate: &Value| candidate["finishReason"].is_string();
        let has_ended = candidates.is_some_and(|candidates| candidates.iter().any(ends))
            || value["promptFeedback"]["blockReason"].is_string();
        if value["usageMetadata"].is_object() {
            let before = self.usage.take().and_then(Result::ok).map(|usage| usage.tools).unwrap_or_default();
            self.usage = gemini::usage(&value["usageMetadata"]).transpose();
            if let Some(Ok(usage)) = &mut self.usage {
                usage.tools = before;
            }
        }
        if let Some(Ok(usage)) = &mut self.usage
            && candidates
                .is_some_and(|all| all.iter().any(|one| one["groundingMetadata"]["webSearchQueries"].is_array()))
        {
            usage.tools.insert("google_search".to_owned(), 1);
        }
        self.is_final |= has_ended && self.usage.is_some();
        Kind::Part
    }

    fn named(&mut self, model: &Value) {
        if let Some(model) = model.as_str() {
            self.model = Some(model.to_owned());
        }
    }

    /// The model that says it answers.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the answer says that it failed.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Tokens of the answer that have come, at the least.
    pub(crate) fn output_so_far(&self) -> i64 {
        match &self.usage {
            Some(Ok(usage)) => usage.output + usage.reasoning,
            _ => 0,
        }
    }

    /// How many events have come: each brings about a token.
    pub(crate) fn events(&self) -> i64 {
        self.events
    }

    /// What counts, now that nothing more comes; `whole`: the answer came to its end.
    pub(crate) fn said(&self, whole: bool) -> Said {
        match &self.usage {
            Some(Err(Absurd)) => Said::Unknown("the provider's usage cannot be right"),
            Some(Ok(usage)) if self.is_final || (whole && !self.failed) => Said::Used(usage.clone()),
            Some(Ok(_)) => Said::Unknown("the answer ended before its usage was final"),
            // It refused, though it said 200.
            None if self.failed && !self.answered && self.events <= 1 && whole => Said::Nothing,
            None if self.unreadable => Said::Unknown("the provider's answer could not be read"),
            None if !whole => Said::Unknown("the answer was broken off before its usage came"),
            None => Said::Unknown("the provider said nothing of usage"),
        }
    }
}

/// A number of tokens; none: it is not there.
fn count(value: &Value) -> Result<Option<i64>, Absurd> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => {
            let whole = number.as_i64().or_else(|| number.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as i64));
            whole.filter(|count| (0..=MOST).contains(count)).map(Some).ok_or(Absurd)
        }
        _ => Err(Absurd),
    }
}

/// The sum of the numbers of these members that are not known here.
fn others(object: &Value, known: &[&str], like: impl Fn(&str) -> bool) -> Result<i64, Absurd> {
    let mut sum = 0;
    for (name, value) in object.as_object().into_iter().flatten() {
        if like(name) && !known.contains(&name.as_str()) {
            sum += count(value)?.unwrap_or_default();
        }
    }
    Ok(sum)
}

#[cfg(test)]
fn followed(call: Call, events: &[Value]) -> Meter {
    let mut meter = Meter::new(call);
    for event in events {
        meter.event(&event.to_string());
    }
    meter
}

#[cfg(test)]
fn whole(call: Call, body: &Value) -> Said {
    let mut meter = Meter::new(call);
    meter.whole(body.to_string().as_bytes());
    meter.said(true)
}
