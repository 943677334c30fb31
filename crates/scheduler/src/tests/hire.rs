//! Who may hire and fire whom, how often and how deep, and hires that are sent twice.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use mi_kernel::{Error, ErrorKind, OfficeId, Result};
use mi_proto::v1::{self, HireAgentRequest, OfficeSettings, UpdateAgentRequest};
use mi_testkit::on_both;
use prost_types::FieldMask;

use super::harness::{Harness, free_hiring};
use crate::agents::Agent;

/// `agent.hired` and `access.granted`.
const EVENTS_OF_A_HIRE: usize = 2;

on_both! {
    the_gates_for_agents_stand_in_the_specified_order,
    a_hire_that_names_no_provider_takes_a_default,
    the_rate_of_hires_survives_firing,
    agents_fire_themselves_and_those_below_only,
    strangers_find_nothing,
    without_credits_nobody_is_hired,
    a_hire_that_is_sent_again_answers_the_same_agent,
    a_request_id_belongs_to_its_caller_and_content,
    of_many_hires_of_one_name_one_wins,
    twins_of_one_request_hire_one_agent,
    an_office_never_exceeds_its_most_agents,
    a_command_is_what_the_instance_runs_until_it_is_taken_back,
}

impl Harness {
    async fn hire_by(&self, hirer: &Agent, name: &str) -> Result<Agent> {
        self.scheduler.hire(&self.member(hirer, "HireAgent"), self.hiring(name)).await
    }

    async fn fire_by(&self, agent: &Agent, name: &str) -> Result<Agent> {
        self.scheduler.fire(&self.member(agent, "FireAgent"), self.firing(name, false)).await
    }

    async fn settings(&self, version: i64, settings: OfficeSettings) {
        self.apply(self.office, version, true, settings).await;
    }
}

fn kind_and_reason(error: Error) -> (ErrorKind, &'static str) {
    (error.kind, error.reason)
}

async fn the_gates_for_agents_stand_in_the_specified_order(harness: Harness) {
    let root = harness.hire("root").await;
    // Everything is wrong at once; each round puts one thing right.
    let mut settings = OfficeSettings {
        allow_agent_hiring: false,
        max_agents: Some(1),
        max_hire_depth: Some(0),
        hires_per_10_minutes: Some(0),
        default_model_tier: "sonnet".into(),
        ..OfficeSettings::default()
    };
    let mut refusals = Vec::new();
    harness.apply(harness.office, 2, false, settings.clone()).await;
    refusals.push(kind_and_reason(harness.hire_by(&root, "child").await.expect_err("suspended")));
    harness.treasury.known().terms.available = 0;
    let grant = |_: &mut OfficeSettings| harness.treasury.known().terms.available = 1;
    let steps: [&dyn Fn(&mut OfficeSettings); 5] = [
        &|settings| settings.allow_agent_hiring = true,
        &grant,
        &|settings| settings.hires_per_10_minutes = Some(1),
        &|settings| settings.max_hire_depth = Some(1),
        &|settings| settings.max_agents = Some(2),
    ];
    for (step, version) in steps.into_iter().zip(3..) {
        harness.settings(version, settings.clone()).await;
        refusals.push(kind_and_reason(harness.hire_by(&root, "child").await.expect_err("a gate is closed")));
        step(&mut settings);
    }
    let expected = [
        (ErrorKind::FailedPrecondition, "OFFICE_NOT_ACTIVE"),
        (ErrorKind::PermissionDenied, "PERMISSION_DENIED"),
        (ErrorKind::Exhausted, "OUT_OF_CREDITS"),
        (ErrorKind::Exhausted, "HIRE_RATE"),
        (ErrorKind::FailedPrecondition, "MAX_HIRE_DEPTH"),
        (ErrorKind::Exhausted, "MAX_AGENTS"),
    ];
    assert_eq!(refusals, expected);
    assert_eq!((harness.rows("agents").await, harness.rows("hires").await), (1, 0));

    harness.settings(8, settings).await;
    let child = harness.hire_by(&root, "child").await.expect("all gates are open");
    assert_eq!((child.hired_by.as_str(), &child.lineage), ("root", &vec![root.id]));
    // Operators pass the gates for agents, but not the office's size.
    let full = harness.scheduler.hire(&harness.owner("HireAgent"), harness.hiring("third")).await.expect_err("full");
    assert_eq!(kind_and_reason(full), (ErrorKind::Exhausted, "MAX_AGENTS"));
    harness.settings(9, OfficeSettings { max_hire_depth: Some(1), ..free_hiring() }).await;
    let deep = harness.hire_by(&child, "grandchild").await.expect_err("too deep");
    assert_eq!(kind_and_reason(deep), (ErrorKind::FailedPrecondition, "MAX_HIRE_DEPTH"));
}

