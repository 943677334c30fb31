//! Agents that come, go and change while there is work for them.

use mi_kernel::Actor;
use mi_proto::{
    internal::v1::Ability,
    v1::{CreateTaskRequest, ListTasksRequest, TaskKind, TaskStatus},
};
use mi_testkit::{on_both, until};
use tonic::Code;

use super::{assert_refused, request};
use crate::tests::{
    harness::{Harness, LONG},
    peer::Mood,
};

on_both! {
    what_a_fired_agent_had_is_there_for_others,
    an_agent_that_is_paused_takes_no_work,
    work_waits_for_somebody_with_the_tools,
    who_was_hired_a_moment_ago_can_be_given_work,
    what_nobody_takes_says_why_unless_nobody_knows,
}

impl Harness {
    fn change(&self, agent: &str, change: impl Fn(&mut mi_proto::internal::v1::Member)) {
        let mut known = self.scheduler.known();
        change(known.members.iter_mut().find(|member| member.name == agent).expect("there"));
    }

    /// Has the office's agents looked at, as every claim by an agent does.
    async fn look(&self, office: &str, by: &Actor, done: impl AsyncFn() -> bool) {
        until("the agents were looked at", LONG, async || {
            let review = vec![mi_proto::v1::TaskKind::Review.into()];
            let claim =
                mi_proto::v1::ClaimTasksRequest { office_id: office.into(), kinds: review, ..Default::default() };
            self.claim_with(by, claim).await.map_err(|status| status.to_string())?;
            Ok::<_, String>(done().await.then_some(()))
        })
        .await;
    }
}

async fn what_a_fired_agent_had_is_there_for_others(harness: Harness) {
    let office = harness.active("Work").await;
    let (leaver, stayer) = (harness.agent(&office, "leaver", false, &[]), harness.agent(&office, "stayer", false, &[]));
    let assigned = async |title: &str, agent: &str| {
        let request = CreateTaskRequest { assigned_agent: agent.into(), ..request(&office, title) };
        harness.create_task(&harness.owner, request).await.expect("creates")
    };
    let held = assigned("held", "leaver").await;
    let held = (held.id, harness.claim(&leaver, &office).await.expect("one"));
    let kept = assigned("kept", "leaver").await;
    let other = assigned("other", "stayer").await;
    harness.scheduler.known().members.retain(|member| member.name != "leaver");
    harness.look(&office, &stayer, async || harness.status_of(&office, &held.0).await == TaskStatus::Queued).await;
    let mut seen = Vec::new();
    for id in [&held.0, &kept.id, &other.id] {
        let task = harness.task(&office, id).await;
        seen.push((task.status(), task.attempt, task.assigned_agent));
    }
    assert_eq!(
        seen,
        [
            (TaskStatus::Queued, 1, String::new()),
            (TaskStatus::Queued, 0, String::new()),
            (TaskStatus::Queued, 0, "stayer".to_owned())
        ]
    );
    assert_refused(harness.fail(&leaver, &office, &held.1, true).await, Code::Aborted, "LEASE_LOST");
    let late = harness.complete(&leaver, &office, &held.1, "late").await;
    assert_refused(late, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_refused(
        harness
            .claim_with(&leaver, mi_proto::v1::ClaimTasksRequest { office_id: office.clone(), ..Default::default() })
            .await,
        Code::Unauthenticated,
        "UNAUTHENTICATED",
    );
    assert_eq!(harness.claim_all(&stayer, &office).await, ["held", "kept", "other"]);
    let to_nobody = CreateTaskRequest { assigned_agent: "leaver".into(), ..request(&office, "x") };
    assert_refused(harness.create_task(&harness.owner, to_nobody).await, Code::NotFound, "NOT_FOUND");
}

async fn an_agent_that_is_paused_takes_no_work(harness: Harness) {
    let office = harness.active("Work").await;
    let (paused, other) = (harness.agent(&office, "paused", false, &[]), harness.agent(&office, "other", false, &[]));
    let task = harness.new_task(&office, "task").await;
    let held = harness.claim(&paused, &office).await.expect("one");
    let claim = mi_proto::v1::ClaimTasksRequest { office_id: office.clone(), ..Default::default() };
    // It also waits for more, at that moment.
    let waits = mi_proto::v1::ClaimTasksRequest { wait: super::seconds(60), ..claim.clone() };
    let mut client = harness.tasks(&paused);
    let waiter = tokio::spawn(async move { client.claim_tasks(waits).await });
    harness.change("paused", |member| member.working = false);
    harness.look(&office, &other, async || harness.status_of(&office, &task.id).await == TaskStatus::Queued).await;
    assert_refused(waiter.await.expect("no panic"), Code::FailedPrecondition, "AGENT_NOT_WORKING");
    assert_refused(harness.claim_with(&paused, claim.clone()).await, Code::FailedPrecondition, "AGENT_NOT_WORKING");
    assert_refused(harness.complete(&paused, &office, &held, "late").await, Code::Aborted, "LEASE_LOST");
    // Started again, it gets it back.
    harness.change("paused", |member| member.working = true);
    let again = until("it works again", LONG, async || match harness.claim_with(&paused, claim.clone()).await {
        Ok(tasks) => Ok(tasks.into_iter().next()),
        Err(status) => Err(status.to_string()),
    })
    .await;
    assert_eq!((again.id, again.attempt), (task.id, 1));
}

async fn work_waits_for_somebody_with_the_tools(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &["saw", "nails"]);
    let needs = |title: &str, tools: &[&str]| CreateTaskRequest {
        required_tools: tools.iter().map(ToString::to_string).collect(),
        ..request(&office, title)
    };
    let build = harness.create_task(&harness.owner, needs("build", &["saw", "hammer", "saw"])).await.expect("creates");
    assert_eq!(
        (build.status(), build.blocked_reason.as_str(), build.required_tools.join(" ")),
        (TaskStatus::Blocked, "no agent has the tools hammer, saw", "hammer saw".to_owned())
    );
    // What it waits for besides is told first, and is not forgotten when that is done.
    let first = harness.new_task(&office, "first").await;
    let after = CreateTaskRequest { depends_on: vec![first.id.clone()], ..needs("after", &["hammer"]) };
    let after = harness.create_task(&harness.owner, after).await.expect("creates");
    assert_eq!(after.blocked_reason, format!("waits for task {}", first.id));
    harness.done(&office, &first.id).await;
    let after = harness.task(&office, &after.id).await;
    assert_eq!((after.status(), after.blocked_reason.as_str()), (TaskStatus::Blocked, "no agent has the tools hammer"));
    harness.change("worker", |member| member.tools.push("hammer".into()));
    harness.look(&office, &worker, async || harness.status_of(&office, &build.id).await == TaskStatus::Queued).await;
    // And taken away again.
    harness.change("worker", |member| member.tools.retain(|tool| tool != "hammer"));
    harness.look(&office, &worker, async || harness.status_of(&office, &build.id).await == TaskStatus::Blocked).await;
    let smith = harness.agent(&office, "smith", false, &["hammer"]);
    assert_eq!(harness.claim_all(&smith, &office).await, ["after"]);
    let joiner = harness.agent(&office, "joiner", false, &["hammer", "saw"]);
    assert_eq!(harness.claim_all(&joiner, &office).await, ["build"]);
}

