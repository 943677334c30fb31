//! Pausing agents that go in circles: their instance ends, and nothing but somebody who starts them brings them back.

use std::time::Duration;

use mi_kernel::{ErrorKind, InviteId, OfficeId, Result, event::Category};
use mi_proto::{internal::v1::PauseAgentRequest, v1::PromoteAgentRequest};
use mi_runtime::Runtime;
use mi_testkit::on_both;

use super::{
    convergence::unsettled,
    harness::{Harness, TRACE, actor_of, counts, free_hiring, instance_of},
};
use crate::{
    agents::{Agent, Desired, Phase, State, wire},
    plan::PlannedAction,
};

on_both! {
    a_paused_agent_ends_and_is_told_of_once,
    nothing_but_a_start_wakes_it,
    a_crash_before_the_instance_ended_is_made_up_for,
    a_paused_agent_changes_and_is_stopped_and_fired_like_any_other,
    one_that_is_gone_or_being_fired_stays_so,
    agents_do_not_bring_each_other_back,
    a_failed_one_is_paused_and_started_afresh,
    one_that_runs_elsewhere_is_not_listened_to,
    what_is_no_reason_is_refused,
}

const WHY: &str = "LOOP_DETECTED: two agents answer each other";

impl Harness {
    fn pausing(&self, name: &str) -> PauseAgentRequest {
        PauseAgentRequest {
            office_id: self.office.to_string(),
            agent: name.into(),
            reason: "LOOP_DETECTED".into(),
            message: "two agents answer each other".into(),
            trace_id: TRACE.into(),
        }
    }

    async fn pause(&self, name: &str) {
        self.scheduler.pause(self.pausing(name)).await.expect("pauses");
    }

    async fn start(&self, name: &str) -> Result<Agent> {
        self.scheduler.start(&self.owner("StartAgent"), &self.office.to_string(), name).await
    }

    /// Whether anything runs for the agent.
    fn runs(&self, agent: &Agent) -> bool {
        self.runtime.observe(agent.id).is_some()
    }

    async fn working(&self, agent: &Agent) -> bool {
        wire::member(self.agent(agent.id).await).working
    }
}

fn paused(agent: &Agent) -> (Phase, &str, Desired) {
    (agent.phase(), agent.message(), agent.desired)
}

async fn a_paused_agent_ends_and_is_told_of_once(harness: Harness) {
    let (agent, other) = (harness.running("analyst").await, harness.running("other").await);
    let instance = instance_of(&agent);
    assert!(harness.working(&agent).await);
    harness.pause("Analyst").await;
    // At once, whatever becomes of its instance.
    let at_once = harness.agent(agent.id).await;
    assert_eq!(paused(&at_once), (Phase::Suspended, WHY, Desired::Pause));
    assert_eq!((at_once.generation, at_once.observed_generation), (2, 1));
    assert!(!harness.working(&agent).await);
    let refused = harness.scheduler.heartbeat(&actor_of(&agent), instance).await.expect_err("not wanted");
    assert_eq!(refused.reason, "INSTANCE_REPLACED");

    let step = harness.scheduler.step(agent.id).await.expect("steps");
    assert_eq!(step, Some(PlannedAction::Halt(State::Paused { reason: WHY.into() })));
    assert_eq!([&agent, &other].map(|agent| harness.runs(agent)), [false, true]);
    let ended = harness.agent(agent.id).await;
    assert_eq!(paused(&ended), (Phase::Suspended, WHY, Desired::Pause));
    assert_eq!(ended.observed_generation, 2);

    for _ in 0..3 {
        harness.pause("analyst").await;
        assert_eq!(harness.settle(agent.id).await, None);
    }
    assert_eq!(harness.agent(agent.id).await, ended);
    let events = harness.events().await;
    let told: Vec<_> = events.iter().filter(|event| event.kind == "agent.paused").collect();
    let [event] = told[..] else { panic!("{told:?}") };
    assert_eq!(
        (event.agent.as_str(), event.category, event.trace_id.as_str()),
        ("analyst", Category::Lifecycle, TRACE)
    );
    assert_eq!(event.summary, "Agent \"analyst\" is paused: LOOP_DETECTED: two agents answer each other");
    assert_eq!(event.metadata, serde_json::json!({ "reason": "LOOP_DETECTED", "generation": 2 }));
    assert_eq!(harness.phase(other.id).await, Some(Phase::Running));
}

