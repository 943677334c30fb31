//! What the queue does under its lock has a bound, however much there is: on SQLite it holds up every tenant.

use mi_proto::v1::{ClaimTasksRequest, CreateTaskRequest, GetTaskStatsRequest, ListTasksRequest, Task, TaskStatus};
use mi_testkit::{on_both, until};

use super::{field, many, request, seconds};
use crate::tests::{
    harness::{Harness, LONG},
    statements::{Meter, QUEUE},
};

on_both! {
    circles_are_looked_for_with_few_statements,
    what_cannot_be_searched_for_circles_is_refused,
    a_large_tree_is_cancelled_in_parts,
    many_dependents_are_freed_in_parts,
    what_was_left_is_done_after_a_crash,
    a_chain_hangs_and_goes_on_again_in_parts,
    agents_are_looked_after_in_pages,
    a_long_part_is_cancelled_while_its_whole_waits_for_another,
    who_waits_is_served_when_a_tree_is_cancelled,
    searches_for_circles_do_not_share_one_transaction,
    leases_that_run_out_together_are_ended_with_few_statements,
}

/// A chain of tasks, each of which depends on the one before it.
async fn chain(harness: &Harness, office: &str, length: usize) -> Vec<Task> {
    let mut requests = many("", length).requests;
    for (place, request) in requests.iter_mut().enumerate().skip(1) {
        request.depends_on = vec![format!("#{}", place - 1)];
    }
    harness.batch(office, requests).await.expect("creates")
}

fn parts(count: usize, of: &str, on: &[&str]) -> Vec<CreateTaskRequest> {
    let part = |n| CreateTaskRequest {
        parent_id: of.into(),
        depends_on: on.iter().map(ToString::to_string).collect(),
        ..request("", &format!("part {n}"))
    };
    (0..count).map(part).collect()
}

async fn circles_are_looked_for_with_few_statements(harness: Harness) {
    let office = harness.active("Work").await;
    let meter = Meter::new(QUEUE, &office);
    let mut most = Vec::new();
    for (length, count) in [(2, 2), (50, 10), (900, 1000)] {
        let chain = chain(&harness, &office, length).await;
        let top = harness.new_task(&office, "top").await.id;
        // Something waits for the parent, so that both ways have to be looked at.
        let waits = CreateTaskRequest { depends_on: vec![top.clone()], ..request(&office, "waits") };
        let waits = harness.create_task(&harness.owner, waits).await.expect("creates").id;
        meter.most().await;
        harness.batch(&office, parts(count, &top, &[&chain[length - 1].id])).await.expect("no circle");
        most.push(meter.most().await);
        assert_eq!(field(harness.batch(&office, parts(count, &top, &[&chain[0].id, &waits])).await), "depends_on");
        most.push(meter.most().await);
    }
    // As many for a thousand tasks after a chain of a thousand as for two after one of two.
    assert!(most.iter().all(|statements| *statements <= 12), "{most:?}");
}

