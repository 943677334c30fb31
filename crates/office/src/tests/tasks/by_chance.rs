//! Whatever happens to tasks, in whatever order: one holder, one completion, and a way to an end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mi_kernel::{Actor, OfficeId};
use mi_proto::v1::{ClaimTasksRequest, Task, TaskStatus, WatchTasksRequest};
use mi_store::on;
use mi_testkit::{on_both, until};
use sqlx::types::Json;
use tonic::Code;

use super::{chance, request, seconds};
use crate::tests::harness::{Harness, LONG};

on_both! { one_holder_and_a_way_to_an_end }

/// What the test knows without asking.
#[derive(Default)]
struct Model {
    /// Who holds what, and until when by the clock of the platform.
    held: BTreeMap<String, (usize, Task, i64)>,
    /// Leases that are over.
    lost: Vec<(usize, Task)>,
    /// Completed without verification, for ever.
    done: BTreeSet<String>,
    all: Vec<String>,
}

impl Model {
    fn lose(&mut self, id: &str) {
        if let Some((who, task, _)) = self.held.remove(id) {
            self.lost.push((who, task));
        }
    }
}

fn now(harness: &Harness) -> i64 {
    mi_kernel::Clock::now(&harness.clock).timestamp()
}

fn finished(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Done | TaskStatus::Failed | TaskStatus::Cancelled)
}

async fn one_holder_and_a_way_to_an_end(harness: Harness) {
    let office = harness.active("Work").await;
    let agents: Vec<Actor> = (0..4).map(|n| harness.agent(&office, &format!("w{n}"), false, &[])).collect();
    let mut random = chance();
    let mut model = Model::default();
    for _ in 0..400 {
        step(&harness, &office, &agents, &mut model, &mut random).await;
    }
    assert!(model.done.len() > 10, "only {} were done: nothing is shown", model.done.len());
    counts_are_right(&harness, &office).await;
    cursors_grow(&harness, &office, model.all.len()).await;
    everything_ends(&harness, &office, &agents, &model).await;
    counts_are_right(&harness, &office).await;
}

/// The counts that are kept beside the tasks are those of the tasks.
async fn counts_are_right(harness: &Harness, office: &str) {
    let office: OfficeId = office.parse().expect("an id");
    let queues = harness.resources().await.tasks;
    let mut tx = harness.tables().await.office(office).begin().await.expect("begins");
    // Nothing moves between the two looks.
    queues.lock(&mut tx).await.expect("locks");
    let there: Vec<(String, i64)> = on!(tx, |c| {
        sqlx::query_as("SELECT status, count(*) FROM tasks WHERE office_id = $1 GROUP BY status")
            .bind(office.0)
            .fetch_all(&mut *c)
            .await
    })
    .expect("counts");
    let counted: Json<BTreeMap<String, i64>> = on!(tx, |c| {
        sqlx::query_scalar("SELECT counts FROM task_queues WHERE office_id = $1")
            .bind(office.0)
            .fetch_one(&mut *c)
            .await
    })
    .expect("reads");
    let counted: BTreeMap<String, i64> = counted.0.into_iter().filter(|(_, count)| *count != 0).collect();
    assert_eq!(counted, there.into_iter().collect::<BTreeMap<_, _>>());
}

