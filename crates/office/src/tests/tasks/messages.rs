//! Tasks to answer messages: who reads them, and what becomes of those that nobody takes up.

use std::time::Duration;

use mi_kernel::Actor;
use mi_proto::v1::{
    AddTaskNoteRequest, CancelTaskRequest, ClaimTasksRequest, CreateTaskRequest, FailTaskRequest, GetTaskRequest,
    ListTaskNotesRequest, ListTasksRequest, OfficeSettings, Task, TaskKind, TaskStatus, UpdateOfficeSettingsRequest,
    Verification, WatchTasksRequest,
};
use mi_testkit::{on_both, until};

use super::request;
use crate::tests::{
    chat::{direct, to_group},
    harness::{Harness, LONG},
};

on_both! {
    a_direct_message_is_read_by_whom_it_is_for,
    nothing_tells_others_what_came_of_a_direct_message,
    who_is_gone_leaves_no_message_to_others,
    a_message_that_nobody_takes_up_is_given_up_after_a_day,
    a_flood_of_messages_is_one_task_of_bounded_length,
}

/// What a caller gets to see of a task: by itself, in the list, in the stream, and its notes.
#[derive(Debug, PartialEq)]
struct Views {
    tasks: [Task; 3],
    notes: Vec<String>,
}

impl Harness {
    async fn notes(&self, by: &Actor, office: &str, task: &str) -> Vec<String> {
        let request = ListTaskNotesRequest {
            office_id: office.into(),
            task_id: task.into(),
            page_size: Some(200),
            page_token: String::new(),
        };
        let notes = self.tasks(by).list_task_notes(request).await.expect("lists").into_inner().notes;
        notes.into_iter().map(|note| note.body).collect()
    }

    async fn views(&self, by: &Actor, office: &str, task: &str) -> Views {
        let request = GetTaskRequest { office_id: office.into(), task_id: task.into() };
        let got = self.tasks(by).get_task(request).await.expect("there").into_inner().task.expect("always there");
        let request = ListTasksRequest { office_id: office.into(), ..Default::default() };
        let listed = self.tasks(by).list_tasks(request).await.expect("lists").into_inner().tasks;
        let listed = listed.into_iter().find(|listed| listed.id == task).expect("there");
        let request = WatchTasksRequest { office_id: office.into(), after_cursor: Some(0), task_id: task.into() };
        let mut changes = self.tasks(by).watch_tasks(request).await.expect("opens").into_inner();
        let told = tokio::time::timeout(LONG, changes.message()).await.expect("in time").expect("goes on");
        let told = told.expect("goes on").task.expect("always there");
        Views { tasks: [got, listed, told], notes: self.notes(by, office, task).await }
    }

    /// The task that waits for the agent of this name.
    async fn waiting_for(&self, office: &str, agent: &str) -> Vec<Task> {
        let request = ListTasksRequest {
            office_id: office.into(),
            assigned_agent: agent.into(),
            statuses: vec![TaskStatus::Queued.into()],
            ..Default::default()
        };
        self.tasks(&self.owner).list_tasks(request).await.expect("lists").into_inner().tasks
    }
}

