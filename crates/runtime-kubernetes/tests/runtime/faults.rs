//! An API server that is slow, busy, forgetful, silent or gone.

use std::time::Duration;

use mi_kubesim::{Fault, Matching};
use mi_runtime::Runtime;
use mi_runtime_kubernetes::agent_name;

use crate::harness::Harness;

#[tokio::test]
async fn an_api_server_that_is_gone_loses_nothing() {
    let harness = Harness::simulated().await;
    let (one, two) = (harness.agent(), harness.agent());
    harness.started(one).await;
    harness.up(one).await;
    let down = harness.sim().go_down();
    let error = harness.runtime.start(harness.launch(two)).await.expect_err("gone");
    assert_eq!(error.message, "the cluster cannot be reached");
    assert!(harness.runtime.observe(one.agent_id).expect("known").waiting.is_none(), "what was seen is known");
    // Meanwhile a pod dies.
    let pod = format!("{}-0", agent_name(one.agent_id));
    harness.sim().conduct(mi_kubesim::Pods::all(), mi_kubesim::Conduct::Create);
    harness.sim().delete("pods", &harness.namespace(), &pod).expect("deleted");
    harness.sim().heal(down);
    harness.waits(one, "its container is being made").await;
    harness.sim().conduct(mi_kubesim::Pods::all(), mi_kubesim::Conduct::Run);
    harness.up(one).await;
    harness.started(two).await;
    harness.up(two).await;
}

#[tokio::test]
async fn answers_that_are_lost_late_or_refused_are_asked_for_again() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.runtime.prepare(place, None).await.expect("prepared");
    for fault in [Fault::LoseAnswer, Fault::Status(500), Fault::Forbid, Fault::Disconnect] {
        let sets = Matching::all().resource("statefulsets").writes();
        let id = harness.sim().fault(sets, fault.clone());
        let error = harness.runtime.start(harness.launch(place)).await.expect_err("in vain");
        assert!(!error.message.is_empty(), "{fault:?}");
        harness.sim().heal(id);
        let instance = harness.started(place).await;
        assert_eq!(harness.up(place).await.id, instance, "{fault:?}");
        harness.stopped(place).await;
    }
    let webhook = harness.sim().refuse(Matching::all().resource("statefulsets"), "policy.example", "not on a Monday");
    let error = harness.runtime.start(harness.launch(place)).await.expect_err("refused");
    assert!(error.message.contains("not on a Monday"), "{}", error.message);
    harness.sim().heal(webhook);
    harness.started(place).await;
    harness.up(place).await;
}

#[tokio::test]
async fn a_watch_that_ends_expires_or_falls_silent_is_made_anew() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.started(place).await;
    harness.up(place).await;
    let name = agent_name(place.agent_id);
    let pods = Matching::all().resource("pods");
    let break_them: [fn(&Harness, &Matching); 3] = [
        |harness, of| assert!(harness.sim().break_watches(of) > 0),
        |harness, of| {
            harness.sim().compact();
            harness.sim().expire_watches(of);
        },
        |harness, of| assert!(harness.sim().hang_watches(of) > 0),
    ];
    for (number, break_it) in break_them.into_iter().enumerate() {
        break_it(&harness, &pods);
        harness.sim().conduct(mi_kubesim::Pods::all(), mi_kubesim::Conduct::Unschedulable(format!("no {number}")));
        let _ = harness.sim().delete("pods", &harness.namespace(), &format!("{name}-0"));
        harness.waits(place, &format!("no {number}")).await;
        harness.sim().conduct(mi_kubesim::Pods::all(), mi_kubesim::Conduct::Run);
        harness.up(place).await;
    }
}

#[tokio::test]
async fn an_api_server_that_is_slow_is_waited_for() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.sim().fault(Matching::all().writes(), Fault::Latency(Duration::from_millis(50)));
    harness.sim().fault_times(2, Matching::all().resource("statefulsets").writes(), Fault::Throttle(1));
    let instance = harness.started(place).await;
    assert_eq!(harness.up(place).await.id, instance);
}
