//! What does not fit is refused, with the name of the field.

use mi_proto::v1::{
    CancelTaskRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, FailTaskRequest, GetTaskRequest,
    ListTasksRequest, RenewLeaseRequest, VerifyTaskRequest,
};
use mi_testkit::on_both;
use prost_types::Duration;
use tonic::Code;

use super::{assert_refused, field, request};
use crate::tests::harness::Harness;

on_both! {
    what_cannot_be_created,
    what_cannot_be_claimed,
    what_cannot_be_reported,
    texts_stay_as_they_are,
    another_s_office_is_not_there,
}

const TEXT: usize = 256 << 10;

async fn what_cannot_be_created(harness: Harness) {
    let office = harness.active("Work").await;
    let make = || request(&office, "title");
    let long = |count: usize| "é".repeat(count);
    let command = mi_proto::v1::TaskKind::Command.into();
    let tools = |count: usize| (0..count).map(|n| format!("tool-{n}")).collect::<Vec<_>>();
    let cases = [
        ("office_id", CreateTaskRequest { office_id: "nonsense".into(), ..make() }),
        ("office_id", CreateTaskRequest { office_id: String::new(), ..make() }),
        ("title", request(&office, "")),
        ("title", request(&office, " \t ")),
        ("title", request(&office, "a\0b")),
        ("title", request(&office, "two\nlines")),
        ("title", request(&office, &long(201))),
        ("description", CreateTaskRequest { description: "x".repeat(TEXT + 1), ..make() }),
        ("description", CreateTaskRequest { description: "a\0b".into(), ..make() }),
        ("description", CreateTaskRequest { kind: command, ..make() }),
        ("description", CreateTaskRequest { kind: command, description: " \n".into(), ..make() }),
        ("kind", CreateTaskRequest { kind: 6, ..make() }),
        ("kind", CreateTaskRequest { kind: -1, ..make() }),
        ("priority", CreateTaskRequest { priority: Some(-1), ..make() }),
        ("priority", CreateTaskRequest { priority: Some(101), ..make() }),
        ("priority", CreateTaskRequest { priority: Some(i32::MAX), ..make() }),
        ("max_attempts", CreateTaskRequest { max_attempts: Some(0), ..make() }),
        ("max_attempts", CreateTaskRequest { max_attempts: Some(-3), ..make() }),
        ("max_attempts", CreateTaskRequest { max_attempts: Some(101), ..make() }),
        ("required_tools", CreateTaskRequest { required_tools: tools(33), ..make() }),
        ("required_tools", CreateTaskRequest { required_tools: vec![String::new()], ..make() }),
        ("required_tools", CreateTaskRequest { required_tools: vec!["x".repeat(65)], ..make() }),
        ("required_tools", CreateTaskRequest { required_tools: vec!["a\0b".into()], ..make() }),
        ("required_tools", CreateTaskRequest { required_tools: vec!["a b".into()], ..make() }),
        ("request_id", CreateTaskRequest { request_id: "x".repeat(129), ..make() }),
        ("depends_on", CreateTaskRequest { depends_on: vec![String::new()], ..make() }),
        ("parent_id", CreateTaskRequest { parent_id: "\0".into(), ..make() }),
    ];
    for (expected, wrong) in cases {
        let shown = format!("{wrong:.300?}");
        assert_eq!(field(harness.create_task(&harness.owner, wrong.clone()).await), expected, "{shown}");
        // One that is wrong spoils the batch, in the same words.
        if expected != "office_id" {
            assert_eq!(field(harness.batch(&office, vec![make(), wrong]).await), expected, "{shown}");
        }
    }
    // No agent has such a name.
    for wrong in ["no name", "'; DROP TABLE tasks; --", "\0", &"x".repeat(10_000)] {
        let to = CreateTaskRequest { assigned_agent: wrong.into(), ..make() };
        assert_refused(harness.create_task(&harness.owner, to).await, Code::NotFound, "NOT_FOUND");
        let list = ListTasksRequest { office_id: office.clone(), assigned_agent: wrong.into(), ..Default::default() };
        assert_refused(harness.tasks(&harness.owner).list_tasks(list).await, Code::NotFound, "NOT_FOUND");
    }
    // What just fits.
    let most = CreateTaskRequest {
        description: "x".repeat(TEXT),
        priority: Some(100),
        max_attempts: Some(100),
        required_tools: tools(32),
        ..request(&office, &format!(" {} ", long(200)))
    };
    let created = harness.create_task(&harness.owner, most).await.expect("fits");
    assert_eq!((created.title, created.description.len()), (long(200), TEXT));
    assert_eq!(harness.claim_all(&harness.owner, &office).await, [""; 0]);
}