async fn what_cannot_be_searched_for_circles_is_refused(harness: Harness) {
    let office = harness.active("Work").await;
    // What the new task depends on waits for more than is searched, and so many wait for its parent.
    let long = chain(&harness, &office, 1000).await;
    let more = CreateTaskRequest { depends_on: vec![long[999].id.clone()], ..request(&office, "more") };
    let below = harness.create_task(&harness.owner, more).await.expect("creates").id;
    let above = chain(&harness, &office, 1000).await;
    let waits = CreateTaskRequest { depends_on: vec![above[999].id.clone()], ..request(&office, "waits") };
    harness.create_task(&harness.owner, waits).await.expect("creates");
    let refused = harness.batch(&office, parts(1, &above[0].id, &[&below])).await;
    let message = refused.as_ref().expect_err("refused").message().to_owned();
    assert_eq!(field(refused), "depends_on");
    assert!(message.contains("1000"), "{message}");
    // What is below is looked at when there is too much above.
    let circle = harness.batch(&office, parts(1, &above[0].id, &[&above[9].id])).await.expect_err("refused");
    assert!(circle.message().contains("circle: task"), "{circle:?}");
    // One of both ways is enough, and what is done is in none.
    harness.batch(&office, parts(1, &above[1].id, &[&below])).await.expect("fewer wait for this parent");
    for done in &long[..2] {
        harness.done(&office, &done.id).await;
    }
    harness.batch(&office, parts(1, &above[0].id, &[&below])).await.expect("waits for fewer by now");
    // Many links of one task are too many, too.
    let wide = harness.batch(&office, many("", 33).requests).await.expect("creates");
    let ids: Vec<String> = wide.iter().map(|task| task.id.clone()).collect();
    let collects = CreateTaskRequest { depends_on: ids.clone(), ..request(&office, "collects") };
    let collects = harness.create_task(&harness.owner, collects).await.expect("creates").id;
    let refused = harness.batch(&office, parts(1, &above[0].id, &[&collects])).await;
    assert_eq!(field(refused), "depends_on");
    harness.batch(&office, parts(1, &above[1].id, &[&collects])).await.expect("fewer wait for this parent");
    // So are more links than one transaction writes.
    let many_links: Vec<String> = long.iter().map(|task| task.id.clone()).collect();
    let requests =
        (0..11).map(|n| CreateTaskRequest { depends_on: many_links.clone(), ..request("", &format!("{n}")) });
    assert_eq!(field(harness.batch(&office, requests.collect()).await), "depends_on");
}

/// What one transaction may run, whatever there is.
const BOUND: u64 = 150;

/// How many tasks of the office there are of this status.
async fn count(harness: &Harness, office: &str, status: TaskStatus) -> i32 {
    let request = GetTaskStatsRequest { office_id: office.into() };
    let stats = harness.tasks(&harness.owner).get_task_stats(request).await.expect("counts").into_inner().stats;
    let counts = stats.expect("always there").counts;
    counts.into_iter().find(|count| count.status() == status).map_or(0, |count| count.count)
}

async fn until_count(harness: &Harness, office: &str, status: TaskStatus, expected: i32) {
    until("so many tasks have the status", LONG, async || {
        let found = count(harness, office, status).await;
        if found == expected { Ok(Some(())) } else { Err(format!("{found} instead of {expected} are {status:?}")) }
    })
    .await;
}

async fn a_large_tree_is_cancelled_in_parts(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let meter = Meter::new(QUEUE, &office);
    let top = harness.new_task(&office, "top").await.id;
    let mut below = top.clone();
    for _ in 0..3 {
        below = harness.batch(&office, parts(1000, &below, &[])).await.expect("creates").swap_remove(0).id;
    }
    // Something else that nobody touches, and something that waits for the last of all.
    let waits = CreateTaskRequest { depends_on: vec![below.clone()], ..request(&office, "waits") };
    let waits = harness.create_task(&harness.owner, waits).await.expect("creates").id;
    meter.most().await;
    harness.cancel(&harness.owner, &office, &top).await.expect("open");
    // Not one of its subtasks is handed out meanwhile, though some may be open still.
    assert_eq!(harness.claim_all(&worker, &office).await, [""; 0]);
    until_count(&harness, &office, TaskStatus::Cancelled, 3001).await;
    let task = harness.task(&office, &below).await;
    assert_eq!(task.error, format!("a part of task {top}, which was cancelled"));
    let reason = format!("dependency {below} is cancelled: {}", task.error);
    harness.until_task(&office, &waits, TaskStatus::Blocked).await;
    assert_eq!(harness.task(&office, &waits).await.blocked_reason, reason);
    let most = meter.most().await;
    assert!(most <= BOUND, "{most} statements");
    // All is over: there is work again, and a retry.
    harness.retry(&harness.owner, &office, &top).await.expect("cancelled");
    assert_eq!(harness.claim_all(&worker, &office).await, ["top"]);
}

