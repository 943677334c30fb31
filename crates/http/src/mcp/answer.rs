//! What a tool answers: bounded, without what says nothing, and errors that say what to do.

use std::time::Duration;

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::tools::LEFT_OUT;
use crate::refusal;

/// Shortest text that is cut, in bytes.
const SHORT: usize = 64;

/// What a tool has to say.
pub(crate) fn success(mut said: Map<String, Value>, max_bytes: usize, rest: &str) -> CallToolResult {
    // What a list at the top lacks says something; what an item lacks does not.
    said.values_mut().for_each(prune);
    said.retain(|_, value| !value.is_null() && value != "");
    if said.is_empty() {
        let mut result = CallToolResult::success(vec![ContentBlock::text("Done.")]);
        result.structured_content = Some(json!({}));
        return result;
    }
    CallToolResult::structured(bounded(Value::Object(said), max_bytes, rest))
}

/// Why a tool was not done.
pub(crate) fn failure(status: &Status) -> CallToolResult {
    let (reason, hint) =
        (refusal::reason(status).unwrap_or_else(|| refusal::name(status.code()).to_owned()), hint(status));
    let mut text = format!("{reason}: {}", status.message());
    if !hint.is_empty() {
        text += &format!("\nHint: {hint}");
    }
    let mut result = CallToolResult::error(vec![ContentBlock::text(text)]);
    let code = refusal::name(status.code());
    result.structured_content =
        Some(json!({"error": {"code": code, "reason": reason, "message": status.message(), "hint": hint}}));
    result
}

/// What may help whoever was refused.
fn hint(status: &Status) -> String {
    let said = match refusal::reason(status).as_deref() {
        Some("OUT_OF_CREDITS") => "the office has no credits left: ask its operator or the administrator to grant some",
        Some("BUDGET_REACHED") => "a budget is used up: ask the operator to raise it",
        Some("INTEGRATION_NOT_CONFIGURED") => {
            "the office has no key for this provider: ask the operator to set it (`mi integrations`), or choose another \
             model_tier or provider of list_catalogue"
        }
        Some("REVISION_CONFLICT") => {
            "somebody else has changed the file: read it again, and give its file.revision as if_revision; or force"
        }
        Some("OFFICE_NOT_ACTIVE") => "get_office says where it stands; an operator can resume a suspended office",
        Some("QUOTA_EXCEEDED" | "DRIVE_FULL") => {
            "there is no room for more: get_office has the quotas; delete or finish something first"
        }
        Some("EXTERNAL_AGENT") => "the agent runs elsewhere, where it has to be done",
        Some("SUBTASKS_OPEN") => "list_tasks with parent_id has the subtasks that are open",
        _ => match status.code() {
            Code::NotFound => "nothing of this name is there, or it is not yours to see: list what there is first",
            Code::InvalidArgument => "change what the message names, and call again",
            Code::PermissionDenied => "you may not do this; whoami says who you are. Ask an operator",
            Code::AlreadyExists => "choose another name, or look at the one that is there",
            Code::Unavailable => {
                "call again in a moment; give the same request_id where there is one, so that nothing is done twice"
            }
            Code::DeadlineExceeded => "it took too long; look whether it was done before you call again",
            Code::ResourceExhausted => "call again later",
            Code::Unauthenticated => "the credential does not work any more; ask for another one",
            _ => "",
        },
    };
    match status.get_details_retry_info().and_then(|info| info.retry_delay) {
        Some(delay) => format!("{said}. Wait {} s before you call again", delay.max(Duration::from_secs(1)).as_secs()),
        None => said.to_owned(),
    }
}

/// Removes what says nothing, and what nobody here reads.
fn prune(value: &mut Value) {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match value {
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Object(fields) => {
            fields.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| !says_nothing(value));
        }
        _ => {}
    }
}

/// Cuts texts until an answer is within its bounds, long ones first; what has too many short ones stays larger, by as much as
/// a page of them is.
fn bounded(value: Value, max_bytes: usize, rest: &str) -> Value {
    let mut limit = max_bytes;
    let mut shorter = value.clone();
    while shorter.to_string().len() > max_bytes && limit > SHORT {
        limit /= 2;
        shorter = value.clone();
        cut(&mut shorter, limit, rest);
    }
    shorter
}

fn cut(value: &mut Value, limit: usize, rest: &str) {
    match value {
        Value::String(text) if text.len() > limit => {
            let end = text.floor_char_boundary(limit);
            let note = format!("… [{} bytes more; {rest}]", text.len() - end);
            text.truncate(end);
            text.push_str(&note);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| cut(item, limit, rest)),
        Value::Object(fields) => fields.values_mut().for_each(|field| cut(field, limit, rest)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use mi_kernel::Error;

    use super::*;

    fn structured(said: Value, max_bytes: usize) -> Value {
        let Value::Object(said) = said else { panic!("an object") };
        let result = success(said, max_bytes, "more is elsewhere");
        assert_ne!(result.is_error, Some(true));
        result.structured_content.expect("each has it")
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        let said = json!({
            "tasks": [{"id": "1", "error": "", "artifacts": [], "attempt": 0, "receipt": "e.y.J", "claimed_at": null}],
            "next_page_token": "", "agents": []});
        assert_eq!(structured(said, 10_000), json!({"tasks": [{"id": "1", "attempt": 0}], "agents": []}));
        assert_eq!(structured(json!({}), 10_000), json!({}));
    }

    #[test]
    fn long_answers_are_cut_where_they_are_long() {
        let said = json!({"task": {"id": "1", "title": "short", "result": "é".repeat(50_000)}});
        let whole = structured(said.clone(), 1_000_000);
        assert_eq!(whole, said);
        let shorter = structured(said, 8_000);
        assert!(shorter.to_string().len() <= 8_000);
        let result = shorter["task"]["result"].as_str().expect("text");
        assert!(result.ends_with("… [96000 bytes more; more is elsewhere]"), "{}", &result[result.len() - 60..]);
        assert_eq!((&shorter["task"]["id"], &shorter["task"]["title"]), (&json!("1"), &json!("short")));
        let lines: Vec<_> = (0..50).map(|n| json!({"sequence": n.to_string(), "text": "x".repeat(5_000)})).collect();
        assert!(structured(json!({"lines": lines}), 32_000).to_string().len() <= 32_000);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = |error: Error| {
            let result = failure(&mi_rpc::status(error));
            assert_eq!(result.is_error, Some(true));
            let error = result.structured_content.expect("each has it")["error"].clone();
            (error, result.content[0].as_text().expect("text").text.clone())
        };
        let (error, said) = text(Error::not_found("task", "t1"));
        assert_eq!((&error["code"], &error["reason"]), (&json!("NOT_FOUND"), &json!("NOT_FOUND")));
        assert!(said.starts_with("NOT_FOUND: ") && said.contains("\nHint: nothing of this name is there"), "{said}");
        let (error, said) = text(Error::exhausted("RATE_LIMITED", "slow down", Duration::from_millis(200)));
        assert_eq!(error["hint"], "call again later. Wait 1 s before you call again");
        assert!(said.starts_with("RATE_LIMITED: slow down"), "{said}");
        let (error, _) = text(Error::precondition("REVISION_CONFLICT", "it is at 7"));
        assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("if_revision")), "{error}");
    }
}
