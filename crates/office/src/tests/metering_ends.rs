//! How calls end: late, before they began, in an office that is in trouble or is deleted; and what is forgotten of them.

use std::time::Duration;

use mi_kernel::{OfficeId, credits::CREDIT};
use mi_proto::v1::{CreateTaskRequest, Task, Usage, UsageGroup};
use mi_store::on;
use mi_testkit::{on_both, until};
use tonic::Code;

use super::{
    chat::refused,
    credits::{START, grant},
    harness::{Harness, LONG, administrator},
    metering::{call, spender},
    retention::DAY,
};

on_both! {
    what_ends_before_it_began_never_begins,
    what_is_known_late_is_corrected_once,
    what_cost_less_frees_whoever_waits,
    what_expires_at_nothing_was_a_call_all_the_same,
    an_office_in_trouble_holds_up_no_other,
    the_end_of_the_credits_is_told_each_time,
    what_is_set_aside_does_not_go_back,
    a_review_pays_with_what_it_judges,
    what_is_too_old_is_forgotten,
}

/// What calls used, in number and amount.
fn used(usages: &[Usage]) -> Vec<(&str, i64, i64)> {
    usages.iter().map(|used| (used.key.as_str(), used.amount, used.calls)).collect()
}

async fn what_ends_before_it_began_never_begins(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    for amount in [Some(0), None, Some(7)] {
        let call = call(&office, spender(&agent, &[]), 400);
        assert_eq!(harness.settle_call(&call, amount).await, 0);
        let late = harness.reserve_call(&call).await.expect_err("it has ended");
        assert_eq!(refused(&late), (Code::FailedPrecondition, "CALL_SETTLED".into(), None));
        assert_eq!(harness.settle_call(&call, Some(9)).await, 0);
    }
    assert_eq!(harness.money(&office).await, (START, 0));
    assert_eq!(harness.used_by(&office, UsageGroup::Agent).await, []);
    // It is remembered for a while.
    harness.clock.advance(Duration::from_secs(3601));
    harness.resources().await.credits.expire_due().await.expect("sweeps");
    assert_eq!(harness.count(&office, "reservations").await, 0);
    assert_eq!(harness.money(&office).await, (START, 0));
}

async fn what_is_known_late_is_corrected_once(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let task = harness.work_on(&office, "").await.id;
    harness.take(&agent, &office, 1, 0).await.expect("claims");
    let [less, more, same] = [400, 10, 30].map(|amount| call(&office, spender(&agent, &[]), amount));
    for call in [&less, &more, &same] {
        harness.reserve_call(call).await.expect("enough");
    }
    harness.clock.advance(Duration::from_secs(301));
    let credits = harness.resources().await.credits;
    credits.expire_due().await.expect("sweeps");
    assert_eq!(harness.money(&office).await, (START - 440, 0));
    for (call, cost) in [(&less, 3), (&more, 50), (&same, 30)] {
        for amount in [Some(cost), Some(cost), Some(cost + 1), None] {
            assert_eq!(harness.settle_call(call, amount).await, cost);
        }
        let again = harness.reserve_call(call).await.expect_err("it has ended");
        assert_eq!(refused(&again), (Code::FailedPrecondition, "CALL_SETTLED".into(), None));
    }
    assert_eq!(harness.money(&office).await, (START - 83, 0));
    let ledger = harness.ledger(&harness.owner, &office, 50).await.expect("lists");
    let corrections: Vec<_> =
        ledger[..2].iter().map(|entry| (entry.amount, &*entry.reason, &*entry.reference)).collect();
    let [less_id, more_id] = [&less, &more].map(|call| format!("call/{}", call.request.call_id));
    let model = "correction: model claude-sonnet-4-5 cost";
    assert_eq!(corrections, [(-40, &*format!("{model} more"), &*more_id), (397, &*format!("{model} less"), &*less_id)]);
    assert_eq!((ledger.len(), ledger[0].balance_after), (5, START - 83));
    assert_eq!(harness.task_cost(&office, &task).await, 83);
    assert_eq!(used(&harness.used_by(&office, UsageGroup::Agent).await), [("analyst", 83, 3)]);
    assert_eq!(used(&harness.used_by(&office, UsageGroup::Task).await), [(&*task, 83, 3)]);
    // After a day nobody corrects anything any more, and it is not begun again either.
    harness.clock.advance(DAY);
    credits.expire_due().await.expect("sweeps");
    assert_eq!(harness.count(&office, "reservations").await, 0);
    assert_eq!(harness.settle_call(&less, Some(1)).await, 400, "what was debited first");
    harness.reserve_call(&less).await.expect_err("it has ended");
    assert_eq!(harness.money(&office).await, (START - 83, 0));
}

