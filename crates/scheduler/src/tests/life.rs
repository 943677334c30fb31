//! From hire to a running compute, and through crashes, restarts, promotion, stop and suspension.

use std::time::Duration;

use mi_kernel::{AgentActor, AgentId, ErrorKind, InstanceId, OfficeId};
use mi_proto::v1::PromoteAgentRequest;
use mi_testkit::on_both;

use super::stage::{Stage, actor_of, free_hiring, instance_of, place};
use crate::{
    agents::{Desired, Phase, State, looks::look_seen},
    plan::Step,
};

on_both! {
    a_hire_becomes_a_running_compute_in_recorded_steps,
    a_compute_gets_its_own_environment_and_nobody_elses,
    crashes_back_off_longer_each_time_and_ten_are_the_end,
    a_restart_of_the_platform_starts_every_agent_again_over_its_workspace,
    a_replaced_compute_is_refused,
    silence_and_a_start_without_report_are_ends_too,
    nobody_was_silent_while_the_platform_could_not_hear,
    signs_of_life_are_written_together_and_never_go_back,
    promotion_replaces_the_compute_and_keeps_the_workspace,
    stop_and_start,
    suspend_and_resume,
}

async fn a_hire_becomes_a_running_compute_in_recorded_steps(stage: Stage) {
    let hired = stage.hire("Analyst").await;
    assert_eq!((hired.name.as_str(), hired.phase(), hired.generation), ("analyst", Phase::Pending, 1));
    assert_eq!((hired.desired, hired.observed_generation), (Desired::Run, 0));
    assert_eq!(stage.agent(hired.id).await, hired);

    let step = stage.scheduler.step(hired.id).await.expect("steps");
    assert_eq!(step, Some(Step::Launch { lost: None }));
    let starting = stage.agent(hired.id).await;
    let State::Starting { instance, generation: 1, since } = starting.state else { panic!("{:?}", starting.state) };
    assert_eq!(since, stage.now());
    assert_eq!(stage.runtime.launches(), [(hired.id, instance)]);
    assert_eq!(stage.runtime.content(place(&hired)), Some(Vec::new()));
    assert_eq!(starting.phase(), Phase::Pending);

    stage.clock.advance(Duration::from_secs(2));
    let running = stage.ready(hired.id).await;
    assert_eq!((running.phase(), running.observed_generation, running.restarts), (Phase::Running, 1, 0));
    assert_eq!(running.last_seen_at, Some(stage.now()));
    let since = stage.now();
    assert_eq!(running.state, State::Running { instance, generation: 1, since });
    assert_eq!(stage.settle(hired.id).await, Some(since + Duration::from_secs(60)));
    assert_eq!(stage.runtime.launches().len(), 1);
}

async fn a_compute_gets_its_own_environment_and_nobody_elses(stage: Stage) {
    let mut ids = Vec::new();
    for (name, secret) in [("alpha", "only-alphas"), ("beta", "only-betas")] {
        let mut request = stage.hiring(name);
        request.env.insert("TOKEN".into(), secret.into());
        let agent = stage.scheduler.hire(&stage.owner("HireAgent"), request).await.expect("hires");
        stage.settle(agent.id).await;
        ids.push(agent.id);
    }
    let (alpha, beta) = (stage.agent(ids[0]).await, stage.agent(ids[1]).await);
    let env = stage.runtime.environment(alpha.id);
    let expected = [
        ("MI_AGENT_ID", alpha.id.to_string()),
        ("MI_AGENT_NAME", "alpha".into()),
        ("MI_ENDPOINT", "http://127.0.0.1:7400".into()),
        ("MI_ENROL_TOKEN", env["MI_ENROL_TOKEN"].clone()),
        ("MI_GENERATION", "1".into()),
        ("MI_INSTANCE_ID", instance_of(&alpha).to_string()),
        ("MI_MODEL_ADDRESS", "models.test=127.0.0.9:80".into()),
        ("MI_MODEL_API", "openai".into()),
        ("MI_MODEL_ID", "claude-sonnet-4-5".into()),
        ("MI_MODEL_KEY", "model-key".into()),
        ("MI_MODEL_URL", "http://models.test/v1".into()),
        ("MI_NEW_IDENTITY", "1".into()),
        ("MI_OFFICE_ID", stage.office.to_string()),
        ("MI_SLOTS", "2".into()),
        ("TOKEN", "only-alphas".into()),
    ];
    assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value)).into());
    let others = stage.runtime.environment(beta.id);
    assert_ne!(env["MI_ENROL_TOKEN"], others["MI_ENROL_TOKEN"]);
    let betas = [beta.id.to_string(), "only-betas".into(), others["MI_ENROL_TOKEN"].clone()];
    for (name, value) in &env {
        assert!(betas.iter().all(|foreign| !value.contains(foreign)), "{name}={value}");
    }
}