async fn a_direct_message_is_read_by_whom_it_is_for(harness: Harness) {
    let office = harness.active("Work").await;
    let update = UpdateOfficeSettingsRequest {
        office_id: office.clone(),
        settings: Some(OfficeSettings { verification: Verification::Peer.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["verification".into()] }),
    };
    harness.offices(&harness.owner).update_office_settings(update).await.expect("is the owner");
    let [to, from, third] = ["to", "from", "third"].map(|name| harness.agent(&office, name, false, &[]));
    harness.say(&from, direct(&office, "to", "whispered once")).await.expect("sends");
    harness.say(&from, direct(&office, "to", "whispered twice")).await.expect("sends");
    let [waits] = harness.waiting_for(&office, "to").await.try_into().expect("one for both");
    assert!(waits.description.contains("whispered once"), "{}", waits.description);

    // Others learn that there is a message, from whom and to whom; whoever may write to a task may add to it.
    let blank = |task: &Task| Task { description: String::new(), result: String::new(), ..task.clone() };
    let expected = |task: &Task, reads: bool| {
        let seen = if reads { task.clone() } else { blank(task) };
        let notes = if reads { vec!["whispered twice".to_owned(), "added".to_owned()] } else { Vec::new() };
        Views { tasks: [seen.clone(), seen.clone(), seen], notes }
    };
    let note = AddTaskNoteRequest {
        office_id: office.clone(),
        task_id: waits.id.clone(),
        body: "added".into(),
        request_id: String::new(),
    };
    harness.tasks(&third).add_task_note(note).await.expect("adds");
    for (viewer, reads) in [(&third, false), (&from, false), (&to, true), (&harness.owner, true)] {
        assert_eq!(harness.views(viewer, &office, &waits.id).await, expected(&waits, reads), "{viewer:?}");
    }
    assert_eq!((harness.claim(&third, &office).await, harness.claim(&from, &office).await), (None, None));
    let held = harness.claim(&to, &office).await.expect("its own");
    assert_eq!((&held.id, &held.description), (&waits.id, &waits.description));
    let done = harness.complete(&to, &office, &held, "answered in a whisper").await.expect("holds");
    // Nobody is asked to judge what only one may read.
    assert_eq!((done.status(), done.result.as_str()), (TaskStatus::Done, "answered in a whisper"));
    for (viewer, reads) in [(&third, false), (&from, false), (&to, true), (&harness.owner, true)] {
        assert_eq!(harness.views(viewer, &office, &waits.id).await, expected(&done, reads), "{viewer:?}");
    }
    assert_eq!(harness.claim(&third, &office).await, None);
    // Whoever bears the name next is somebody else.
    harness.scheduler.known().members.retain(|member| member.name != "to");
    let next = harness.agent(&office, "to", false, &[]);
    assert_eq!(harness.views(&next, &office, &waits.id).await, expected(&done, false));

    // What everybody reads in the group is no secret here.
    harness.say(&harness.owner, to_group(&office, "@from spoken aloud")).await.expect("sends");
    let [aloud] = harness.waiting_for(&office, "from").await.try_into().expect("one");
    assert!(aloud.description.contains("spoken aloud"), "{}", aloud.description);
    assert_eq!(harness.views(&third, &office, &aloud.id).await.tasks, [aloud.clone(), aloud.clone(), aloud]);
}

