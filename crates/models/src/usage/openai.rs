//! Usage of chat completions, responses and embeddings. Details are parts of the two numbers, never besides.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Absurd, Usage, count, others};

/// Details that cost what the whole costs.
const PLAIN_INPUT: [&str; 3] = ["cached_tokens", "text_tokens", "image_tokens"];
const PLAIN_OUTPUT: [&str; 4] =
    ["reasoning_tokens", "text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"];
/// Items of a response that name what the client runs itself.
const CLIENTS_OWN: [&str; 7] = [
    "function_call",
    "custom_tool_call",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
    "computer_call",
    "tool_search_call",
];

/// Of a chat completion; of embeddings, which have no answer in tokens.
pub(super) fn chat(usage: &Value, is_embedding: bool) -> Result<Option<Usage>, Absurd> {
    let (prompt, total) = (count(&usage["prompt_tokens"])?, count(&usage["total_tokens"])?);
    let completion = count(&usage["completion_tokens"])?;
    let (prompt, completion) = match (prompt, completion, total) {
        // Some count thoughts besides the completion: then only the total has all.
        (Some(prompt), Some(completion), total) => (prompt, completion.max(total.unwrap_or_default() - prompt)),
        (Some(prompt), None, _) if is_embedding => (prompt, 0),
        (Some(prompt), None, Some(total)) => (prompt, total.checked_sub(prompt).filter(|n| *n >= 0).ok_or(Absurd)?),
        _ => return Ok(None),
    };
    split(prompt, &usage["prompt_tokens_details"], completion, &usage["completion_tokens_details"]).map(Some)
}

/// Of a response, as of its last event.
pub(super) fn response(response: &Value) -> Result<Option<Usage>, Absurd> {
    let usage = &response["usage"];
    let Some((input, output)) = count(&usage["input_tokens"])?.zip(count(&usage["output_tokens"])?) else {
        return Ok(None);
    };
    let mut tools = BTreeMap::new();
    for item in response["output"].as_array().into_iter().flatten() {
        let kind = item["type"].as_str().unwrap_or_default();
        if let Some(tool) = kind.strip_suffix("_call").filter(|_| !CLIENTS_OWN.contains(&kind)) {
            *tools.entry(tool.to_owned()).or_default() += 1;
        }
    }
    let split = split(input, &usage["input_tokens_details"], output, &usage["output_tokens_details"])?;
    Ok(Some(Usage { tools, ..split }))
}

