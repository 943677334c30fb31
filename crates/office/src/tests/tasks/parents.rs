//! Tasks with parts.

use mi_kernel::Actor;
use mi_proto::v1::{
    BatchCompleteTasksRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, Task, TaskStatus,
};
use mi_testkit::{on_both, until};
use tonic::Code;

use super::{assert_refused, request, seconds};
use crate::tests::harness::{Harness, LONG};

on_both! {
    a_whole_is_not_done_before_its_parts,
    a_released_whole_comes_back_to_whom_it_was_with,
    a_whole_whose_lease_ran_out_waits_for_its_parts_too,
    a_whole_is_not_given_back_for_ever,
    a_whole_is_cancelled_with_its_parts,
    an_agent_decides_on_what_it_created,
    parts_and_whole_are_reported_together,
    agents_add_parts_to_what_is_theirs,
    a_whole_comes_back_when_no_part_goes_on_by_itself,
    a_whole_is_not_handed_round_for_parts_that_hang,
    what_hangs_goes_on_when_somebody_has_it_tried_again,
}

fn part(office: &str, title: &str, of: &str) -> CreateTaskRequest {
    CreateTaskRequest { parent_id: of.into(), ..request(office, title) }
}

async fn a_whole_is_not_done_before_its_parts(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "whole").await;
    let whole = harness.claim(&worker, &office).await.expect("one");
    let one = harness.create_task(&worker, part(&office, "one", &whole.id)).await.expect("creates");
    let two = harness.create_task(&worker, part(&office, "two", &whole.id)).await.expect("creates");
    assert_eq!((one.created_by.as_str(), one.cause, one.depth), ("worker", format!("task/{}", whole.id), 1));
    let open = harness.complete(&worker, &office, &whole, "done").await;
    assert_refused(open, Code::FailedPrecondition, "SUBTASKS_OPEN");
    harness.done(&office, &one.id).await;
    let open = harness.complete(&harness.owner, &office, &whole, "done").await;
    assert_refused(open, Code::FailedPrecondition, "SUBTASKS_OPEN");
    // What was given up is not open.
    let claimed = harness.claim(&worker, &office).await.expect("two");
    harness.fail(&worker, &office, &claimed, false).await.expect("holds");
    assert_eq!(harness.status_of(&office, &two.id).await, TaskStatus::Failed);
    let done = harness.complete(&worker, &office, &whole, "done").await.expect("all parts are finished");
    assert_eq!(done.status(), TaskStatus::Done);
    let late = harness.create_task(&worker, part(&office, "late", &whole.id)).await;
    assert_refused(late, Code::FailedPrecondition, "TASK_FINISHED");
}

async fn a_released_whole_comes_back_to_whom_it_was_with(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    harness.new_task(&office, "whole").await;
    let whole = harness.claim(&worker, &office).await.expect("one");
    let one = harness.create_task(&worker, part(&office, "one", &whole.id)).await.expect("creates");
    let released = harness.release(&worker, &office, &whole).await.expect("holds");
    assert_eq!(
        (released.status(), released.blocked_reason.as_str(), released.assigned_agent.as_str(), released.attempt),
        (TaskStatus::Blocked, "waits for its subtasks", "worker", 1)
    );
    assert_eq!(harness.release(&worker, &office, &whole).await.expect("the same again"), released);
    let claimed = harness.claim(&other, &office).await.expect("the part");
    assert_eq!(claimed.id, one.id);
    harness.complete(&other, &office, &claimed, "part done").await.expect("holds");
    assert_eq!(harness.claim(&other, &office).await, None);
    let again = harness.claim(&worker, &office).await.expect("the whole");
    assert_eq!((again.id.as_str(), again.attempt), (whole.id.as_str(), 1));
    assert_refused(harness.complete(&worker, &office, &whole, "old lease").await, Code::Aborted, "LEASE_LOST");
    harness.complete(&worker, &office, &again, "done").await.expect("holds");
}

