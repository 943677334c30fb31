//! What a call cost, told once.

use mi_base::metrics;
use mi_catalogue::Tool;
use mi_proto::internal::v1::{SettleCreditsRequest, TokenUsage};

use super::{Job, Paid};
use crate::{
    price,
    usage::{Said, Usage},
};

/// Whether a call is settled.
#[derive(Default)]
pub(super) struct Account {
    /// The model that says it answered.
    pub(super) answered_by: Option<String>,
    is_settled: bool,
}

impl Account {
    /// Settles a call, unless it is.
    pub(super) async fn settle(&mut self, job: &Job, said: &Said) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        if let Some(model) = &self.answered_by {
            job.span.record("gen_ai.response.model", model);
        }
        let Some(paid) = &job.paid else { return };
        let settlement = self.settlement(job, paid, said);
        let (provider, model) = (&job.model.provider, &job.model.id);
        if let Some(usage) = &settlement.usage {
            job.span.record("gen_ai.usage.input_tokens", usage.input + usage.cache_read + usage.cache_write);
            job.span.record("gen_ai.usage.output_tokens", usage.output + usage.reasoning);
            for (kind, tokens) in [
                ("input", usage.input),
                ("output", usage.output),
                ("cache_read", usage.cache_read),
                ("cache_write", usage.cache_write),
                ("reasoning", usage.reasoning),
            ] {
                metrics::model_tokens(provider, model, kind, tokens);
            }
        }
        let cost = settlement.amount.unwrap_or(paid.reservation.amount);
        job.span.record("mi.cost", cost);
        metrics::model_cost(provider, model, cost);
        job.proxy.ledger.settle(settlement).await;
    }

    fn settlement(&self, job: &Job, paid: &Paid, said: &Said) -> SettleCreditsRequest {
        let reserved = &paid.reservation;
        let settlement = |amount, usage, note| SettleCreditsRequest {
            office_id: reserved.office_id.clone(),
            call_id: reserved.call_id.clone(),
            amount,
            usage,
            note,
        };
        match said {
            Said::Nothing => settlement(Some(0), None, String::new()),
            Said::Unknown(why) => settlement(None, None, (*why).to_owned()),
            Said::Used(usage) => {
                let (cost, note) = self.cost(job, usage);
                match cost.filter(|cost| *cost <= reserved.amount || usage.is_possible()) {
                    // What a provider counts beyond the bound it bills, too.
                    Some(cost) => settlement(Some(cost), Some(wire(usage)), note),
                    None => {
                        let (provider, model) = (&job.model.provider, &job.model.id);
                        tracing::warn!(target: "mi::models", provider, model, ?usage, "usage that cannot be right");
                        let why = "the provider's usage is more than any request can cause";
                        settlement(None, None, why.to_owned())
                    }
                }
            }
        }
    }

    /// What usage costs, and what is unusual about it.
    fn cost(&self, job: &Job, usage: &Usage) -> (Option<i64>, String) {
        let tools: Vec<&Tool> = job.catalogue.tools.iter().filter(|tool| tool.provider == job.model.provider).collect();
        let mut notes = Vec::new();
        let mut cost = price::cost(&job.model.price, usage, &tools);
        if usage.unknown > 0 {
            notes.push(format!("{} tokens of unknown kinds cost what the dearest kind does", usage.unknown));
        }
        for name in usage.tools.keys().filter(|name| !tools.iter().any(|tool| name.starts_with(&tool.name))) {
            let shown: String = name.chars().take(40).collect();
            notes.push(format!("the tool {shown:?} has no price"));
        }
        // Who answers in another one's place may be dearer.
        let stranger =
            self.answered_by.as_deref().filter(|name| !name.starts_with(&job.model.id) && *name != job.asked);
        if let Some(other) = stranger.and_then(|name| job.catalogue.model(&job.model.provider, name)) {
            cost = cost.max(price::cost(&other.price, usage, &tools));
            notes.push(format!("answered by {:?}", other.id));
        }
        (cost, notes.join("; "))
    }
}

fn wire(usage: &Usage) -> TokenUsage {
    TokenUsage {
        input: usage.input,
        // Whatever they are of, they are counted.
        output: usage.output + usage.unknown,
        cache_read: usage.cache_read,
        cache_write: usage.cache_write + usage.cache_write_hour,
        reasoning: usage.reasoning,
    }
}
