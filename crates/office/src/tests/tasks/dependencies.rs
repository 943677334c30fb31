//! Tasks that wait for others, and never for themselves.

use mi_proto::v1::{CreateTaskRequest, Task, TaskStatus};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, field, many, request};
use crate::tests::harness::Harness;

on_both! {
    a_task_waits_for_what_it_depends_on,
    a_failed_dependency_holds_up_with_its_reason,
    a_retry_tells_those_who_wait,
    ten_thousand_dependencies,
    a_batch_refers_to_itself,
    a_batch_is_created_as_a_whole_or_not_at_all,
    only_tasks_of_the_office_can_be_waited_for,
    nothing_waits_for_itself_by_any_way,
}

fn after(office: &str, title: &str, on: &[&str]) -> CreateTaskRequest {
    CreateTaskRequest { depends_on: on.iter().map(ToString::to_string).collect(), ..request(office, title) }
}

fn below(office: &str, title: &str, parent: &str, on: &[&str]) -> CreateTaskRequest {
    CreateTaskRequest { parent_id: parent.into(), ..after(office, title, on) }
}

fn states(tasks: &[Task]) -> Vec<(TaskStatus, &str)> {
    tasks.iter().map(|task| (task.status(), task.blocked_reason.as_str())).collect()
}

async fn a_task_waits_for_what_it_depends_on(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let (first, second) = (harness.new_task(&office, "first").await, harness.new_task(&office, "second").await);
    let third =
        harness.create_task(&harness.owner, after(&office, "third", &[&first.id, &second.id])).await.expect("creates");
    let fourth = harness.create_task(&harness.owner, after(&office, "fourth", &[&third.id])).await.expect("creates");
    assert_eq!(
        states(&[third.clone(), fourth.clone()]),
        [
            (TaskStatus::Blocked, format!("waits for task {} and 1 more", first.id).as_str()),
            (TaskStatus::Blocked, &format!("waits for task {}", third.id)),
        ]
    );
    assert_eq!(third.depends_on, [first.id.clone(), second.id.clone()]);
    assert_eq!(harness.claim_all(&worker, &office).await, ["first", "second"]);
    harness.done(&office, &first.id).await;
    let third = harness.task(&office, &third.id).await;
    assert_eq!(
        states(std::slice::from_ref(&third)),
        [(TaskStatus::Blocked, format!("waits for task {}", second.id).as_str())]
    );
    harness.done(&office, &second.id).await;
    assert_eq!(states(&[harness.task(&office, &third.id).await]), [(TaskStatus::Queued, "")]);
    assert_eq!(harness.claim_all(&worker, &office).await, ["third"]);
    harness.done(&office, &third.id).await;
    assert_eq!(harness.claim_all(&worker, &office).await, ["fourth"]);
    // Of what is done already nobody waits.
    let late = harness.create_task(&harness.owner, after(&office, "late", &[&third.id])).await.expect("creates");
    assert_eq!(states(&[late]), [(TaskStatus::Queued, "")]);
}

async fn a_failed_dependency_holds_up_with_its_reason(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let first = harness.new_task(&office, "first").await;
    let second = harness.create_task(&harness.owner, after(&office, "second", &[&first.id])).await.expect("creates");
    let third = harness.create_task(&harness.owner, after(&office, "third", &[&second.id])).await.expect("creates");
    let claimed = harness.claim(&worker, &office).await.expect("one");
    harness.fail(&worker, &office, &claimed, false).await.expect("holds");
    let of = async || [harness.task(&office, &second.id).await, harness.task(&office, &third.id).await];
    let waits = format!("waits for task {}", second.id);
    assert_eq!(
        states(&of().await),
        [
            (TaskStatus::Blocked, format!("dependency {} is failed: it broke", first.id).as_str()),
            (TaskStatus::Blocked, format!("{waits}, which hangs on task {}", first.id).as_str()),
        ]
    );
    assert_eq!(of().await.map(|task| task.hangs_on_task_id), [first.id.clone(), first.id.clone()]);
    let late = harness.create_task(&harness.owner, after(&office, "late", &[&first.id])).await.expect("creates");
    assert_eq!(
        states(std::slice::from_ref(&late)),
        [(TaskStatus::Blocked, format!("dependency {} is failed: it broke", first.id).as_str())]
    );
    let again = harness.retry(&harness.owner, &office, &first.id).await.expect("failed");
    assert_eq!((again.status(), again.attempt, again.finished_at), (TaskStatus::Queued, 2, None));
    assert_eq!(
        states(&of().await),
        [(TaskStatus::Blocked, format!("waits for task {}", first.id).as_str()), (TaskStatus::Blocked, &waits)]
    );
    assert_eq!(of().await.map(|task| task.hangs_on_task_id), [""; 2]);
    let claimed = harness.claim(&worker, &office).await.expect("one");
    assert_eq!((claimed.id.as_str(), claimed.attempt), (first.id.as_str(), 2));
    harness.complete(&worker, &office, &claimed, "at last").await.expect("holds");
    assert_eq!(harness.claim_all(&worker, &office).await, ["second", "late"]);
}