async fn step(harness: &Harness, office: &str, agents: &[Actor], model: &mut Model, random: &mut fastrand::Rng) {
    let who = random.usize(..agents.len());
    let some = |random: &mut fastrand::Rng, model: &Model| {
        let place = random.usize(..model.all.len().max(1));
        model.all.get(place).cloned()
    };
    let holding = |random: &mut fastrand::Rng, model: &Model| {
        let held: Vec<_> = model.held.values().cloned().collect();
        if held.is_empty() { None } else { Some(held[random.usize(..held.len())].clone()) }
    };
    match random.u8(..12) {
        0..=2 => {
            let by = if random.bool() { &harness.owner } else { &agents[who] };
            let mut create = request(office, "task");
            create.priority = Some(random.i32(0..=100));
            create.verification_required = random.u8(..8) == 0;
            create.depends_on =
                (0..random.u8(..3)).filter_map(|_| some(random, model)).collect::<BTreeSet<_>>().into_iter().collect();
            if random.u8(..5) == 0 {
                create.parent_id = some(random, model).unwrap_or_default();
            }
            // A cycle, a parent that is finished, a long chain of causes.
            if let Ok(task) = harness.create_task(by, create).await {
                model.all.push(task.id);
            }
        }
        3..=5 => {
            let lease = random.i64(1..20);
            let claim = ClaimTasksRequest {
                office_id: office.into(),
                max_tasks: Some(random.i32(1..4)),
                lease: seconds(lease),
                ..Default::default()
            };
            for task in harness.claim_with(&agents[who], claim).await.expect("claims") {
                assert!(!model.done.contains(&task.id), "{task:?} was done");
                let known = model.held.get(&task.id);
                assert!(known.is_none_or(|(.., end)| *end <= now(harness)), "{task:?} is held by {known:?}");
                // Reviews are of the platform's making.
                if !model.all.contains(&task.id) {
                    model.all.push(task.id.clone());
                }
                model.lose(&task.id);
                model.held.insert(task.id.clone(), (who, task, now(harness) + lease));
            }
        }
        6..=7 => {
            let Some((who, task, end)) = holding(random, model) else { return };
            match harness.complete(&agents[who], office, &task, "done").await {
                // Late, too, while nobody has noticed.
                Ok(done) => {
                    if done.status() == TaskStatus::Done {
                        assert!(model.done.insert(done.id), "done twice");
                    }
                    model.lose(&task.id);
                }
                Err(status) if status.code() == Code::FailedPrecondition => {}
                Err(status) => {
                    assert_eq!(status.code(), Code::Aborted, "{status:?}");
                    assert!(end <= now(harness), "the lease on {task:?} was lost: {status:?}");
                    model.lose(&task.id);
                }
            }
        }
        8 => {
            let Some((who, task, end)) = holding(random, model) else { return };
            let answer = match random.u8(..3) {
                0 => harness.release(&agents[who], office, &task).await,
                1 => harness.fail(&agents[who], office, &task, true).await,
                _ => harness.fail(&agents[who], office, &task, false).await,
            };
            assert!(
                answer.is_ok() || end <= now(harness),
                "{answer:?} of {task:?}, which is {:?}",
                harness.status_of(office, &task.id).await
            );
            model.lose(&task.id);
        }
        9 => {
            // Whoever lost a lease tries anyway. What was reported before is answered as before.
            if model.lost.is_empty() {
                return;
            }
            let (who, task) = model.lost[random.usize(..model.lost.len())].clone();
            let answer = harness.complete(&agents[who], office, &task, "another result").await;
            assert_eq!(answer.expect_err("too late").code(), Code::Aborted);
        }
        10 => {
            let Some(id) = some(random, model) else { return };
            match random.u8(..4) {
                0 => drop(harness.cancel(&harness.owner, office, &id).await),
                1 => drop(harness.verify(&harness.owner, office, &id, random.bool()).await),
                _ => drop(harness.retry(&harness.owner, office, &id).await),
            }
            // What is a part of it went with it, and so did reviews of work that was judged otherwise.
            for id in model.held.keys().cloned().collect::<Vec<_>>() {
                if harness.status_of(office, &id).await == TaskStatus::Cancelled {
                    model.lose(&id);
                }
            }
            if harness.status_of(office, &id).await == TaskStatus::Done {
                model.done.insert(id);
            }
        }
        _ => harness.pass(Duration::from_secs(random.u64(1..8))).await,
    }
}

/// From the start the feed of changes has every task once, in the order of their last change.
async fn cursors_grow(harness: &Harness, office: &str, least: usize) {
    let watch = WatchTasksRequest { office_id: office.into(), after_cursor: Some(0), ..Default::default() };
    let mut stream = harness.tasks(&harness.owner).watch_tasks(watch).await.expect("opens").into_inner();
    let (mut cursor, mut seen) = (0, BTreeSet::new());
    while seen.len() < least {
        let message =
            tokio::time::timeout(LONG, stream.message()).await.expect("in time").expect("goes on").expect("goes on");
        assert!(message.cursor > cursor, "{} after {cursor}", message.cursor);
        cursor = message.cursor;
        seen.insert(message.task.expect("there").id);
    }
}

/// From wherever they stand, time and whoever goes on with the work bring all of them to an end.
async fn everything_ends(harness: &Harness, office: &str, agents: &[Actor], model: &Model) {
    until("every task is finished", LONG, async || {
        // Whoever held something is gone.
        harness.pass(Duration::from_secs(60)).await;
        for by in agents.iter().chain([&harness.owner]) {
            let claim = ClaimTasksRequest { office_id: office.into(), max_tasks: Some(100), ..Default::default() };
            for task in harness.claim_with(by, claim).await.expect("claims") {
                assert!(!model.done.contains(&task.id), "{task:?} was done");
                match harness.complete(by, office, &task, "at last").await {
                    Ok(_) => {}
                    // A review: the verdict comes first.
                    Err(status) if status.message().contains("VerifyTask") => {
                        drop(harness.verify(by, office, &task.verifies_task_id, true).await);
                    }
                    // A whole with parts.
                    Err(_) => drop(harness.release(by, office, &task).await),
                }
            }
        }
        let mut open = Vec::new();
        for id in &model.all {
            let task = harness.task(office, id).await;
            match task.status() {
                TaskStatus::Verifying => harness.pass(Duration::from_secs(24 * 3600)).await,
                // It waits for what was given up: somebody decides.
                TaskStatus::Blocked if task.blocked_reason.starts_with("dependency") => {
                    harness.cancel(&harness.owner, office, id).await.expect("open");
                }
                _ => {}
            }
            if !finished(task.status()) {
                open.push(format!("{:?} {:?}", task.status(), task.blocked_reason));
            }
        }
        if open.is_empty() { Ok(Some(())) } else { Err(format!("{open:?}")) }
    })
    .await;
    for id in &model.done {
        assert_eq!(harness.status_of(office, id).await, TaskStatus::Done);
    }
}
