//! Which integrations agents use, and what that makes of their environment.

use std::collections::{BTreeSet, HashMap};

use mi_kernel::{ErrorKind, InviteId, Result, event::Category};
use mi_proto::{
    internal::v1::{ApplyAgentIntegrationRequest, GetSpenderRequest},
    v1::HireAgentRequest,
};
use mi_testkit::on_both;

use super::harness::Harness;
use crate::agents::Agent;

on_both! {
    a_toggle_changes_what_it_has_to_and_no_more,
    an_agent_has_the_secrets_of_what_is_enabled_for_it,
    toggles_of_those_that_are_not_there_are_refused,
    what_is_enabled_for_any_agent_is_known,
    whoever_was_hired_before_has_its_providers,
}

impl Harness {
    async fn toggle(&self, agent: &str, integration: &str, enabled: bool) -> Result<Agent> {
        let request = ApplyAgentIntegrationRequest {
            office_id: self.office.to_string(),
            agent: agent.into(),
            integration: integration.into(),
            enabled,
            trace_id: super::harness::TRACE.into(),
        };
        self.scheduler.apply_integration(request).await
    }

    async fn enabled(&self, agent: &str) -> (Vec<String>, i64) {
        let (office_id, agent) = (self.office.to_string(), agent.to_owned());
        let asked = GetSpenderRequest { office_id, agent_id: String::new(), agent };
        let spender = self.scheduler.spender(&asked).await.expect("there");
        (spender.integrations, spender.integrations_revision)
    }
}

async fn a_toggle_changes_what_it_has_to_and_no_more(harness: Harness) {
    let agent = harness.running("analyst").await;
    // Slack is used by the platform alone: the instance stays.
    for _ in 0..2 {
        let toggled = harness.toggle("Analyst", "slack", true).await.expect("enables");
        assert_eq!((toggled.generation, toggled.spec.integrations_revision), (1, 2));
    }
    assert_eq!(harness.enabled("analyst").await, (vec!["anthropic".into(), "slack".into()], 2));
    // Git wants its token in the environment.
    for _ in 0..2 {
        let toggled = harness.toggle("analyst", "github", true).await.expect("enables");
        assert_eq!((toggled.generation, toggled.spec.integrations_revision), (2, 3));
    }
    for _ in 0..2 {
        let toggled = harness.toggle("analyst", "slack", false).await.expect("disables");
        assert_eq!((toggled.generation, toggled.spec.integrations_revision), (2, 4));
    }
    assert_eq!(harness.enabled("analyst").await, (vec!["anthropic".into(), "github".into()], 4));
    let events = harness.events().await;
    let told = events.iter().filter(|event| event.category == Category::Integration);
    let told: Vec<_> = told
        .map(|event| {
            (event.kind.as_str(), event.agent.as_str(), event.metadata["integration"].as_str(), &*event.trace_id)
        })
        .collect();
    let expected =
        [("integration.enabled", "slack"), ("integration.enabled", "github"), ("integration.disabled", "slack")];
    assert_eq!(told, expected.map(|(kind, name)| (kind, "analyst", Some(name), super::harness::TRACE)));
    harness.settle(agent.id).await;
    assert_eq!(harness.ready(agent.id).await.observed_generation, 2);
}

