//! Commands of operators: who may have one run, where, and how many at a time.

use std::sync::Arc;

use futures::FutureExt;
use mi_kernel::{AgentId, Error, ErrorKind, ExecId, InstanceId, OfficeId, Result};
use mi_proto::v1::{ExecStart, Terminal};
use mi_testkit::{Backend, OnBackend, on_both, until};
use tokio::sync::mpsc::error::TryRecvError;

use super::harness::{Harness, LONG, TRACE, actor_of, counts, free_hiring, instance_of};
use crate::{
    agents::Agent,
    exec::{End, Execs, Recorded, Told, see_through},
};

on_both! {
    only_a_running_agent_of_the_callers_own_runs_commands,
    a_command_ends_with_the_instance_that_it_runs_in,
    a_command_whose_client_leaves_while_it_starts_has_an_end_too,
}

fn start(harness: &Harness, name: &str) -> ExecStart {
    let command = vec!["ls".to_owned()];
    ExecStart { office_id: harness.office.to_string(), name: name.into(), command, ..ExecStart::default() }
}

async fn tell(harness: &Harness, start: &ExecStart) -> Result<(Agent, Told)> {
    harness.scheduler.tell(&harness.owner("ExecAgent"), start).await
}

async fn refused(harness: &Harness, start: &ExecStart) -> (ErrorKind, &'static str, String) {
    match tell(harness, start).await {
        Err(Error { kind, reason, message, .. }) => (kind, reason, message),
        Ok(_) => panic!("was taken"),
    }
}

async fn only_a_running_agent_of_the_callers_own_runs_commands(harness: Harness) {
    let agent = harness.hire("worker").await;
    let start = start(&harness, "worker");
    let not_running = |phase: &str| {
        let text = format!("agent \"worker\" is {phase}; a command needs it running");
        (ErrorKind::FailedPrecondition, "AGENT_NOT_RUNNING", text)
    };
    assert_eq!(refused(&harness, &start).await, not_running("pending"));
    harness.settle(agent.id).await;
    let running = harness.ready(agent.id).await;
    let (kind, reason, text) = refused(&harness, &start).await;
    assert_eq!((kind, reason), (ErrorKind::Unavailable, "UNAVAILABLE"), "it has no session here");
    assert!(text.contains("nothing was run"), "{text}");

    let (_open, mut commands) = harness.scheduler.execs.open(agent.id, instance_of(&running));
    let (_, told) = tell(&harness, &start).await.expect("told");
    assert_eq!(commands.try_recv().ok(), Some(told.id()));
    let strange = |start: &ExecStart| {
        let stranger = harness.stranger("ExecAgent");
        let (harness, start) = (&harness, start.clone());
        async move { harness.scheduler.tell(&stranger, &start).await.map(drop).expect_err("foreign") }
    };
    let foreign = strange(&start).await;
    assert_eq!((foreign.kind, foreign.resource.map(|it| it.0)), (ErrorKind::NotFound, Some("office")));
    // Foreign comes first, whatever else is wrong with the call.
    let worse = ExecStart { name: String::new(), command: Vec::new(), ..start.clone() };
    assert_eq!(strange(&worse).await.resource.map(|it| it.0), Some("office"));
    let member = harness.scheduler.tell(&harness.member(&running, "ExecAgent"), &start).await.map(drop);
    assert_eq!(member.expect_err("an agent").kind, ErrorKind::PermissionDenied);

    let nobody = ExecStart { name: "nobody".into(), ..start.clone() };
    assert_eq!(refused(&harness, &nobody).await.0, ErrorKind::NotFound);
    for (bad, field) in [
        (ExecStart { command: Vec::new(), ..start.clone() }, "start.command"),
        (ExecStart { terminal: Some(Terminal::default()), ..start.clone() }, "start.terminal.size"),
        (ExecStart { name: String::new(), ..start.clone() }, "start.name"),
    ] {
        assert_eq!(tell(&harness, &bad).await.map(drop).expect_err("bad").field, Some(field));
    }
    harness.apply(harness.office, 2, false, free_hiring()).await;
    assert_eq!(refused(&harness, &start).await.1, "OFFICE_NOT_ACTIVE");
    harness.apply(harness.office, 3, true, free_hiring()).await;
    assert!(commands.try_recv().is_err(), "nothing that was refused was told of");
}

