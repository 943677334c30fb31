//! Processes that die, and two over one database.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mi_kernel::Actor;
use mi_proto::v1::{ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, Task, WatchTasksRequest};
use mi_testkit::{Backend, OnBackend, on_both, until};

use super::{chance, many, request, seconds};
use crate::tests::{
    harness::{Harness, LONG},
    replicas::until_waiting,
};

on_both! { whatever_crashes_every_task_is_done_once }

/// Claims and completes until nothing is there, and does not mind when the process is away. Ids of what it was told is
/// done, with the attempt.
async fn work(harness: &Harness, by: &Actor, office: &str) -> Vec<(String, i32)> {
    let mut done = Vec::new();
    while let Some(task) = claim(harness, by, office).await {
        match harness.complete(by, office, &task, &format!("by {}", task.worker)).await {
            Ok(task) => done.push((task.id, task.attempt)),
            Err(_) => return done,
        }
    }
    done
}

async fn claim(harness: &Harness, by: &Actor, office: &str) -> Option<Task> {
    let claim = ClaimTasksRequest { office_id: office.into(), lease: seconds(1), ..Default::default() };
    harness.claim_with(by, claim).await.ok()?.pop()
}

async fn whatever_crashes_every_task_is_done_once(mut harness: Harness) {
    let office = harness.active("Work").await;
    let requests = (0..200).map(|n| CreateTaskRequest {
        depends_on: if n % 5 == 0 { Vec::new() } else { vec![format!("#{}", n - 1)] },
        max_attempts: Some(100),
        ..request("", &format!("task {n}"))
    });
    let tasks = harness.batch(&office, requests.collect()).await.expect("creates");
    let agents: Vec<Actor> = (0..8).map(|n| harness.agent(&office, &format!("w{n}"), false, &[])).collect();
    let mut random = chance();
    let mut told: BTreeMap<String, i32> = BTreeMap::new();
    for _ in 0..8 {
        let moment = Duration::from_micros(random.u64(1_000..60_000));
        let working = futures::future::join_all(agents.iter().map(|agent| work(&harness, agent, &office)));
        let done = {
            let ending = async {
                // Not a wait for something: where the work stands is left to chance.
                tokio::time::sleep(moment).await;
                harness.end().await;
            };
            tokio::join!(working, ending).0
        };
        for (id, attempt) in done.into_iter().flatten() {
            assert_eq!(told.insert(id.clone(), attempt), None, "task {id} was completed twice");
        }
        harness.start_again().await;
        harness.pass(Duration::from_secs(2)).await;
    }
    until("everything is done", LONG, async || {
        let working = futures::future::join_all(agents.iter().map(|agent| work(&harness, agent, &office))).await;
        for (id, attempt) in working.into_iter().flatten() {
            assert_eq!(told.insert(id.clone(), attempt), None, "task {id} was completed twice");
        }
        harness.pass(Duration::from_secs(2)).await;
        let mut open = 0;
        for task in &tasks {
            let now = harness.task(&office, &task.id).await;
            open += usize::from(now.result.is_empty());
            // What was told is what is kept.
            assert!(told.get(&task.id).is_none_or(|attempt| *attempt == now.attempt), "{now:?}");
            assert_ne!(now.status(), mi_proto::v1::TaskStatus::Failed, "{now:?}");
        }
        if open == 0 { Ok(Some(())) } else { Err(format!("{open} are open")) }
    })
    .await;
    until("the feed has each completion once", LONG, async || {
        let known = harness.activity.known();
        let completed = known.events.iter().filter(|event| event.kind == "task.completed");
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for event in completed {
            *counts.entry(event.metadata["task_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        assert!(counts.values().all(|count| *count == 1), "{counts:?}");
        if counts.len() == 200 { Ok(Some(())) } else { Err(format!("{} of 200", counts.len())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_queue() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = harness.active("Work").await;
    let (near, far) = (harness.agent(&office, "near", false, &[]), harness.agent(&office, "far", false, &[]));
    let (client, beside) = harness.beside(&far).await;
    let waits = |wait| ClaimTasksRequest { office_id: office.clone(), wait: seconds(wait), ..Default::default() };
    let watch = WatchTasksRequest { office_id: office.clone(), ..Default::default() };
    let mut watching = client.clone().watch_tasks(watch).await.expect("opens").into_inner();
    for n in 0..5 {
        let mut waiting = client.clone();
        let request = waits(60);
        let waiter = tokio::spawn(async move { waiting.claim_tasks(request).await });
        // It waits when its process has answered another call after it.
        client.clone().claim_tasks(ClaimTasksRequest { kinds: vec![4], ..waits(0) }).await.expect("answers");
        let start = Instant::now();
        let task = harness.new_task(&office, &format!("task {n}")).await;
        let claimed = tokio::time::timeout(LONG, waiter).await.expect("woken").expect("no panic").expect("claims");
        assert!(start.elapsed() < Duration::from_secs(1), "woken after {:?}", start.elapsed());
        assert_eq!(claimed.into_inner().tasks[0].id, task.id);
        let seen = tokio::time::timeout(LONG, watching.message()).await.expect("told").expect("goes on");
        assert_eq!(seen.expect("goes on").task.expect("there").id, task.id);
        harness.done(&office, &task.id).await;
        harness.until_task(&office, &task.id, mi_proto::v1::TaskStatus::Done).await;
        while watching.message().await.expect("goes on").expect("goes on").task.expect("there").result.is_empty() {}
    }
    // Both at once: nothing is handed out twice, nothing is left.
    let ids: Vec<String> = harness
        .batch(&office, many("", 100).requests)
        .await
        .expect("creates")
        .into_iter()
        .map(|task| task.id)
        .collect();
    let here = async {
        let mut done = Vec::new();
        while let Some(task) = harness.claim(&near, &office).await {
            harness.complete(&near, &office, &task, "near").await.expect("holds");
            done.push(task.id);
        }
        done
    };
    let there = async {
        let (mut client, mut done) = (client.clone(), Vec::new());
        while let Some(task) = client.claim_tasks(waits(0)).await.expect("claims").into_inner().tasks.pop() {
            let complete = CompleteTaskRequest {
                office_id: office.clone(),
                task_id: task.id.clone(),
                lease_id: task.lease_id,
                result: "far".into(),
                ..Default::default()
            };
            client.complete_task(complete).await.expect("holds");
            done.push(task.id);
        }
        done
    };
    let (here, there) = tokio::join!(here, there);
    assert!(!here.is_empty() && !there.is_empty(), "{} and {}", here.len(), there.len());
    let mut all = [here, there].concat();
    all.sort();
    assert_eq!(all, ids);
    assert_eq!(beside.stop(LONG).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_several_end_at_once_is_counted_once() {
    let harness = Harness::on(Backend::Postgres).await;
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    // Three processes sweep, all the time.
    let beside = [harness.beside(&worker).await.1, harness.beside(&worker).await.1];
    let requests = (0..30).map(|n| CreateTaskRequest { max_attempts: Some(9), ..request("", &format!("task {n}")) });
    let tasks = harness.batch(&office, requests.collect()).await.expect("creates");
    let mut watching = harness.postgres().await;
    for round in 1..=3 {
        let claim = ClaimTasksRequest {
            office_id: office.clone(),
            lease: seconds(1),
            max_tasks: Some(30),
            ..Default::default()
        };
        assert_eq!(harness.claim_with(&worker, claim).await.expect("claims").len(), 30);
        // All of them are about to end the same when the first one does.
        let mut queue = harness.tables().await.platform().begin().await.expect("begins");
        mi_store::on!(queue, |c| sqlx::query("SELECT 1 FROM task_queues FOR UPDATE").execute(&mut *c).await.map(drop))
            .expect("locks");
        harness.pass(Duration::from_secs(2)).await;
        until_waiting(&mut watching, 3).await;
        queue.commit().await.expect("lets go");
        for task in &tasks {
            let ended = harness.until_task(&office, &task.id, mi_proto::v1::TaskStatus::Queued).await;
            assert_eq!(ended.attempt, round + 1);
        }
    }
    until("each end is told once", LONG, async || {
        let known = harness.activity.known();
        let ended = known.events.iter().filter(|event| event.kind == "task.attempt_failed").count();
        assert!(ended <= 90, "{ended}");
        if ended == 90 { Ok(Some(())) } else { Err(format!("{ended} of 90")) }
    })
    .await;
    for process in beside {
        assert_eq!(process.stop(LONG).await, None);
    }
}