/// A marker in every text that whoever answers a direct message can put somewhere, looked for by somebody else.
async fn nothing_tells_others_what_came_of_a_direct_message(harness: Harness) {
    const MARKER: &str = "XYZZY";
    let office = harness.active("Work").await;
    let [to, third] = ["to", "third"].map(|name| harness.agent(&office, name, false, &[]));
    let blank = |task: &Task| Task {
        description: String::new(),
        result: String::new(),
        error: String::new(),
        blocked_reason: String::new(),
        artifacts: Vec::new(),
        receipt: String::new(),
        receipt_public_key: Default::default(),
        ..task.clone()
    };
    let fail = async |task: &Task, retryable: bool, loop_detected: bool| {
        let request = FailTaskRequest {
            claim_next: None,
            office_id: office.clone(),
            task_id: task.id.clone(),
            lease_id: task.lease_id.clone(),
            error: format!("{MARKER} failed"),
            retryable,
            loop_detected,
        };
        harness.tasks(&to).fail_task(request).await.expect("holds").into_inner().task.expect("always there")
    };
    let mut ends = Vec::new();
    for end in 0..4 {
        harness.say(&harness.owner, direct(&office, "to", &format!("{MARKER} asked"))).await.expect("sends");
        let mut task = harness.claim(&to, &office).await.expect("its own");
        // What waits for it, and a whole that waits for that.
        let waits = CreateTaskRequest { depends_on: vec![task.id.clone()], ..request(&office, "waits") };
        let waits = harness.create_task(&harness.owner, waits).await.expect("creates").id;
        let part = CreateTaskRequest { parent_id: task.id.clone(), ..request(&office, "part") };
        let hangs = CreateTaskRequest { depends_on: vec![waits.clone()], ..part };
        match end {
            0 => {
                task = harness.complete(&to, &office, &task, &format!("{MARKER} done")).await.expect("holds");
                harness.done(&office, &waits).await;
            }
            1 => {
                fail(&task, true, false).await;
                task = harness.claim(&to, &office).await.expect("again");
                task = fail(&task, false, true).await;
            }
            2 => {
                let reason = format!("{MARKER} cancelled");
                let request = CancelTaskRequest { office_id: office.clone(), task_id: task.id.clone(), reason };
                task = harness
                    .tasks(&harness.owner)
                    .cancel_task(request)
                    .await
                    .expect("open")
                    .into_inner()
                    .task
                    .expect("it");
            }
            _ => {
                let failed = CreateTaskRequest { max_attempts: Some(1), ..request(&office, "other") };
                let failed = harness.create_task(&harness.owner, failed).await.expect("creates");
                let hangs = CreateTaskRequest { depends_on: vec![failed.id.clone()], ..hangs };
                harness.create_task(&to, hangs).await.expect("creates");
                harness.cancel(&harness.owner, &office, &failed.id).await.expect("open");
                task = harness.release(&to, &office, &task).await.expect("holds");
                assert!(task.error.starts_with("no open subtask"), "{task:?}");
            }
        }
        assert_eq!(harness.views(&harness.owner, &office, &task.id).await.tasks[0], task);
        let seen = harness.views(&third, &office, &task.id).await;
        assert_eq!((&seen.tasks[0], seen.notes), (&blank(&task), Vec::new()), "{end}");
        ends.push((task.id, waits));
        // It is no longer in the way of the next one.
        if end == 3 {
            harness.cancel(&harness.owner, &office, &ends[3].0).await.expect("open");
        }
    }
    for by in [&third, &harness.owner] {
        let of_waiting = harness.views(by, &office, &ends[1].1).await;
        let reason = format!("dependency {} is failed", ends[1].0);
        assert!(of_waiting.tasks.iter().all(|task| task.blocked_reason == reason), "{of_waiting:?}");
    }
    let all = ListTasksRequest { office_id: office.clone(), page_size: Some(200), ..Default::default() };
    let all = harness.tasks(&third).list_tasks(all).await.expect("lists").into_inner().tasks;
    assert!(!format!("{all:?}").contains(MARKER), "{all:?}");
    let last = "task.cancelled";
    until("the feed has all events", LONG, async || {
        let events = harness.activity.known().events.clone();
        let count = events.iter().filter(|event| event.kind == last).count();
        let told = format!("{events:?} {:?}", harness.scheduler.known().paused);
        assert!(!told.contains(MARKER), "{told}");
        // The one of the message, what failed, and the last one with its part.
        if count == 4 { Ok(Some(())) } else { Err(told) }
    })
    .await;
}

async fn who_is_gone_leaves_no_message_to_others(harness: Harness) {
    let office = harness.active("Work").await;
    let [leaver, stayer] = ["leaver", "stayer"].map(|name| harness.agent(&office, name, false, &[]));
    let mut ids = Vec::new();
    for to in ["leaver", "stayer"] {
        harness.say(&harness.owner, direct(&office, to, "only for you")).await.expect("sends");
        ids.push(harness.waiting_for(&office, to).await.pop().expect("one").id);
    }
    // Also one that is being answered then.
    harness.say(&stayer, direct(&office, "leaver", "and this")).await.expect("sends");
    let held = harness.claim(&leaver, &office).await.expect("one");
    let also = harness.waiting_for(&office, "leaver").await.pop().expect("another").id;
    harness.scheduler.known().members.retain(|member| member.name != "leaver");
    until("the agents were looked at", LONG, async || {
        let command = vec![TaskKind::Command.into()];
        let claim = ClaimTasksRequest { office_id: office.clone(), kinds: command, ..Default::default() };
        harness.claim_with(&stayer, claim).await.map_err(|status| status.to_string())?;
        let gone = harness.status_of(&office, &held.id).await == TaskStatus::Cancelled;
        Ok::<_, String>(gone.then_some(()))
    })
    .await;
    assert_eq!(held.id, ids[0]);
    for id in [&ids[0], &also] {
        let task = harness.task(&office, id).await;
        let end = (task.status(), task.error.as_str(), task.assigned_agent.as_str());
        assert_eq!(end, (TaskStatus::Cancelled, "the agent that was to answer is gone", "leaver"));
    }
    assert_eq!(harness.claim_all(&stayer, &office).await, ["Answer operator"]);
}