async fn a_command_ends_with_the_instance_that_it_runs_in(harness: Harness) {
    let office = harness.office.to_string();
    let execs = &harness.scheduler.execs;
    for (name, end) in [("stopped", "StopAgent"), ("restarted", "RestartAgent"), ("fired", "FireAgent")] {
        let agent = harness.running(name).await;
        let other = harness.running(&format!("not-{name}")).await;
        let (_open, _commands) = execs.open(agent.id, instance_of(&agent));
        let (_other_open, _other_commands) = execs.open(other.id, instance_of(&other));
        let (_, told) = tell(&harness, &start(&harness, name)).await.expect("told");
        let (_, other) = tell(&harness, &start(&harness, &other.name)).await.expect("told");
        // What does not touch its instance does not touch it.
        harness.scheduler.heartbeat(&actor_of(&agent), instance_of(&agent)).await.expect("alive");
        assert!(!told.is_over());
        let caller = harness.owner(end);
        let done = match end {
            "StopAgent" => harness.scheduler.stop(&caller, &office, name).await,
            "RestartAgent" => harness.scheduler.restart(&caller, &office, name).await,
            _ => harness.scheduler.fire(&caller, harness.firing(name, false)).await,
        };
        done.expect(end);
        harness.settle(agent.id).await;
        assert!(told.is_over(), "{name}");
        assert!(!other.is_over(), "another one goes on");
    }
    // A session that is over, or that is followed by another.
    let agent = harness.running("lost").await;
    let instance = instance_of(&agent);
    let (open, _commands) = execs.open(agent.id, instance);
    let (_, first) = tell(&harness, &start(&harness, "lost")).await.expect("told");
    let (again, _commands) = execs.open(agent.id, instance);
    assert!(first.is_over());
    drop(open);
    let (_, second) = tell(&harness, &start(&harness, "lost")).await.expect("the newer session is still there");
    // A late call of an instance that was replaced takes nothing from the wanted one.
    let (late, mut orders) = execs.open(agent.id, InstanceId::new());
    let (_, third) = tell(&harness, &start(&harness, "lost")).await.expect("the wanted one's session is still there");
    assert_eq!(orders.try_recv(), Err(TryRecvError::Empty));
    execs.keep(&agent);
    assert_eq!(orders.try_recv(), Err(TryRecvError::Disconnected));
    drop(late);
    assert!(!second.is_over() && !third.is_over());
    drop(again);
    assert!(second.is_over() && third.is_over());
    assert_eq!(refused(&harness, &start(&harness, "lost")).await.0, ErrorKind::Unavailable);
}

async fn a_command_whose_client_leaves_while_it_starts_has_an_end_too(harness: Harness) {
    let recorded = Recorded {
        agent: harness.hire("worker").await,
        id: ExecId::new(),
        by: harness.owner("ExecAgent").actor,
        command: vec!["ls".to_owned()],
        terminal: false,
        trace_id: TRACE.into(),
    };
    let before = harness.event_counts("worker").await;
    let call = see_through(harness.scheduler.clone(), recorded, |_| async { End::Left });
    // The call is dropped while the start is being recorded.
    drop(call.now_or_never());
    until("the start and the end are in the feed", LONG, async || {
        let mut events = harness.event_counts("worker").await;
        events.retain(|kind, _| !before.contains_key(kind));
        let both = counts([("agent.exec_started", 1), ("agent.exec_ended", 1)]);
        if events == both { Ok(Some(())) } else { Err(format!("{events:?}")) }
    })
    .await;
}

#[tokio::test]
async fn there_are_no_more_at_a_time_than_an_agent_and_an_office_may_have() {
    let harness = Harness::on(Backend::Sqlite).await;
    let template = harness.running("template").await;
    let execs = Arc::new(Execs::default());
    let office = OfficeId::new();
    let mut open = Vec::new();
    let mut session = |office| {
        let (agent, instance) =
            (Agent { id: AgentId::new(), office_id: office, ..template.clone() }, InstanceId::new());
        open.push(execs.open(agent.id, instance));
        (agent, instance)
    };
    let full = |agent: &Agent, instance| match execs.tell(agent, instance).map(drop) {
        Err(error) => (error.reason, error.retry_after.is_some(), error.message),
        Ok(()) => panic!("there was room"),
    };
    let mut told = Vec::new();
    for _ in 0..4 {
        let (agent, instance) = session(office);
        for _ in 0..8 {
            told.push((agent.id, execs.tell(&agent, instance).expect("room")));
        }
        let (reason, later, text) = full(&agent, instance);
        assert_eq!((reason, later), ("TOO_MANY_EXECS", true));
        assert!(text.starts_with("8 commands run in this agent already"), "{text}");
    }
    let (fifth, instance) = session(office);
    assert!(full(&fifth, instance).2.starts_with("32 commands run in this office already"));
    let (neighbour, theirs) = session(OfficeId::new());
    execs.tell(&neighbour, theirs).map(drop).expect("another office has room of its own");
    // Each is there for the agent that was told of it, once; and a place comes free with its end.
    let (agent, first) = told.pop().expect("some");
    assert!(execs.take(fifth.id, first.id()).is_err() && execs.take(agent, ExecId::new()).is_err());
    drop(execs.take(agent, first.id()).expect("its own"));
    let error = execs.take(agent, first.id()).map(drop).expect_err("taken");
    assert_eq!(error.resource.map(|it| it.0), Some("exec"));
    drop(first);
    execs.tell(&fifth, instance).map(drop).expect("room again");
}
