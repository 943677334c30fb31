//! Usage of messages. Kinds of input are counted apart; numbers of a stream are cumulative.

use serde_json::Value;

use super::{Absurd, Usage, count, others};

const KNOWN: [&str; 4] = ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];

/// The numbers that were sent last.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    input: Option<i64>,
    output: Option<i64>,
    cache_read: Option<i64>,
    cache_write: Option<i64>,
    /// Kept for five minutes and for an hour: what `cache_write` is the sum of.
    split: Option<(i64, i64)>,
    unknown: Option<i64>,
    tools: Vec<(String, i64)>,
}

impl Parts {
    /// Takes over what this usage says; the rest stays.
    pub(super) fn merge(&mut self, usage: &Value) -> Result<(), Absurd> {
        let [input, output, cache_read, cache_write] = KNOWN.map(|name| count(&usage[name]));
        self.input = input?.or(self.input);
        self.output = output?.or(self.output);
        self.cache_read = cache_read?.or(self.cache_read);
        self.cache_write = cache_write?.or(self.cache_write);
        let split = &usage["cache_creation"];
        if split.is_object() {
            let minutes = count(&split["ephemeral_5m_input_tokens"])?.unwrap_or_default();
            let hour = count(&split["ephemeral_1h_input_tokens"])?.unwrap_or_default();
            self.split = Some((minutes, hour));
        }
        let unknown = others(usage, &KNOWN, |name| name.ends_with("_tokens"))?;
        self.unknown = (unknown > 0).then_some(unknown).or(self.unknown);
        if let Some(uses) = usage["server_tool_use"].as_object() {
            self.tools.clear();
            for (name, uses) in uses {
                let name = name.strip_suffix("_requests").unwrap_or(name).to_owned();
                self.tools.push((name, count(uses)?.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// The sum of it.
    pub(super) fn usage(&self) -> Result<Usage, Absurd> {
        // A message without either is none.
        let (input, output) = self.input.zip(self.output).ok_or(Absurd)?;
        let (minutes, hour) = self.split.unwrap_or_default();
        let cache_write = self.cache_write.unwrap_or_default().max(minutes + hour);
        let used = self.tools.iter().filter(|(_, uses)| *uses > 0);
        Ok(Usage {
            input,
            output,
            cache_read: self.cache_read.unwrap_or_default(),
            cache_write: cache_write - hour,
            cache_write_hour: hour,
            unknown: self.unknown.unwrap_or_default(),
            tools: used.cloned().collect(),
            ..Usage::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Kind, Meter, Said, followed, whole},
        *,
    };
    use crate::route::Call;

    fn start(usage: Value) -> Value {
        json!({"type": "message_start", "message": {"model": "claude", "usage": usage}})
    }

    fn delta(usage: Value) -> Value {
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    }

    fn used(input: i64, output: i64) -> Usage {
        Usage { input, output, ..Usage::default() }
    }

    #[test]
    fn a_whole_message() {
        for (usage, said) in [
            (json!({"input_tokens": 7, "output_tokens": 9}), Said::Used(used(7, 9))),
            (json!({"input_tokens": 0, "output_tokens": 0}), Said::Used(used(0, 0))),
            (
                json!({"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3,
                    "cache_creation_input_tokens": 9,
                    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}}),
                Said::Used(Usage { cache_read: 3, cache_write: 4, cache_write_hour: 5, ..used(1, 2) }),
            ),
            (
                json!({"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 9,
                    "cache_read_input_tokens": null, "cache_creation": null, "service_tier": "standard"}),
                Said::Used(Usage { cache_write: 9, ..used(1, 2) }),
            ),
            (
                json!({"input_tokens": 1, "output_tokens": 2, "dream_tokens": 8,
                    "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 0}}),
                Said::Used(Usage { unknown: 8, tools: [("web_search".to_owned(), 3)].into(), ..used(1, 2) }),
            ),
            (json!({"input_tokens": -1, "output_tokens": 2}), Said::Unknown("the provider's usage cannot be right")),
            (json!({"input_tokens": 1.5, "output_tokens": 2}), Said::Unknown("the provider's usage cannot be right")),
            (json!({"input_tokens": "1", "output_tokens": 2}), Said::Unknown("the provider's usage cannot be right")),
            (json!({"input_tokens": 1e30, "output_tokens": 2}), Said::Unknown("the provider's usage cannot be right")),
            (json!({"output_tokens": 2}), Said::Unknown("the provider's usage cannot be right")),
            (json!(null), Said::Unknown("the provider said nothing of usage")),
        ] {
            assert_eq!(whole(Call::Messages, &json!({"type": "message", "usage": usage})), said, "{usage}");
        }
        let mut meter = Meter::new(Call::Messages);
        meter.whole(b"<html>");
        assert_eq!(meter.said(true), Said::Unknown("the provider's answer could not be read"));
        let refused = json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}});
        assert_eq!(whole(Call::Messages, &refused), Said::Nothing);
    }

    #[test]
    fn a_stream_counts_what_its_end_says() {
        let begun = json!({"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 6,
            "cache_creation": {"ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 0}});
        let cached = Usage { cache_read: 5, cache_write: 6, ..used(10, 40) };
        for (events, said) in [
            // The placeholder is no usage.
            (vec![start(begun.clone())], Said::Unknown("the answer was broken off before its usage came")),
            // Cumulative: the later one replaces, and does not add.
            (
                vec![start(begun.clone()), delta(json!({"output_tokens": 20})), delta(json!({"output_tokens": 40}))],
                Said::Used(cached.clone()),
            ),
            (
                vec![start(begun.clone()), delta(json!({"output_tokens": 40})), delta(json!({"output_tokens": 40}))],
                Said::Used(cached),
            ),
            // A later split replaces the earlier one whole.
            (
                vec![
                    start(begun.clone()),
                    delta(json!({"input_tokens": 12, "output_tokens": 40, "cache_creation_input_tokens": 7,
                        "cache_creation": {"ephemeral_1h_input_tokens": 7}})),
                ],
                Said::Used(Usage { cache_read: 5, cache_write_hour: 7, ..used(12, 40) }),
            ),
            // An explicit zero is one.
            (vec![start(begun.clone()), delta(json!({"output_tokens": 0}))], {
                Said::Used(Usage { cache_read: 5, cache_write: 6, ..used(10, 0) })
            }),
            (
                vec![start(begun.clone()), delta(json!({"output_tokens": -3}))],
                Said::Unknown("the provider's usage cannot be right"),
            ),
            (
                vec![start(begun.clone()), json!({"type": "error", "error": {"type": "overloaded_error"}})],
                Said::Unknown("the answer was broken off before its usage came"),
            ),
        ] {
            assert_eq!(followed(Call::Messages, &events).said(false), said, "{events:?}");
        }
    }

    #[test]
    fn a_failure_that_comes_first_costs_nothing() {
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}});
        let meter = followed(Call::Messages, std::slice::from_ref(&error));
        assert!(meter.failed());
        assert_eq!(meter.said(true), Said::Nothing);
        let later = followed(Call::Messages, &[start(json!({"input_tokens": 1, "output_tokens": 1})), error]);
        assert_eq!(later.said(true), Said::Unknown("the provider said nothing of usage"));
    }

    #[test]
    fn the_last_event_is_known() {
        let mut meter = Meter::new(Call::Messages);
        assert_eq!(meter.event(r#"{"type":"ping"}"#), Kind::Part);
        assert_eq!(meter.event(r#"{"type":"message_stop"}"#), Kind::Last);
    }
}