async fn a_hire_that_names_no_provider_takes_a_default(harness: Harness) {
    let settings = |tier: &str, provider: &str| OfficeSettings {
        default_model_tier: tier.into(),
        default_provider: provider.into(),
        ..free_hiring()
    };
    harness.settings(2, settings("opus", "anthropic")).await;
    let hire = async |name: &str, tier: &str, provider: &str| {
        let (model_tier, provider) = (tier.into(), provider.into());
        let request = HireAgentRequest { model_tier, provider, ..harness.hiring(name) };
        let hired = harness.scheduler.hire(&harness.owner("HireAgent"), request).await;
        hired.map(|agent| (agent.spec.model_tier, agent.spec.provider)).map_err(kind_and_reason)
    };
    let is = |tier: &str, provider: &str| Ok((tier.to_owned(), provider.to_owned()));
    assert_eq!(hire("one", "", "").await, is("opus", "anthropic"));
    // The default does not serve this one, whose own is meant.
    assert_eq!(hire("two", "gpt-5.5", "").await, is("gpt-5.5", "openai"));
    harness.settings(3, settings("opus", "openrouter")).await;
    assert_eq!(hire("three", "", "").await, is("opus", "openrouter"));
    assert_eq!(hire("four", "gpt-5.5", "").await, is("gpt-5.5", "openrouter"));
    // Stored by a version that took anything, or under another catalogue.
    harness.settings(4, settings("zzz", "zzz")).await;
    let unknown = Err((ErrorKind::FailedPrecondition, "MODEL_TIER_UNKNOWN"));
    assert_eq!(hire("six", "", "").await, unknown);
    assert_eq!(hire("six", "sonnet", "").await, is("sonnet", "anthropic"));
}

async fn the_rate_of_hires_survives_firing(harness: Harness) {
    let root = harness.hire("root").await;
    harness.settings(2, OfficeSettings { hires_per_10_minutes: Some(2), ..free_hiring() }).await;
    for name in ["one", "two"] {
        let hired = harness.hire_by(&root, name).await.expect("within the rate");
        harness.fire_by(&root, name).await.expect("fires");
        harness.settle(hired.id).await;
        assert_eq!(harness.find(hired.id).await, None);
        harness.clock.advance(Duration::from_secs(1));
    }
    let refused = harness.hire_by(&root, "three").await.expect_err("above the rate");
    assert!(refused.retry_after.is_some());
    assert_eq!(kind_and_reason(refused), (ErrorKind::Exhausted, "HIRE_RATE"));
    harness.hire("by-an-operator").await;
    harness.clock.advance(Duration::from_secs(599));
    harness.hire_by(&root, "three").await.expect("the oldest left the window");
    let refused = harness.hire_by(&root, "four").await.expect_err("above the rate again");
    assert_eq!(kind_and_reason(refused), (ErrorKind::Exhausted, "HIRE_RATE"));
}

async fn agents_fire_themselves_and_those_below_only(harness: Harness) {
    let root = harness.hire("root").await;
    let other = harness.hire("other").await;
    let middle = harness.hire_by(&root, "middle").await.expect("hires");
    let leaf = harness.hire_by(&middle, "leaf").await.expect("hires");
    let second = harness.hire_by(&middle, "second").await.expect("hires");
    assert_eq!(leaf.lineage, [middle.id, root.id]);
    for (agent, target) in [(&leaf, "middle"), (&leaf, "root"), (&leaf, "second"), (&other, "leaf"), (&root, "other")] {
        let denied = harness.fire_by(agent, target).await.expect_err("not below");
        assert_eq!(denied.kind, ErrorKind::PermissionDenied, "{} -> {target}", agent.name);
    }
    harness.fire_by(&root, "middle").await.expect("below");
    harness.settle(middle.id).await;
    assert_eq!(harness.find(middle.id).await, None);
    // A namesake of the one that is gone is nobody's ancestor.
    let namesake = harness.hire("middle").await;
    assert_eq!(harness.fire_by(&namesake, "leaf").await.expect_err("a stranger").kind, ErrorKind::PermissionDenied);
    harness.fire_by(&root, "leaf").await.expect("still below");
    harness.settle(leaf.id).await;
    harness.fire_by(&second, "second").await.expect("itself");
    harness.settle(second.id).await;
    let gone = [harness.find(leaf.id).await, harness.find(second.id).await];
    assert_eq!(gone, [None, None]);
    let mut left = Vec::new();
    for agent in [&root, &other, &namesake] {
        left.push(harness.agent(agent.id).await.desired);
    }
    assert_eq!(left, [crate::agents::Desired::Run; 3]);
}

