//! Who may hire and fire whom, how often and how deep, and hires that are sent twice.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use mi_kernel::{Error, ErrorKind, OfficeId, Result};
use mi_proto::v1::{HireAgentRequest, OfficeSettings};
use mi_testkit::on_both;

use super::stage::{Stage, free_hiring};
use crate::agents::Agent;

/// `agent.hired` and `access.granted`.
const EVENTS_OF_A_HIRE: usize = 2;

on_both! {
    the_gates_for_agents_stand_in_the_specified_order,
    a_hire_takes_the_provider_of_its_tier,
    the_rate_of_hires_survives_firing,
    agents_fire_themselves_and_those_below_only,
    strangers_find_nothing,
    a_hire_that_is_sent_again_answers_the_same_agent,
    a_request_id_belongs_to_its_caller_and_content,
    of_many_hires_of_one_name_one_wins,
    twins_of_one_request_hire_one_agent,
    an_office_never_exceeds_its_most_agents,
}

impl Stage {
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

async fn the_gates_for_agents_stand_in_the_specified_order(stage: Stage) {
    let root = stage.hire("root").await;
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
    stage.apply(stage.office, 2, false, settings.clone()).await;
    refusals.push(kind_and_reason(stage.hire_by(&root, "child").await.expect_err("suspended")));
    let steps: [fn(&mut OfficeSettings); 4] = [
        |settings| settings.allow_agent_hiring = true,
        |settings| settings.hires_per_10_minutes = Some(1),
        |settings| settings.max_hire_depth = Some(1),
        |settings| settings.max_agents = Some(2),
    ];
    for (step, version) in steps.into_iter().zip(3..) {
        stage.settings(version, settings.clone()).await;
        refusals.push(kind_and_reason(stage.hire_by(&root, "child").await.expect_err("a gate is closed")));
        step(&mut settings);
    }
    let expected = [
        (ErrorKind::FailedPrecondition, "OFFICE_NOT_ACTIVE"),
        (ErrorKind::PermissionDenied, "PERMISSION_DENIED"),
        (ErrorKind::Exhausted, "HIRE_RATE"),
        (ErrorKind::FailedPrecondition, "MAX_HIRE_DEPTH"),
        (ErrorKind::Exhausted, "MAX_AGENTS"),
    ];
    assert_eq!(refusals, expected);
    assert_eq!((stage.rows("agents").await, stage.rows("hires").await), (1, 0));

    stage.settings(7, settings).await;
    let child = stage.hire_by(&root, "child").await.expect("all gates are open");
    assert_eq!((child.hired_by.as_str(), &child.lineage), ("root", &vec![root.id]));
    // Operators pass the gates for agents, but not the office's size.
    let full = stage.scheduler.hire(&stage.owner("HireAgent"), stage.hiring("third")).await.expect_err("full");
    assert_eq!(kind_and_reason(full), (ErrorKind::Exhausted, "MAX_AGENTS"));
    stage.settings(8, OfficeSettings { max_hire_depth: Some(1), ..free_hiring() }).await;
    let deep = stage.hire_by(&child, "grandchild").await.expect_err("too deep");
    assert_eq!(kind_and_reason(deep), (ErrorKind::FailedPrecondition, "MAX_HIRE_DEPTH"));
}

async fn a_hire_takes_the_provider_of_its_tier(stage: Stage) {
    let settings = |tier: &str, provider: &str| OfficeSettings {
        default_model_tier: tier.into(),
        default_provider: provider.into(),
        ..free_hiring()
    };
    stage.settings(2, settings("opus", "anthropic")).await;
    let hire = async |name: &str, tier: &str, provider: &str| {
        let (model_tier, provider) = (tier.into(), provider.into());
        let request = HireAgentRequest { model_tier, provider, ..stage.hiring(name) };
        let hired = stage.scheduler.hire(&stage.owner("HireAgent"), request).await;
        hired.map(|agent| (agent.spec.model_tier, agent.spec.provider)).map_err(kind_and_reason)
    };
    let is = |tier: &str, provider: &str| Ok((tier.to_owned(), provider.to_owned()));
    assert_eq!(hire("one", "", "").await, is("opus", "anthropic"));
    assert_eq!(hire("two", "", "anthropic").await, is("opus", "anthropic"));
    assert_eq!(hire("three", "gpt-5.5", "").await, is("gpt-5.5", "openai"));
    assert_eq!(hire("four", "gpt-5.5", "openai").await, is("gpt-5.5", "openai"));
    let unconfigured = Err((ErrorKind::FailedPrecondition, "INTEGRATION_NOT_CONFIGURED"));
    assert_eq!(hire("five", "gpt-5.5", "anthropic").await, unconfigured);
    // Stored by a version that took anything, or under another catalogue.
    stage.settings(3, settings("zzz", "zzz")).await;
    let unknown = Err((ErrorKind::FailedPrecondition, "MODEL_TIER_UNKNOWN"));
    assert_eq!(hire("six", "", "").await, unknown);
    assert_eq!(hire("six", "sonnet", "").await, is("sonnet", "anthropic"));
}

async fn the_rate_of_hires_survives_firing(stage: Stage) {
    let root = stage.hire("root").await;
    stage.settings(2, OfficeSettings { hires_per_10_minutes: Some(2), ..free_hiring() }).await;
    for name in ["one", "two"] {
        let hired = stage.hire_by(&root, name).await.expect("within the rate");
        stage.fire_by(&root, name).await.expect("fires");
        stage.settle(hired.id).await;
        assert_eq!(stage.find(hired.id).await, None);
        stage.clock.advance(Duration::from_secs(1));
    }
    let refused = stage.hire_by(&root, "three").await.expect_err("above the rate");
    assert!(refused.retry_after.is_some());
    assert_eq!(kind_and_reason(refused), (ErrorKind::Exhausted, "HIRE_RATE"));
    stage.hire("by-an-operator").await;
    stage.clock.advance(Duration::from_secs(599));
    stage.hire_by(&root, "three").await.expect("the oldest left the window");
    let refused = stage.hire_by(&root, "four").await.expect_err("above the rate again");
    assert_eq!(kind_and_reason(refused), (ErrorKind::Exhausted, "HIRE_RATE"));
}

async fn agents_fire_themselves_and_those_below_only(stage: Stage) {
    let root = stage.hire("root").await;
    let other = stage.hire("other").await;
    let middle = stage.hire_by(&root, "middle").await.expect("hires");
    let leaf = stage.hire_by(&middle, "leaf").await.expect("hires");
    let second = stage.hire_by(&middle, "second").await.expect("hires");
    assert_eq!(leaf.lineage, [middle.id, root.id]);
    for (agent, target) in [(&leaf, "middle"), (&leaf, "root"), (&leaf, "second"), (&other, "leaf"), (&root, "other")] {
        let denied = stage.fire_by(agent, target).await.expect_err("not below");
        assert_eq!(denied.kind, ErrorKind::PermissionDenied, "{} -> {target}", agent.name);
    }
    stage.fire_by(&root, "middle").await.expect("below");
    stage.settle(middle.id).await;
    assert_eq!(stage.find(middle.id).await, None);
    // A namesake of the one that is gone is nobody's ancestor.
    let namesake = stage.hire("middle").await;
    assert_eq!(stage.fire_by(&namesake, "leaf").await.expect_err("a stranger").kind, ErrorKind::PermissionDenied);
    stage.fire_by(&root, "leaf").await.expect("still below");
    stage.settle(leaf.id).await;
    stage.fire_by(&second, "second").await.expect("itself");
    stage.settle(second.id).await;
    let gone = [stage.find(leaf.id).await, stage.find(second.id).await];
    assert_eq!(gone, [None, None]);
    let mut left = Vec::new();
    for agent in [&root, &other, &namesake] {
        left.push(stage.agent(agent.id).await.desired);
    }
    assert_eq!(left, [crate::agents::Desired::Run; 3]);
}

async fn strangers_find_nothing(stage: Stage) {
    let agent = stage.hire("analyst").await;
    let mut stranger = stage.hire("stranger").await;
    stranger.office_id = OfficeId::new();
    let foreign = stage.member(&stranger, "FireAgent");
    let mut nobody = stage.owner("FireAgent");
    nobody.actor = mi_kernel::Actor::Operator {
        account_id: mi_kernel::AccountId::new(),
        api_key_id: mi_kernel::ApiKeyId::new(),
        administrator: false,
    };
    for caller in [&foreign, &nobody] {
        let error = stage.scheduler.fire(caller, stage.firing("analyst", true)).await.expect_err("foreign");
        assert_eq!((error.kind, error.resource), (ErrorKind::NotFound, Some(("office", stage.office.to_string()))));
        let error = stage.scheduler.hire(caller, stage.hiring("mine")).await.expect_err("foreign");
        assert_eq!((error.kind, error.resource), (ErrorKind::NotFound, Some(("office", stage.office.to_string()))));
    }
    assert_eq!(stage.agent(agent.id).await, agent);
}

fn with_id(stage: &Stage, name: &str, request_id: &str) -> HireAgentRequest {
    // Several of them: a map has no order, and two encodings of one request must still be the same request.
    let env: HashMap<String, String> = (0..12).map(|n| (format!("VARIABLE_{n}"), format!("value {n}"))).collect();
    HireAgentRequest { env, request_id: request_id.into(), ..stage.hiring(name) }
}

async fn a_hire_that_is_sent_again_answers_the_same_agent(stage: Stage) {
    let caller = stage.owner("HireAgent");
    let first = stage.scheduler.hire(&caller, with_id(&stage, "analyst", "r-1")).await.expect("hires");
    for _ in 0..4 {
        let again = stage.scheduler.hire(&caller, with_id(&stage, "analyst", "r-1")).await.expect("the same");
        assert_eq!(again, first);
    }
    assert_eq!((stage.rows("agents").await, stage.events().await.len()), (1, EVENTS_OF_A_HIRE));
    // Without an id the name decides.
    let doubled = stage.scheduler.hire(&caller, stage.hiring("ANALYST")).await.expect_err("there already");
    assert_eq!(doubled.resource, Some(("agent", "analyst".into())));
    assert_eq!(doubled.kind, ErrorKind::AlreadyExists);
}

async fn a_request_id_belongs_to_its_caller_and_content(stage: Stage) {
    let caller = stage.owner("HireAgent");
    let first = stage.scheduler.hire(&caller, with_id(&stage, "analyst", "r-1")).await.expect("hires");
    let mut other_env = with_id(&stage, "analyst", "r-1");
    other_env.env.insert("VARIABLE_3".into(), "another".into());
    for changed in [with_id(&stage, "other", "r-1"), other_env] {
        let refused = stage.scheduler.hire(&caller, changed).await.expect_err("another content");
        assert_eq!((refused.kind, refused.field), (ErrorKind::Invalid, Some("request_id")));
    }
    let second = stage.hire_with(&first, "second", "r-1").await;
    assert_ne!(second.id, first.id);
    let long = stage.scheduler.hire(&caller, with_id(&stage, "third", &"x".repeat(129))).await.expect_err("too long");
    assert_eq!(long.field, Some("request_id"));
    assert_eq!(stage.rows("agents").await, 2);
}

impl Stage {
    async fn hire_with(&self, hirer: &Agent, name: &str, request_id: &str) -> Agent {
        let request = with_id(self, name, request_id);
        self.scheduler.hire(&self.member(hirer, "HireAgent"), request).await.expect("another caller's id")
    }
}

async fn of_many_hires_of_one_name_one_wins(stage: Stage) {
    let caller = stage.owner("HireAgent");
    let hires = (0..16).map(|_| stage.scheduler.hire(&caller, stage.hiring("analyst")));
    let (won, lost): (Vec<_>, Vec<_>) = join_all(hires).await.into_iter().partition(Result::is_ok);
    let lost: Vec<_> = lost.into_iter().filter_map(Result::err).map(kind_and_reason).collect();
    assert_eq!(lost, [(ErrorKind::AlreadyExists, "ALREADY_EXISTS"); 15]);
    let won = won.into_iter().next().expect("one").expect("won");
    assert_eq!(stage.agent(won.id).await, won);
    assert_eq!((stage.rows("agents").await, stage.events().await.len()), (1, EVENTS_OF_A_HIRE));
}

async fn twins_of_one_request_hire_one_agent(stage: Stage) {
    let caller = stage.owner("HireAgent");
    let hires = (0..8).map(|_| stage.scheduler.hire(&caller, with_id(&stage, "analyst", "twins")));
    let ids: Vec<_> = join_all(hires).await.into_iter().map(|hired| hired.expect("the same agent").id).collect();
    assert_eq!(ids, vec![ids[0]; 8]);
    assert_eq!((stage.rows("agents").await, stage.events().await.len()), (1, EVENTS_OF_A_HIRE));
}

async fn an_office_never_exceeds_its_most_agents(stage: Stage) {
    stage.settings(2, OfficeSettings { max_agents: Some(3), ..free_hiring() }).await;
    let caller = stage.owner("HireAgent");
    let hires = (0..8).map(|n| stage.scheduler.hire(&caller, stage.hiring(&format!("agent-{n}"))));
    let refused: Vec<_> = join_all(hires).await.into_iter().filter_map(Result::err).map(kind_and_reason).collect();
    assert_eq!(refused, [(ErrorKind::Exhausted, "MAX_AGENTS"); 5]);
    assert_eq!(stage.rows("agents").await, 3);
}