async fn a_retry_tells_those_who_wait(harness: Harness) {
    let office = harness.active("Work").await;
    let first = harness.new_task(&office, "first").await;
    let second = harness.create_task(&harness.owner, after(&office, "second", &[&first.id])).await.expect("creates");
    // Never claimed, so that no attempt was made.
    let cancelled = harness.cancel(&harness.owner, &office, &first.id).await.expect("open");
    assert_eq!((cancelled.status(), cancelled.error.as_str()), (TaskStatus::Cancelled, "no use"));
    let reason = format!("dependency {} is cancelled: no use", first.id);
    assert_eq!(states(&[harness.task(&office, &second.id).await]), [(TaskStatus::Blocked, reason.as_str())]);
    let again = harness.retry(&harness.owner, &office, &first.id).await.expect("cancelled");
    assert_eq!((again.status(), again.attempt), (TaskStatus::Queued, 0));
    let reason = format!("waits for task {}", first.id);
    assert_eq!(states(&[harness.task(&office, &second.id).await]), [(TaskStatus::Blocked, reason.as_str())]);
    harness.done(&office, &first.id).await;
    assert_eq!(states(&[harness.task(&office, &second.id).await]), [(TaskStatus::Queued, "")]);
}

async fn ten_thousand_dependencies(harness: Harness) {
    let office = harness.active("Work").await;
    let ids: Vec<String> = harness
        .batch(&office, many("", 1000).requests)
        .await
        .expect("creates")
        .into_iter()
        .map(|task| task.id)
        .collect();
    let requests = (0..10).map(|n| CreateTaskRequest { depends_on: ids.clone(), ..request("", &format!("wide {n}")) });
    let wide = harness.batch(&office, requests.collect()).await.expect("creates");
    assert!(wide.iter().all(|task| task.blocked_reason == format!("waits for task {} and 999 more", ids[0])));
    let mut requests: Vec<_> = ids
        .iter()
        .map(|id| mi_proto::v1::CompleteTaskRequest { task_id: id.clone(), result: "ok".into(), ..Default::default() })
        .collect();
    let last = requests.pop().expect("a thousand");
    let complete = async |requests| {
        let batch = mi_proto::v1::BatchCompleteTasksRequest { claim_next: None, office_id: office.clone(), requests };
        harness.tasks(&harness.owner).batch_complete_tasks(batch).await.expect("answers").into_inner().results
    };
    assert!(complete(requests).await.iter().all(|result| result.reason.is_empty()));
    let waiting = harness.task(&office, &wide[9].id).await;
    assert_eq!(waiting.blocked_reason, format!("waits for task {}", ids[999]));
    complete(vec![last]).await;
    let titles: Vec<String> = (0..10).map(|n| format!("wide {n}")).collect();
    assert_eq!(harness.claim_all(&harness.owner, &office).await, titles);

    let mut more = ids.clone();
    more.push(wide[0].id.clone());
    let request = CreateTaskRequest { depends_on: more, ..request(&office, "too wide") };
    assert_eq!(field(harness.create_task(&harness.owner, request).await), "depends_on");
}

async fn a_batch_refers_to_itself(harness: Harness) {
    let office = harness.active("Work").await;
    let other = harness.new_task(&office, "other").await;
    let requests = vec![
        request("", "whole"),
        below("", "part 1", "#0", &[]),
        below(&office, "part 2", "#0", &["#1", &other.id]),
        after("", "next", &["#0", "#2"]),
    ];
    let tasks = harness.batch(&office, requests).await.expect("creates");
    let links: Vec<(&str, Vec<&str>)> = tasks
        .iter()
        .map(|task| (task.parent_id.as_str(), task.depends_on.iter().map(String::as_str).collect()))
        .collect();
    let [whole, one, two, _] = [0, 1, 2, 3].map(|n| tasks[n].id.as_str());
    assert_eq!(links, [("", vec![]), (whole, vec![]), (whole, vec![one, other.id.as_str()]), ("", vec![whole, two])]);
    for wrong in ["#4", "#9", "#-1", "#", "#x", "# 0"] {
        let requests = vec![request("", "a"), after("", "b", &[wrong])];
        assert_eq!(field(harness.batch(&office, requests).await), "depends_on", "{wrong}");
        let requests = vec![request("", "a"), below("", "b", wrong, &[])];
        assert_eq!(field(harness.batch(&office, requests).await), "parent_id", "{wrong}");
    }
    // No task is before the first one.
    assert_eq!(field(harness.create_task(&harness.owner, after(&office, "a", &["#0"])).await), "depends_on");
    for twice in [vec![request("", "a"), after("", "b", &["#0", "#0"])], vec![after("", "b", &[&other.id, &other.id])]]
    {
        assert_eq!(field(harness.batch(&office, twice).await), "depends_on");
    }
}