async fn what_cannot_be_claimed(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "task").await;
    let make = || ClaimTasksRequest { office_id: office.clone(), ..Default::default() };
    let lasting = |seconds, nanos| Some(Duration { seconds, nanos });
    let cases = [
        ("office_id", ClaimTasksRequest { office_id: "x".into(), ..make() }),
        ("kinds", ClaimTasksRequest { kinds: vec![1, 99], ..make() }),
        ("max_tasks", ClaimTasksRequest { max_tasks: Some(0), ..make() }),
        ("max_tasks", ClaimTasksRequest { max_tasks: Some(-1), ..make() }),
        ("max_tasks", ClaimTasksRequest { max_tasks: Some(101), ..make() }),
        ("wait", ClaimTasksRequest { wait: lasting(-1, 0), ..make() }),
        ("wait", ClaimTasksRequest { wait: lasting(i64::MIN, i32::MIN), ..make() }),
        ("lease", ClaimTasksRequest { lease: lasting(0, 999_999_999), ..make() }),
        ("lease", ClaimTasksRequest { lease: lasting(3600, 1), ..make() }),
        ("lease", ClaimTasksRequest { lease: lasting(-5, 0), ..make() }),
        ("lease", ClaimTasksRequest { lease: lasting(i64::MAX, i32::MAX), ..make() }),
    ];
    for (expected, wrong) in cases {
        assert_eq!(field(harness.claim_with(&worker, wrong).await), expected);
    }
    let longest = ClaimTasksRequest { lease: lasting(3600, 0), wait: lasting(i64::MAX, 0), ..make() };
    assert_eq!(harness.claim_with(&worker, longest).await.expect("claims")[0].title, "task");
}

async fn what_cannot_be_reported(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.new_task(&office, "task").await;
    let held = harness.claim(&worker, &office).await.expect("one");
    let complete = || CompleteTaskRequest {
        office_id: office.clone(),
        task_id: held.id.clone(),
        lease_id: held.lease_id.clone(),
        result: "fine".into(),
        ..Default::default()
    };
    let tasks = || harness.tasks(&worker);
    for (expected, wrong) in [
        ("office_id", CompleteTaskRequest { office_id: String::new(), ..complete() }),
        ("task_id", CompleteTaskRequest { task_id: "\0".into(), ..complete() }),
        ("lease_id", CompleteTaskRequest { lease_id: "'".into(), ..complete() }),
        ("lease_id", CompleteTaskRequest { lease_id: String::new(), ..complete() }),
        ("result", CompleteTaskRequest { result: String::new(), ..complete() }),
        ("result", CompleteTaskRequest { result: "\u{2003}\n".into(), ..complete() }),
        ("result", CompleteTaskRequest { result: "a\0b".into(), ..complete() }),
        ("result", CompleteTaskRequest { result: "x".repeat(TEXT + 1), ..complete() }),
        ("artifacts", CompleteTaskRequest { artifacts: vec!["a".into(), "b".into(), "a".into()], ..complete() }),
        ("artifacts", CompleteTaskRequest { artifacts: (0..1001).map(|n| n.to_string()).collect(), ..complete() }),
        ("artifacts", CompleteTaskRequest { artifacts: vec!["there/is/none".into()], ..complete() }),
        ("artifacts", CompleteTaskRequest { artifacts: vec!["../../etc/passwd".into()], ..complete() }),
        ("artifacts", CompleteTaskRequest { artifacts: vec!["a\0b".into()], ..complete() }),
        ("receipt", CompleteTaskRequest { receipt: "x".repeat(TEXT + 1), ..complete() }),
    ] {
        let shown = format!("{wrong:.300?}");
        assert_eq!(field(tasks().complete_task(wrong).await), expected, "{shown}");
    }
    let fail = || FailTaskRequest {
        office_id: office.clone(),
        task_id: held.id.clone(),
        lease_id: held.lease_id.clone(),
        error: "broken".into(),
        ..Default::default()
    };
    for wrong in ["", " \n", "a\0b", &"x".repeat((64 << 10) + 1)] {
        assert_eq!(field(tasks().fail_task(FailTaskRequest { error: wrong.into(), ..fail() }).await), "error");
    }
    let renew = RenewLeaseRequest {
        office_id: office.clone(),
        task_id: held.id.clone(),
        lease_id: held.lease_id.clone(),
        lease: Some(Duration { seconds: 0, nanos: 1 }),
    };
    assert_eq!(field(tasks().renew_lease(renew).await), "lease");
    let reason = "x".repeat((64 << 10) + 1);
    let cancel = CancelTaskRequest { office_id: office.clone(), task_id: held.id.clone(), reason };
    assert_eq!(field(harness.tasks(&harness.owner).cancel_task(cancel).await), "reason");
    for (approve, note) in [(false, ""), (false, " "), (true, "a\0b"), (false, "a\0b")] {
        let verify = VerifyTaskRequest {
            office_id: office.clone(),
            task_id: held.id.clone(),
            approve,
            note: note.into(),
            attempt: None,
        };
        assert_eq!(field(harness.tasks(&harness.owner).verify_task(verify).await), "note");
    }
    assert_eq!(
        field(tasks().get_task(GetTaskRequest { office_id: office.clone(), task_id: "x".into() }).await),
        "task_id"
    );
    let list = || ListTasksRequest { office_id: office.clone(), ..Default::default() };
    for (expected, wrong) in [
        ("statuses", ListTasksRequest { statuses: vec![0], ..list() }),
        ("statuses", ListTasksRequest { statuses: vec![99], ..list() }),
        ("parent_id", ListTasksRequest { parent_id: "x".into(), ..list() }),
        ("page_size", ListTasksRequest { page_size: Some(-1), ..list() }),
        ("page_token", ListTasksRequest { page_token: "nonsense".into(), ..list() }),
        ("context_id", ListTasksRequest { context_id: "x".repeat(129), ..list() }),
        ("order_by", ListTasksRequest { order_by: "title".into(), ..list() }),
        ("updated_after", ListTasksRequest { updated_after: Some(prost_types::Timestamp::default()), ..list() }),
    ] {
        assert_eq!(field(tasks().list_tasks(wrong).await), expected);
    }
    // After all that it is still the worker's.
    tasks().complete_task(complete()).await.expect("holds");
}

