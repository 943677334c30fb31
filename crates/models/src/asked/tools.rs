//! Tools that a provider runs on its own servers, and bills by call.

use mi_kernel::{Error, Result};
use serde_json::Value;

use super::{TOOL_USES, number};
use crate::route::Call;

/// What types of tools begin with that the client runs itself.
const ANTHROPIC_FREE: [&str; 6] = ["custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"];
const OPENAI_FREE: [&str; 8] =
    ["function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview", "tool_search", "shell"];
/// Most uses that a request may ask for.
const MAX_USES: i64 = 1000;

/// The tools of a request that are billed by call, each with how often at the most, and whether that bound has to be set.
pub(super) fn used(call: Call, value: &Value) -> Result<(Vec<(String, i64)>, bool)> {
    let tools = match &value["tools"] {
        Value::Null => &[][..],
        Value::Array(tools) => tools,
        // Google takes one for a list of it.
        _ => return Err(Error::invalid("tools", "must be a list")),
    };
    let mut used = Vec::new();
    match call {
        Call::Messages | Call::CountTokens => {
            for tool in tools {
                let kind = kind(tool).unwrap_or("custom");
                if ANTHROPIC_FREE.iter().any(|free| kind.starts_with(free)) {
                    continue;
                }
                let uses = number(&tool["max_uses"], "max_uses", MAX_USES)?;
                let uses = uses.ok_or_else(|| {
                    Error::invalid("max_uses", format!("is missing in the tool {kind:?}, which is billed by the use"))
                })?;
                used.push((kind.to_owned(), uses));
            }
            if !value["mcp_servers"].is_null() {
                used.push(("mcp".to_owned(), TOOL_USES));
            }
        }
        Call::Chat | Call::Responses => {
            let most = number(&value["max_tool_calls"], "max_tool_calls", MAX_USES)?;
            for tool in tools {
                let kind = kind(tool).unwrap_or("function");
                let runs_elsewhere = kind == "shell" && !tool["environment"].is_null();
                if runs_elsewhere || !OPENAI_FREE.contains(&kind) {
                    used.push((kind.to_owned(), most.unwrap_or(TOOL_USES)));
                }
            }
            let bound_tools = call == Call::Responses && !used.is_empty() && most.is_none();
            return Ok((used, bound_tools));
        }
        Call::Generate | Call::StreamGenerate => {
            for name in tools.iter().filter_map(Value::as_object).flat_map(|tool| tool.keys()) {
                let name = snake(name);
                if name != "function_declarations" {
                    used.push((name, 1));
                }
            }
        }
        Call::Embeddings | Call::CountContents | Call::Models => {}
    }
    Ok((used, false))
}

fn kind(tool: &Value) -> Option<&str> {
    tool["type"].as_str()
}

fn snake(camel: &str) -> String {
    let mut name = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_provider_runs_is_told_from_what_the_client_runs() {
        let search = |uses| vec![("web_search_20250305".to_owned(), uses)];
        for (call, body, expected) in [
            (Call::Messages, json!({"tools": [{"name": "a"}, {"type": "bash_20250124"}]}), vec![]),
            (Call::Messages, json!({"tools": [{"type": "web_search_20250305", "max_uses": 3}]}), search(3)),
            (Call::Chat, json!({"tools": [{"type": "function"}]}), vec![]),
            (Call::Responses, json!({"tools": [{"type": "local_shell"}, {"type": "shell"}]}), vec![]),
            (
                Call::Responses,
                json!({"tools": [{"type": "web_search"}], "max_tool_calls": 2}),
                vec![("web_search".to_owned(), 2)],
            ),
            (Call::Generate, json!({"tools": [{"functionDeclarations": []}]}), vec![]),
            (Call::Generate, json!({"tools": [{"googleSearch": {}}]}), vec![("google_search".to_owned(), 1)]),
            (Call::Generate, json!({"tools": [{"google_search": {}}]}), vec![("google_search".to_owned(), 1)]),
        ] {
            assert_eq!(used(call, &body).expect("good"), (expected, false), "{body}");
        }
        let open = json!({"tools": [{"type": "web_search_preview"}]});
        let expected = (vec![("web_search_preview".to_owned(), TOOL_USES)], true);
        assert_eq!(used(Call::Responses, &open).expect("good"), expected);
        let open = json!({"tools": [{"type": "web_search_20250305"}]});
        assert_eq!(used(Call::Messages, &open).expect_err("refused").field, Some("max_uses"));
    }
}
