//! Nothing is forgotten: lost signals are made up for, and each change is reported once.

use mi_kernel::AgentId;
use mi_proto::v1::PromoteAgentRequest;
use mi_store::DbError;
use mi_testkit::on_both;

use super::stage::{Stage, TRACE, counts, free_hiring};
use crate::agents::{Phase, looks};

on_both! { a_full_pass_finds_what_a_lost_signal_left_undone, every_change_has_exactly_one_event }

/// Every intent is committed, and then the process dies before its signal is served.
async fn a_full_pass_finds_what_a_lost_signal_left_undone(mut stage: Stage) {
    let office = stage.office.to_string();
    let (stopped, idle) = (stage.running("stopped").await, stage.running("idle").await);
    for agent in [&stopped, &idle] {
        stage.scheduler.stop(&stage.owner("StopAgent"), &office, &agent.name).await.expect("stops");
        stage.settle(agent.id).await;
    }
    let suspended = stage.running("suspended").await;
    stage.apply(stage.office, 2, false, free_hiring()).await;
    stage.settle(suspended.id).await;
    assert_eq!(unsettled(&stage).await, []);

    stage.scheduler.start(&stage.owner("StartAgent"), &office, "stopped").await.expect("starts");
    stage.apply(stage.office, 3, true, free_hiring()).await;
    let hired = stage.hire("hired").await;
    stage.crash().await;
    assert_eq!(unsettled(&stage).await, [stopped.id, suspended.id, hired.id]);
    for agent in [&stopped, &suspended, &hired] {
        stage.settle(agent.id).await;
        assert_eq!(stage.ready(agent.id).await.phase(), Phase::Running, "{}", agent.name);
    }
    assert_eq!(stage.phase(idle.id).await, Some(Phase::Stopped));
}

/// Whom a full pass looks at.
pub(super) async fn unsettled(stage: &Stage) -> Vec<AgentId> {
    let read = async { looks::look_over(&mut stage.scheduler.db.platform().read().await?, None, 100).await };
    let all = read.await.unwrap_or_else(|error: DbError| panic!("{error}"));
    all.into_iter().filter(|found| found.unsettled).map(|found| found.id).collect()
}

async fn every_change_has_exactly_one_event(mut stage: Stage) {
    let office = stage.office.to_string();
    let agent = stage.running("analyst").await;
    stage.ready(agent.id).await;
    let promotion = PromoteAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        ..PromoteAgentRequest::default()
    };
    stage.scheduler.promote(&stage.owner("PromoteAgent"), promotion).await.expect("promotes");
    stage.settle(agent.id).await;
    stage.ready(agent.id).await;
    stage.runtime.crash(agent.id, "killed by SIGKILL");
    stage.settle_after_waiting(agent.id).await;
    stage.ready(agent.id).await;
    stage.crash().await;
    stage.settle(agent.id).await;
    stage.ready(agent.id).await;
    for _ in 0..2 {
        stage.scheduler.stop(&stage.owner("StopAgent"), &office, "analyst").await.expect("stops");
        stage.settle(agent.id).await;
    }
    for _ in 0..2 {
        stage.scheduler.start(&stage.owner("StartAgent"), &office, "analyst").await.expect("starts");
        stage.settle(agent.id).await;
    }
    stage.ready(agent.id).await;
    stage.apply(stage.office, 2, false, free_hiring()).await;
    stage.settle(agent.id).await;
    stage.apply(stage.office, 3, true, free_hiring()).await;
    stage.settle(agent.id).await;
    stage.ready(agent.id).await;
    stage.scheduler.restart(&stage.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    stage.settle(agent.id).await;
    stage.enrol(stage.office, &stage.token(&agent), [1; 32]).await.expect("enrols");
    stage.scheduler.rotate(&stage.owner("RotateAgentIdentity"), &office, "analyst").await.expect("rotates");
    stage.settle(agent.id).await;
    for _ in 0..2 {
        stage.fire("analyst", false).await;
    }
    stage.settle(agent.id).await;
    stage.settle(agent.id).await;

    let expected = counts([
        ("access.granted", 1),
        ("access.revoked", 1),
        ("agent.enrolled", 1),
        ("agent.hired", 1),
        ("agent.running", 6),
        ("agent.promoted", 1),
        ("agent.crashed", 1),
        ("agent.restarted", 1),
        ("agent.stop_requested", 1),
        ("agent.stopped", 1),
        ("agent.start_requested", 1),
        ("agent.suspended", 1),
        ("agent.restart_requested", 1),
        ("agent.identity_rotated", 1),
        ("agent.fire_requested", 1),
        ("agent.backed_up", 1),
        ("agent.fired", 1),
    ]);
    assert_eq!(stage.event_counts("analyst").await, expected);
    let events = stage.events().await;
    assert!(events.iter().all(|event| event.office_id == stage.office));
    let mut ids: Vec<_> = events.iter().map(|event| event.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len());
    let asked = |kind: &str| events.iter().find(|event| event.kind == kind).map(|event| event.trace_id.as_str());
    assert_eq!((asked("agent.hired"), asked("agent.crashed")), (Some(TRACE), Some("")));
}
