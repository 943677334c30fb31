//! Whom agents hire: who gets them when their hirer is fired, and when they are fired for having nothing to do.

use std::time::Duration;

use mi_kernel::ErrorKind;
use mi_proto::v1::OfficeSettings;
use mi_testkit::on_both;

use super::harness::{Harness, actor_of, free_hiring, instance_of};
use crate::agents::{Agent, Phase};

on_both! {
    whom_a_fired_agent_hired_goes_to_who_hired_it,
    however_many_it_hired_and_whenever_the_process_dies,
    a_fired_agent_hires_nobody_any_more,
    who_has_nothing_to_do_is_fired_with_a_backup,
    whom_an_operator_hired_and_whoever_works_stays,
    an_agent_that_says_nothing_of_its_work_stays,
    who_has_agents_of_its_own_or_cannot_be_paid_stays,
}

impl Harness {
    async fn hired_by(&self, hirer: &Agent, name: &str) -> Agent {
        self.scheduler.hire(&self.member(hirer, "HireAgent"), self.hiring(name)).await.expect("hires")
    }

    /// An agent that this one hired and that runs.
    async fn runs_for(&self, hirer: &Agent, name: &str) -> Agent {
        let hired = self.hired_by(hirer, name).await;
        self.settle(hired.id).await;
        self.ready(hired.id).await
    }

    /// A heartbeat in which an agent says for how long it has had nothing to do.
    fn says(&self, agent: &Agent, idle_for: Option<u64>) {
        self.scheduler.note_idle(&actor_of(agent), idle_for.map(Duration::from_secs));
    }

    async fn idle_fire_after(&self, version: i64, seconds: u64) {
        let idle_fire_after = Duration::from_secs(seconds).try_into().ok();
        self.apply(self.office, version, true, OfficeSettings { idle_fire_after, ..free_hiring() }).await;
    }
}

async fn whom_a_fired_agent_hired_goes_to_who_hired_it(harness: Harness) {
    let root = harness.running("root").await;
    let middle = harness.runs_for(&root, "middle").await;
    let (leaf, other) = (harness.hired_by(&middle, "leaf").await, harness.hired_by(&root, "other").await);
    let below = harness.hired_by(&leaf, "below").await;
    harness.fire("middle", false).await;
    harness.settle(middle.id).await;
    assert_eq!(harness.find(middle.id).await, None);
    let leaf = harness.agent(leaf.id).await;
    assert_eq!((leaf.hired_by.as_str(), &leaf.lineage), ("root", &vec![middle.id, root.id]));
    assert_eq!(harness.agent(below.id).await.hired_by, "leaf");
    let told = harness.events().await.into_iter().find(|event| event.kind == "agent.handed_over").expect("told");
    assert_eq!(
        (told.agent.as_str(), &told.metadata["from"], &told.metadata["to"]),
        ("leaf", &"middle".into(), &"root".into())
    );
    // Who is above it goes on being so.
    harness
        .scheduler
        .fire(&harness.member(&root, "FireAgent"), harness.firing("below", false))
        .await
        .expect("still below");

    harness.fire("root", false).await;
    harness.settle(root.id).await;
    for id in [leaf.id, other.id] {
        assert_eq!(harness.agent(id).await.hired_by, "");
    }
}

async fn however_many_it_hired_and_whenever_the_process_dies(mut harness: Harness) {
    let settings = OfficeSettings { max_agents: Some(1000), hires_per_10_minutes: Some(1000), ..free_hiring() };
    harness.apply(harness.office, 2, true, settings).await;
    let root = harness.running("root").await;
    let mut hired = Vec::new();
    for number in 0..201 {
        hired.push(harness.hired_by(&root, &format!("hired-{number}")).await.id);
    }
    harness.fire("root", false).await;
    harness.crash().await;
    harness.settle(root.id).await;
    assert_eq!(harness.find(root.id).await, None);
    for id in &hired {
        assert_eq!(harness.agent(*id).await.hired_by, "");
    }
    let told = harness.events().await.into_iter().filter(|event| event.kind == "agent.handed_over").count();
    assert_eq!(told, hired.len());
}