async fn a_batch_is_created_as_a_whole_or_not_at_all(harness: Harness) {
    let office = harness.active("Work").await;
    let mut batch = many("", 20).requests;
    batch.push(request("", ""));
    assert_eq!(field(harness.batch(&office, batch).await), "title");
    let mut batch = many("", 20).requests;
    batch.push(after("", "late", &[&mi_kernel::TaskId::new().to_string()]));
    assert_eq!(field(harness.batch(&office, batch).await), "depends_on");
    let mut batch = many("", 20).requests;
    batch[7].office_id = harness.active("Other").await;
    assert_eq!(field(harness.batch(&office, batch).await), "office_id");
    for count in [0, 1001] {
        assert_eq!(field(harness.batch(&office, many("", count).requests).await), "requests");
    }
    assert_eq!(harness.claim_all(&harness.owner, &office).await, [""; 0]);
    harness.until_events(&office, &["office.created", "credit.granted", "office.activated"]).await;
}

async fn only_tasks_of_the_office_can_be_waited_for(harness: Harness) {
    let (office, other) = (harness.active("Work").await, harness.active("Other").await);
    let foreign = harness.new_task(&other, "foreign").await.id;
    let unknown = mi_kernel::TaskId::new().to_string();
    for of in [after, |office: &str, title: &str, on: &[&str]| below(office, title, on[0], &[])] {
        let refuse = async |id: &str| {
            let status = harness.create_task(&harness.owner, of(&office, "b", &[id])).await.expect_err("refused");
            (status.code(), status.message().replace(id, "ID"))
        };
        let told = refuse(&foreign).await;
        assert_eq!(told.0, Code::InvalidArgument);
        assert_eq!(told, refuse(&unknown).await, "what is another office's does not exist");
    }
    assert_eq!(field(harness.create_task(&harness.owner, after(&office, "b", &["nonsense"])).await), "depends_on");
    assert_eq!(field(harness.create_task(&harness.owner, below(&office, "b", "nonsense", &[])).await), "parent_id");
}

async fn nothing_waits_for_itself_by_any_way(harness: Harness) {
    let office = harness.active("Work").await;
    let create = async |request| Ok::<_, tonic::Status>(harness.create_task(&harness.owner, request).await?.id);
    // A chain: each is a part of the one before it, and the end must wait for none of them, nor for what waits for them.
    for length in 1..=5 {
        let top = create(request(&office, "top")).await.expect("creates");
        let mut chain = vec![top.clone()];
        for n in 1..length {
            chain.push(create(below(&office, &format!("part {n}"), &chain[n - 1], &[])).await.expect("creates"));
        }
        let outside = create(after(&office, "waits for top", &[&top])).await.expect("creates");
        let further = create(after(&office, "waits for that", &[&outside])).await.expect("creates");
        let around = create(request(&office, "around")).await.expect("creates");
        create(below(&office, "inside", &around, &[&further])).await.expect("creates");
        let last = chain.last().expect("at least one");
        for wrong in chain.iter().chain([&outside, &further, &around]) {
            assert_eq!(field(create(below(&office, "circle", last, &[wrong])).await), "depends_on");
        }
        // One that was called off may be called on again.
        harness.cancel(&harness.owner, &office, &outside).await.expect("open");
        assert_eq!(field(create(below(&office, "circle", last, &[&further])).await), "depends_on");
        create(below(&office, "fine", last, &[&create(request(&office, "alone")).await.expect("creates")]))
            .await
            .expect("no circle");
    }
    // The same within a batch.
    let outer = create(request(&office, "outer")).await.expect("creates");
    for circle in [
        vec![request("", "a"), below("", "b", "#0", &["#0"])],
        vec![request("", "a"), after("", "b", &["#0"]), below("", "c", "#0", &["#1"])],
        vec![request("", "a"), after("", "b", &["#0"]), below("", "c", "#0", &[]), below("", "d", "#2", &["#1"])],
        vec![after("", "a", &[&outer]), below("", "b", &outer, &["#0"])],
        vec![
            request("", "around"),
            below("", "a", "#0", &[]),
            after("", "b", &[&outer]),
            below("", "c", "#1", &["#2"]),
            below("", "d", &outer, &["#0"]),
        ],
    ] {
        assert_eq!(field(harness.batch(&office, circle.clone()).await), "depends_on", "{circle:?}");
    }
    assert_refused(
        create(below(&office, "late", &harness.cancel(&harness.owner, &office, &outer).await.expect("open").id, &[]))
            .await,
        Code::FailedPrecondition,
        "TASK_FINISHED",
    );
}