async fn who_was_hired_a_moment_ago_can_be_given_work(harness: Harness) {
    let office = harness.active("Work").await;
    for n in 0..5 {
        // The list of agents is fresh, and without the next one.
        let name = format!("agent-{n}");
        let to = CreateTaskRequest { assigned_agent: name.clone(), ..request(&office, &name) };
        assert_refused(harness.create_task(&harness.owner, to.clone()).await, Code::NotFound, "NOT_FOUND");
        let agent = harness.agent(&office, &name, false, &[]);
        let task = harness.create_task(&harness.owner, to).await.expect("creates");
        assert_eq!(task.assigned_agent, name);
        assert_eq!(harness.claim_all(&agent, &office).await, [name]);
    }
}

async fn what_nobody_takes_says_why_unless_nobody_knows(harness: Harness) {
    let office = harness.active("Work").await;
    harness.agent(&office, "plain", true, &[]);
    harness.change("plain", |member| member.ability = Ability::Commands.into());
    let command =
        CreateTaskRequest { kind: TaskKind::Command.into(), description: "true".into(), ..request(&office, "command") };
    let kept = CreateTaskRequest { assigned_agent: "plain".into(), ..request(&office, "kept") };
    let mut ids = Vec::new();
    for new in [request(&office, "general"), command, kept] {
        ids.push(harness.create_task(&harness.owner, new).await.expect("creates").id);
    }
    let words = async || {
        let list = ListTasksRequest { office_id: office.clone(), ..Default::default() };
        let tasks = harness.tasks(&harness.owner).list_tasks(list).await.expect("lists").into_inner().tasks;
        let word = |error: &str| error.split(':').next().unwrap_or_default().to_owned();
        tasks.into_iter().rev().map(|task| word(&task.error)).collect::<Vec<_>>()
    };
    assert_eq!(words().await, ["NO_MODEL", "", "NO_MODEL"]);
    let why = harness.task(&office, &ids[2]).await.error;
    assert!(why.starts_with("NO_MODEL: agent \"plain\", which it is kept for, was started without a model"), "{why}");
    harness.change("plain", |member| member.working = false);
    until("the agent is known to be stopped", LONG, async || {
        let seen = words().await;
        if seen == ["", "", "AGENT_NOT_WORKING"] { Ok(Some(())) } else { Err(format!("{seen:?}")) }
    })
    .await;
    // Reading does not wait for a scheduler that is silent, and says what is known without it.
    harness.scheduler.be(Mood::Hangs);
    until("nobody knows any more", LONG, async || {
        let seen = words().await;
        if seen == ["", "", ""] { Ok(Some(())) } else { Err(format!("{seen:?}")) }
    })
    .await;
    harness.scheduler.be(Mood::Works);
}