async fn what_cost_less_frees_whoever_waits(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [boss, leaf] = ["boss", "leaf"].map(|name| harness.agent(&office, name, true, &[]));
    harness.budget(&office, "boss", 100).await;
    let lost = call(&office, spender(&boss, &[]), 100);
    harness.reserve_call(&lost).await.expect("enough");
    harness.clock.advance(Duration::from_secs(301));
    harness.resources().await.credits.expire_due().await.expect("sweeps");
    let next = call(&office, spender(&leaf, &[&boss]), 10);
    harness.reserve_call(&next).await.expect_err("a wall");
    harness.until_told(&leaf, None, true).await;
    assert_eq!(harness.settle_call(&lost, Some(20)).await, 20);
    harness.until_told(&leaf, None, false).await;
    harness.reserve_call(&next).await.expect("there is room");
}

async fn what_expires_at_nothing_was_a_call_all_the_same(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let [lost, unknown] = [0, 0].map(|amount| call(&office, spender(&agent, &[]), amount));
    for call in [&lost, &unknown] {
        harness.reserve_call(call).await.expect("enough");
    }
    let mut settle = unknown.settled(None);
    settle.usage = None;
    harness.metering().settle_credits(settle).await.expect("settles");
    harness.clock.advance(Duration::from_secs(301));
    harness.resources().await.credits.expire_due().await.expect("sweeps");
    assert_eq!(used(&harness.used_by(&office, UsageGroup::Agent).await), [("analyst", 0, 2)]);
    // And it may have cost something.
    assert_eq!(harness.settle_call(&lost, Some(5)).await, 5);
    assert_eq!(used(&harness.used_by(&office, UsageGroup::Agent).await), [("analyst", 5, 2)]);
    assert_eq!(harness.money(&office).await, (START - 5, 0));
}

async fn an_office_in_trouble_holds_up_no_other(harness: Harness) {
    let (stuck, well) = (harness.create("Stuck").await.id, harness.create("Well").await.id);
    for office in [&stuck, &well] {
        let agent = harness.agent(office, "analyst", true, &[]);
        harness.reserve_call(&call(office, spender(&agent, &[]), 400)).await.expect("enough");
    }
    harness.damage(&stuck, "UPDATE reservations SET lineage = '{}' WHERE office_id = $1").await;
    harness.clock.advance(Duration::from_secs(301));
    let credits = harness.resources().await.credits;
    credits.expire_due().await.expect("goes on");
    assert_eq!(harness.money(&well).await, (START - 400, 0));
    assert_eq!(harness.money(&stuck).await, (START, 400));
    // It is left alone for a while, and then tried again.
    harness.damage(&stuck, "UPDATE reservations SET lineage = '[]' WHERE office_id = $1").await;
    credits.expire_due().await.expect("goes on");
    harness.clock.advance(Duration::from_secs(61));
    credits.expire_due().await.expect("goes on");
    assert_eq!(harness.money(&stuck).await, (START - 400, 0));
}

async fn the_end_of_the_credits_is_told_each_time(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let all = call(&office, spender(&agent, &[]), START);
    harness.reserve_call(&all).await.expect("all there is");
    harness.settle_call(&all, Some(START - 10)).await;
    let exhausted = async || {
        let marker = harness.grant(&administrator(), grant(&office, 1, "")).await.expect("grants").id;
        until("the feed has everything", LONG, async || {
            let events = harness.activity.known().events.clone();
            let of_office = events.iter().filter(|event| event.office_id.to_string() == office);
            let all: Vec<_> = of_office.collect();
            let told = all.iter().any(|event| event.metadata["entry_id"] == *marker);
            Ok::<_, String>(told.then(|| all.iter().filter(|event| event.kind == "credit.exhausted").count()))
        })
        .await
    };
    assert_eq!(exhausted().await, 0, "what was only set aside came back");
    for times in 1..=2 {
        let (balance, _) = harness.money(&office).await;
        let rest = call(&office, spender(&agent, &[]), balance);
        harness.reserve_call(&rest).await.expect("all there is");
        harness.settle_call(&rest, None).await;
        assert_eq!(exhausted().await, times);
    }
}