async fn a_message_that_nobody_takes_up_is_given_up_after_a_day(harness: Harness) {
    const HOUR: Duration = Duration::from_secs(3600);
    let office = harness.active("Work").await;
    let agent = harness.agent(&office, "a", false, &[]);
    let [b, c] = ["b", "c"].map(|name| harness.agent(&office, name, false, &[]));
    for from in [&harness.owner, &b] {
        harness.say(from, direct(&office, "a", "anybody there?")).await.expect("sends");
    }
    let [of_b, of_owner] = harness.waiting_for(&office, "a").await.try_into().expect("two");
    // A task that waits for long takes no more in: it will be given up soon.
    harness.pass(13 * HOUR).await;
    harness.say(&harness.owner, direct(&office, "a", "hello?")).await.expect("sends");
    let newest = harness.waiting_for(&office, "a").await.swap_remove(0);
    assert!(newest.description.contains("hello?"), "{newest:?}");
    assert_eq!(harness.notes(&harness.owner, &office, &of_owner.id).await, Vec::<String>::new());
    // Other work has no such end.
    let other = harness.new_task(&office, "other").await;
    // Taken up, it has as long again.
    harness.pass(10 * HOUR).await;
    let claims = harness
        .claim_with(&agent, ClaimTasksRequest { office_id: office.clone(), max_tasks: Some(2), ..Default::default() });
    let held = claims.await.expect("claims");
    assert_eq!(held.iter().map(|task| &task.id).collect::<Vec<_>>(), [&of_owner.id, &of_b.id]);
    harness.release(&agent, &office, &held[1]).await.expect("holds");
    harness.complete(&agent, &office, &held[0], "here I am").await.expect("holds");
    harness.say(&c, direct(&office, "b", "a day later")).await.expect("sends");
    let of_c = harness.waiting_for(&office, "b").await.pop().expect("one").id;

    harness.pass(15 * HOUR).await;
    let given_up = harness.until_task(&office, &newest.id, TaskStatus::Cancelled).await;
    assert_eq!(given_up.error, "nobody answered in time");
    for id in [&of_b.id, &of_c, &other.id] {
        assert_eq!(harness.status_of(&office, id).await, TaskStatus::Queued);
    }
    harness.pass(10 * HOUR).await;
    for id in [&of_b.id, &of_c] {
        harness.until_task(&office, id, TaskStatus::Cancelled).await;
    }
    assert_eq!(harness.claim_all(&agent, &office).await, ["other"]);
    // An operator may have it tried again, for as long.
    assert_eq!(
        harness.retry(&harness.owner, &office, &newest.id).await.expect("cancelled").status(),
        TaskStatus::Queued
    );
    harness.pass(25 * HOUR).await;
    harness.until_task(&office, &newest.id, TaskStatus::Cancelled).await;
}

async fn a_flood_of_messages_is_one_task_of_bounded_length(harness: Harness) {
    let office = harness.active("Work").await;
    harness.agent(&office, "a", false, &[]);
    for number in 0..60 {
        harness.say(&harness.owner, direct(&office, "a", &number.to_string())).await.expect("sends");
    }
    let [task] = harness.waiting_for(&office, "a").await.try_into().expect("one for all");
    let mut expected: Vec<String> = (1..50).map(|number| number.to_string()).collect();
    expected.push("There are more messages; read the chat.".into());
    assert_eq!(harness.notes(&harness.owner, &office, &task.id).await, expected);
}
