//! Pausing agents that go in circles: their compute ends, and nothing but somebody who starts them brings them back.

use std::time::Duration;

use mi_kernel::{ErrorKind, InviteId, OfficeId, Result, event::Category};
use mi_proto::{internal::v1::PauseAgentRequest, v1::PromoteAgentRequest};
use mi_runtime::Runtime;
use mi_testkit::on_both;

use super::{
    convergence::unsettled,
    stage::{Stage, TRACE, actor_of, counts, free_hiring, instance_of},
};
use crate::{
    agents::{Agent, Desired, Phase, State, wire},
    plan::Step,
};

on_both! {
    a_paused_agent_ends_and_is_told_of_once,
    nothing_but_a_start_wakes_it,
    a_crash_before_the_compute_ended_is_made_up_for,
    a_paused_agent_changes_and_is_stopped_and_fired_like_any_other,
    one_that_is_gone_or_being_fired_stays_so,
    agents_do_not_bring_each_other_back,
    a_failed_one_is_paused_and_started_afresh,
    one_that_computes_elsewhere_is_not_listened_to,
    what_is_no_reason_is_refused,
}

const WHY: &str = "LOOP_DETECTED: two agents answer each other";

impl Stage {
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

    /// Whether anything computes for the agent.
    fn computes(&self, agent: &Agent) -> bool {
        self.runtime.observe(agent.id).is_some()
    }

    async fn working(&self, agent: &Agent) -> bool {
        wire::member(self.agent(agent.id).await).working
    }
}

fn paused(agent: &Agent) -> (Phase, &str, Desired) {
    (agent.phase(), agent.message(), agent.desired)
}

async fn a_paused_agent_ends_and_is_told_of_once(stage: Stage) {
    let (agent, other) = (stage.running("analyst").await, stage.running("other").await);
    let instance = instance_of(&agent);
    assert!(stage.working(&agent).await);
    stage.pause("Analyst").await;
    // At once, whatever becomes of its compute.
    let at_once = stage.agent(agent.id).await;
    assert_eq!(paused(&at_once), (Phase::Suspended, WHY, Desired::Pause));
    assert_eq!((at_once.generation, at_once.observed_generation), (2, 1));
    assert!(!stage.working(&agent).await);
    let refused = stage.scheduler.heartbeat(&actor_of(&agent), instance).await.expect_err("not wanted");
    assert_eq!(refused.reason, "INSTANCE_REPLACED");

    let step = stage.scheduler.step(agent.id).await.expect("steps");
    assert_eq!(step, Some(Step::Halt(State::Paused { reason: WHY.into() })));
    assert_eq!([&agent, &other].map(|agent| stage.computes(agent)), [false, true]);
    let ended = stage.agent(agent.id).await;
    assert_eq!(paused(&ended), (Phase::Suspended, WHY, Desired::Pause));
    assert_eq!(ended.observed_generation, 2);

    for _ in 0..3 {
        stage.pause("analyst").await;
        assert_eq!(stage.settle(agent.id).await, None);
    }
    assert_eq!(stage.agent(agent.id).await, ended);
    let events = stage.events().await;
    let told: Vec<_> = events.iter().filter(|event| event.kind == "agent.paused").collect();
    let [event] = told[..] else { panic!("{told:?}") };
    assert_eq!(
        (event.agent.as_str(), event.category, event.trace_id.as_str()),
        ("analyst", Category::Lifecycle, TRACE)
    );
    assert_eq!(event.summary, "Agent \"analyst\" is paused: LOOP_DETECTED: two agents answer each other");
    assert_eq!(event.metadata, serde_json::json!({ "reason": "LOOP_DETECTED", "generation": 2 }));
    assert_eq!(stage.phase(other.id).await, Some(Phase::Running));
}

