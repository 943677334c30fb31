//! Whether an agent may call a model, and by which name and price.

use mi_catalogue::{Catalogue, Model, ModelApi, Provider};
use mi_kernel::{Error, ErrorKind, Result};
use mi_proto::{
    internal::v1::GetSpenderResponse,
    v1::{Agent, AgentPhase},
};
use serde_json::{Value, json};

/// The model of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen<'a> {
    /// What it costs.
    pub(crate) model: &'a Model,
    /// The name to send.
    pub(crate) name: String,
}

/// Whether it may work at all.
///
/// # Errors
/// `PermissionDenied`, or what its budget says.
pub(crate) fn working(spender: &GetSpenderResponse) -> Result<&Agent> {
    let agent = spender.agent.as_ref().ok_or_else(|| Error::internal("the scheduler knows no such spender"))?;
    if spender.working {
        return Ok(agent);
    }
    let status = agent.status.clone().unwrap_or_default();
    if status.phase() == AgentPhase::Suspended && status.message.contains("BUDGET_REACHED") {
        return Err(Error::new(ErrorKind::Exhausted, "BUDGET_REACHED", "the budget is used up; ask for a larger one"));
    }
    Err(Error::new(ErrorKind::PermissionDenied, "AGENT_NOT_WORKING", "the agent is paused, stopped or fired"))
}

/// Whether a provider is switched on for it. One that was switched off is off, whoever's key would be used; one that wants no
/// key, and is no integration, has no switch.
///
/// # Errors
/// `FailedPrecondition`.
pub(crate) fn enabled(
    catalogue: &Catalogue,
    spender: &GetSpenderResponse,
    agent: &Agent,
    provider: &Provider,
) -> Result<()> {
    let has_switch = |name: &str| catalogue.integration("provider", name).is_ok();
    let is_off = |name: &str| has_switch(name) && spender.integrations.iter().all(|on| on != name);
    let own = catalogue.provider("provider", &agent.provider).map_or(agent.provider.as_str(), |own| &own.name);
    // The server that stands for all of them wants no integration of its own.
    let stands_for_own = catalogue.fallback.as_deref() == Some(&provider.name);
    let off = [own, &provider.name].into_iter().find(|name| is_off(name) && (*name == own || !stands_for_own));
    match off {
        None => Ok(()),
        Some(off) => {
            let text = format!("the integration {off:?} is not enabled for this agent; its operator can enable it");
            Err(Error::precondition("INTEGRATION_DISABLED", text))
        }
    }
}

/// The model that it asks for, if it may.
///
/// # Errors
/// `PermissionDenied`, naming what it may ask for.
pub(crate) fn model<'a>(
    catalogue: &'a Catalogue,
    spender: &GetSpenderResponse,
    agent: &Agent,
    provider: &Provider,
    asked: &str,
) -> Result<Chosen<'a>> {
    let own = own(catalogue, agent, provider);
    if let Some((tier, model)) = own
        && (asked == tier || is(asked, &model.id))
    {
        let name = if is(asked, &model.id) { asked } else { &model.id };
        return Ok(Chosen { model, name: name.to_owned() });
    }
    let any = catalogue.models.iter().find(|model| model.provider == provider.name && is(asked, &model.id));
    if let Some(model) = any.filter(|_| spender.allow_any_model) {
        return Ok(Chosen { model, name: asked.to_owned() });
    }
    let shown: String = asked.chars().take(80).collect();
    let may = own.map_or("none of this provider".to_owned(), |(_, model)| format!("{:?}", model.id));
    let text = format!("the model {shown:?} is not this agent's, which is {may} (its tier is {:?})", agent.model_tier);
    Err(Error::new(ErrorKind::PermissionDenied, "MODEL_NOT_ALLOWED", text))
}

/// Its tier's name and model at a provider.
fn own<'a>(catalogue: &'a Catalogue, agent: &Agent, provider: &Provider) -> Option<(&'a str, &'a Model)> {
    let tier = catalogue.tier("model_tier", &agent.model_tier).ok()?;
    Some((&tier.name, catalogue.served(tier, &provider.name)?))
}

/// Whether a name is that of a model, or of its version of a day.
fn is(asked: &str, id: &str) -> bool {
    let is_day = |rest: &str| {
        let digits: String = rest.chars().filter(|c| *c != '-').collect();
        matches!(rest.len(), 9 | 11)
            && rest.starts_with('-')
            && digits.len() == 8
            && digits.bytes().all(|b| b.is_ascii_digit())
    };
    asked.strip_prefix(id).is_some_and(|rest| rest.is_empty() || is_day(rest))
}

/// The list of models that it may use of a provider, as the provider would write it.
pub(crate) fn list(catalogue: &Catalogue, spender: &GetSpenderResponse, agent: &Agent, provider: &Provider) -> Value {
    let own = own(catalogue, agent, provider).map(|(_, model)| model.id.as_str());
    let others = catalogue.models.iter().filter(|model| spender.allow_any_model && model.provider == provider.name);
    let mut ids: Vec<&str> = own.into_iter().chain(others.map(|model| model.id.as_str())).collect();
    ids.sort_unstable();
    ids.dedup();
    match provider.api {
        ModelApi::OpenAi => {
            let model = |id| json!({"id": id, "object": "model", "created": 0, "owned_by": provider.name});
            json!({"object": "list", "data": ids.into_iter().map(model).collect::<Value>()})
        }
        ModelApi::Anthropic => {
            let (first, last) = (ids.first().copied(), ids.last().copied());
            let model =
                |id| json!({"type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z"});
            let data: Value = ids.into_iter().map(model).collect();
            json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
        }
        ModelApi::Gemini => {
            let model = |id| json!({"name": format!("models/{id}"), "displayName": id});
            json!({"models": ids.into_iter().map(model).collect::<Value>()})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_a_day_is_the_same_model() {
        for (asked, same) in [
            ("claude-sonnet-4-5", true),
            ("claude-sonnet-4-5-20250929", true),
            ("claude-sonnet-4-5-2025-09-29", true),
            ("claude-sonnet-4-5-latest", false),
            ("claude-sonnet-4-50", false),
            ("claude-sonnet-4-5-2025092", false),
            ("claude-sonnet-4-5-pro-2025", false),
            ("claude-sonnet-4", false),
        ] {
            assert_eq!(is(asked, "claude-sonnet-4-5"), same, "{asked}");
        }
    }
}