async fn a_whole_whose_lease_ran_out_waits_for_its_parts_too(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    harness.new_task(&office, "whole").await;
    let whole = harness.claim(&worker, &office).await.expect("one");
    let one = harness.create_task(&worker, part(&office, "one", &whole.id)).await.expect("creates");
    harness.pass(std::time::Duration::from_secs(31)).await;
    let waits = harness.until_task(&office, &whole.id, TaskStatus::Blocked).await;
    assert_eq!(
        (waits.blocked_reason.as_str(), waits.error.as_str(), waits.attempt, waits.assigned_agent.as_str()),
        ("waits for its subtasks", "the lease ran out", 2, "")
    );
    assert_eq!(harness.claim_all(&other, &office).await, ["one"]);
    harness.done(&office, &one.id).await;
    assert_eq!(harness.claim_all(&other, &office).await, ["whole"]);
}

async fn a_whole_is_not_given_back_for_ever(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let id = harness.new_task(&office, "whole").await.id;
    // Until it ends: how often it was given back, and how that was answered at last.
    let go_round = async || {
        for round in 0.. {
            let whole = harness.claim(&worker, &office).await.expect("the whole");
            assert_eq!(whole.id, id);
            let one = harness.create_task(&worker, part(&office, "part", &whole.id)).await.expect("creates");
            let released = harness.release(&worker, &office, &whole).await.expect("holds");
            harness.done(&office, &one.id).await;
            if released.status() != TaskStatus::Blocked {
                assert_eq!(harness.release(&worker, &office, &whole).await.expect("the same again"), released);
                return (round, released);
            }
        }
        unreachable!("the rounds have no end")
    };
    let (rounds, failed) = go_round().await;
    assert_eq!(
        (rounds, failed.status(), failed.error.as_str(), failed.attempt),
        (20, TaskStatus::Failed, "it was given back 20 times to wait for subtasks, and has open ones again", 1)
    );
    assert_eq!(harness.claim(&worker, &office).await, None);
    // A retry gives it as many again.
    harness.retry(&harness.owner, &office, &id).await.expect("failed");
    let (rounds, failed) = go_round().await;
    assert_eq!((rounds, failed.status(), failed.attempt), (20, TaskStatus::Failed, 2));
}

async fn a_whole_is_cancelled_with_its_parts(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let whole = harness.new_task(&office, "whole").await.id;
    let create = async |request| harness.create_task(&harness.owner, request).await.expect("creates").id;
    let part_id = create(part(&office, "part", &whole)).await;
    let deeper = create(part(&office, "part of the part", &part_id)).await;
    let done = create(part(&office, "done part", &whole)).await;
    harness.done(&office, &done).await;
    let waits = create(CreateTaskRequest { depends_on: vec![deeper.clone()], ..request(&office, "waits") }).await;
    assert_eq!(harness.claim_all(&worker, &office).await, ["whole", "part", "part of the part"]);
    let cancelled = harness.cancel(&harness.owner, &office, &whole).await.expect("open");
    assert_eq!(harness.cancel(&harness.owner, &office, &whole).await.expect("the same again"), cancelled);
    let tasks = [&whole, &part_id, &deeper, &done, &waits];
    let mut seen = Vec::new();
    for id in tasks {
        let task = harness.task(&office, id).await;
        seen.push((task.status(), task.error));
    }
    assert_eq!(
        seen,
        [
            (TaskStatus::Cancelled, "no use".to_owned()),
            (TaskStatus::Cancelled, format!("a part of task {whole}, which was cancelled")),
            (TaskStatus::Cancelled, format!("a part of task {whole}, which was cancelled")),
            (TaskStatus::Done, String::new()),
            (TaskStatus::Blocked, String::new()),
        ]
    );
    assert_refused(harness.cancel(&harness.owner, &office, &done).await, Code::FailedPrecondition, "TASK_FINISHED");
}

