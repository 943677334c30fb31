//! From hire to a running instance, and through crashes, restarts, promotion, stop and suspension.

use std::time::Duration;

use mi_kernel::{AgentActor, AgentId, ErrorKind, InstanceId, OfficeId};
use mi_proto::v1::PromoteAgentRequest;
use mi_testkit::on_both;

use super::harness::{Harness, actor_of, free_hiring, instance_of, place};
use crate::{
    agents::{Desired, Phase, State, next_look::look_seen},
    plan::PlannedAction,
};

on_both! {
    a_hire_becomes_a_running_instance_in_recorded_steps,
    an_instance_gets_its_own_environment_and_nobody_elses,
    crashes_back_off_longer_each_time_and_ten_are_the_end,
    a_restart_of_the_platform_starts_every_agent_again_over_its_workspace,
    a_replaced_instance_is_refused,
    silence_and_a_start_without_report_are_ends_too,
    nobody_was_silent_while_the_platform_could_not_hear,
    signs_of_life_are_written_together_and_never_go_back,
    promotion_replaces_the_instance_and_keeps_the_workspace,
    stop_and_start,
    suspend_and_resume,
}

async fn a_hire_becomes_a_running_instance_in_recorded_steps(harness: Harness) {
    let hired = harness.hire("Analyst").await;
    assert_eq!((hired.name.as_str(), hired.phase(), hired.generation), ("analyst", Phase::Pending, 1));
    assert_eq!((hired.desired, hired.observed_generation), (Desired::Run, 0));
    assert_eq!(harness.agent(hired.id).await, hired);

    let step = harness.scheduler.step(hired.id).await.expect("steps");
    assert_eq!(step, Some(PlannedAction::Launch { lost: None }));
    let starting = harness.agent(hired.id).await;
    let State::Starting { instance, generation: 1, since } = starting.state else { panic!("{:?}", starting.state) };
    assert_eq!(since, harness.now());
    assert_eq!(harness.runtime.launches(), [(hired.id, instance)]);
    assert_eq!(harness.runtime.content(place(&hired)), Some(Vec::new()));
    assert_eq!(starting.phase(), Phase::Pending);

    harness.clock.advance(Duration::from_secs(2));
    let running = harness.ready(hired.id).await;
    assert_eq!((running.phase(), running.observed_generation, running.restarts), (Phase::Running, 1, 0));
    assert_eq!(running.last_seen_at, Some(harness.now()));
    let since = harness.now();
    assert_eq!(running.state, State::Running { instance, generation: 1, since });
    assert_eq!(harness.settle(hired.id).await, Some(since + Duration::from_secs(60)));
    assert_eq!(harness.runtime.launches().len(), 1);
}

async fn an_instance_gets_its_own_environment_and_nobody_elses(harness: Harness) {
    harness.treasury.configure(&["anthropic"]);
    let mut ids = Vec::new();
    for (name, secret) in [("alpha", "only-alphas"), ("beta", "only-betas")] {
        let mut request = harness.hiring(name);
        request.env.insert("TOKEN".into(), secret.into());
        let agent = harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect("hires");
        harness.settle(agent.id).await;
        ids.push(agent.id);
    }
    let (alpha, beta) = (harness.agent(ids[0]).await, harness.agent(ids[1]).await);
    let env = harness.runtime.environment(alpha.id);
    let expected = [
        ("MI_AGENT_ID", alpha.id.to_string()),
        ("MI_AGENT_NAME", "alpha".into()),
        ("MI_ENDPOINT", "http://127.0.0.1:7400".into()),
        ("MI_ENROL_TOKEN", env["MI_ENROL_TOKEN"].clone()),
        ("MI_GENERATION", "1".into()),
        ("MI_INSTANCE_ID", instance_of(&alpha).to_string()),
        ("MI_MODEL_API", "anthropic".into()),
        ("MI_MODEL_ID", "claude-sonnet-4-5".into()),
        ("MI_MODEL_PROVIDER", "anthropic".into()),
        ("MI_NEW_IDENTITY", "1".into()),
        ("MI_OFFICE_ID", harness.office.to_string()),
        ("MI_SLOTS", "2".into()),
        ("TOKEN", "only-alphas".into()),
    ];
    assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value)).into());
    let others = harness.runtime.environment(beta.id);
    assert_ne!(env["MI_ENROL_TOKEN"], others["MI_ENROL_TOKEN"]);
    let betas = [beta.id.to_string(), "only-betas".into(), others["MI_ENROL_TOKEN"].clone()];
    for (name, value) in &env {
        assert!(betas.iter().all(|foreign| !value.contains(foreign)), "{name}={value}");
    }
}