async fn without_credits_nobody_is_hired(harness: Harness) {
    let caller = harness.owner("HireAgent");
    let first = harness.scheduler.hire(&caller, with_id(&harness, "analyst", "r-1")).await.expect("hires");
    for available in [0, -5] {
        harness.treasury.known().terms.available = available;
        let refused = harness.scheduler.hire(&caller, harness.hiring("second")).await.expect_err("no credits");
        assert!(refused.retry_after.is_some());
        assert_eq!(kind_and_reason(refused), (ErrorKind::Exhausted, "OUT_OF_CREDITS"));
        // What was done is answered all the same.
        let again = harness.scheduler.hire(&caller, with_id(&harness, "analyst", "r-1")).await.expect("the same");
        assert_eq!(again, first);
    }
    // The office's own state comes first.
    harness.apply(harness.office, 2, false, free_hiring()).await;
    let refused = harness.scheduler.hire(&caller, harness.hiring("second")).await.expect_err("suspended");
    assert_eq!(refused.reason, "OFFICE_NOT_ACTIVE");
    harness.apply(harness.office, 3, true, free_hiring()).await;
    harness.treasury.known().terms.metered = false;
    harness.hire("second").await;
    // Whoever is foreign has nothing asked for.
    let asked = harness.treasury.known().asked.len();
    let stranger = harness.stranger("HireAgent");
    let refused = harness.scheduler.hire(&stranger, harness.hiring("mine")).await.expect_err("foreign");
    assert_eq!((refused.kind, harness.treasury.known().asked.len()), (ErrorKind::NotFound, asked));
}

async fn strangers_find_nothing(harness: Harness) {
    let agent = harness.hire("analyst").await;
    let mut stranger = harness.hire("stranger").await;
    stranger.office_id = OfficeId::new();
    let foreign = harness.member(&stranger, "FireAgent");
    let mut nobody = harness.owner("FireAgent");
    nobody.actor = mi_kernel::Actor::Operator {
        account_id: mi_kernel::AccountId::new(),
        api_key_id: mi_kernel::ApiKeyId::new(),
        administrator: false,
    };
    for caller in [&foreign, &nobody] {
        let error = harness.scheduler.fire(caller, harness.firing("analyst", true)).await.expect_err("foreign");
        assert_eq!((error.kind, error.resource), (ErrorKind::NotFound, Some(("office", harness.office.to_string()))));
        let error = harness.scheduler.hire(caller, harness.hiring("mine")).await.expect_err("foreign");
        assert_eq!((error.kind, error.resource), (ErrorKind::NotFound, Some(("office", harness.office.to_string()))));
    }
    assert_eq!(harness.agent(agent.id).await, agent);
}

fn with_id(harness: &Harness, name: &str, request_id: &str) -> HireAgentRequest {
    // Several of them: a map has no order, and two encodings of one request must still be the same request.
    let env: HashMap<String, String> = (0..12).map(|n| (format!("VARIABLE_{n}"), format!("value {n}"))).collect();
    HireAgentRequest { env, request_id: request_id.into(), ..harness.hiring(name) }
}

async fn a_hire_that_is_sent_again_answers_the_same_agent(harness: Harness) {
    let caller = harness.owner("HireAgent");
    let first = harness.scheduler.hire(&caller, with_id(&harness, "analyst", "r-1")).await.expect("hires");
    for _ in 0..4 {
        let again = harness.scheduler.hire(&caller, with_id(&harness, "analyst", "r-1")).await.expect("the same");
        assert_eq!(again, first);
    }
    assert_eq!((harness.rows("agents").await, harness.events().await.len()), (1, EVENTS_OF_A_HIRE));
    // Without an id the name decides.
    let doubled = harness.scheduler.hire(&caller, harness.hiring("ANALYST")).await.expect_err("there already");
    assert_eq!(doubled.resource, Some(("agent", "analyst".into())));
    assert_eq!(doubled.kind, ErrorKind::AlreadyExists);
}

