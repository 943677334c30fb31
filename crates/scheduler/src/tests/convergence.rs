//! Nothing is forgotten: lost signals are made up for, and each change is reported once.

use mi_kernel::AgentId;
use mi_proto::v1::PromoteAgentRequest;
use mi_store::DbError;
use mi_testkit::on_both;

use super::harness::{Harness, TRACE, counts, free_hiring};
use crate::agents::{Phase, next_look};

on_both! { a_full_pass_finds_what_a_lost_signal_left_undone, every_change_has_exactly_one_event }

/// Every intent is committed, and then the process dies before its signal is served.
async fn a_full_pass_finds_what_a_lost_signal_left_undone(mut harness: Harness) {
    let office = harness.office.to_string();
    let (stopped, idle) = (harness.running("stopped").await, harness.running("idle").await);
    for agent in [&stopped, &idle] {
        harness.scheduler.stop(&harness.owner("StopAgent"), &office, &agent.name).await.expect("stops");
        harness.settle(agent.id).await;
    }
    let suspended = harness.running("suspended").await;
    harness.apply(harness.office, 2, false, free_hiring()).await;
    harness.settle(suspended.id).await;
    assert_eq!(unsettled(&harness).await, []);

    harness.scheduler.start(&harness.owner("StartAgent"), &office, "stopped").await.expect("starts");
    harness.apply(harness.office, 3, true, free_hiring()).await;
    let hired = harness.hire("hired").await;
    harness.crash().await;
    assert_eq!(unsettled(&harness).await, [stopped.id, suspended.id, hired.id]);
    for agent in [&stopped, &suspended, &hired] {
        harness.settle(agent.id).await;
        assert_eq!(harness.ready(agent.id).await.phase(), Phase::Running, "{}", agent.name);
    }
    assert_eq!(harness.phase(idle.id).await, Some(Phase::Stopped));
}

/// Whom a full pass looks at.
pub(super) async fn unsettled(harness: &Harness) -> Vec<AgentId> {
    let read = async { next_look::look_over(&mut harness.scheduler.db.platform().read().await?, None, 100).await };
    let all = read.await.unwrap_or_else(|error: DbError| panic!("{error}"));
    all.into_iter().filter(|found| found.unsettled).map(|found| found.id).collect()
}

async fn every_change_has_exactly_one_event(mut harness: Harness) {
    let office = harness.office.to_string();
    let agent = harness.running("analyst").await;
    harness.ready(agent.id).await;
    let promotion = PromoteAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        ..PromoteAgentRequest::default()
    };
    harness.scheduler.promote(&harness.owner("PromoteAgent"), promotion).await.expect("promotes");
    harness.settle(agent.id).await;
    harness.ready(agent.id).await;
    harness.runtime.crash(agent.id, "killed by SIGKILL");
    harness.settle_after_waiting(agent.id).await;
    harness.ready(agent.id).await;
    harness.crash().await;
    harness.settle(agent.id).await;
    harness.ready(agent.id).await;
    for _ in 0..2 {
        harness.scheduler.stop(&harness.owner("StopAgent"), &office, "analyst").await.expect("stops");
        harness.settle(agent.id).await;
    }
    for _ in 0..2 {
        harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await.expect("starts");
        harness.settle(agent.id).await;
    }
    harness.ready(agent.id).await;
    harness.apply(harness.office, 2, false, free_hiring()).await;
    harness.settle(agent.id).await;
    harness.apply(harness.office, 3, true, free_hiring()).await;
    harness.settle(agent.id).await;
    harness.ready(agent.id).await;
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    harness.settle(agent.id).await;
    harness.enrol(harness.office, &harness.token(&agent), [1; 32]).await.expect("enrols");
    harness.scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "analyst").await.expect("rotates");
    harness.settle(agent.id).await;
    for _ in 0..2 {
        harness.fire("analyst", false).await;
    }
    harness.settle(agent.id).await;
    harness.settle(agent.id).await;

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
    assert_eq!(harness.event_counts("analyst").await, expected);
    let events = harness.events().await;
    assert!(events.iter().all(|event| event.office_id == harness.office));
    let mut ids: Vec<_> = events.iter().map(|event| event.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len());
    let asked = |kind: &str| events.iter().find(|event| event.kind == kind).map(|event| event.trace_id.as_str());
    assert_eq!((asked("agent.hired"), asked("agent.crashed")), (Some(TRACE), Some("")));
}