async fn texts_stay_as_they_are(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for text in [
        "'; DROP TABLE tasks; --",
        "$1 ? :x @y %s {} \\ \" \\u0000 \\0",
        "{\"is\":\"done\"}",
        "日本語 🦀 \u{202e}gnirts\u{202c} e\u{301}",
        "<script>&amp;</script>",
    ] {
        let create = CreateTaskRequest { description: format!("{text}\n\t{text}\u{1}"), ..request(&office, text) };
        let created = harness.create_task(&harness.owner, create.clone()).await.expect("creates");
        assert_eq!((&created.title, &created.description), (&create.title, &create.description));
        let held = harness.claim(&worker, &office).await.expect("one");
        let done = harness.complete(&worker, &office, &held, &create.description).await.expect("holds");
        assert_eq!(harness.task(&office, &created.id).await, done);
        assert_eq!(done.result, create.description);
    }
    let result = "é".repeat(TEXT / 2);
    harness.new_task(&office, "large").await;
    let held = harness.claim(&worker, &office).await.expect("one");
    assert_eq!(harness.complete(&worker, &office, &held, &result).await.expect("fits").result, result);
}

async fn another_s_office_is_not_there(harness: Harness) {
    let (office, other) = (harness.active("Work").await, harness.active("Other").await);
    let task = harness.new_task(&office, "task").await;
    let stranger = harness.account("Stranger").await.0;
    let outsider = harness.agent(&other, "outsider", false, &[]);
    let none = mi_proto::v1::Task { lease_id: mi_kernel::LeaseId::new().to_string(), ..task.clone() };
    for by in [&stranger, &outsider] {
        let (code, why) = (Code::NotFound, "NOT_FOUND");
        assert_refused(harness.create_task(by, request(&office, "x")).await, code, why);
        // Also when something else is wrong: that would tell that it is there.
        assert_refused(harness.create_task(by, request(&office, "")).await, code, why);
        let claim = ClaimTasksRequest { office_id: office.clone(), ..Default::default() };
        assert_refused(harness.claim_with(by, claim).await, code, why);
        assert_refused(harness.complete(by, &office, &none, "").await, code, why);
        assert_refused(harness.fail(by, &office, &none, true).await, code, why);
        assert_refused(harness.release(by, &office, &none).await, code, why);
        assert_refused(harness.renew(by, &office, &none).await, code, why);
        assert_refused(harness.cancel(by, &office, &task.id).await, code, why);
        assert_refused(harness.retry(by, &office, &task.id).await, code, why);
        assert_refused(harness.verify(by, &office, &task.id, true).await, code, why);
    }
    // Nor is a task in an office that is not its own.
    assert_refused(harness.cancel(&harness.owner, &other, &task.id).await, Code::NotFound, "NOT_FOUND");
    assert_refused(harness.complete(&harness.owner, &other, &none, "x").await, Code::NotFound, "NOT_FOUND");
    assert_eq!(harness.task(&office, &task.id).await, task);
}