async fn a_request_id_belongs_to_its_caller_and_content(harness: Harness) {
    let caller = harness.owner("HireAgent");
    let first = harness.scheduler.hire(&caller, with_id(&harness, "analyst", "r-1")).await.expect("hires");
    let mut other_env = with_id(&harness, "analyst", "r-1");
    other_env.env.insert("VARIABLE_3".into(), "another".into());
    for changed in [with_id(&harness, "other", "r-1"), other_env] {
        let refused = harness.scheduler.hire(&caller, changed).await.expect_err("another content");
        assert_eq!((refused.kind, refused.field), (ErrorKind::Invalid, Some("request_id")));
    }
    let second = harness.hire_with(&first, "second", "r-1").await;
    assert_ne!(second.id, first.id);
    let long =
        harness.scheduler.hire(&caller, with_id(&harness, "third", &"x".repeat(129))).await.expect_err("too long");
    assert_eq!(long.field, Some("request_id"));
    assert_eq!(harness.rows("agents").await, 2);
}

impl Harness {
    async fn hire_with(&self, hirer: &Agent, name: &str, request_id: &str) -> Agent {
        let request = with_id(self, name, request_id);
        self.scheduler.hire(&self.member(hirer, "HireAgent"), request).await.expect("another caller's id")
    }
}

async fn of_many_hires_of_one_name_one_wins(harness: Harness) {
    let caller = harness.owner("HireAgent");
    let hires = (0..16).map(|_| harness.scheduler.hire(&caller, harness.hiring("analyst")));
    let (won, lost): (Vec<_>, Vec<_>) = join_all(hires).await.into_iter().partition(Result::is_ok);
    let lost: Vec<_> = lost.into_iter().filter_map(Result::err).map(kind_and_reason).collect();
    assert_eq!(lost, [(ErrorKind::AlreadyExists, "ALREADY_EXISTS"); 15]);
    let won = won.into_iter().next().expect("one").expect("won");
    assert_eq!(harness.agent(won.id).await, won);
    assert_eq!((harness.rows("agents").await, harness.events().await.len()), (1, EVENTS_OF_A_HIRE));
}

async fn twins_of_one_request_hire_one_agent(harness: Harness) {
    let caller = harness.owner("HireAgent");
    let hires = (0..8).map(|_| harness.scheduler.hire(&caller, with_id(&harness, "analyst", "twins")));
    let ids: Vec<_> = join_all(hires).await.into_iter().map(|hired| hired.expect("the same agent").id).collect();
    assert_eq!(ids, vec![ids[0]; 8]);
    assert_eq!((harness.rows("agents").await, harness.events().await.len()), (1, EVENTS_OF_A_HIRE));
}

async fn an_office_never_exceeds_its_most_agents(harness: Harness) {
    harness.settings(2, OfficeSettings { max_agents: Some(3), ..free_hiring() }).await;
    let caller = harness.owner("HireAgent");
    let hires = (0..8).map(|n| harness.scheduler.hire(&caller, harness.hiring(&format!("agent-{n}"))));
    let refused: Vec<_> = join_all(hires).await.into_iter().filter_map(Result::err).map(kind_and_reason).collect();
    assert_eq!(refused, [(ErrorKind::Exhausted, "MAX_AGENTS"); 5]);
    assert_eq!(harness.rows("agents").await, 3);
}

async fn a_command_is_what_the_instance_runs_until_it_is_taken_back(harness: Harness) {
    let request = HireAgentRequest { command: "exec my-agent".into(), ..harness.hiring("analyst") };
    let hired = harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect("hires");
    harness.settle(hired.id).await;
    assert_eq!(harness.runtime.environment(hired.id)["MI_COMMAND"], "exec my-agent");
    let update = |command: String| UpdateAgentRequest {
        office_id: harness.office.to_string(),
        name: "analyst".into(),
        agent: Some(v1::Agent { command, ..v1::Agent::default() }),
        update_mask: Some(FieldMask { paths: vec!["command".into()] }),
    };
    let caller = || harness.owner("UpdateAgent");
    for wrong in ["x".repeat((16 << 10) + 1), "a\0b".to_owned()] {
        let error = harness.scheduler.update(&caller(), update(wrong)).await.expect_err("refused");
        assert_eq!(
            (error.field, &*error.message),
            (Some("command"), "command must have at most 16384 bytes and no NUL character")
        );
    }
    let updated = harness.scheduler.update(&caller(), update(String::new())).await.expect("updates");
    assert_eq!((&*updated.spec.command, updated.generation), ("", 2));
    harness.settle(hired.id).await;
    assert_eq!(harness.runtime.environment(hired.id).get("MI_COMMAND"), None);
}