async fn an_agent_decides_on_what_it_created(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    let own = harness.create_task(&worker, request(&office, "own")).await.expect("creates").id;
    let foreign = harness.new_task(&office, "foreign").await.id;
    for id in [&own, &foreign] {
        assert_refused(harness.cancel(&other, &office, id).await, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    assert_refused(harness.cancel(&worker, &office, &foreign).await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(harness.cancel(&worker, &office, &own).await.expect("its own").status(), TaskStatus::Cancelled);
    assert_refused(harness.retry(&other, &office, &own).await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(harness.retry(&worker, &office, &own).await.expect("its own").status(), TaskStatus::Queued);
    assert_refused(harness.retry(&worker, &office, &own).await, Code::FailedPrecondition, "TASK_STATE");
}

async fn parts_and_whole_are_reported_together(harness: Harness) {
    let office = harness.active("Work").await;
    let whole = harness.new_task(&office, "whole").await.id;
    let parts = (0..300).map(|n| part("", &format!("part {n}"), &whole)).collect();
    let parts: Vec<String> =
        harness.batch(&office, parts).await.expect("creates").into_iter().map(|task| task.id).collect();
    let report = async |ids: &[&String]| -> Vec<String> {
        let requests = ids.iter().map(|id| CompleteTaskRequest {
            task_id: (*id).clone(),
            result: "ok".into(),
            ..Default::default()
        });
        let batch =
            BatchCompleteTasksRequest { claim_next: None, office_id: office.clone(), requests: requests.collect() };
        let answer = harness.tasks(&harness.owner).batch_complete_tasks(batch).await.expect("answers").into_inner();
        answer.results.into_iter().map(|result| result.reason).collect()
    };
    // The first open one is finished before the whole is looked at, and so are all but the last.
    let (last, others) = parts.split_last().expect("three hundred");
    let ids: Vec<&String> = others.iter().chain([&whole]).collect();
    let mut expected = vec![String::new(); others.len()];
    expected.push("SUBTASKS_OPEN".into());
    assert_eq!(report(&ids).await, expected);
    assert_eq!(report(&[last, &whole]).await, ["", ""]);
    assert_eq!(harness.status_of(&office, &whole).await, TaskStatus::Done);
}

async fn agents_add_parts_to_what_is_theirs(harness: Harness) {
    let office = harness.active("Work").await;
    let (worker, other) = (harness.agent(&office, "worker", false, &[]), harness.agent(&office, "other", false, &[]));
    harness.new_task(&office, "whole").await;
    let whole = harness.claim(&worker, &office).await.expect("one");
    let denied = harness.create_task(&other, part(&office, "stray", &whole.id)).await;
    assert_refused(denied, Code::PermissionDenied, "PERMISSION_DENIED");
    let own = harness.create_task(&worker, part(&office, "own", &whole.id)).await.expect("works on it");
    let deeper = harness.create_task(&worker, part(&office, "deeper", &own.id)).await.expect("created it");
    assert_eq!(harness.claim(&other, &office).await.expect("one").id, own.id);
    let theirs = harness.create_task(&other, part(&office, "theirs", &own.id)).await.expect("works on it");
    let denied = harness.create_task(&other, part(&office, "stray", &deeper.id)).await;
    assert_refused(denied, Code::PermissionDenied, "PERMISSION_DENIED");
    let any = harness.create_task(&harness.owner, part(&office, "any", &deeper.id)).await.expect("an operator");
    assert_eq!((theirs.parent_id, any.parent_id), (own.id, deeper.id));
}

/// A whole that its worker gave back, with parts one after the other: the first one is held by `other`.
async fn given_back(harness: &Harness, office: &str, worker: &Actor, other: &Actor) -> (Task, [Task; 3], Task) {
    harness.new_task(office, "whole").await;
    let whole = harness.claim(worker, office).await.expect("the whole");
    let after =
        |title: &str, on: &str| CreateTaskRequest { depends_on: vec![on.to_owned()], ..part(office, title, &whole.id) };
    let one = CreateTaskRequest { max_attempts: Some(1), ..part(office, "one", &whole.id) };
    let one = harness.create_task(worker, one).await.expect("creates");
    let two = harness.create_task(worker, after("two", &one.id)).await.expect("creates");
    let three = harness.create_task(worker, after("three", &two.id)).await.expect("creates");
    let released = harness.release(worker, office, &whole).await.expect("holds");
    assert_eq!(released.blocked_reason, "waits for its subtasks");
    let held = harness.claim(other, office).await.expect("the first part");
    assert_eq!(held.id, one.id);
    (whole, [one, two, three], held)
}

async fn a_whole_comes_back_when_no_part_goes_on_by_itself(harness: Harness) {
    let office = harness.active("Work").await;
    let [worker, other] = ["worker", "other"].map(|name| harness.agent(&office, name, false, &[]));
    let (whole, [one, two, three], held) = given_back(&harness, &office, &worker, &other).await;
    let waits = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let mut client = harness.tasks(&worker);
    let waiter = tokio::spawn(async move { client.claim_tasks(waits).await });
    // It has no attempt left.
    harness.fail(&other, &office, &held, true).await.expect("holds");
    let back = waiter.await.expect("no panic").expect("claims").into_inner().tasks.pop().expect("the whole");
    let reason = format!("dependency {} is failed: it broke", one.id);
    let why = format!("no open subtask goes on by itself; subtask {}: {reason}", two.id);
    assert_eq!((&back.id, back.error.as_str(), back.attempt), (&whole.id, why.as_str(), 1));
    let [second, third] = [harness.task(&office, &two.id).await, harness.task(&office, &three.id).await];
    assert_eq!((second.blocked_reason, second.hangs_on_task_id), (reason, one.id.clone()));
    let third_waits = format!("waits for task {}, which hangs on task {}", two.id, one.id);
    assert_eq!((third.blocked_reason, third.hangs_on_task_id), (third_waits, one.id.clone()));
    let kinds = async || {
        let events = harness.activity.known().events.clone();
        let of_whole = events.into_iter().filter(|event| event.metadata["task_id"] == whole.id.as_str());
        of_whole.map(|event| (event.kind, event.summary)).collect::<Vec<_>>()
    };
    until("the feed tells", LONG, async || {
        let told = kinds().await;
        let stalled = format!("Task \"whole\" goes back to its worker: {why}");
        if told.contains(&("task.stalled".to_owned(), stalled)) { Ok(Some(())) } else { Err(format!("{told:?}")) }
    })
    .await;
    // Done as long as something is open it is not; who cannot have it tried again gives it up, or does it in another way.
    let open = harness.complete(&worker, &office, &back, "done").await.expect_err("is refused");
    assert!(open.message().contains("does not go on by itself"), "{open:?}");
    for id in [&two.id, &three.id] {
        harness.cancel(&worker, &office, id).await.expect("created it");
    }
    let done = harness.complete(&worker, &office, &back, "done").await.expect("holds");
    assert_eq!((done.status(), done.error.as_str()), (TaskStatus::Done, ""));
}

async fn a_whole_is_not_handed_round_for_parts_that_hang(harness: Harness) {
    let office = harness.active("Work").await;
    let [worker, other] = ["worker", "other"].map(|name| harness.agent(&office, name, false, &[]));
    let (whole, _, held) = given_back(&harness, &office, &worker, &other).await;
    harness.fail(&other, &office, &held, false).await.expect("holds");
    for round in 1..=20 {
        let back = harness.claim(&worker, &office).await.expect("the whole");
        assert!(back.error.starts_with("no open subtask goes on by itself"), "{back:?}");
        let given = harness.release(&worker, &office, &back).await.expect("holds");
        let expected = if round < 20 { TaskStatus::Queued } else { TaskStatus::Failed };
        assert_eq!((&given.id, given.status()), (&whole.id, expected), "{round}");
    }
    let failed = harness.task(&office, &whole.id).await;
    assert_eq!(failed.error, "it was given back 20 times to wait for subtasks, and has open ones again");
}

async fn what_hangs_goes_on_when_somebody_has_it_tried_again(harness: Harness) {
    let office = harness.active("Work").await;
    let [worker, other] = ["worker", "other"].map(|name| harness.agent(&office, name, false, &[]));
    let (whole, [one, two, three], held) = given_back(&harness, &office, &worker, &other).await;
    harness.fail(&other, &office, &held, false).await.expect("holds");
    assert_eq!(harness.status_of(&office, &whole.id).await, TaskStatus::Queued);
    harness.retry(&harness.owner, &office, &one.id).await.expect("failed");
    let waits = harness.task(&office, &whole.id).await;
    let seen = (waits.status(), waits.blocked_reason.as_str(), waits.error.as_str());
    assert_eq!(seen, (TaskStatus::Blocked, "waits for its subtasks", ""));
    for part in [&one, &two, &three] {
        assert_eq!(harness.task(&office, &part.id).await.hangs_on_task_id, "");
        harness.done(&office, &part.id).await;
    }
    let back = harness.claim(&worker, &office).await.expect("the whole");
    assert_eq!((&back.id, back.error.as_str()), (&whole.id, ""));
}
