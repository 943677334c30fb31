//! Hires and promotions that name a provider: one call, whatever dies meanwhile.

use std::collections::BTreeSet;

use mi_catalogue::{Catalogue, ModelApi};
use mi_kernel::{AgentId, Error, ErrorKind, Result};
use mi_proto::{
    internal::v1::Ability,
    v1::{HireAgentRequest, PromoteAgentRequest},
};
use mi_testkit::on_both;

use super::harness::Harness;
use crate::{
    agents::{Agent, Phase, State, wire},
    plan::PlannedAction,
};

on_both! {
    a_provider_is_taken_by_any_name_and_enabled,
    a_provider_that_cannot_serve_is_refused_and_nothing_is_created,
    a_hire_that_was_served_is_answered_whatever_changed,
    a_promotion_enables_its_provider,
    a_hire_with_a_provider_arrives_whatever_dies,
    a_promotion_arrives_whatever_dies,
    an_instance_is_told_of_a_model_that_it_can_use,
    a_start_waits_for_the_office_role,
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn refusal(error: Error) -> (ErrorKind, &'static str, Option<&'static str>) {
    (error.kind, error.reason, error.field)
}

impl Harness {
    async fn hire_at(&self, name: &str, model_tier: &str, provider: &str) -> Result<Agent> {
        let (model_tier, provider) = (model_tier.into(), provider.into());
        let request = HireAgentRequest { model_tier, provider, ..self.hiring(name) };
        self.scheduler.hire(&self.owner("HireAgent"), request).await
    }

    async fn promote(&self, name: &str, model_tier: &str, provider: &str) -> Result<Agent> {
        let request = PromoteAgentRequest {
            office_id: self.office.to_string(),
            name: name.into(),
            model_tier: model_tier.into(),
            provider: provider.into(),
        };
        self.scheduler.promote(&self.owner("PromoteAgent"), request).await
    }

    /// What an instance of the agent is told of its model: API, provider and id.
    fn model_of(&self, agent: AgentId) -> Vec<String> {
        let env = self.runtime.environment(agent);
        let names = ["MI_MODEL_API", "MI_MODEL_PROVIDER", "MI_MODEL_ID"];
        names.iter().filter_map(|name| env.get(*name).cloned()).collect()
    }

    /// Goes on until the agent runs as it should; something dies before the step of this number. How many steps it took.
    async fn arrives(&mut self, id: AgentId, dies: usize, platform: bool) -> usize {
        for n in 0..100 {
            if n == dies && platform {
                self.crash().await;
            } else if n == dies {
                self.runtime.crash(id, "killed");
            }
            match self.scheduler.step(id).await.expect("steps") {
                Some(PlannedAction::Wait(at)) => match self.agent(id).await.state {
                    State::Starting { .. } => drop(self.ready(id).await),
                    _ => self.clock.set(at),
                },
                Some(PlannedAction::Listen(_)) => return n,
                _ => {}
            }
        }
        panic!("it never arrives: {:?}", self.agent(id).await);
    }
}

async fn a_provider_is_taken_by_any_name_and_enabled(harness: Harness) {
    harness.treasury.configure(&["anthropic", "openrouter"]);
    let plain = harness.hire_at("plain", "sonnet", "").await.expect("needs no key");
    assert_eq!((plain.spec.provider.as_str(), plain.spec.integrations), ("anthropic", names(&["anthropic"])));
    let by_alias = harness.hire_at("alias", "sonnet", "claude-code").await.expect("configured");
    assert_eq!((by_alias.spec.provider.as_str(), by_alias.generation), ("anthropic", 1));
    let mut request = HireAgentRequest { provider: "openrouter".into(), ..harness.hiring("skilled") };
    request.skills = ["github", "juggling"].map(str::to_owned).to_vec();
    let skilled = harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect("configured");
    assert_eq!(skilled.spec.integrations, names(&["github", "openrouter"]));
    assert_eq!((skilled.spec.model_tier.as_str(), skilled.spec.integrations_revision), ("sonnet", 1));
    assert_eq!(harness.agent(skilled.id).await, skilled);
    let hired = harness.events().await.into_iter().rfind(|event| event.kind == "agent.hired").expect("told");
    assert_eq!(hired.metadata["provider"], "openrouter");
    assert_eq!(hired.metadata["integrations"], serde_json::json!(["github", "openrouter"]));
}

async fn a_provider_that_cannot_serve_is_refused_and_nothing_is_created(harness: Harness) {
    harness.treasury.configure(&["gemini"]);
    let unknown = harness.hire_at("a", "sonnet", "acme").await.expect_err("unknown");
    assert!(unknown.message.contains("known are anthropic, openai"), "{unknown}");
    assert_eq!(refusal(unknown), (ErrorKind::Invalid, "INVALID_ARGUMENT", Some("provider")));
    let other = harness.hire_at("a", "sonnet", "google").await.expect_err("does not serve it");
    assert!(other.message.contains("served by anthropic, openrouter"), "{other}");
    assert_eq!(refusal(other), (ErrorKind::Invalid, "INVALID_ARGUMENT", Some("provider")));
    // Also when it is the tier's own.
    for provider in ["anthropic", "openrouter"] {
        let keyless = harness.hire_at("a", "sonnet", provider).await.expect_err("no key");
        assert_eq!(refusal(keyless), (ErrorKind::FailedPrecondition, "INTEGRATION_NOT_CONFIGURED", None));
    }
    assert_eq!((harness.rows("agents").await, harness.events().await.len()), (0, 0));
    harness.hire_at("a", "gemini-2.5-flash", "google-gemini").await.expect("configured");
    let before = harness.hire("b").await;
    let keyless = harness.promote("b", "opus", "anthropic").await.expect_err("no key");
    assert_eq!(refusal(keyless), (ErrorKind::FailedPrecondition, "INTEGRATION_NOT_CONFIGURED", None));
    assert_eq!(harness.agent(before.id).await, before);
    let foreign = HireAgentRequest { provider: "acme".into(), ..harness.hiring("c") };
    let foreign = harness.scheduler.hire(&harness.stranger("HireAgent"), foreign).await.expect_err("foreign");
    assert_eq!((foreign.kind, foreign.resource), (ErrorKind::NotFound, Some(("office", harness.office.to_string()))));
}

async fn a_hire_that_was_served_is_answered_whatever_changed(harness: Harness) {
    harness.treasury.configure(&["anthropic"]);
    let request =
        || HireAgentRequest { provider: "anthropic".into(), request_id: "r-1".into(), ..harness.hiring("analyst") };
    let caller = harness.owner("HireAgent");
    let hired = harness.scheduler.hire(&caller, request()).await.expect("hires");
    harness.treasury.configure(&[]);
    assert_eq!(harness.scheduler.hire(&caller, request()).await.expect("the same"), hired);
    assert_eq!(harness.rows("agents").await, 1);
}

async fn a_promotion_enables_its_provider(harness: Harness) {
    harness.treasury.configure(&["openrouter"]);
    let agent = harness.running("analyst").await;
    let promoted = harness.promote("analyst", "opus", "openrouter").await.expect("configured");
    assert_eq!((promoted.spec.model_tier.as_str(), promoted.spec.provider.as_str()), ("opus", "openrouter"));
    assert_eq!((promoted.generation, promoted.observed_generation), (2, 1));
    assert_eq!(promoted.spec.integrations, names(&["anthropic", "openrouter"]));
    assert_eq!(promoted.spec.integrations_revision, 2);
    // Without a provider it goes back to the tier's own.
    let back = harness.promote("analyst", "haiku", "").await.expect("needs no key");
    assert_eq!((back.spec.provider.as_str(), back.spec.integrations_revision), ("anthropic", 2));
    let only_provider = harness.promote("analyst", "", "openrouter").await.expect("configured");
    assert_eq!(only_provider.spec.model_tier, "haiku");
    harness.settle(agent.id).await;
    let running = harness.ready(agent.id).await;
    assert_eq!((running.generation, running.observed_generation), (4, 4));
    assert_eq!(harness.model_of(agent.id), ["openai", "openrouter", "anthropic/claude-haiku-4.5"]);
}

async fn a_hire_with_a_provider_arrives_whatever_dies(mut harness: Harness) {
    harness.treasury.configure(&["openrouter"]);
    let calm = harness.hire_at("calm", "opus", "openrouter").await.expect("hires").id;
    let steps = harness.arrives(calm, usize::MAX, true).await;
    for (n, platform) in (0..=steps).flat_map(|n| [(n, true), (n, false)]) {
        let id = harness.hire_at(&format!("dies-{n}-{platform}"), "opus", "openrouter").await.expect("hires").id;
        harness.arrives(id, n, platform).await;
        let agent = harness.agent(id).await;
        assert_eq!((agent.phase(), agent.generation, agent.observed_generation), (Phase::Running, 1, 1));
        assert_eq!(agent.spec.integrations, names(&["openrouter"]));
        assert_eq!(harness.model_of(id), ["openai", "openrouter", "anthropic/claude-opus-4.5"]);
    }
}

async fn a_promotion_arrives_whatever_dies(mut harness: Harness) {
    harness.treasury.configure(&["openrouter"]);
    let id = harness.hire("analyst").await.id;
    harness.arrives(id, usize::MAX, true).await;
    harness.promote("analyst", "opus", "openrouter").await.expect("promotes");
    let steps = harness.arrives(id, usize::MAX, true).await;
    let mut generation = 2;
    for (n, platform) in (0..=steps).flat_map(|n| [(n, true), (n, false)]) {
        for (tier, provider, model) in [("sonnet", "", &[][..]), ("opus", "openrouter", &["anthropic/claude-opus-4.5"])]
        {
            harness.promote("analyst", tier, provider).await.expect("promotes");
            generation += 1;
            harness.arrives(id, n, platform).await;
            let agent = harness.agent(id).await;
            let reached = (agent.phase(), agent.generation, agent.observed_generation);
            assert_eq!(reached, (Phase::Running, generation, generation), "{n} {platform}");
            assert_eq!(harness.model_of(id).get(2..).unwrap_or_default(), model, "{n} {platform}");
        }
    }
}

async fn an_instance_is_told_of_a_model_that_it_can_use(harness: Harness) {
    let launched = async |name: &str| {
        let id = harness.hire(name).await.id;
        harness.settle(id).await;
        harness.model_of(id)
    };
    let ability = async |id: AgentId| wire::member(harness.agent(id).await).ability();
    // Nobody has a key: it runs scripts only.
    assert_eq!(launched("none").await, Vec::<String>::new());
    harness.treasury.configure(&["anthropic"]);
    assert_eq!(launched("own").await, ["anthropic", "anthropic", "claude-sonnet-4-5"]);
    let again = harness.scheduler.restart(&harness.owner("RestartAgent"), &harness.office.to_string(), "none").await;
    let again = again.expect("restarts").id;
    assert_eq!(ability(again).await, Ability::Commands);
    // Each start asks anew.
    harness.settle(again).await;
    assert_eq!(ability(again).await, Ability::Unspecified);
    let url = "http://127.0.0.1:9/v1".parse().expect("a URL");
    let catalogue = Catalogue::built_in().expect("good").with_server(ModelApi::OpenAi, url, None).expect("there");
    harness.scheduler.catalogues.replace(catalogue);
    assert_eq!(launched("still-own").await, ["anthropic", "anthropic", "claude-sonnet-4-5"]);
    harness.treasury.configure(&[]);
    assert_eq!(launched("fallback").await, ["openai", "openai", "claude-sonnet-4-5"]);
    let named = harness.hire_at("named", "sonnet", "openai").await.expect("the operator's server takes all");
    assert_eq!(named.spec.provider, "openai");
    harness.settle(named.id).await;
    assert_eq!(harness.model_of(named.id), ["openai", "openai", "claude-sonnet-4-5"]);
}

async fn a_start_waits_for_the_office_role(harness: Harness) {
    let id = harness.hire("analyst").await.id;
    harness.treasury.known().away = true;
    let again = harness.settle(id).await.expect("tried again");
    assert_eq!((harness.phase(id).await, harness.runtime.launches().len()), (Some(Phase::Pending), 0));
    harness.treasury.known().away = false;
    harness.clock.set(again);
    harness.settle(id).await;
    assert_eq!(harness.runtime.launches().len(), 1);
}
