//! Messages wake whom they are for, with a task, and agents that wake each other for ever are stopped.

use mi_kernel::{Actor, event::Category};
use mi_proto::{
    internal::v1::PauseAgentRequest,
    v1::{ClaimTasksRequest, CreateTaskRequest, ListTasksRequest, SendMessageRequest, Task, TaskKind, TaskStatus},
};
use mi_testkit::{on_both, until};
use prost_types::Duration;
use serde_json::json;
use tonic::Code;

use super::{
    chat::{direct, refused, to_group},
    harness::{Harness, LONG},
};

on_both! {
    whoever_is_written_to_or_called_has_it_to_answer,
    what_is_sent_again_wakes_nobody_again,
    who_waits_for_work_is_woken_at_once,
    two_agents_that_answer_each_other_are_stopped,
    two_agents_that_answer_each_other_without_a_task_are_stopped,
    work_and_messages_at_the_same_time_do_not_wait_for_each_other,
}

/// What a test looks at of a task.
type Brief = (String, String, String, String, String, i32);

fn brief(task: &Task) -> Brief {
    let Task { title, assigned_agent, created_by, cause, depth, .. } = task.clone();
    let state = format!("{:?} {:?}", task.kind(), task.status());
    (title, assigned_agent, created_by, cause, state, depth)
}

fn expected(title: &str, agent: &str, by: &str, message: &str, depth: i32) -> Brief {
    let state = format!("{:?} {:?}", TaskKind::General, TaskStatus::Queued);
    (title.into(), agent.into(), by.into(), format!("message/{message}"), state, depth)
}

impl Harness {
    /// All tasks of the office, oldest first.
    async fn all_tasks(&self, office: &str) -> Vec<Task> {
        let request = ListTasksRequest { office_id: office.into(), page_size: Some(200), ..Default::default() };
        let mut tasks = self.tasks(&self.owner).list_tasks(request).await.expect("lists").into_inner().tasks;
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks
    }

    /// Takes the one task that waits for the agent, answers with a message, and is done with it.
    async fn answer(&self, agent: &Actor, office: &str, to: &str) -> Result<i32, tonic::Status> {
        let task = self.claim(agent, office).await.expect("there is something to answer");
        let sent = self.say(agent, direct(office, to, "no, thank you!")).await?;
        assert_eq!((sent.cause.as_str(), sent.depth), (format!("task/{}", task.id).as_str(), task.depth + 1));
        self.complete(agent, office, &task, "answered").await.expect("completes");
        Ok(sent.depth)
    }
}

async fn whoever_is_written_to_or_called_has_it_to_answer(harness: Harness) {
    let office = harness.active("One").await;
    let [a, b] = ["a", "b"].map(|name| harness.agent(&office, name, false, &[]));
    let first = harness.say(&harness.owner, direct(&office, "a", "Please look.")).await.expect("sends");
    let tasks = harness.all_tasks(&office).await;
    assert_eq!(
        tasks.iter().map(brief).collect::<Vec<_>>(),
        [expected("Answer operator", "a", "operator", &first.id, 1)]
    );
    assert!(tasks[0].description.contains("Please look."), "{}", tasks[0].description);

    // Nobody is called by an address or in a message that is not for everybody, and nobody calls itself.
    let second = harness.say(&a, to_group(&office, "@A asks: who knows eve@b or @b? @ghost?")).await.expect("sends");
    harness.say(&b, to_group(&office, "nobody, says @b")).await.expect("sends");
    harness.say(&a, direct(&office, "operator", "@b does not read this")).await.expect("sends");
    let tasks = harness.all_tasks(&office).await;
    assert_eq!(
        tasks[1..].iter().map(brief).collect::<Vec<_>>(),
        [expected("Answer a in the group", "b", "a", &second.id, 2)]
    );
    assert!(harness.claim(&a, &office).await.is_some_and(|task| task.id == tasks[0].id));
    // What an agent writes while it works is for that.
    let reply = harness.say(&a, direct(&office, "b", "done")).await.expect("sends");
    assert_eq!((reply.cause, reply.depth), (format!("task/{}", tasks[0].id), 2));
    let last = harness.all_tasks(&office).await.pop().expect("one more");
    assert_eq!(brief(&last), expected("Answer a", "b", "a", &reply.id, 3));
}

