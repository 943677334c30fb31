//! Who gets which task, and when.

use std::collections::BTreeSet;

use mi_proto::v1::{BatchCompleteTasksRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, TaskKind};
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, many, request, seconds};
use crate::tests::harness::Harness;

on_both! {
    everything_is_claimed_once,
    a_claim_waits_for_work,
    urgent_comes_before_old_and_old_before_new,
    a_task_goes_to_those_who_may_do_it,
    claims_at_the_same_time_do_not_take_from_each_other,
    a_claim_takes_no_more_than_fits_into_its_answer,
    completions_of_a_batch_are_each_for_itself,
    a_batch_answers_no_more_than_clients_take,
}

async fn everything_is_claimed_once(harness: Harness) {
    let office = harness.active("Work").await;
    let tasks =
        harness.tasks(&harness.owner).batch_create_tasks(many(&office, 200)).await.expect("creates").into_inner().tasks;
    let workers: Vec<_> = (0..8).map(|n| harness.agent(&office, &format!("w{n}"), false, &[])).collect();
    let working = workers.iter().map(async |worker| {
        let mut done = Vec::new();
        while let Some(task) = harness.claim(worker, &office).await {
            harness.complete(worker, &office, &task, "done").await.expect("completes");
            done.push(task.id);
        }
        done
    });
    let done: Vec<String> = futures::future::join_all(working).await.into_iter().flatten().collect();
    let ids: BTreeSet<&String> = tasks.iter().map(|task| &task.id).collect();
    assert_eq!(done.len(), 200);
    assert_eq!(done.iter().collect::<BTreeSet<_>>(), ids);
}

async fn a_claim_takes_no_more_than_fits_into_its_answer(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for n in 0..14 {
        let description = "x".repeat(256 << 10);
        let new = CreateTaskRequest { description, ..request(&office, &n.to_string()) };
        harness.create_task(&harness.owner, new).await.expect("creates");
    }
    let expected: Vec<String> = (0..14).map(|n| n.to_string()).collect();
    assert_eq!(harness.claim_all(&worker, &office).await, expected[..11]);
    assert_eq!(harness.claim_all(&worker, &office).await, expected[11..]);
}

async fn a_claim_waits_for_work(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let claim = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let waiting = harness.claim_with(&worker, claim);
    let creating = async {
        tokio::task::yield_now().await;
        harness.create_task(&harness.owner, request(&office, "Now")).await.expect("creates")
    };
    let (claimed, created) = tokio::join!(waiting, creating);
    assert_eq!(claimed.expect("claims").pop().expect("woken").id, created.id);
}

async fn urgent_comes_before_old_and_old_before_new(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let create = async |title: &str, priority| {
        let request = CreateTaskRequest { priority, ..request(&office, title) };
        harness.create_task(&harness.owner, request).await.expect("creates")
    };
    for (title, priority) in
        [("low", Some(100)), ("old", None), ("new", Some(50)), ("critical", Some(0)), ("soon", Some(49))]
    {
        create(title, priority).await;
    }
    // One that comes back keeps its place.
    let claim = |max_tasks| ClaimTasksRequest { office_id: office.clone(), max_tasks, ..Default::default() };
    let first = harness.claim_with(&worker, claim(Some(3))).await.expect("claims");
    assert_eq!(first.iter().map(|task| task.title.as_str()).collect::<Vec<_>>(), ["critical", "soon", "old"]);
    harness.release(&worker, &office, &first[2]).await.expect("holds");
    assert_eq!(harness.claim_all(&worker, &office).await, ["old", "new", "low"]);
    assert_eq!(harness.claim_all(&worker, &office).await, [""; 0]);
}

async fn a_task_goes_to_those_who_may_do_it(harness: Harness) {
    let office = harness.active("Work").await;
    let (plain, smith) =
        (harness.agent(&office, "plain", false, &[]), harness.agent(&office, "smith", false, &["forge"]));
    let code = TaskKind::Code.into();
    let tools = || vec!["forge".to_owned()];
    let requests = vec![
        CreateTaskRequest { assigned_agent: "PLAIN".into(), ..request("", "for plain") },
        CreateTaskRequest { assigned_agent: "smith".into(), kind: code, ..request("", "for smith") },
        CreateTaskRequest { required_tools: tools(), ..request("", "forging") },
        CreateTaskRequest { required_tools: tools(), assigned_agent: "plain".into(), ..request("", "nobody's") },
        CreateTaskRequest { kind: code, ..request("", "coding") },
        request("", "anything"),
    ];
    harness.batch(&office, requests).await.expect("creates");
    let of_kind = |kinds: &[TaskKind]| ClaimTasksRequest {
        office_id: office.clone(),
        kinds: kinds.iter().map(|kind| (*kind).into()).collect(),
        ..Default::default()
    };
    assert_eq!(harness.claim_with(&smith, of_kind(&[TaskKind::Review, TaskKind::Command])).await.expect("claims"), []);
    let code = harness.claim_with(&plain, of_kind(&[TaskKind::Code, TaskKind::Review])).await.expect("claims");
    assert_eq!(code[0].title, "coding");
    assert_eq!(harness.claim_all(&smith, &office).await, ["for smith", "forging", "anything"]);
    assert_eq!(harness.claim_all(&plain, &office).await, ["for plain"]);
    // Operators may use everything; what is kept for an agent is not theirs to claim.
    assert_eq!(harness.claim_all(&harness.owner, &office).await, [""; 0]);
    harness
        .create_task(
            &harness.owner,
            CreateTaskRequest { required_tools: tools(), ..request(&office, "forging, again") },
        )
        .await
        .expect("creates");
    assert_eq!(harness.claim_all(&harness.owner, &office).await, ["forging, again"]);
}