async fn what_is_set_aside_does_not_go_back(mut harness: Harness) {
    harness.credit_rules.account = 10 * CREDIT;
    harness.crash().await;
    let office = harness.create("Goes").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    harness.reserve_call(&call(&office, spender(&agent, &[]), 4 * CREDIT)).await.expect("enough");
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    let next = harness.create("Next").await.id;
    assert_eq!(harness.money(&next).await, (6 * CREDIT, 0));
}

async fn a_review_pays_with_what_it_judges(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.set_ceiling(&office, 1000).await;
    let [worker, peer] = ["worker", "peer"].map(|name| harness.agent(&office, name, false, &[]));
    let root = harness.work_on(&office, "").await;
    let checked = CreateTaskRequest {
        office_id: office.clone(),
        title: "checked".into(),
        parent_id: root.id.clone(),
        verification_required: true,
        ..Default::default()
    };
    harness.tasks(&harness.owner).create_task(checked).await.expect("creates");
    let held: Vec<Task> = harness.take(&worker, &office, 2, 0).await.expect("claims");
    harness.complete(&worker, &office, &held[1], "work").await.expect("holds");
    let review = harness.take(&peer, &office, 1, 0).await.expect("claims").remove(0);
    assert_eq!(review.verifies_task_id, held[1].id);
    let costs = call(&office, spender(&peer, &[]), 300);
    assert_eq!(harness.reserve_call(&costs).await.expect("enough"), review.id);
    harness.settle_call(&costs, Some(300)).await;
    assert_eq!([harness.task_cost(&office, &root.id).await, harness.task_cost(&office, &review.id).await], [300, 300]);
    let refusal = harness.reserve_call(&call(&office, spender(&peer, &[]), 701)).await.expect_err("one tree");
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, "BUDGET_REACHED".into(), None));
}

async fn what_is_too_old_is_forgotten(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", false, &[]);
    let task = harness.work_on(&office, "").await;
    let held = harness.take(&agent, &office, 1, 0).await.expect("claims").remove(0);
    let costs = call(&office, spender(&agent, &[]), 9);
    harness.reserve_call(&costs).await.expect("enough");
    harness.settle_call(&costs, Some(9)).await;
    harness.complete(&agent, &office, &held, "work").await.expect("holds");
    assert_eq!((harness.task_cost(&office, &task.id).await, harness.count(&office, "task_costs").await), (9, 1));
    harness.keep_three_days(&office).await;
    harness.clock.advance(4 * DAY);
    harness.forget(&office).await;
    assert_eq!(harness.count(&office, "task_costs").await, 0, "with the task");
    let credits = harness.resources().await.credits;
    credits.forget_usage().await.expect("sweeps");
    assert_eq!(harness.count(&office, "usages").await, 3, "by agent, model and task");
    harness.clock.advance(397 * DAY);
    let late = call(&office, spender(&agent, &[]), 1);
    harness.reserve_call(&late).await.expect("enough");
    harness.settle_call(&late, Some(1)).await;
    credits.forget_usage().await.expect("sweeps");
    assert_eq!(harness.count(&office, "usages").await, 3, "the new ones");
    assert_eq!(used(&harness.used_by(&office, UsageGroup::Agent).await), [("analyst", 1, 1)]);
}

impl Harness {
    /// Rows that a table has of an office.
    async fn count(&self, office: &str, table: &str) -> i64 {
        let id: OfficeId = office.parse().expect("an id");
        let sql = match table {
            "reservations" => "SELECT count(*) FROM reservations WHERE office_id = $1",
            "task_costs" => "SELECT count(*) FROM task_costs WHERE office_id = $1",
            "usages" => "SELECT count(*) FROM usages WHERE office_id = $1",
            other => panic!("{other} is not counted here"),
        };
        let mut conn = self.tables().await.office(id).read().await.expect("reads");
        on!(conn, |c| sqlx::query_scalar(sql).bind(id.0).fetch_one(&mut *c).await).expect("counts")
    }

    /// Changes rows of an office as nothing here would.
    async fn damage(&self, office: &str, sql: &'static str) {
        let id: OfficeId = office.parse().expect("an id");
        let mut tx = self.tables().await.office(id).begin().await.expect("begins");
        on!(tx, |c| sqlx::query(sql).bind(id.0).execute(&mut *c).await.map(drop)).expect("changes");
        tx.commit().await.expect("commits");
    }
}