fn split(input: i64, of_input: &Value, output: i64, of_output: &Value) -> Result<Usage, Absurd> {
    let is_tokens = |name: &str| name.ends_with("_tokens");
    let cache_read = count(&of_input["cached_tokens"])?.unwrap_or_default();
    let reasoning = count(&of_output["reasoning_tokens"])?.unwrap_or_default();
    let unknown_input = others(of_input, &PLAIN_INPUT, is_tokens)?;
    let unknown_output = others(of_output, &PLAIN_OUTPUT, is_tokens)?;
    // Parts that are more than the whole would make the rest negative.
    let rest = |whole: i64, parts: i64| Some(whole - parts).filter(|rest| *rest >= 0).ok_or(Absurd);
    Ok(Usage {
        input: rest(input, cache_read + unknown_input)?,
        output: rest(output, reasoning + unknown_output)?,
        cache_read,
        reasoning,
        unknown: unknown_input + unknown_output,
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Kind, Meter, Said, followed, whole},
        *,
    };
    use crate::route::Call;

    const WRONG: Said = Said::Unknown("the provider's usage cannot be right");
    const NONE: Said = Said::Unknown("the provider said nothing of usage");

    fn used(input: i64, output: i64) -> Usage {
        Usage { input, output, ..Usage::default() }
    }

    #[test]
    fn a_whole_completion() {
        for (usage, said) in [
            (json!({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}), Said::Used(used(7, 9))),
            (json!({"prompt_tokens": 0, "completion_tokens": 0}), Said::Used(used(0, 0))),
            (json!({"prompt_tokens": 7, "total_tokens": 10}), Said::Used(used(7, 3))),
            (
                json!({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 36,
                    "completion_tokens_details": {"reasoning_tokens": 20}}),
                Said::Used(Usage { reasoning: 20, ..used(7, 9) }),
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4},
                    "completion_tokens_details": {"reasoning_tokens": 5, "accepted_prediction_tokens": 2}}),
                Said::Used(Usage { cache_read: 4, reasoning: 5, ..used(6, 4) }),
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 9, "prompt_tokens_details": {"audio_tokens": 3},
                    "completion_tokens_details": {"smell_tokens": 2}}),
                Said::Used(Usage { unknown: 5, ..used(7, 7) }),
            ),
            (json!({"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}), WRONG),
            (json!({"prompt_tokens": -3, "completion_tokens": 1}), WRONG),
            (json!({"prompt_tokens": 3, "completion_tokens": 9_000_000_000_i64}), WRONG),
            (json!({"prompt_tokens": 3}), NONE),
            (json!(null), NONE),
        ] {
            assert_eq!(whole(Call::Chat, &json!({"choices": [{}], "usage": usage})), said, "{usage}");
        }
        let embedded = json!({"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}});
        assert_eq!(whole(Call::Embeddings, &embedded), Said::Used(used(8, 0)));
        assert_eq!(whole(Call::Chat, &json!({"error": {"message": "no"}})), Said::Nothing);
    }

    #[test]
    fn a_streamed_completion() {
        let part = json!({"choices": [{"delta": {"content": "a"}, "finish_reason": null}], "usage": null});
        let usage = |n: i64| json!({"choices": [], "usage": {"prompt_tokens": n, "completion_tokens": 1}});
        for (events, ended, said) in [
            (vec![part.clone(), usage(5)], false, Said::Used(used(5, 1))),
            (vec![part.clone(), usage(5), usage(5)], false, Said::Used(used(5, 1))),
            (vec![part.clone(), usage(5), usage(6)], true, Said::Used(used(6, 1))),
            (vec![part.clone(), part.clone()], true, NONE),
            // A server that says with each part how much it was so far.
            (
                vec![
                    json!({"choices": [{"finish_reason": null}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}),
                ],
                false,
                Said::Unknown("the answer ended before its usage was final"),
            ),
            (
                vec![
                    json!({"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}),
                ],
                false,
                Said::Used(used(5, 1)),
            ),
            (vec![part.clone(), json!({"error": {"message": "overloaded"}})], true, NONE),
            (vec![json!({"error": {"message": "overloaded"}})], true, Said::Nothing),
        ] {
            assert_eq!(followed(Call::Chat, &events).said(ended), said, "{events:?}");
        }
        let mut meter = Meter::new(Call::Chat);
        assert_eq!(meter.event(&part.to_string()), Kind::Part);
        assert_eq!(meter.event(&usage(1).to_string()), Kind::UsageOnly);
        assert_eq!(meter.event("[DONE]"), Kind::Last);
        assert_eq!(meter.event("{garbage"), Kind::Part);
    }

    #[test]
    fn a_response_counts_at_each_of_its_ends() {
        let usage = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3}});
        let tokens = Usage { cache_read: 2, reasoning: 3, ..used(8, 4) };
        for kind in ["response.completed", "response.incomplete", "response.failed"] {
            let events = [
                json!({"type": "response.created", "response": {"object": "response", "usage": null}}),
                json!({"type": "response.output_text.delta", "delta": "a"}),
                json!({"type": kind, "response": {"object": "response", "model": "m", "usage": usage}}),
            ];
            let meter = followed(Call::Responses, &events);
            assert_eq!(meter.said(false), Said::Used(tokens.clone()), "{kind}");
            assert_eq!((meter.model(), meter.failed()), (Some("m"), kind == "response.failed"));
            assert_eq!(followed(Call::Responses, &events[..2]).said(true), NONE);
        }
        let output = json!([{"type": "web_search_call"}, {"type": "web_search_call"}, {"type": "function_call"},
            {"type": "message"}]);
        let body = json!({"object": "response", "status": "completed", "usage": usage, "output": output});
        let tools = [("web_search".to_owned(), 2)].into();
        assert_eq!(whole(Call::Responses, &body), Said::Used(Usage { tools, ..tokens }));
        let failed = json!({"type": "response.failed", "response": {"object": "response", "usage": null}});
        assert_eq!(followed(Call::Responses, &[json!({"type": "response.created"}), failed]).said(true), NONE);
    }
}