async fn what_is_sent_again_wakes_nobody_again(harness: Harness) {
    let office = harness.active("One").await;
    let agent = harness.agent(&office, "a", false, &[]);
    let request = SendMessageRequest { request_id: "once".into(), ..direct(&office, "a", "first") };
    harness.say(&harness.owner, request.clone()).await.expect("sends");
    let task = harness.claim(&agent, &office).await.expect("woken");
    harness.complete(&agent, &office, &task, "answered").await.expect("completes");
    harness.say(&harness.owner, request).await.expect("again");
    assert_eq!(harness.claim(&agent, &office).await, None);
    // What cannot be sent wakes nobody either.
    harness.say(&harness.owner, direct(&office, "a", " ")).await.expect_err("blank");
    assert_eq!(harness.all_tasks(&office).await.len(), 1);
}

async fn who_waits_for_work_is_woken_at_once(harness: Harness) {
    let office = harness.active("One").await;
    let agent = harness.agent(&office, "a", false, &[]);
    let wait = Some(Duration { seconds: 20, nanos: 0 });
    let request = ClaimTasksRequest { office_id: office.clone(), wait, ..Default::default() };
    let begun = std::time::Instant::now();
    let sending = async {
        // Until it waits, or it had nothing to wait for.
        tokio::task::yield_now().await;
        harness.say(&harness.owner, direct(&office, "a", "hello")).await.expect("sends")
    };
    let (claimed, sent) = tokio::join!(harness.claim_with(&agent, request), sending);
    let claimed = claimed.expect("claims");
    assert_eq!(claimed.iter().map(|task| task.cause.clone()).collect::<Vec<_>>(), [format!("message/{}", sent.id)]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

async fn two_agents_that_answer_each_other_are_stopped(harness: Harness) {
    let office = harness.active("One").await;
    let [a, b] = ["a", "b"].map(|name| harness.agent(&office, name, false, &[]));
    harness.say(&harness.owner, direct(&office, "a", "Say hello to b.")).await.expect("sends");
    let mut depths = Vec::new();
    let refusal = loop {
        let (agent, other) = if depths.len() % 2 == 0 { (&a, "b") } else { (&b, "a") };
        match harness.answer(agent, &office, other).await {
            Ok(depth) => depths.push(depth),
            Err(status) => break status,
        }
    };
    assert_eq!(depths, [2, 4, 6, 8, 10, 12, 14]);
    assert_eq!(refused(&refusal), (Code::FailedPrecondition, "LOOP_DETECTED".into(), None));
    let text = "17 causes lead from here back to an operator, and 16 may";
    assert_eq!(refusal.message(), format!("{text}; agent \"b\" is paused until an operator starts it"));

    let paused = until("the agent is paused", LONG, async || {
        let paused = harness.scheduler.known().paused.clone();
        if paused.is_empty() { Err("nobody") } else { Ok(Some(paused)) }
    })
    .await;
    let [PauseAgentRequest { office_id, agent, reason, message, .. }] = &paused[..] else { panic!("{paused:?}") };
    assert_eq!([office_id, agent, reason, message], [office.as_str(), "b", "LOOP_DETECTED", text]);
    let told = until("the feed has it", LONG, async || {
        let events = harness.activity.known().events.clone();
        let told: Vec<_> = events.into_iter().filter(|event| event.kind == "loop.detected").collect();
        if told.is_empty() { Err("not yet") } else { Ok(Some(told)) }
    })
    .await;
    let [event] = &told[..] else { panic!("{told:?}") };
    let held = harness.all_tasks(&office).await.pop().expect("the last one");
    assert_eq!((event.agent.as_str(), event.category), ("b", Category::Security));
    assert_eq!(event.summary, format!("Loop detected: agent \"b\" wrote a message, and {text}"));
    assert_eq!(event.metadata, json!({ "cause": format!("task/{}", held.id), "depth": 17 }));

    // The message was not sent; what wakes nobody still may be.
    let said = harness.say(&b, to_group(&office, "I give up.")).await.expect("sends");
    assert_eq!(said.depth, 16);
    assert_eq!(harness.all_tasks(&office).await.len(), 8);
}

async fn two_agents_that_answer_each_other_without_a_task_are_stopped(harness: Harness) {
    let office = harness.active("One").await;
    let [a, b] = ["a", "b"].map(|name| harness.agent(&office, name, false, &[]));
    // By turns directly and by name.
    let message = |round: usize| match (round % 2, round % 3) {
        (0, 0) => (&a, to_group(&office, "no, thank you, @b!")),
        (0, _) => (&a, direct(&office, "b", "no, thank you!")),
        (_, 0) => (&b, to_group(&office, "no, thank you, @a!")),
        (..) => (&b, direct(&office, "a", "no, thank you!")),
    };
    let (mut cause, mut rounds) = (String::new(), 0);
    let refusal = loop {
        let (from, request) = message(rounds);
        match harness.say(from, request).await {
            Ok(sent) => {
                assert_eq!((sent.cause, sent.depth), (cause, i32::try_from(rounds).expect("few")));
                (cause, rounds) = (format!("message/{}", sent.id), rounds + 1);
            }
            Err(status) => break status,
        }
    };
    assert_eq!(rounds, 16);
    assert_eq!(refused(&refusal), (Code::FailedPrecondition, "LOOP_DETECTED".into(), None));
    let paused = until("the agent is paused", LONG, async || {
        let paused = harness.scheduler.known().paused.clone();
        if paused.is_empty() { Err("nobody") } else { Ok(Some(paused)) }
    })
    .await;
    assert_eq!(paused.iter().map(|paused| paused.agent.as_str()).collect::<Vec<_>>(), ["a"]);

    // Tasks are no way around it.
    let new = CreateTaskRequest { office_id: office.clone(), title: "do it for me".into(), ..Default::default() };
    let task = harness.tasks(&a).create_task(new.clone()).await.expect("creates").into_inner().task.expect("there");
    assert_eq!((task.cause, task.depth), (cause, 16));
    // What an operator says begins anew, for whom it reaches.
    let word = harness.say(&harness.owner, direct(&office, "a", "Now tell b.")).await.expect("sends");
    let sent = harness.say(&a, direct(&office, "b", "I was to tell you.")).await.expect("sends");
    assert_eq!((sent.cause, sent.depth), (format!("message/{}", word.id), 1));
    // Who is not written to for a while does not answer anybody.
    harness.clock.advance(std::time::Duration::from_secs(599));
    let answer = harness.say(&b, direct(&office, "operator", "a told me")).await.expect("sends");
    assert_eq!((answer.cause, answer.depth), (format!("message/{}", sent.id), 2));
    harness.clock.advance(std::time::Duration::from_secs(1));
    let later = harness.say(&b, direct(&office, "a", "by the way")).await.expect("sends");
    assert_eq!((later.cause.as_str(), later.depth), ("", 0));
    // What it works on comes before what it was told.
    let held = harness.claim(&b, &office).await.expect("one");
    let sent = harness.say(&b, to_group(&office, "at it")).await.expect("sends");
    assert_eq!((sent.cause, sent.depth), (format!("task/{}", held.id), held.depth + 1));
}

/// Both take two locks; were they to take them in different orders, one of them would fail now and then.
async fn work_and_messages_at_the_same_time_do_not_wait_for_each_other(harness: Harness) {
    let office = harness.active("One").await;
    let agents = ["a", "b", "c"].map(|name| harness.agent(&office, name, false, &[]));
    // They listen: agents that answer each other would be stopped.
    let _ = ["d", "e", "f"].map(|name| harness.agent(&office, name, false, &[]));
    let operator = async {
        for number in 0..30 {
            let text = format!("@a @b @c {number}");
            harness.say(&harness.owner, to_group(&office, &text)).await.expect("sends");
        }
    };
    let working = futures::future::join_all(agents.iter().map(async |agent| {
        for number in 0..30 {
            harness.say(agent, to_group(&office, &format!("{number} @d @e @f"))).await.expect("sends");
            if let Some(task) = harness.claim(agent, &office).await {
                harness.complete(agent, &office, &task, "answered").await.expect("completes");
            }
        }
    }));
    tokio::join!(operator, working);
    assert_eq!(harness.chat_rows(&office).await, [1, 120]);
}