async fn nothing_but_a_start_wakes_it(mut harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.pause("analyst").await;
    harness.settle(agent.id).await;
    assert_eq!(unsettled(&harness).await, []);
    harness.apply(harness.office, 2, false, free_hiring()).await;
    harness.settle(agent.id).await;
    assert_eq!(harness.agent(agent.id).await.message(), WHY);
    harness.apply(harness.office, 3, true, free_hiring()).await;
    assert_eq!(unsettled(&harness).await, []);
    harness.settle(agent.id).await;
    harness.crash().await;
    harness.settle(agent.id).await;
    harness.clock.advance(Duration::from_secs(86_400));
    assert_eq!(harness.settle(agent.id).await, None);
    assert_eq!(paused(&harness.agent(agent.id).await), (Phase::Suspended, WHY, Desired::Pause));
    assert!(!harness.runs(&agent));

    harness.start("analyst").await.expect("starts");
    assert!(harness.working(&agent).await);
    harness.settle(agent.id).await;
    let back = harness.ready(agent.id).await;
    assert_eq!((back.phase(), back.message(), back.restarts), (Phase::Running, "", 0));
    assert_eq!(back.generation, back.observed_generation);

    // Again, and started in a suspended office: then it is that which it waits for.
    harness.pause("analyst").await;
    harness.settle(agent.id).await;
    harness.apply(harness.office, 4, false, free_hiring()).await;
    harness
        .scheduler
        .restart(&harness.owner("RestartAgent"), &harness.office.to_string(), "analyst")
        .await
        .expect("restarts");
    harness.settle(agent.id).await;
    assert_eq!(harness.agent(agent.id).await.state, State::Suspended);
    harness.apply(harness.office, 5, true, free_hiring()).await;
    assert_eq!(unsettled(&harness).await, [agent.id]);
    harness.settle(agent.id).await;
    assert_eq!(harness.ready(agent.id).await.phase(), Phase::Running);
    let expected = [
        ("access.granted", 1),
        ("agent.hired", 1),
        ("agent.paused", 2),
        ("agent.restart_requested", 1),
        ("agent.running", 3),
        ("agent.start_requested", 1),
        ("agent.suspended", 1),
    ];
    assert_eq!(harness.event_counts("analyst").await, counts(expected));
}

async fn a_crash_before_the_instance_ended_is_made_up_for(mut harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.pause("analyst").await;
    harness.crash().await;
    assert_eq!(unsettled(&harness).await, [agent.id]);
    harness.settle(agent.id).await;
    assert_eq!(unsettled(&harness).await, []);
    let rested = harness.agent(agent.id).await;
    assert_eq!((rested.observed_generation, paused(&rested)), (2, (Phase::Suspended, WHY, Desired::Pause)));
    assert_eq!(harness.event_counts("analyst").await["agent.paused"], 1);
}

async fn a_paused_agent_changes_and_is_stopped_and_fired_like_any_other(harness: Harness) {
    let agent = harness.running("analyst").await;
    let office = harness.office.to_string();
    harness.pause("analyst").await;
    harness.settle(agent.id).await;
    let promote = PromoteAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        provider: String::new(),
    };
    harness.scheduler.promote(&harness.owner("PromoteAgent"), promote).await.expect("promotes");
    harness.settle(agent.id).await;
    let promoted = harness.agent(agent.id).await;
    assert_eq!((promoted.observed_generation, paused(&promoted)), (3, (Phase::Suspended, WHY, Desired::Pause)));
    harness.scheduler.stop(&harness.owner("StopAgent"), &office, "analyst").await.expect("stops");
    harness.settle(agent.id).await;
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Stopped));
    harness.pause("analyst").await;
    harness.fire("analyst", false).await;
    harness.settle(agent.id).await;
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!(harness.backups().await.len(), 1);
}

async fn one_that_is_gone_or_being_fired_stays_so(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.fire("analyst", false).await;
    let leaving = harness.agent(agent.id).await;
    harness.pause("analyst").await;
    assert_eq!(harness.agent(agent.id).await, leaving);
    harness.settle(agent.id).await;
    let before = harness.events().await;
    for name in ["analyst", "nobody", "no name"] {
        harness.pause(name).await;
    }
    let elsewhere = PauseAgentRequest { office_id: OfficeId::new().to_string(), ..harness.pausing("analyst") };
    harness.scheduler.pause(elsewhere).await.expect("changes nothing");
    assert_eq!((harness.find(agent.id).await, harness.events().await), (None, before));
}