async fn nothing_but_a_start_wakes_it(mut stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.pause("analyst").await;
    stage.settle(agent.id).await;
    assert_eq!(unsettled(&stage).await, []);
    stage.apply(stage.office, 2, false, free_hiring()).await;
    stage.settle(agent.id).await;
    assert_eq!(stage.agent(agent.id).await.message(), WHY);
    stage.apply(stage.office, 3, true, free_hiring()).await;
    assert_eq!(unsettled(&stage).await, []);
    stage.settle(agent.id).await;
    stage.crash().await;
    stage.settle(agent.id).await;
    stage.clock.advance(Duration::from_secs(86_400));
    assert_eq!(stage.settle(agent.id).await, None);
    assert_eq!(paused(&stage.agent(agent.id).await), (Phase::Suspended, WHY, Desired::Pause));
    assert!(!stage.computes(&agent));

    stage.start("analyst").await.expect("starts");
    assert!(stage.working(&agent).await);
    stage.settle(agent.id).await;
    let back = stage.ready(agent.id).await;
    assert_eq!((back.phase(), back.message(), back.restarts), (Phase::Running, "", 0));
    assert_eq!(back.generation, back.observed_generation);

    // Again, and started in a suspended office: then it is that which it waits for.
    stage.pause("analyst").await;
    stage.settle(agent.id).await;
    stage.apply(stage.office, 4, false, free_hiring()).await;
    stage
        .scheduler
        .restart(&stage.owner("RestartAgent"), &stage.office.to_string(), "analyst")
        .await
        .expect("restarts");
    stage.settle(agent.id).await;
    assert_eq!(stage.agent(agent.id).await.state, State::Suspended);
    stage.apply(stage.office, 5, true, free_hiring()).await;
    assert_eq!(unsettled(&stage).await, [agent.id]);
    stage.settle(agent.id).await;
    assert_eq!(stage.ready(agent.id).await.phase(), Phase::Running);
    let expected = [
        ("access.granted", 1),
        ("agent.hired", 1),
        ("agent.paused", 2),
        ("agent.restart_requested", 1),
        ("agent.running", 3),
        ("agent.start_requested", 1),
        ("agent.suspended", 1),
    ];
    assert_eq!(stage.event_counts("analyst").await, counts(expected));
}

async fn a_crash_before_the_compute_ended_is_made_up_for(mut stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.pause("analyst").await;
    stage.crash().await;
    assert_eq!(unsettled(&stage).await, [agent.id]);
    stage.settle(agent.id).await;
    assert_eq!(unsettled(&stage).await, []);
    let rested = stage.agent(agent.id).await;
    assert_eq!((rested.observed_generation, paused(&rested)), (2, (Phase::Suspended, WHY, Desired::Pause)));
    assert_eq!(stage.event_counts("analyst").await["agent.paused"], 1);
}

async fn a_paused_agent_changes_and_is_stopped_and_fired_like_any_other(stage: Stage) {
    let agent = stage.running("analyst").await;
    let office = stage.office.to_string();
    stage.pause("analyst").await;
    stage.settle(agent.id).await;
    let promote = PromoteAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        provider: String::new(),
    };
    stage.scheduler.promote(&stage.owner("PromoteAgent"), promote).await.expect("promotes");
    stage.settle(agent.id).await;
    let promoted = stage.agent(agent.id).await;
    assert_eq!((promoted.observed_generation, paused(&promoted)), (3, (Phase::Suspended, WHY, Desired::Pause)));
    stage.scheduler.stop(&stage.owner("StopAgent"), &office, "analyst").await.expect("stops");
    stage.settle(agent.id).await;
    assert_eq!(stage.phase(agent.id).await, Some(Phase::Stopped));
    stage.pause("analyst").await;
    stage.fire("analyst", false).await;
    stage.settle(agent.id).await;
    assert_eq!(stage.find(agent.id).await, None);
    assert_eq!(stage.backups().await.len(), 1);
}

async fn one_that_is_gone_or_being_fired_stays_so(stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.fire("analyst", false).await;
    let leaving = stage.agent(agent.id).await;
    stage.pause("analyst").await;
    assert_eq!(stage.agent(agent.id).await, leaving);
    stage.settle(agent.id).await;
    let before = stage.events().await;
    for name in ["analyst", "nobody", "no name"] {
        stage.pause(name).await;
    }
    let elsewhere = PauseAgentRequest { office_id: OfficeId::new().to_string(), ..stage.pausing("analyst") };
    stage.scheduler.pause(elsewhere).await.expect("changes nothing");
    assert_eq!((stage.find(agent.id).await, stage.events().await), (None, before));
}

