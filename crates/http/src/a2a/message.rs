//! What a message asks for: the task that it becomes.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tonic::Status;

use super::errors;

/// Longest title that is made of a message, in characters.
const TITLE: usize = 120;

/// Where the metadata of a message may have the kind of task that it asks for; other names are other people's.
const KIND: &str = "mi.kind";

/// A message, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) id: String,
    /// Its parts as one text.
    pub(super) text: String,
    /// Its first line.
    pub(super) title: String,
    /// What kind of task it is to be, as the platform names it; empty: whatever it takes.
    pub(super) kind: String,
    pub(super) context_id: String,
    /// The task that it belongs to; empty: a new one.
    pub(super) task_id: String,
}

impl Said {
    /// Reads the message of a request.
    ///
    /// # Errors
    /// `INVALID_PARAMS` with the field that is wrong, `CONTENT_TYPE_NOT_SUPPORTED` for parts that are no text.
    pub(super) fn of(request: &Value) -> Result<Self, Status> {
        let message = &request["message"];
        if !message.is_object() {
            return Err(errors::invalid("message", "must be there"));
        }
        let field = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        let id = field("message_id");
        if id.is_empty() {
            let problem = "must be an id of yours: a message that is sent again under it makes no second task";
            return Err(errors::invalid("message.message_id", problem));
        }
        if message["role"] == "ROLE_AGENT" {
            return Err(errors::invalid(
                "message.role",
                "must be ROLE_USER: what an agent says is not a request to it",
            ));
        }
        let parts = message["parts"].as_array().into_iter().flatten();
        let mut texts = parts.map(text).collect::<Result<Vec<_>, _>>()?;
        let others: Vec<&str> =
            message["reference_task_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !others.is_empty() {
            texts.push(format!("This is about the tasks {}.", others.join(", ")));
        }
        let text = texts.join("\n\n");
        let Some(first) = text.lines().map(str::trim).find(|line| !line.is_empty()) else {
            return Err(errors::invalid("message.parts", "must say something"));
        };
        Ok(Self {
            id,
            title: title(first),
            kind: kind(&message["metadata"])?,
            context_id: field("context_id"),
            task_id: field("task_id"),
            text,
        })
    }
}

/// A part of a message as text.
fn text(part: &Value) -> Result<String, Status> {
    let name = part["filename"].as_str().unwrap_or_default();
    let named = |text: &str| if name.is_empty() { text.to_owned() } else { format!("{name}:\n{text}") };
    if let Some(text) = part["text"].as_str() {
        return Ok(text.to_owned());
    }
    if let Some(url) = part["url"].as_str() {
        return Ok(if name.is_empty() { url.to_owned() } else { format!("{name}: {url}") });
    }
    if let Some(raw) = part["raw"].as_str() {
        let kind = part["media_type"].as_str().unwrap_or_default();
        let is_text = kind.starts_with("text/") || kind == "application/json";
        let text = STANDARD.decode(raw).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        return text.filter(|_| is_text).map(|text| named(&text)).ok_or_else(|| {
            errors::content_type(
                "a file in a message has to be text/… or application/json, in UTF-8; put others on the office's drive, with PUT \
                 /v1/offices/OFFICE_ID/files/PATH, and name the path",
            )
        });
    }
    match part.get("data") {
        Some(data) => Ok(named(&serde_json::to_string_pretty(data).unwrap_or_default())),
        None => Err(errors::content_type("a part of a message has to have text, data, a url or a file")),
    }
}

fn title(line: &str) -> String {
    let plain: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.char_indices().nth(TITLE) {
        Some((end, _)) => format!("{}…", plain[..end].trim_end()),
        None => plain,
    }
}

/// What kind of task the sender asks for, if it says so.
fn kind(metadata: &Value) -> Result<String, Status> {
    match metadata.get(KIND) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(kind)) if ["general", "code", "research", "review", "command"].contains(&kind.as_str()) => {
            Ok(format!("TASK_KIND_{}", kind.to_uppercase()))
        }
        Some(_) => {
            Err(errors::invalid("message.metadata.mi.kind", "must be general, code, research, review or command"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::refusal::reason;

    #[test]
    fn the_parts_of_a_message_are_one_text() {
        let request = json!({"message": {
            "message_id": "m1", "role": "ROLE_USER", "context_id": "c", "task_id": "",
            "parts": [
                {"text": "\n  Summarise\tthis:"},
                {"data": {"a": [1]}},
                {"url": "https://example.com/x", "filename": "x"},
                {"raw": "aMOp", "media_type": "text/plain", "filename": "a.txt"},
            ],
            "metadata": {"mi.kind": "research", "kind": "of others"},
            "reference_task_ids": ["t1", "t2"],
        }});
        let said = Said::of(&request).expect("fine");
        let text = "\n  Summarise\tthis:\n\n{\n  \"a\": [\n    1\n  ]\n}\n\nx: https://example.com/x\n\na.txt:\nhé\n\n\
                    This is about the tasks t1, t2.";
        assert_eq!(
            said,
            Said {
                id: "m1".into(),
                text: text.into(),
                title: "Summarise this:".into(),
                kind: "TASK_KIND_RESEARCH".into(),
                context_id: "c".into(),
                task_id: String::new(),
            }
        );
        assert_eq!(title(&"é".repeat(121)), format!("{}…", "é".repeat(120)));
    }

    #[test]
    fn what_asks_for_nothing_is_refused() {
        let message = |change: Value| {
            let mut message = json!({"message_id": "m1", "role": "ROLE_USER", "parts": [{"text": "x"}]});
            for (name, value) in change.as_object().expect("fields") {
                message[name] = value.clone();
            }
            json!({"message": message})
        };
        for (request, expected) in [
            (json!({}), "INVALID_PARAMS"),
            (message(json!({"message_id": ""})), "INVALID_PARAMS"),
            (message(json!({"role": "ROLE_AGENT"})), "INVALID_PARAMS"),
            (message(json!({"parts": []})), "INVALID_PARAMS"),
            (message(json!({"parts": [{"text": " \n"}]})), "INVALID_PARAMS"),
            (message(json!({"metadata": {"mi.kind": "magic"}})), "INVALID_PARAMS"),
            (message(json!({"parts": [{"filename": "x"}]})), "CONTENT_TYPE_NOT_SUPPORTED"),
            (message(json!({"parts": [{"raw": "aMOp", "media_type": "image/png"}]})), "CONTENT_TYPE_NOT_SUPPORTED"),
            (message(json!({"parts": [{"raw": "/w==", "media_type": "text/plain"}]})), "CONTENT_TYPE_NOT_SUPPORTED"),
        ] {
            let refused = Said::of(&request).expect_err("refused");
            assert_eq!(reason(&refused).as_deref(), Some(expected), "{request}");
        }
    }
}