async fn a_fired_agent_hires_nobody_any_more(harness: Harness) {
    let root = harness.running("root").await;
    harness.fire("root", false).await;
    let refused = harness.scheduler.hire(&harness.member(&root, "HireAgent"), harness.hiring("late")).await;
    assert_eq!(refused.expect_err("fired").kind, ErrorKind::Unauthenticated);
}

async fn who_has_nothing_to_do_is_fired_with_a_backup(harness: Harness) {
    let root = harness.running("root").await;
    let idle = harness.runs_for(&root, "idle").await;
    harness.idle_fire_after(2, 600).await;
    harness.clock.advance(Duration::from_secs(700));
    harness.says(&idle, Some(599));
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(idle.id).await, Some(Phase::Running));
    harness.says(&idle, Some(600));
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(idle.id).await, Some(Phase::Terminating));
    harness.settle(idle.id).await;
    assert_eq!(harness.find(idle.id).await, None);
    assert_eq!(harness.backups().await.iter().map(|backup| backup.agent.as_str()).collect::<Vec<_>>(), ["idle"]);
    let asked = harness.events().await.into_iter().find(|event| event.kind == "agent.fire_requested").expect("told");
    assert_eq!(asked.metadata["fired_by"], "platform");
    assert_eq!(asked.summary, "Agent \"idle\" is being fired: it had nothing to do for 600 seconds");
}

async fn whom_an_operator_hired_and_whoever_works_stays(harness: Harness) {
    let root = harness.running("root").await;
    let (busy, fresh) = (harness.runs_for(&root, "busy").await, harness.runs_for(&root, "fresh").await);
    harness.idle_fire_after(2, 60).await;
    harness.clock.advance(Duration::from_secs(700));
    // It was idle, and works by now.
    harness.says(&busy, Some(650));
    harness.says(&busy, None);
    harness.says(&root, Some(650));
    harness.scheduler.fire_idle().await;
    // What it says is of an instance before this one.
    harness.says(&fresh, Some(100_000));
    harness.scheduler.fire_idle().await;
    for agent in [&root, &busy, &fresh] {
        assert_eq!(harness.phase(agent.id).await, Some(Phase::Running), "{}", agent.name);
    }
    // Never, and not in an office that is suspended.
    harness.says(&fresh, Some(650));
    harness.idle_fire_after(3, 0).await;
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(fresh.id).await, Some(Phase::Running));
}

async fn an_agent_that_says_nothing_of_its_work_stays(harness: Harness) {
    let root = harness.running("root").await;
    let hired = harness.runs_for(&root, "hired").await;
    harness.idle_fire_after(2, 60).await;
    harness.clock.advance(Duration::from_secs(700));
    harness.scheduler.heartbeat(&actor_of(&hired), instance_of(&hired)).await.expect("wanted");
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(hired.id).await, Some(Phase::Running));
}

async fn who_has_agents_of_its_own_or_cannot_be_paid_stays(harness: Harness) {
    let root = harness.running("root").await;
    let middle = harness.runs_for(&root, "middle").await;
    let leaf = harness.runs_for(&middle, "leaf").await;
    harness.idle_fire_after(2, 60).await;
    harness.clock.advance(Duration::from_secs(700));
    harness.says(&middle, Some(650));
    harness.says(&leaf, Some(650));
    harness.treasury.known().terms.available = 0;
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(leaf.id).await, Some(Phase::Running));
    harness.treasury.known().terms.available = 1;
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(leaf.id).await, Some(Phase::Terminating));
    assert_eq!(harness.phase(middle.id).await, Some(Phase::Running));
    harness.settle(leaf.id).await;
    harness.scheduler.fire_idle().await;
    assert_eq!(harness.phase(middle.id).await, Some(Phase::Terminating));
}