async fn an_agent_has_the_secrets_of_what_is_enabled_for_it(harness: Harness) {
    let secrets = |name: &str, value: &str| HashMap::from([(name.to_owned(), value.to_owned())]);
    harness.treasury.known().secrets.insert("github", secrets("token", "ghp_1"));
    harness.treasury.known().secrets.insert("gitlab", secrets("token", "glpat-1"));
    harness.treasury.known().secrets.insert("slack", secrets("bot_token", "xoxb-1"));
    harness.treasury.known().secrets.insert("anthropic", secrets("api_key", "sk-1"));
    let mut request = HireAgentRequest { skills: vec!["github".into(), "slack".into()], ..harness.hiring("analyst") };
    request.env.insert("GITLAB_TOKEN".into(), "its-own".into());
    let id = harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect("hires").id;
    harness.settle(id).await;
    let tokens = |harness: &Harness| {
        let env = harness.runtime.environment(id);
        let held = env.values().filter(|value| ["xoxb-1", "sk-1"].contains(&value.as_str()));
        assert_eq!(held.count(), 0, "what the platform uses for agents they do not have");
        ["GITHUB_TOKEN", "GITLAB_TOKEN"].map(|name| env.get(name).cloned())
    };
    assert_eq!(tokens(&harness), [Some("ghp_1".into()), Some("its-own".into())]);
    harness.toggle("analyst", "gitlab", true).await.expect("enables");
    harness.toggle("analyst", "github", false).await.expect("disables");
    harness.settle(id).await;
    assert_eq!(tokens(&harness), [None, Some("its-own".into())]);
}

async fn toggles_of_those_that_are_not_there_are_refused(harness: Harness) {
    let missing = harness.toggle("nobody", "slack", true).await.expect_err("missing");
    assert_eq!((missing.kind, missing.resource), (ErrorKind::NotFound, Some(("agent", "nobody".into()))));
    let agent = harness.hire("analyst").await;
    let unknown = harness.toggle("analyst", "acme", true).await.expect_err("unknown");
    assert_eq!((unknown.kind, unknown.field), (ErrorKind::Invalid, Some("integration")));
    harness.fire("analyst", false).await;
    let fired = harness.toggle("analyst", "slack", true).await.expect_err("fired");
    assert_eq!(fired.reason, "AGENT_TERMINATING");
    assert_eq!(harness.agent(agent.id).await.spec, agent.spec);
    // One that runs elsewhere has no environment of ours.
    let external = harness.admit(harness.office, InviteId::new(), "robo", [9; 32]).await.expect("admitted");
    let toggled = harness.toggle("robo", "github", true).await.expect("enables");
    assert_eq!(toggled.generation, external.generation);
}

async fn what_is_enabled_for_any_agent_is_known(harness: Harness) {
    let enabled = async || harness.scheduler.enabled_integrations(harness.office).await.expect("reads");
    assert_eq!(enabled().await, BTreeSet::new());
    for (name, tier) in [("a", "sonnet"), ("b", "opus"), ("c", "gpt-5.5")] {
        let request = HireAgentRequest { model_tier: tier.into(), ..harness.hiring(name) };
        harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect("hires");
    }
    harness.toggle("b", "linear", true).await.expect("enables");
    assert_eq!(enabled().await, ["anthropic", "linear", "openai"].map(str::to_owned).into());
    let other = harness.open_office(1).await;
    assert_eq!(harness.scheduler.enabled_integrations(other).await.expect("reads"), BTreeSet::new());
}

async fn whoever_was_hired_before_has_its_providers(harness: Harness) {
    let agent = harness.hire("analyst").await;
    let mut tx = harness.scheduler.db.office(harness.office).begin().await.expect("begins");
    let sql = tx.pick(
        "UPDATE agents SET spec = json_remove(spec, '$.integrations', '$.integrations_revision') WHERE office_id = $1",
        "UPDATE agents SET spec = spec - 'integrations' - 'integrations_revision' WHERE office_id = $1",
    );
    mi_store::exec!(tx, sql).expect("writes");
    tx.commit().await.expect("commits");
    assert_eq!(harness.enabled("analyst").await, (vec!["anthropic".into()], 0));
    let enabled = harness.scheduler.enabled_integrations(harness.office).await.expect("reads");
    assert_eq!(enabled, BTreeSet::from(["anthropic".to_owned()]));
    let toggled = harness.toggle("analyst", "slack", true).await.expect("enables");
    assert_eq!(toggled.spec.integrations, ["anthropic", "slack"].map(str::to_owned).into());
    assert_eq!(toggled.id, agent.id);
}