async fn claims_at_the_same_time_do_not_take_from_each_other(harness: Harness) {
    let office = harness.active("Work").await;
    let workers: Vec<_> = (0..6).map(|n| harness.agent(&office, &format!("w{n}"), false, &[])).collect();
    // The head of the queue is for one; the others must reach past it.
    let mut requests: Vec<_> = (0..20)
        .map(|n| CreateTaskRequest {
            assigned_agent: "w0".into(),
            priority: Some(0),
            ..request("", &format!("own {n}"))
        })
        .collect();
    requests.extend((0..5).map(|n| request("", &format!("shared {n}"))));
    harness.batch(&office, requests).await.expect("creates");
    let claims = workers[1..].iter().map(async |worker| harness.claim(worker, &office).await.expect("one each").title);
    let got: BTreeSet<String> = futures::future::join_all(claims).await.into_iter().collect();
    assert_eq!(got, (0..5).map(|n| format!("shared {n}")).collect());
    let own: Vec<String> = (0..20).map(|n| format!("own {n}")).collect();
    assert_eq!(harness.claim_all(&workers[0], &office).await, own);
}

async fn completions_of_a_batch_are_each_for_itself(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.batch(&office, many("", 5).requests).await.expect("creates");
    let claim = ClaimTasksRequest { office_id: office.clone(), max_tasks: Some(5), ..Default::default() };
    let tasks = harness.claim_with(&worker, claim).await.expect("claims");
    let lost = harness.release(&worker, &office, &tasks[1]).await.expect("holds");
    let completion = |task: &mi_proto::v1::Task, result: &str| CompleteTaskRequest {
        task_id: task.id.clone(),
        lease_id: task.lease_id.clone(),
        result: result.into(),
        ..Default::default()
    };
    let requests = vec![
        completion(&tasks[0], "good"),
        completion(&tasks[1], "lost"),
        completion(&tasks[2], " "),
        CompleteTaskRequest { task_id: "nonsense".into(), ..completion(&tasks[3], "x") },
        CompleteTaskRequest { lease_id: String::new(), ..completion(&tasks[3], "x") },
        completion(&tasks[0], "good"),
        completion(&tasks[0], "another"),
        completion(&tasks[4], "good too"),
    ];
    let batch = BatchCompleteTasksRequest { claim_next: None, office_id: office.clone(), requests };
    let answer = harness.tasks(&worker).batch_complete_tasks(batch.clone()).await.expect("answers").into_inner();
    let told: Vec<(String, String)> = answer
        .results
        .iter()
        .map(|result| (result.task.as_ref().map_or("", |task| &task.result).to_owned(), result.reason.clone()))
        .collect();
    let told: Vec<(&str, &str)> = told.iter().map(|(result, reason)| (result.as_str(), reason.as_str())).collect();
    let (bad, gone) = ("INVALID_ARGUMENT", "LEASE_LOST");
    assert_eq!(
        told,
        [("good", ""), ("", gone), ("", bad), ("", bad), ("", bad), ("good", ""), ("", gone), ("good too", "")]
    );
    assert_eq!(harness.task(&office, &lost.id).await, lost);
    assert_eq!(harness.claim_all(&harness.owner, &office).await, ["task 1"]);

    let empty = BatchCompleteTasksRequest { claim_next: None, office_id: office.clone(), requests: Vec::new() };
    assert_refused(harness.tasks(&worker).batch_complete_tasks(empty).await, Code::InvalidArgument, bad);
    let mut foreign = batch;
    foreign.requests[7].office_id = harness.active("Other").await;
    assert_refused(harness.tasks(&worker).batch_complete_tasks(foreign).await, Code::InvalidArgument, bad);
}

async fn a_batch_answers_no_more_than_clients_take(harness: Harness) {
    let office = harness.active("Work").await;
    let (text, mut ids) = ("x".repeat(250_000), Vec::new());
    for _ in 0..2 {
        let long = |n| CreateTaskRequest { description: text.clone(), ..request("", &format!("long {n}")) };
        let created = harness.batch(&office, (0..10).map(long).collect()).await.expect("creates");
        ids.extend(created.into_iter().map(|task| task.id));
    }
    let report = |id: &String| CompleteTaskRequest { task_id: id.clone(), result: "ok".into(), ..Default::default() };
    let batch = BatchCompleteTasksRequest {
        claim_next: None,
        office_id: office.clone(),
        requests: ids.iter().map(report).collect(),
    };
    let answer = harness.tasks(&harness.owner).batch_complete_tasks(batch).await.expect("answers").into_inner();
    let told: Vec<_> = answer.results.into_iter().map(|result| result.task.expect("done")).collect();
    assert_eq!(told.iter().map(|task| &task.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    let whole = told.iter().map(|task| (task.description.len(), task.result.as_str())).collect::<Vec<_>>();
    // Twelve are 3,000,000 bytes and a little, thirteen more than 3 MiB.
    assert_eq!(whole, [vec![(250_000, "ok"); 12], vec![(0, ""); 8]].concat());
    assert_eq!(harness.task(&office, &ids[19]).await.description.len(), 250_000);
}