async fn crashes_back_off_longer_each_time_and_ten_are_the_end(stage: Stage) {
    let agent = stage.hire("analyst").await;
    stage.settle(agent.id).await;
    let mut waits = Vec::new();
    for _ in 0..9 {
        stage.runtime.crash(agent.id, "exited with code 1");
        let until = stage.settle(agent.id).await.expect("waits");
        waits.push((until - stage.now()).num_seconds());
        let retry_at = until;
        let reason = "exited with code 1".to_owned();
        assert_eq!(stage.agent(agent.id).await.state, State::BackingOff { retry_at, reason });
        stage.clock.set(until - Duration::from_micros(1));
        assert_eq!(stage.settle(agent.id).await, Some(until));
        stage.clock.set(until);
        stage.settle(agent.id).await;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(stage.runtime.launches().len(), 10);

    stage.runtime.crash(agent.id, "exited with code 1");
    assert_eq!(stage.settle(agent.id).await, None);
    let failed = stage.agent(agent.id).await;
    assert_eq!((failed.phase(), failed.failures, failed.restarts), (Phase::Failed, 10, 10));
    assert_eq!(failed.message(), "exited with code 1; given up after 10 tries in a row");
    stage.clock.advance(Duration::from_secs(3600));
    assert_eq!(stage.settle(agent.id).await, None);
    assert_eq!(stage.runtime.launches().len(), 10);

    let office = stage.office.to_string();
    let again = stage.scheduler.start(&stage.owner("StartAgent"), &office, "analyst").await.expect("starts");
    assert_eq!((again.failures, again.generation), (0, 2));
    stage.settle(agent.id).await;
    let running = stage.ready(agent.id).await;
    assert_eq!((running.phase(), running.observed_generation), (Phase::Running, 2));
    stage.runtime.crash(agent.id, "exited with code 1");
    let until = stage.settle(agent.id).await.expect("waits");
    assert_eq!(until, stage.now() + Duration::from_secs(1));
}

async fn a_restart_of_the_platform_starts_every_agent_again_over_its_workspace(mut stage: Stage) {
    let (one, two) = (stage.running("one").await, stage.running("two").await);
    stage.runtime.fill(place(&one), b"ones work");
    let before = instance_of(&stage.agent(one.id).await);
    stage.crash().await;
    for (agent, content) in [(&one, &b"ones work"[..]), (&two, b"")] {
        stage.settle(agent.id).await;
        let again = stage.agent(agent.id).await;
        assert_eq!((again.phase(), again.restarts, again.failures), (Phase::Restarting, 1, 0));
        assert_eq!(stage.ready(agent.id).await.phase(), Phase::Running);
        assert_eq!(stage.runtime.content(place(agent)).as_deref(), Some(content));
    }
    assert_ne!(instance_of(&stage.agent(one.id).await), before);
    assert_eq!(stage.runtime.launches().len(), 4);
    assert_eq!(stage.event_counts("one").await["agent.restarted"], 1);
}

async fn a_replaced_compute_is_refused(stage: Stage) {
    let agent = stage.running("analyst").await;
    let (caller, old) = (stage.member(&agent, "ConnectAgent"), instance_of(&agent));
    stage.scheduler.heartbeat(&actor_of(&agent), old).await.expect("still wanted");
    let office = stage.office.to_string();
    stage.scheduler.restart(&stage.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    stage.settle(agent.id).await;
    let starting = stage.agent(agent.id).await;
    assert_ne!(instance_of(&starting), old);

    let stopped = stage.running("stopped").await;
    stage.scheduler.stop(&stage.owner("StopAgent"), &office, "stopped").await.expect("stops");
    let (own, current) = (actor_of(&agent), instance_of(&starting));
    let refused = [
        (own.clone(), old),
        (own.clone(), InstanceId::new()),
        (AgentActor { agent_id: AgentId::new(), ..own.clone() }, current),
        (AgentActor { office_id: OfficeId::new(), ..own }, current),
        (actor_of(&stopped), instance_of(&stopped)),
    ];
    for (actor, instance) in refused {
        let report = stage.scheduler.report_ready(&caller, &actor, instance).await.expect_err("refused");
        let beat = stage.scheduler.heartbeat(&actor, instance).await.expect_err("refused");
        for error in [report, beat] {
            assert_eq!((error.kind, error.reason), (ErrorKind::Aborted, "INSTANCE_REPLACED"));
        }
    }
    assert_eq!(stage.agent(agent.id).await, starting);
}

async fn silence_and_a_start_without_report_are_ends_too(stage: Stage) {
    let agent = stage.hire("analyst").await;
    let deadline = stage.settle(agent.id).await.expect("waits for the report");
    assert_eq!(deadline, stage.now() + Duration::from_secs(60));
    stage.settle_after_waiting(agent.id).await;
    assert_eq!(stage.agent(agent.id).await.message(), "did not report ready within 60 seconds");
    stage.settle_after_waiting(agent.id).await;
    let running = stage.ready(agent.id).await;

    stage.clock.advance(Duration::from_secs(50));
    stage.scheduler.heartbeat(&actor_of(&agent), instance_of(&running)).await.expect("wanted");
    let quiet_since = stage.now();
    assert_eq!(stage.settle(agent.id).await, Some(quiet_since + Duration::from_secs(60)));
    stage.settle_after_waiting(agent.id).await;
    let silent = stage.agent(agent.id).await;
    assert_eq!((silent.message(), silent.failures), ("was silent for 60 seconds", 1));
}

async fn nobody_was_silent_while_the_platform_could_not_hear(stage: Stage) {
    let agent = stage.running("analyst").await;
    let hears = || stage.scheduler.seen.reach(stage.now());
    hears();
    // Asleep: found out before the next time that it is sure, and then.
    stage.clock.advance(Duration::from_secs(3600));
    let back = stage.now();
    assert_eq!(stage.settle(agent.id).await, Some(back + Duration::from_secs(60)));
    hears();
    for _ in 0..3 {
        stage.clock.advance(Duration::from_secs(15));
        hears();
        assert_eq!(stage.settle(agent.id).await, Some(back + Duration::from_secs(60)));
    }
    assert_eq!(stage.agent(agent.id).await, agent);
    stage.clock.advance(Duration::from_secs(15));
    stage.settle(agent.id).await;
    assert_eq!(stage.agent(agent.id).await.message(), "was silent for 60 seconds");
}

async fn signs_of_life_are_written_together_and_never_go_back(stage: Stage) {
    let (one, other, silent) =
        (stage.hire("one").await.id, stage.hire("other").await.id, stage.hire("silent").await.id);
    let (now, later) = (stage.now(), stage.now() + Duration::from_micros(1_500_001));
    for seen in [[(one, now), (other, now)], [(one, now - Duration::from_secs(1)), (other, later)]] {
        let mut tx = stage.scheduler.db.platform().begin().await.expect("begins");
        look_seen(&mut tx, &seen.map(|(id, at)| (id, stage.office, at))).await.expect("writes");
        tx.commit().await.expect("commits");
    }
    let mut last = Vec::new();
    for id in [one, other, silent] {
        last.push(stage.agent(id).await.last_seen_at);
    }
    assert_eq!(last, [Some(now), Some(later), None]);
}

async fn promotion_replaces_the_compute_and_keeps_the_workspace(stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.runtime.fill(place(&agent), b"kept");
    let promotion = |tier: &str| PromoteAgentRequest {
        office_id: stage.office.to_string(),
        name: "analyst".into(),
        model_tier: tier.into(),
        ..PromoteAgentRequest::default()
    };
    let promoted = stage.scheduler.promote(&stage.owner("PromoteAgent"), promotion("opus")).await.expect("promotes");
    assert_eq!((promoted.spec.model_tier.as_str(), promoted.generation), ("opus", 2));
    assert_eq!((promoted.phase(), promoted.observed_generation), (Phase::Running, 1));
    stage.settle(agent.id).await;
    assert_eq!(stage.runtime.environment(agent.id)["MI_GENERATION"], "2");
    let running = stage.ready(agent.id).await;
    assert_eq!((running.phase(), running.observed_generation, running.restarts), (Phase::Running, 2, 0));
    assert_ne!(instance_of(&running), instance_of(&agent));
    assert_eq!(stage.runtime.content(place(&agent)).as_deref(), Some(&b"kept"[..]));

    let refused = stage.scheduler.promote(&stage.owner("PromoteAgent"), promotion("nope")).await.expect_err("unknown");
    assert_eq!((refused.kind, refused.field), (ErrorKind::Invalid, Some("model_tier")));
    assert_eq!(stage.agent(agent.id).await, running);
}

async fn stop_and_start(stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.runtime.fill(place(&agent), b"kept");
    let office = stage.office.to_string();
    stage.scheduler.stop(&stage.owner("StopAgent"), &office, "analyst").await.expect("stops");
    assert_eq!(stage.settle(agent.id).await, None);
    let stopped = stage.agent(agent.id).await;
    assert_eq!((stopped.phase(), stopped.observed_generation), (Phase::Stopped, 2));
    assert_eq!(stage.runtime.launches().len(), 1);
    let repeated = stage.scheduler.stop(&stage.owner("StopAgent"), &office, "analyst").await.expect("stops");
    assert_eq!(repeated, stopped);

    stage.scheduler.start(&stage.owner("StartAgent"), &office, "analyst").await.expect("starts");
    stage.settle(agent.id).await;
    let running = stage.ready(agent.id).await;
    assert_eq!((running.phase(), running.observed_generation), (Phase::Running, 3));
    assert_eq!(stage.runtime.content(place(&agent)).as_deref(), Some(&b"kept"[..]));
    let repeated = stage.scheduler.start(&stage.owner("StartAgent"), &office, "analyst").await.expect("starts");
    assert_eq!(repeated, running);
}

async fn suspend_and_resume(stage: Stage) {
    let (agent, stopped) = (stage.running("analyst").await, stage.running("stopped").await);
    let elsewhere = stage.open_office(1).await;
    let office = stage.office.to_string();
    stage.scheduler.stop(&stage.owner("StopAgent"), &office, "stopped").await.expect("stops");
    stage.settle(stopped.id).await;
    stage.runtime.fill(place(&agent), b"kept");

    stage.apply(stage.office, 2, false, free_hiring()).await;
    assert_eq!((stage.settle(agent.id).await, stage.settle(stopped.id).await), (None, None));
    assert_eq!(stage.phase(agent.id).await, Some(Phase::Suspended));
    assert_eq!(stage.phase(stopped.id).await, Some(Phase::Stopped));
    let refused = stage.scheduler.hire(&stage.owner("HireAgent"), stage.hiring("late")).await.expect_err("suspended");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "OFFICE_NOT_ACTIVE"));
    let mut other = stage.hiring("neighbour");
    other.office_id = elsewhere.to_string();
    stage.scheduler.hire(&stage.owner("HireAgent"), other).await.expect("another office is active");

    // An older push that arrives late changes nothing.
    stage.apply(stage.office, 1, true, free_hiring()).await;
    stage.settle(agent.id).await;
    assert_eq!(stage.phase(agent.id).await, Some(Phase::Suspended));

    stage.apply(stage.office, 3, true, free_hiring()).await;
    stage.settle(agent.id).await;
    stage.settle(stopped.id).await;
    let running = stage.ready(agent.id).await;
    assert_eq!((running.phase(), running.generation, running.observed_generation), (Phase::Running, 1, 1));
    assert_eq!(stage.phase(stopped.id).await, Some(Phase::Stopped));
    assert_eq!(stage.runtime.content(place(&agent)).as_deref(), Some(&b"kept"[..]));
}
