//! WatchAgents: what is there, what changes, what goes; and nothing of other offices.

use futures::{StreamExt, stream::BoxStream};
use mi_base::Tasks;
use mi_kernel::Result;
use mi_proto::v1::{AgentPhase, WatchAgentsResponse};
use mi_runtime::Runtime;
use mi_testkit::{Backend, OnBackend, on_both};
use tokio::time::timeout;

use super::harness::{Harness, LONG};
use crate::agents::{watch, wire};

on_both! { a_watch_shows_the_present_then_each_change_then_the_end, a_watch_shows_each_of_many_agents_once }

type Stream = BoxStream<'static, Result<WatchAgentsResponse>>;

async fn next(stream: &mut Stream) -> WatchAgentsResponse {
    timeout(LONG, stream.next()).await.expect("in time").expect("goes on").expect("no error")
}

/// The next messages until one of them shows this.
async fn until(stream: &mut Stream, shows: impl Fn(&WatchAgentsResponse) -> bool) -> WatchAgentsResponse {
    loop {
        let message = next(stream).await;
        if shows(&message) {
            return message;
        }
    }
}

fn phase(message: &WatchAgentsResponse) -> AgentPhase {
    message.agent.as_ref().and_then(|agent| agent.status.as_ref()).expect("always there").phase()
}

async fn a_watch_shows_the_present_then_each_change_then_the_end(harness: Harness) {
    let (analyst, other) = (harness.hire("analyst").await, harness.hire("other").await);
    let mut stream = watch::watch(harness.scheduler.clone(), harness.office).boxed();
    let mut present = vec![next(&mut stream).await, next(&mut stream).await];
    present.sort_by_key(|message| message.agent.as_ref().map(|agent| agent.name.clone()));
    let expected = [&analyst, &other].map(|agent| WatchAgentsResponse {
        agent: Some(wire::agent(agent, harness.runtime.sandbox())),
        deleted: false,
    });
    assert_eq!(present, expected);

    let elsewhere = harness.open_office(1).await;
    let mut request = harness.hiring("foreign");
    request.office_id = elsewhere.to_string();
    harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect("hires");

    harness.settle(analyst.id).await;
    harness.ready(analyst.id).await;
    let running = until(&mut stream, |message| phase(message) == AgentPhase::Running).await;
    assert_eq!(running.agent, Some(wire::agent(&harness.agent(analyst.id).await, harness.runtime.sandbox())));
    harness.fire("analyst", false).await;
    harness.settle(analyst.id).await;
    let gone = until(&mut stream, |message| message.deleted).await;
    assert_eq!(gone.agent.expect("the last known").id, analyst.id.to_string());

    // The next thing to be heard of is the next thing that happens, so nothing foreign was in between.
    let hired = harness.hire("late").await;
    let message = next(&mut stream).await;
    assert_eq!((message.agent, message.deleted), (Some(wire::agent(&hired, harness.runtime.sandbox())), false));
}

async fn a_watch_shows_each_of_many_agents_once(harness: Harness) {
    // More than one look reads.
    let names: Vec<String> = (0..60).map(|number| format!("agent-{number:03}")).collect();
    for name in &names {
        harness.hire(name).await;
    }
    let mut stream = watch::watch(harness.scheduler.clone(), harness.office).boxed();
    let mut shown = Vec::new();
    for _ in &names {
        shown.push(next(&mut stream).await.agent.expect("always there").name);
    }
    shown.sort();
    assert_eq!(shown, names);
    harness.hire("late").await;
    assert_eq!(next(&mut stream).await.agent.expect("always there").name, "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_another_process_is_seen_too() {
    let mut harness = Harness::on(Backend::Postgres).await;
    let mut stream = watch::watch(harness.scheduler.clone(), harness.office).boxed();
    let first = harness.hire("first").await;
    assert_eq!(next(&mut stream).await.agent, Some(wire::agent(&first, harness.runtime.sandbox())));
    let background = Tasks::new();
    background.spawn("changes-here", harness.scheduler.db.clone().exchange_changes());
    harness.restart_with(harness.objects.clone()).await;
    background.spawn("changes-there", harness.scheduler.db.clone().exchange_changes());
    let hired = harness.hire("analyst").await;
    assert_eq!(next(&mut stream).await.agent, Some(wire::agent(&hired, harness.runtime.sandbox())));
}