async fn crashes_back_off_longer_each_time_and_ten_are_the_end(harness: Harness) {
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let mut waits = Vec::new();
    for _ in 0..9 {
        harness.runtime.crash(agent.id, "exited with code 1");
        let until = harness.settle(agent.id).await.expect("waits");
        waits.push((until - harness.now()).num_seconds());
        let retry_at = until;
        let reason = "exited with code 1".to_owned();
        assert_eq!(harness.agent(agent.id).await.state, State::BackingOff { retry_at, reason });
        harness.clock.set(until - Duration::from_micros(1));
        assert_eq!(harness.settle(agent.id).await, Some(until));
        harness.clock.set(until);
        harness.settle(agent.id).await;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(harness.runtime.launches().len(), 10);

    harness.runtime.crash(agent.id, "exited with code 1");
    assert_eq!(harness.settle(agent.id).await, None);
    let failed = harness.agent(agent.id).await;
    assert_eq!((failed.phase(), failed.failures, failed.restarts), (Phase::Failed, 10, 10));
    assert_eq!(failed.message(), "exited with code 1; given up after 10 tries in a row");
    harness.clock.advance(Duration::from_secs(3600));
    assert_eq!(harness.settle(agent.id).await, None);
    assert_eq!(harness.runtime.launches().len(), 10);

    let office = harness.office.to_string();
    let again = harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await.expect("starts");
    assert_eq!((again.failures, again.generation), (0, 2));
    harness.settle(agent.id).await;
    let running = harness.ready(agent.id).await;
    assert_eq!((running.phase(), running.observed_generation), (Phase::Running, 2));
    harness.runtime.crash(agent.id, "exited with code 1");
    let until = harness.settle(agent.id).await.expect("waits");
    assert_eq!(until, harness.now() + Duration::from_secs(1));
}

async fn a_restart_of_the_platform_starts_every_agent_again_over_its_workspace(mut harness: Harness) {
    let (one, two) = (harness.running("one").await, harness.running("two").await);
    harness.runtime.fill(place(&one), b"ones work");
    let before = instance_of(&harness.agent(one.id).await);
    harness.crash().await;
    for (agent, content) in [(&one, &b"ones work"[..]), (&two, b"")] {
        harness.settle(agent.id).await;
        let again = harness.agent(agent.id).await;
        assert_eq!((again.phase(), again.restarts, again.failures), (Phase::Restarting, 1, 0));
        assert_eq!(harness.ready(agent.id).await.phase(), Phase::Running);
        assert_eq!(harness.runtime.content(place(agent)).as_deref(), Some(content));
    }
    assert_ne!(instance_of(&harness.agent(one.id).await), before);
    assert_eq!(harness.runtime.launches().len(), 4);
    assert_eq!(harness.event_counts("one").await["agent.restarted"], 1);
}

async fn a_replaced_instance_is_refused(harness: Harness) {
    let agent = harness.running("analyst").await;
    let (caller, old) = (harness.member(&agent, "ConnectAgent"), instance_of(&agent));
    harness.scheduler.heartbeat(&actor_of(&agent), old).await.expect("still wanted");
    let office = harness.office.to_string();
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    harness.settle(agent.id).await;
    let starting = harness.agent(agent.id).await;
    assert_ne!(instance_of(&starting), old);

    let stopped = harness.running("stopped").await;
    harness.scheduler.stop(&harness.owner("StopAgent"), &office, "stopped").await.expect("stops");
    let (own, current) = (actor_of(&agent), instance_of(&starting));
    let refused = [
        (own.clone(), old),
        (own.clone(), InstanceId::new()),
        (AgentActor { agent_id: AgentId::new(), ..own.clone() }, current),
        (AgentActor { office_id: OfficeId::new(), ..own }, current),
        (actor_of(&stopped), instance_of(&stopped)),
    ];
    for (actor, instance) in refused {
        let report = harness.scheduler.report_ready(&caller, &actor, instance).await.expect_err("refused");
        let beat = harness.scheduler.heartbeat(&actor, instance).await.expect_err("refused");
        for error in [report, beat] {
            assert_eq!((error.kind, error.reason), (ErrorKind::Aborted, "INSTANCE_REPLACED"));
        }
    }
    assert_eq!(harness.agent(agent.id).await, starting);
}

async fn silence_and_a_start_without_report_are_ends_too(harness: Harness) {
    let agent = harness.hire("analyst").await;
    let deadline = harness.settle(agent.id).await.expect("waits for the report");
    assert_eq!(deadline, harness.now() + Duration::from_secs(60));
    harness.settle_after_waiting(agent.id).await;
    assert_eq!(harness.agent(agent.id).await.message(), "did not report ready within 60 seconds");
    harness.settle_after_waiting(agent.id).await;
    let running = harness.ready(agent.id).await;

    harness.clock.advance(Duration::from_secs(50));
    harness.scheduler.heartbeat(&actor_of(&agent), instance_of(&running)).await.expect("wanted");
    let quiet_since = harness.now();
    assert_eq!(harness.settle(agent.id).await, Some(quiet_since + Duration::from_secs(60)));
    harness.settle_after_waiting(agent.id).await;
    let silent = harness.agent(agent.id).await;
    assert_eq!((silent.message(), silent.failures), ("was silent for 60 seconds", 1));
}

async fn nobody_was_silent_while_the_platform_could_not_hear(harness: Harness) {
    let agent = harness.running("analyst").await;
    let hears = || harness.scheduler.seen.reach(harness.now());
    hears();
    // Asleep: found out before the next time that it is sure, and then.
    harness.clock.advance(Duration::from_secs(3600));
    let back = harness.now();
    assert_eq!(harness.settle(agent.id).await, Some(back + Duration::from_secs(60)));
    hears();
    for _ in 0..3 {
        harness.clock.advance(Duration::from_secs(15));
        hears();
        assert_eq!(harness.settle(agent.id).await, Some(back + Duration::from_secs(60)));
    }
    assert_eq!(harness.agent(agent.id).await, agent);
    harness.clock.advance(Duration::from_secs(15));
    harness.settle(agent.id).await;
    assert_eq!(harness.agent(agent.id).await.message(), "was silent for 60 seconds");
}

async fn signs_of_life_are_written_together_and_never_go_back(harness: Harness) {
    let (one, other, silent) =
        (harness.hire("one").await.id, harness.hire("other").await.id, harness.hire("silent").await.id);
    let (now, later) = (harness.now(), harness.now() + Duration::from_micros(1_500_001));
    for seen in [[(one, now), (other, now)], [(one, now - Duration::from_secs(1)), (other, later)]] {
        let mut tx = harness.scheduler.db.platform().begin().await.expect("begins");
        look_seen(&mut tx, &seen.map(|(id, at)| (id, harness.office, at))).await.expect("writes");
        tx.commit().await.expect("commits");
    }
    let mut last = Vec::new();
    for id in [one, other, silent] {
        last.push(harness.agent(id).await.last_seen_at);
    }
    assert_eq!(last, [Some(now), Some(later), None]);
}

async fn promotion_replaces_the_instance_and_keeps_the_workspace(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.fill(place(&agent), b"kept");
    let promotion = |tier: &str| PromoteAgentRequest {
        office_id: harness.office.to_string(),
        name: "analyst".into(),
        model_tier: tier.into(),
        ..PromoteAgentRequest::default()
    };
    let promoted =
        harness.scheduler.promote(&harness.owner("PromoteAgent"), promotion("opus")).await.expect("promotes");
    assert_eq!((promoted.spec.model_tier.as_str(), promoted.generation), ("opus", 2));
    assert_eq!((promoted.phase(), promoted.observed_generation), (Phase::Running, 1));
    harness.settle(agent.id).await;
    assert_eq!(harness.runtime.environment(agent.id)["MI_GENERATION"], "2");
    let running = harness.ready(agent.id).await;
    assert_eq!((running.phase(), running.observed_generation, running.restarts), (Phase::Running, 2, 0));
    assert_ne!(instance_of(&running), instance_of(&agent));
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"kept"[..]));

    let refused =
        harness.scheduler.promote(&harness.owner("PromoteAgent"), promotion("nope")).await.expect_err("unknown");
    assert_eq!((refused.kind, refused.field), (ErrorKind::Invalid, Some("model_tier")));
    assert_eq!(harness.agent(agent.id).await, running);
}