async fn agents_do_not_bring_each_other_back(harness: Harness) {
    let leader = harness.running("leader").await;
    let hiring = harness.scheduler.hire(&harness.member(&leader, "HireAgent"), harness.hiring("worker")).await;
    let worker = hiring.expect("hires");
    harness.pause("worker").await;
    harness.settle(worker.id).await;
    let (scheduler, office) = (&harness.scheduler, harness.office.to_string());
    for refused in [
        scheduler.start(&harness.member(&leader, "StartAgent"), &office, "worker").await,
        scheduler.stop(&harness.member(&leader, "StopAgent"), &office, "worker").await,
        scheduler.restart(&harness.member(&leader, "RestartAgent"), &office, "worker").await,
        scheduler.restart(&harness.member(&worker, "RestartAgent"), &office, "worker").await,
    ] {
        let refused = refused.expect_err("left to operators");
        assert_eq!(refused.kind, ErrorKind::PermissionDenied);
        assert_eq!(refused.message, "agent \"worker\" is paused, and only an operator brings it back");
    }
    assert_eq!(paused(&harness.agent(worker.id).await), (Phase::Suspended, WHY, Desired::Pause));
    harness.start("worker").await.expect("starts");
}

async fn a_failed_one_is_paused_and_started_afresh(harness: Harness) {
    let agent = harness.running("analyst").await;
    for _ in 0..10 {
        harness.runtime.crash(agent.id, "exited with code 1");
        harness.settle_after_waiting(agent.id).await;
    }
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Failed));
    harness.pause("analyst").await;
    harness.settle(agent.id).await;
    assert_eq!(paused(&harness.agent(agent.id).await), (Phase::Suspended, WHY, Desired::Pause));
    harness.start("analyst").await.expect("starts");
    harness.settle(agent.id).await;
    assert_eq!((harness.ready(agent.id).await.phase(), harness.agent(agent.id).await.failures), (Phase::Running, 0));
}

async fn one_that_runs_elsewhere_is_not_listened_to(harness: Harness) {
    let agent = harness.admit(harness.office, InviteId::new(), "robo", [1; 32]).await.expect("admitted");
    harness.pause("robo").await;
    assert_eq!(harness.settle(agent.id).await, None);
    assert_eq!(unsettled(&harness).await, []);
    let seen = harness.agent(agent.id).await;
    assert_eq!((seen.observed_generation, paused(&seen)), (2, (Phase::Suspended, WHY, Desired::Pause)));
    assert!(!harness.working(&agent).await);
    harness.clock.advance(Duration::from_secs(3600));
    let refused = harness.beat(agent.id).await.expect_err("paused");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "LOOP_DETECTED"));
    let text = format!("agent \"robo\" is paused until somebody starts it again: {WHY}");
    assert_eq!(refused.message, text);
    harness.settle(agent.id).await;
    assert_eq!(paused(&harness.agent(agent.id).await), (Phase::Suspended, WHY, Desired::Pause));

    // It was heard of meanwhile, so it is there at once.
    harness.start("robo").await.expect("starts, since it was the platform that paused it");
    harness.settle(agent.id).await;
    assert_eq!(harness.agent(agent.id).await.state, State::Online);
    harness.beat(agent.id).await.expect("listened to");
    assert_eq!(harness.start("robo").await.expect_err("not paused any more").reason, "EXTERNAL_AGENT");

    // Started by a process that dies before it acts on it: the next heartbeat is enough.
    harness.pause("robo").await;
    harness.settle(agent.id).await;
    harness
        .scheduler
        .restart(&harness.owner("RestartAgent"), &harness.office.to_string(), "robo")
        .await
        .expect("restarts");
    harness.beat(agent.id).await.expect("listened to");
    assert_eq!(harness.agent(agent.id).await.state, State::Online);
    let expected = [
        ("access.granted", 1),
        ("agent.joined", 1),
        ("agent.online", 2),
        ("agent.paused", 2),
        ("agent.restart_requested", 1),
        ("agent.start_requested", 1),
        ("invite.redeemed", 1),
    ];
    assert_eq!(harness.event_counts("robo").await, counts(expected));
    assert_eq!(harness.runtime.launches(), []);
}

async fn what_is_no_reason_is_refused(harness: Harness) {
    let agent = harness.running("analyst").await;
    let (fine, long) = (harness.pausing("analyst"), "x".repeat(1025));
    let mut cases = vec![
        (PauseAgentRequest { agent: String::new(), ..fine.clone() }, "agent"),
        (PauseAgentRequest { office_id: "x".into(), ..fine.clone() }, "office_id"),
    ];
    for reason in ["", "loop", "LOOP DETECTED", "LOOP1", &"L".repeat(65)] {
        cases.push((PauseAgentRequest { reason: reason.into(), ..fine.clone() }, "reason"));
    }
    for message in ["", "  ", "a\u{1b}[2J", long.as_str()] {
        cases.push((PauseAgentRequest { message: message.into(), ..fine.clone() }, "message"));
    }
    for (request, field) in cases {
        let shown = format!("{request:?}");
        assert_eq!(harness.scheduler.pause(request).await.expect_err(&shown).field, Some(field), "{shown}");
    }
    assert_eq!(harness.agent(agent.id).await, agent);
}
