//! What is charged for agents that run: those of this platform, office by office, for as long as somebody was there.

use std::time::Duration;

use mi_proto::internal::v1::ChargeComputeRequest;
use mi_rpc::convert::timestamp;
use mi_testkit::on_both;

use super::harness::{Harness, instance_of};
use crate::agents::State;

on_both! {
    running_agents_are_charged_by_office,
    nobody_is_charged_for_time_that_nobody_saw,
    what_fails_is_asked_again,
}

impl Harness {
    fn charged(&self) -> Vec<ChargeComputeRequest> {
        std::mem::take(self.treasury.known().charged.as_mut().expect("charging works"))
    }
}

async fn running_agents_are_charged_by_office(mut harness: Harness) {
    let first = harness.running("analyst").await;
    harness.hire("pending").await;
    let stopped = harness.running("stopped").await;
    let own = harness.office;
    harness.scheduler.stop(&harness.owner("StopAgent"), &own.to_string(), "stopped").await.expect("stops");
    harness.settle(stopped.id).await;
    harness.office = harness.open_office(1).await;
    let other = harness.office;
    let second = harness.running("analyst").await;
    harness.scheduler.charge_compute(Duration::from_secs(61)).await.expect("charges");
    let mut charged = harness.charged();
    charged.sort_by_key(|request| request.office_id.clone());
    let mut expected = Vec::new();
    for (office, agent) in [(own, &first), (other, &second)] {
        let State::Running { since, .. } = agent.state else { panic!("it runs as {:?}", instance_of(agent)) };
        expected.push((office.to_string(), vec![(agent.id.to_string(), "analyst".to_owned(), Some(timestamp(since)))]));
    }
    expected.sort_by_key(|(office, _)| office.clone());
    let shown = charged.iter().map(|request| {
        let agents = request.agents.iter().map(|agent| {
            let spender = agent.spender.clone().expect("always there");
            (spender.agent_id, spender.agent, agent.since)
        });
        (request.office_id.clone(), agents.collect::<Vec<_>>())
    });
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    for request in &charged {
        assert_eq!(request.at_most, Some(prost_types::Duration { seconds: 61, nanos: 0 }));
        assert_eq!(request.until, Some(timestamp(harness.now())));
    }
}

async fn nobody_is_charged_for_time_that_nobody_saw(harness: Harness) {
    harness.running("analyst").await;
    harness.scheduler.charge_compute(Duration::ZERO).await.expect("charges nothing");
    assert_eq!(harness.charged(), []);
    harness.scheduler.charge_compute(Duration::from_secs(7200)).await.expect("charges");
    let most: Vec<_> = harness.charged().into_iter().map(|request| request.at_most).collect();
    assert_eq!(most, [Some(prost_types::Duration { seconds: 300, nanos: 0 })]);
}

async fn what_fails_is_asked_again(harness: Harness) {
    harness.running("analyst").await;
    harness.treasury.known().charged = None;
    harness.scheduler.charge_compute(Duration::from_secs(60)).await.expect_err("fails");
    harness.treasury.known().charged = Some(Vec::new());
    harness.scheduler.charge_compute(Duration::from_secs(120)).await.expect("charges");
    assert_eq!(harness.charged().len(), 1);
}