async fn many_dependents_are_freed_in_parts(harness: Harness) {
    let office = harness.active("Work").await;
    let meter = Meter::new(QUEUE, &office);
    let first = harness.new_task(&office, "first").await.id;
    for _ in 0..3 {
        let mut requests = many("", 1000).requests;
        requests.iter_mut().for_each(|request| request.depends_on = vec![first.clone()]);
        harness.batch(&office, requests).await.expect("creates");
    }
    meter.most().await;
    harness.done(&office, &first).await;
    until_count(&harness, &office, TaskStatus::Queued, 3000).await;
    let most = meter.most().await;
    assert!(most <= BOUND, "{most} statements");
}

async fn what_was_left_is_done_after_a_crash(mut harness: Harness) {
    let office = harness.active("Work").await;
    let top = harness.new_task(&office, "top").await.id;
    harness.batch(&office, parts(1000, &top, &[])).await.expect("creates");
    harness.batch(&office, parts(1000, &top, &[])).await.expect("creates");
    harness.cancel(&harness.owner, &office, &top).await.expect("open");
    // The process ends right after the first transaction, or soon after.
    harness.end().await;
    harness.start_again().await;
    until_count(&harness, &office, TaskStatus::Cancelled, 2001).await;
}

async fn a_chain_hangs_and_goes_on_again_in_parts(harness: Harness) {
    let office = harness.active("Work").await;
    let meter = Meter::new(QUEUE, &office);
    let chain = chain(&harness, &office, 200).await;
    meter.most().await;
    harness.cancel(&harness.owner, &office, &chain[0].id).await.expect("open");
    let last = chain[199].id.as_str();
    let until_it_hangs = async |on: &str| {
        until("the end of the chain knows", LONG, async || {
            let hangs_on = harness.task(&office, last).await.hangs_on_task_id;
            if hangs_on == on { Ok(Some(())) } else { Err(hangs_on) }
        })
        .await;
    };
    until_it_hangs(&chain[0].id).await;
    harness.retry(&harness.owner, &office, &chain[0].id).await.expect("cancelled");
    until_it_hangs("").await;
    let most = meter.most().await;
    assert!(most <= BOUND, "{most} statements");
}

async fn agents_are_looked_after_in_pages(harness: Harness) {
    let office = harness.active("Work").await;
    let [leaver, stayer] = ["leaver", "stayer"].map(|name| harness.agent(&office, name, false, &[]));
    let meter = Meter::new(QUEUE, &office);
    let needs = |n: usize| match n % 4 {
        0 => CreateTaskRequest { assigned_agent: "leaver".into(), ..request("", "kept") },
        1 => CreateTaskRequest { required_tools: vec!["saw".into()], ..request("", "needs a saw") },
        2 => CreateTaskRequest { required_tools: vec!["saw".into(), "nails".into()], ..request("", "needs nails") },
        _ => request("", "any"),
    };
    harness.batch(&office, (0..1000).map(needs).collect()).await.expect("creates");
    let claim = ClaimTasksRequest { office_id: office.clone(), max_tasks: Some(100), ..Default::default() };
    assert_eq!(harness.claim_with(&leaver, claim).await.expect("claims").len(), 100);
    assert_eq!(count(&harness, &office, TaskStatus::Blocked).await, 500);
    meter.most().await;
    harness.scheduler.known().members.retain(|member| member.name != "leaver");
    harness.agent(&office, "joiner", false, &["saw"]);
    until("the agents were looked at", LONG, async || {
        let review = vec![mi_proto::v1::TaskKind::Review.into()];
        let claim = ClaimTasksRequest { office_id: office.clone(), kinds: review, ..Default::default() };
        harness.claim_with(&stayer, claim).await.map_err(|status| status.to_string())?;
        let list =
            ListTasksRequest { office_id: office.clone(), assigned_agent: "leaver".into(), ..Default::default() };
        let kept = harness.tasks(&harness.owner).list_tasks(list).await.map_err(|status| status.to_string())?;
        let (queued, running) =
            (count(&harness, &office, TaskStatus::Queued).await, count(&harness, &office, TaskStatus::Running).await);
        let kept = kept.into_inner().tasks.len();
        if (queued, running, kept) == (750, 0, 0) { Ok(Some(())) } else { Err(format!("{queued} {running} {kept}")) }
    })
    .await;
    let most = meter.most().await;
    assert!(most <= BOUND, "{most} statements");
}