async fn agents_do_not_bring_each_other_back(stage: Stage) {
    let leader = stage.running("leader").await;
    let hiring = stage.scheduler.hire(&stage.member(&leader, "HireAgent"), stage.hiring("worker")).await;
    let worker = hiring.expect("hires");
    stage.pause("worker").await;
    stage.settle(worker.id).await;
    let (scheduler, office) = (&stage.scheduler, stage.office.to_string());
    for refused in [
        scheduler.start(&stage.member(&leader, "StartAgent"), &office, "worker").await,
        scheduler.stop(&stage.member(&leader, "StopAgent"), &office, "worker").await,
        scheduler.restart(&stage.member(&leader, "RestartAgent"), &office, "worker").await,
        scheduler.restart(&stage.member(&worker, "RestartAgent"), &office, "worker").await,
    ] {
        let refused = refused.expect_err("left to operators");
        assert_eq!(refused.kind, ErrorKind::PermissionDenied);
        assert_eq!(refused.message, "agent \"worker\" is paused, and only an operator brings it back");
    }
    assert_eq!(paused(&stage.agent(worker.id).await), (Phase::Suspended, WHY, Desired::Pause));
    stage.start("worker").await.expect("starts");
}

async fn a_failed_one_is_paused_and_started_afresh(stage: Stage) {
    let agent = stage.running("analyst").await;
    for _ in 0..10 {
        stage.runtime.crash(agent.id, "exited with code 1");
        stage.settle_after_waiting(agent.id).await;
    }
    assert_eq!(stage.phase(agent.id).await, Some(Phase::Failed));
    stage.pause("analyst").await;
    stage.settle(agent.id).await;
    assert_eq!(paused(&stage.agent(agent.id).await), (Phase::Suspended, WHY, Desired::Pause));
    stage.start("analyst").await.expect("starts");
    stage.settle(agent.id).await;
    assert_eq!((stage.ready(agent.id).await.phase(), stage.agent(agent.id).await.failures), (Phase::Running, 0));
}

async fn one_that_computes_elsewhere_is_not_listened_to(stage: Stage) {
    let agent = stage.admit(stage.office, InviteId::new(), "robo", [1; 32]).await.expect("admitted");
    stage.pause("robo").await;
    assert_eq!(stage.settle(agent.id).await, None);
    assert_eq!(unsettled(&stage).await, []);
    let seen = stage.agent(agent.id).await;
    assert_eq!((seen.observed_generation, paused(&seen)), (2, (Phase::Suspended, WHY, Desired::Pause)));
    assert!(!stage.working(&agent).await);
    stage.clock.advance(Duration::from_secs(3600));
    let refused = stage.beat(agent.id).await.expect_err("paused");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "LOOP_DETECTED"));
    let text = format!("agent \"robo\" is paused until somebody starts it again: {WHY}");
    assert_eq!(refused.message, text);
    stage.settle(agent.id).await;
    assert_eq!(paused(&stage.agent(agent.id).await), (Phase::Suspended, WHY, Desired::Pause));

    // It was heard of meanwhile, so it is there at once.
    stage.start("robo").await.expect("starts, since it was the platform that paused it");
    stage.settle(agent.id).await;
    assert_eq!(stage.agent(agent.id).await.state, State::Online);
    stage.beat(agent.id).await.expect("listened to");
    assert_eq!(stage.start("robo").await.expect_err("not paused any more").reason, "EXTERNAL_AGENT");

    // Started by a process that dies before it acts on it: the next heartbeat is enough.
    stage.pause("robo").await;
    stage.settle(agent.id).await;
    stage.scheduler.restart(&stage.owner("RestartAgent"), &stage.office.to_string(), "robo").await.expect("restarts");
    stage.beat(agent.id).await.expect("listened to");
    assert_eq!(stage.agent(agent.id).await.state, State::Online);
    let expected = [
        ("access.granted", 1),
        ("agent.joined", 1),
        ("agent.online", 2),
        ("agent.paused", 2),
        ("agent.restart_requested", 1),
        ("agent.start_requested", 1),
        ("invite.redeemed", 1),
    ];
    assert_eq!(stage.event_counts("robo").await, counts(expected));
    assert_eq!(stage.runtime.launches(), []);
}

async fn what_is_no_reason_is_refused(stage: Stage) {
    let agent = stage.running("analyst").await;
    let (fine, long) = (stage.pausing("analyst"), "x".repeat(1025));
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
        assert_eq!(stage.scheduler.pause(request).await.expect_err(&shown).field, Some(field), "{shown}");
    }
    assert_eq!(stage.agent(agent.id).await, agent);
}