async fn stop_and_start(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.fill(place(&agent), b"kept");
    let office = harness.office.to_string();
    harness.scheduler.stop(&harness.owner("StopAgent"), &office, "analyst").await.expect("stops");
    assert_eq!(harness.settle(agent.id).await, None);
    let stopped = harness.agent(agent.id).await;
    assert_eq!((stopped.phase(), stopped.observed_generation), (Phase::Stopped, 2));
    assert_eq!(harness.runtime.launches().len(), 1);
    let repeated = harness.scheduler.stop(&harness.owner("StopAgent"), &office, "analyst").await.expect("stops");
    assert_eq!(repeated, stopped);

    harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await.expect("starts");
    harness.settle(agent.id).await;
    let running = harness.ready(agent.id).await;
    assert_eq!((running.phase(), running.observed_generation), (Phase::Running, 3));
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"kept"[..]));
    let repeated = harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await.expect("starts");
    assert_eq!(repeated, running);
}

async fn suspend_and_resume(harness: Harness) {
    let (agent, stopped) = (harness.running("analyst").await, harness.running("stopped").await);
    let elsewhere = harness.open_office(1).await;
    let office = harness.office.to_string();
    harness.scheduler.stop(&harness.owner("StopAgent"), &office, "stopped").await.expect("stops");
    harness.settle(stopped.id).await;
    harness.runtime.fill(place(&agent), b"kept");

    harness.apply(harness.office, 2, false, free_hiring()).await;
    assert_eq!((harness.settle(agent.id).await, harness.settle(stopped.id).await), (None, None));
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Suspended));
    assert_eq!(harness.phase(stopped.id).await, Some(Phase::Stopped));
    let refused =
        harness.scheduler.hire(&harness.owner("HireAgent"), harness.hiring("late")).await.expect_err("suspended");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "OFFICE_NOT_ACTIVE"));
    let mut other = harness.hiring("neighbour");
    other.office_id = elsewhere.to_string();
    harness.scheduler.hire(&harness.owner("HireAgent"), other).await.expect("another office is active");

    // An older push that arrives late changes nothing.
    harness.apply(harness.office, 1, true, free_hiring()).await;
    harness.settle(agent.id).await;
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Suspended));

    harness.apply(harness.office, 3, true, free_hiring()).await;
    harness.settle(agent.id).await;
    harness.settle(stopped.id).await;
    let running = harness.ready(agent.id).await;
    assert_eq!((running.phase(), running.generation, running.observed_generation), (Phase::Running, 1, 1));
    assert_eq!(harness.phase(stopped.id).await, Some(Phase::Stopped));
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"kept"[..]));
}