async fn a_long_part_is_cancelled_while_its_whole_waits_for_another(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let top = harness.new_task(&office, "top").await;
    let held = harness.claim(&worker, &office).await.expect("the whole");
    let two = harness.batch(&office, parts(2, &top.id, &[])).await.expect("creates");
    let given = harness.release(&worker, &office, &held).await.expect("holds");
    assert_eq!((&given.id, given.status()), (&top.id, TaskStatus::Blocked));
    // As it is stored, more than one transaction reads of what follows, unless it is the first.
    let description = "\u{1}".repeat(200 << 10);
    let long = CreateTaskRequest { parent_id: two[0].id.clone(), description, ..request(&office, "long") };
    let long = harness.create_task(&harness.owner, long).await.expect("creates").id;
    harness.cancel(&harness.owner, &office, &two[0].id).await.expect("open");
    let task = harness.until_task(&office, &long, TaskStatus::Cancelled).await;
    assert_eq!(task.error, format!("a part of task {}, which was cancelled", two[0].id));
    let claim = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let next = harness.claim_with(&worker, claim).await.expect("claims").pop().expect("the other part");
    assert_eq!((next.id, harness.status_of(&office, &top.id).await), (two[1].id.clone(), TaskStatus::Blocked));
}

async fn who_waits_is_served_when_a_tree_is_cancelled(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let top = harness.new_task(&office, "top").await.id;
    for _ in 0..2 {
        harness.batch(&office, parts(1000, &top, &[])).await.expect("creates");
    }
    let other = harness.new_task(&office, "other").await.id;
    harness.cancel(&harness.owner, &office, &top).await.expect("open");
    let claim = ClaimTasksRequest { office_id: office.clone(), wait: seconds(60), ..Default::default() };
    let claimed = harness.claim_with(&worker, claim).await.expect("claims");
    assert_eq!(claimed.into_iter().map(|task| task.id).collect::<Vec<_>>(), [other]);
    assert_eq!(count(&harness, &office, TaskStatus::Cancelled).await, 2001);
}

async fn searches_for_circles_do_not_share_one_transaction(harness: Harness) {
    let office = harness.active("Work").await;
    let meter = Meter::new(QUEUE, &office);
    let top = harness.new_task(&office, "top").await.id;
    let first = harness.new_task(&office, "first").await.id;
    meter.most().await;
    let part = |n| CreateTaskRequest {
        parent_id: top.clone(),
        depends_on: vec![first.clone()],
        ..request(&office, &format!("part {n}"))
    };
    let asked = (0..200).map(|n| harness.create_task(&harness.owner, part(n)));
    let created = futures::future::join_all(asked).await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    let most = meter.most().await;
    assert!(most <= BOUND, "{most} statements");
}

async fn leases_that_run_out_together_are_ended_with_few_statements(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    let meter = Meter::new(QUEUE, &office);
    harness.batch(&office, many("", 500).requests).await.expect("creates");
    for _ in 0..5 {
        assert_eq!(harness.claim_all(&worker, &office).await.len(), 100);
    }
    meter.most().await;
    harness.pass(std::time::Duration::from_secs(31)).await;
    until_count(&harness, &office, TaskStatus::Queued, 500).await;
    let most = meter.most().await;
    assert!(most <= BOUND, "{most} statements");
}
