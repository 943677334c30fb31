//! An API server that is slow, busy, forgetful, silent or gone.

use std::time::{Duration, Instant};

use mi_kubesim::{Conduct, Fault, Matching, Pods};
use mi_runtime::{Cluster, Runtime};
use mi_runtime_kubernetes::agent_name;
use mi_testkit::until;

use crate::harness::{Harness, LIMIT};

/// Of whose objects one is watched.
const WATCHED: [&str; 5] = ["statefulsets", "pods", "persistentvolumeclaims", "jobs", "namespaces"];

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
    harness.sim().conduct(Pods::all(), Conduct::Create);
    harness.sim().delete("pods", &harness.namespace(), &pod).expect("deleted");
    harness.sim().heal(down);
    harness.waits(one, "its container is being made").await;
    harness.sim().conduct(Pods::all(), Conduct::Run);
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
        harness.sim().conduct(Pods::all(), Conduct::Unschedulable(format!("no {number}")));
        let _ = harness.sim().delete("pods", &harness.namespace(), &format!("{name}-0"));
        harness.waits(place, &format!("no {number}")).await;
        harness.sim().conduct(Pods::all(), Conduct::Run);
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

#[tokio::test]
async fn rights_that_are_revoked_are_told_of_without_a_storm_and_may_come_back() {
    let harness = Harness::simulated().await;
    let (one, two) = (harness.agent(), harness.agent());
    let first = harness.started(one).await;
    harness.up(one).await;
    let revoked = harness.sim().fault(Matching::all(), Fault::Forbid);
    harness.sim().break_watches(&Matching::all());
    harness.sim().forget_requests();
    let since = Instant::now();
    let refused = "the cluster does not allow the platform to do that: ";
    let error = harness.runtime.start(harness.launch(two)).await.expect_err("is not allowed");
    assert!(error.message.starts_with(refused), "{}", error.message);
    for mend in [false, true] {
        harness.runtime.look_over(mend).await.expect_err("is not allowed");
        let problems = harness.runtime.problems(harness.office);
        assert!(problems.len() == 1 && problems[0].contains(refused), "{problems:?}");
    }
    assert!(harness.runtime.observe(one.agent_id).expect("known").waiting.is_none(), "what was seen is known");
    harness.sim().conduct(Pods::all(), Conduct::Create);
    harness.sim().delete("pods", &harness.namespace(), &format!("{}-0", agent_name(one.agent_id))).expect("deleted");
    // Later each time: the third try of a watch comes seconds after the first.
    until("all watches were tried again", LIMIT, async || {
        let of = |kind: &str| Matching::all().resource(kind).verb("list").verb("watch");
        let tried = WATCHED.map(|kind| harness.sim().requests_of(&of(kind)).len());
        if tried.iter().all(|tried| *tried >= 3) { Ok(Some(())) } else { Err(format!("{tried:?}")) }
    })
    .await;
    let (asked, passed) = (harness.sim().requests().len(), since.elapsed());
    assert!(passed >= Duration::from_secs(1) && asked <= 40, "{asked} requests in {passed:?}");

    harness.sim().heal(revoked);
    harness.waits(one, "its container is being made").await;
    harness.sim().conduct(Pods::all(), Conduct::Run);
    assert_eq!(harness.up(one).await.id, first);
    let second = harness.started(two).await;
    assert_eq!(harness.up(two).await.id, second);
    harness.runtime.look_over(true).await.expect("is allowed again");
    assert_eq!(harness.runtime.problems(harness.office), [""; 0]);
}

#[tokio::test]
async fn an_office_that_goes_while_the_api_server_is_down_is_gone_once_it_is_back() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.started(place).await;
    harness.up(place).await;
    let down = harness.sim().go_down();
    for _ in 0..3 {
        let error = harness.runtime.remove_office(harness.office).await.expect_err("gone");
        assert_eq!(error.message, "the cluster cannot be reached");
    }
    assert!(harness.sim().get("namespaces", "", &harness.namespace()).is_some());
    harness.sim().heal(down);
    // It does so, and nobody hears of it.
    let lost = harness.sim().fault_times(1, Matching::all().verb("delete"), Fault::LoseAnswer);
    harness.runtime.remove_office(harness.office).await.expect_err("no answer");
    harness.sim().heal(lost);
    harness.clear().await;
    assert_eq!(harness.sim().get("namespaces", "", &harness.namespace()), None);
    assert_eq!(harness.sim().list("pods", ""), [] as [serde_json::Value; 0]);
}
