//! Usage of `generateContent`. The prompt includes what was cached, thoughts come besides the candidates.

use serde_json::Value;

use super::{Absurd, Usage, count, others};

const KNOWN: [&str; 6] = [
    "promptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "totalTokenCount",
];

/// Of one answer or part of it: numbers of parts are cumulative.
pub(super) fn usage(metadata: &Value) -> Result<Option<Usage>, Absurd> {
    let [prompt, cached, candidates, thoughts, tools, total] = KNOWN.map(|name| count(&metadata[name]));
    let (prompt, total) = (prompt?, total?);
    let (thoughts, tools) = (thoughts?.unwrap_or_default(), tools?.unwrap_or_default());
    let Some(prompt) = prompt else { return Ok(None) };
    // A number that is zero is left out, so that the sum has to tell it from one that is not known.
    let candidates = match (candidates?, total) {
        (Some(candidates), _) => candidates,
        (None, Some(total)) => {
            let rest = total - prompt - thoughts - tools;
            Some(rest).filter(|rest| *rest >= 0).ok_or(Absurd)?
        }
        (None, None) => return Ok(None),
    };
    let cache_read = cached?.unwrap_or_default();
    // What was heard costs more than what was read, and has no price of its own.
    let details = metadata["promptTokensDetails"].as_array().map(Vec::as_slice).unwrap_or_default();
    let audio = details.iter().filter(|part| part["modality"] == "AUDIO");
    let heard =
        audio.map(|part| count(&part["tokenCount"])).try_fold(0, |sum, count| Ok(sum + count?.unwrap_or_default()))?;
    let heard = heard.min((prompt - cache_read).max(0));
    let input = Some(prompt - cache_read - heard).filter(|rest| *rest >= 0).ok_or(Absurd)?;
    Ok(Some(Usage {
        input: input + tools,
        output: candidates,
        cache_read,
        reasoning: thoughts,
        unknown: heard + others(metadata, &KNOWN, |name| name.ends_with("TokenCount"))?,
        ..Usage::default()
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Meter, Said, followed, whole},
        *,
    };
    use crate::route::Call;

    const WRONG: Said = Said::Unknown("the provider's usage cannot be right");
    const NONE: Said = Said::Unknown("the provider said nothing of usage");

    fn used(input: i64, output: i64) -> Usage {
        Usage { input, output, ..Usage::default() }
    }

    #[test]
    fn a_whole_answer() {
        for (usage, said) in [
            (json!({"promptTokenCount": 7, "candidatesTokenCount": 9}), Said::Used(used(7, 9))),
            (json!({"promptTokenCount": 7, "totalTokenCount": 7}), Said::Used(used(7, 0))),
            (
                json!({"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 3,
                    "thoughtsTokenCount": 5, "toolUsePromptTokenCount": 2, "totalTokenCount": 20,
                    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}]}),
                Said::Used(Usage { cache_read: 4, reasoning: 5, ..used(8, 3) }),
            ),
            (
                json!({"promptTokenCount": 10, "candidatesTokenCount": 1,
                    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}, {"modality": "TEXT", "tokenCount": 6}]}),
                Said::Used(Usage { unknown: 4, ..used(6, 1) }),
            ),
            (
                json!({"promptTokenCount": 1, "candidatesTokenCount": 1, "dreamsTokenCount": 6}),
                Said::Used(Usage { unknown: 6, ..used(1, 1) }),
            ),
            (json!({"promptTokenCount": 3, "cachedContentTokenCount": 4, "candidatesTokenCount": 1}), WRONG),
            (json!({"promptTokenCount": 9, "totalTokenCount": 4}), WRONG),
            (json!({"promptTokenCount": -9, "candidatesTokenCount": 4}), WRONG),
            (json!({"promptTokenCount": 9}), NONE),
            (json!(null), NONE),
        ] {
            let body = json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage});
            assert_eq!(whole(Call::Generate, &body), said, "{usage}");
        }
    }

    #[test]
    fn a_stream_counts_once_as_events_and_as_a_list() {
        let part = |n: i64, end: Option<&str>| {
            json!({"candidates": [{"finishReason": end, "groundingMetadata": {"webSearchQueries": ["a"]}}],
                "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": n}})
        };
        let events = [part(1, None), part(5, None), part(9, Some("STOP"))];
        let searched = Usage { tools: [("google_search".to_owned(), 1)].into(), ..used(4, 9) };
        assert_eq!(followed(Call::StreamGenerate, &events).said(false), Said::Used(searched.clone()));
        let cut = followed(Call::StreamGenerate, &events[..2]);
        assert_eq!(cut.said(false), Said::Unknown("the answer ended before its usage was final"));
        assert_eq!(cut.output_so_far(), 5);
        let mut meter = Meter::new(Call::StreamGenerate);
        meter.whole(json!(events).to_string().as_bytes());
        assert_eq!(meter.said(true), Said::Used(searched));
        let error = json!({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}});
        assert_eq!(followed(Call::StreamGenerate, &[error]).said(true), Said::Nothing);
    }
}
