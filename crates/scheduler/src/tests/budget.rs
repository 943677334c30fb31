//! Budgets that the office role tells of: agents wait and go on by them, and by them alone.

use mi_kernel::{AgentId, ErrorKind};
use mi_proto::internal::v1::{ApplyAgentBudgetRequest, GetSpenderRequest};
use mi_testkit::on_both;

use super::harness::{Harness, actor_of, instance_of};
use crate::agents::{Agent, Desired, Phase, State};

on_both! {
    an_agent_waits_for_its_budget_and_goes_on,
    an_agent_whose_office_is_out_of_credits_says_so_and_goes_on,
    older_words_change_nothing,
    whoever_is_stopped_or_paused_for_something_else_stays_so,
    a_spender_is_described_by_id_and_by_name,
}

impl Harness {
    fn budget(&self, agent: &Agent, version: i64, budget: Option<i64>, reached: &str) -> ApplyAgentBudgetRequest {
        ApplyAgentBudgetRequest {
            office_id: self.office.to_string(),
            agent_id: agent.id.to_string(),
            version,
            budget,
            reached: reached.into(),
            broke: String::new(),
        }
    }

    async fn told(&self, request: ApplyAgentBudgetRequest) -> Option<mi_proto::v1::Agent> {
        self.scheduler.apply_budget(request).await.expect("applies")
    }
}

async fn an_agent_waits_for_its_budget_and_goes_on(harness: Harness) {
    let agent = harness.running("analyst").await;
    let shown = harness.told(harness.budget(&agent, 1, Some(500), "")).await.expect("is there");
    assert_eq!((shown.budget, shown.generation), (Some(500), 1));
    assert_eq!(harness.agent(agent.id).await.desired, Desired::Run);

    let shown = harness.told(harness.budget(&agent, 2, Some(500), "its own budget")).await.expect("is there");
    let status = shown.status.expect("always there");
    assert_eq!(status.phase(), mi_proto::v1::AgentPhase::Suspended);
    assert_eq!(status.message, "BUDGET_REACHED: its own budget");
    let instance = instance_of(&agent);
    assert_eq!(
        harness.scheduler.heartbeat(&actor_of(&agent), instance).await.expect_err("paused").reason,
        "INSTANCE_REPLACED"
    );
    harness.settle(agent.id).await;
    let waits = harness.agent(agent.id).await;
    assert_eq!((waits.phase(), waits.desired), (Phase::Suspended, Desired::Pause));
    // Nobody starts it over its budget.
    let office = harness.office.to_string();
    let refused = harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await.expect_err("waits");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "BUDGET_REACHED"));

    harness.told(harness.budget(&agent, 3, None, "")).await;
    harness.settle(agent.id).await;
    let goes_on = harness.ready(agent.id).await;
    assert_eq!((goes_on.phase(), goes_on.budget, goes_on.desired), (Phase::Running, None, Desired::Run));
    let counts = harness.event_counts("analyst").await;
    assert_eq!((counts["agent.paused"], counts["agent.resumed"]), (1, 1));
}

async fn an_agent_whose_office_is_out_of_credits_says_so_and_goes_on(harness: Harness) {
    let agent = harness.running("analyst").await;
    let tell = |version, broke: &str| ApplyAgentBudgetRequest {
        broke: broke.into(),
        ..harness.budget(&agent, version, None, "")
    };
    for (version, broke, message) in [(1, "grant some", "OUT_OF_CREDITS: grant some"), (2, "", "")] {
        let shown = harness.told(tell(version, broke)).await.expect("is there").status.expect("always there");
        assert_eq!((shown.phase(), shown.message.as_str()), (mi_proto::v1::AgentPhase::Running, message));
        harness.settle(agent.id).await;
        let kept = harness.agent(agent.id).await;
        assert_eq!((kept.desired, kept.generation, instance_of(&kept)), (Desired::Run, 1, instance_of(&agent)));
    }
}

async fn older_words_change_nothing(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.told(harness.budget(&agent, 7, Some(5), "used up")).await;
    let after = harness.agent(agent.id).await;
    for version in [6, 7] {
        harness.told(harness.budget(&agent, version, None, "")).await;
    }
    assert_eq!(harness.agent(agent.id).await, after);
    let gone = Agent { id: AgentId::new(), ..agent };
    assert_eq!(harness.told(harness.budget(&gone, 1, None, "")).await, None);
}

async fn whoever_is_stopped_or_paused_for_something_else_stays_so(harness: Harness) {
    let (stopped, looping) = (harness.running("stopped").await, harness.running("looping").await);
    let office = harness.office.to_string();
    harness.scheduler.stop(&harness.owner("StopAgent"), &office, "stopped").await.expect("stops");
    let pause = mi_proto::internal::v1::PauseAgentRequest {
        office_id: office.clone(),
        agent: "looping".into(),
        reason: "LOOP_DETECTED".into(),
        message: "in circles".into(),
        trace_id: String::new(),
    };
    harness.scheduler.pause(pause).await.expect("pauses");
    for (version, reached) in [(1, "used up"), (2, "")] {
        for agent in [&stopped, &looping] {
            harness.told(harness.budget(agent, version, None, reached)).await;
        }
        let now = [harness.agent(stopped.id).await, harness.agent(looping.id).await];
        assert_eq!(now.each_ref().map(|agent| agent.desired), [Desired::Stop, Desired::Pause]);
        assert_eq!(now[1].state, State::Paused { reason: "LOOP_DETECTED: in circles".into() });
    }
    // A budget that is used up meanwhile is heeded at the start.
    harness.told(harness.budget(&stopped, 3, None, "used up")).await;
    let refused = harness.scheduler.start(&harness.owner("StartAgent"), &office, "stopped").await.expect_err("waits");
    assert_eq!(refused.reason, "BUDGET_REACHED");
    harness.told(harness.budget(&stopped, 4, None, "")).await;
    harness.scheduler.start(&harness.owner("StartAgent"), &office, "stopped").await.expect("starts");
}

async fn a_spender_is_described_by_id_and_by_name(harness: Harness) {
    let root = harness.hire("root").await;
    let caller = harness.member(&root, "HireAgent");
    let child = harness.scheduler.hire(&caller, harness.hiring("child")).await.expect("hires");
    let ask = |agent_id: &str, agent: &str| GetSpenderRequest {
        office_id: harness.office.to_string(),
        agent_id: agent_id.into(),
        agent: agent.into(),
    };
    let by_name = harness.scheduler.spender(&ask("", "Child")).await.expect("there");
    let by_id = harness.scheduler.spender(&ask(&child.id.to_string(), "")).await.expect("there");
    assert_eq!(by_name, by_id);
    assert_eq!((by_id.lineage, by_id.working), (vec![root.id.to_string()], true));
    assert_eq!(by_id.agent.expect("always there").id, child.id.to_string());
    for missing in [ask("", "nobody"), ask(&AgentId::new().to_string(), "")] {
        assert_eq!(harness.scheduler.spender(&missing).await.expect_err("missing").kind, ErrorKind::NotFound);
    }
}
