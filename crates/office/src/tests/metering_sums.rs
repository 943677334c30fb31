//! What metering adds up: usage, compute by the minute, and the allowance of accounts.

use std::time::Duration;

use futures::future::join_all;
use mi_credits::{Reserve, Settle, Spender};
use mi_kernel::{Actor, AgentId, CallId, Clock, OfficeId, credits::CREDIT, event::Category};
use mi_proto::{
    internal::v1::{ChargeComputeRequest, RunningAgent},
    v1::{GetUsageRequest, Usage, UsageGroup},
};
use mi_rpc::convert::timestamp;
use mi_store::on;
use mi_testkit::on_both;
use tonic::Code;

use super::{
    chat::refused,
    credits::{START, grant},
    harness::{Harness, administrator},
    metering::{call, spender},
    statements::{CREDITS, Meter},
};

on_both! {
    usage_is_added_up_by_agent_model_task_and_day,
    compute_is_charged_by_whole_minutes_once,
    whoever_starts_again_and_again_pays_for_its_time,
    offices_that_come_and_go_mint_nothing,
    ten_thousand_calls_at_once_are_all_explained,
    a_transaction_reads_once_and_writes_once,
}

async fn usage_is_added_up_by_agent_model_task_and_day(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let (one, two) = (harness.agent(&office, "one", true, &[]), harness.agent(&office, "two", true, &[]));
    let task = harness.work_on(&office, "").await.id;
    harness.take(&two, &office, 1, 0).await.expect("claims");
    let first_day = harness.clock.now().format("%Y-%m-%d").to_string();
    for (agent, model, amount) in [(&one, "haiku", 5), (&one, "opus", 70), (&two, "opus", 100)] {
        let mut call = call(&office, spender(agent, &[]), 200);
        call.request.model = model.into();
        harness.reserve_call(&call).await.expect("enough");
        harness.settle_call(&call, Some(amount)).await;
    }
    harness.clock.advance(Duration::from_secs(24 * 3600));
    let second_day = harness.clock.now().format("%Y-%m-%d").to_string();
    let last = call(&office, spender(&one, &[]), 9);
    harness.reserve_call(&last).await.expect("enough");
    harness.settle_call(&last, None).await;
    let row = |key: &str, amount, calls| Usage {
        key: key.into(),
        amount,
        input_tokens: 16 * calls,
        output_tokens: 5 * calls,
        calls,
    };
    assert_eq!(harness.used_by(&office, UsageGroup::Agent).await, [row("two", 100, 1), row("one", 84, 3)]);
    let models =
        [row("anthropic/opus", 170, 2), row("anthropic/claude-sonnet-4-5", 9, 1), row("anthropic/haiku", 5, 1)];
    assert_eq!(harness.used_by(&office, UsageGroup::Model).await, models);
    assert_eq!(harness.used_by(&office, UsageGroup::Task).await, [row(&task, 100, 1), row("", 84, 3)]);
    let days = [row(&first_day, 175, 3), row(&second_day, 9, 1)];
    assert_eq!(harness.used_by(&office, UsageGroup::Day).await, days);

    let now = harness.clock.now();
    let at = |days: i64| Some(timestamp(now + chrono::TimeDelta::days(days)));
    let asked = |group_by: i32, start_time, end_time| GetUsageRequest {
        office_id: office.clone(),
        group_by,
        start_time,
        end_time,
    };
    let year = |year: i64| Some(prost_types::Timestamp { seconds: (year - 1970) * 31_556_952, nanos: 0 });
    let agents = UsageGroup::Agent.into();
    let late = asked(agents, Some(timestamp(now - chrono::TimeDelta::hours(2))), None);
    let late = harness.credits(&harness.owner).get_usage(late).await.expect("reads").into_inner().usages;
    assert_eq!(late, [row("one", 9, 1)]);
    for (field, request) in [
        ("group_by", asked(0, None, None)),
        ("group_by", asked(99, None, None)),
        ("start_time", asked(agents, at(0), at(0))),
        ("start_time", asked(agents, at(1), None)),
        ("start_time", asked(agents, at(-93), at(0))),
        ("start_time", asked(UsageGroup::Task.into(), at(-32), at(0))),
        ("start_time", asked(agents, year(-9000), at(0))),
        ("end_time", asked(agents, at(0), year(9000))),
        ("end_time", asked(agents, None, year(9000))),
    ] {
        let refusal = harness.credits(&harness.owner).get_usage(request).await.expect_err(field);
        assert_eq!(refused(&refusal), (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some(field.into())));
    }
    let member = harness.credits(&one).get_usage(asked(agents, None, None)).await.expect_err("a member");
    assert_eq!(member.code(), Code::PermissionDenied);
}

async fn compute_is_charged_by_whole_minutes_once(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let (one, two) = (harness.agent(&office, "one", true, &[]), harness.agent(&office, "two", true, &[]));
    let begun = harness.clock.now();
    let after = |seconds: i64| begun + chrono::TimeDelta::seconds(seconds);
    let charge = async |seconds: i64, at_most: i64, agents: &[(&Actor, i64)]| {
        let running = |(agent, since): &(&Actor, i64)| RunningAgent {
            spender: Some(spender(agent, &[])),
            since: Some(timestamp(after(*since))),
        };
        let request = ChargeComputeRequest {
            office_id: office.clone(),
            until: Some(timestamp(after(seconds))),
            at_most: Some(prost_types::Duration { seconds: at_most, nanos: 0 }),
            agents: agents.iter().map(running).collect(),
        };
        harness.metering().charge_compute(request).await.expect("charges");
        let (balance, _) = harness.money(&office).await;
        (START - balance) / 100
    };
    assert_eq!(charge(59, 300, &[(&one, 0)]).await, 0, "not a minute yet");
    assert_eq!(charge(90, 300, &[(&one, 0), (&two, 80)]).await, 1);
    assert_eq!(charge(90, 300, &[(&one, 0), (&two, 80)]).await, 1, "asked again");
    assert_eq!(charge(150, 300, &[(&one, 0), (&two, 80)]).await, 3, "what was left of the first minute counts");
    // The clock steps forward: nobody was there for that time; and back: it was charged before.
    assert_eq!(charge(36_000, 60, &[(&one, 0)]).await, 4);
    assert_eq!(charge(300, 300, &[(&one, 0), (&two, 80)]).await, 6, "one's time was charged, two's was not");
    assert_eq!(charge(300, 300, &[(&one, 0), (&two, 80)]).await, 6);
    // It goes on from where the clock stands now, and is not let off until the clock is where it was.
    assert_eq!(charge(330, 300, &[(&one, 0)]).await, 7, "30 seconds of before, and 30");
    // A new instance, long after.
    assert_eq!(charge(36_130, 300, &[(&one, 36_060)]).await, 8);
    let ledger = harness.ledger(&harness.owner, &office, 50).await.expect("lists");
    assert_eq!(ledger.len(), 6);
    assert_eq!(
        (ledger[2].amount, &*ledger[2].reason, &*ledger[2].reference),
        (-200, "compute: 2 agent-minutes", "compute")
    );
    let models = harness.used_by(&office, UsageGroup::Model).await;
    assert_eq!(models, [Usage { key: "compute".into(), amount: 800, ..Usage::default() }]);
}

async fn whoever_starts_again_and_again_pays_for_its_time(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let (often, short) = (harness.agent(&office, "often", true, &[]), harness.agent(&office, "short", true, &[]));
    let begun = harness.clock.now();
    let after = |seconds: i64| timestamp(begun + chrono::TimeDelta::seconds(seconds));
    // One starts again every 50 seconds, the other one runs for 40 of every 300.
    for round in 1..=50 {
        let now = round * 60;
        let mut agents = vec![(&often, now / 50 * 50)];
        if now % 300 == 0 {
            agents.push((&short, now - 40));
        }
        let running = |(agent, since): (&Actor, i64)| RunningAgent {
            spender: Some(spender(agent, &[])),
            since: Some(after(since)),
        };
        let request = ChargeComputeRequest {
            office_id: office.clone(),
            until: Some(after(now)),
            at_most: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            agents: agents.into_iter().map(running).collect(),
        };
        harness.metering().charge_compute(request).await.expect("charges");
    }
    let used = harness.used_by(&office, UsageGroup::Agent).await;
    let minutes: Vec<_> = used.iter().map(|used| (&*used.key, used.amount / 100)).collect();
    // The first 50 seconds passed before it was seen for the first time; the other ran for 400.
    assert_eq!(minutes, [("often", 49), ("short", 6)]);
}

async fn offices_that_come_and_go_mint_nothing(mut harness: Harness) {
    harness.credit_rules.account = 25 * CREDIT;
    harness.crash().await;
    let spend = async |office: &str, amount: i64| {
        let agent = harness.agent(office, "spends", true, &[]);
        let call = call(office, spender(&agent, &[]), amount);
        harness.reserve_call(&call).await.expect("enough");
        harness.settle_call(&call, None).await;
    };
    // What is not spent goes back, whatever was granted besides.
    for (granted, spent) in [(0, 0), (50, 4 * CREDIT), (0, START), (5 * CREDIT, 6 * CREDIT)] {
        let office = harness.create("Comes").await.id;
        let (has, _) = harness.money(&office).await;
        if granted > 0 {
            harness.grant(&administrator(), grant(&office, granted, "")).await.expect("grants");
        }
        spend(&office, spent.min(has + granted).max(1)).await;
        harness.delete(&office).await;
        harness.until_status(&office, None).await;
    }
    // 25: nothing was spent but 1 micro-credit, then 4, then 10, then 6 of which 5 had been granted.
    let left: i64 = 25 * CREDIT - 1 - (4 * CREDIT - 50) - START - CREDIT;
    let (first, second) = (harness.create("First").await.id, harness.create("Second").await.id);
    let (first, second) = (harness.money(&first).await.0, harness.money(&second).await.0);
    assert_eq!((first, first + second), (left.min(START), left.min(2 * START)));
    let third = harness.create("Third").await.id;
    assert_eq!(harness.money(&third).await, (0, 0), "nothing is left of the allowance");
    let events = harness.activity.known().events.clone();
    assert!(events.iter().all(|event| event.kind != "credit.exhausted" || event.category == Category::Credit));
}

async fn ten_thousand_calls_at_once_are_all_explained(harness: Harness) {
    const CALLS: i64 = 10_000;
    let office = harness.create("Busy").await.id;
    let id: OfficeId = office.parse().expect("an id");
    let credits = harness.resources().await.credits;
    let agents: Vec<AgentId> = (0..20).map(|_| AgentId::new()).collect();
    // Four of five can be paid.
    let amount = START / (CALLS * 4 / 5);
    let reserve = |agent: &AgentId| Reserve {
        call_id: CallId::new(),
        spender: Spender { agent_id: *agent, name: "worker".into(), lineage: vec![agents[0]] },
        payer: None,
        provider: "anthropic".into(),
        model: "opus".into(),
        amount,
        valid_for: Duration::from_secs(300),
    };
    let calls: Vec<Reserve> = (0..usize::try_from(CALLS).expect("small")).map(|n| reserve(&agents[n % 20])).collect();
    let outcomes = join_all(calls.iter().map(async |call| {
        credits.reserve(id, call.clone()).await?;
        let settle = Settle { call_id: call.call_id, amount: Some(amount), tokens: None, note: String::new() };
        credits.settle(id, settle).await
    }))
    .await;
    let (paid, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(refused.len(), 2000);
    assert!(refused.into_iter().filter_map(Result::err).all(|error| error.reason == "OUT_OF_CREDITS"));
    assert!(paid.into_iter().all(|debited| debited.is_ok_and(|debited| debited == amount)));
    assert_eq!(harness.money(&office).await, (0, 0));
    let db = harness.db().await;
    let mut conn = db.office(id).read().await.expect("reads");
    let sql = "SELECT CAST(sum(amount) AS bigint), count(*) FROM ledger_entries WHERE office_id = $1";
    let found: (i64, i64) = on!(conn, |c| sqlx::query_as(sql).bind(id.0).fetch_one(&mut *c).await).expect("sums");
    assert_eq!(found, (0, 8001));
}

async fn a_transaction_reads_once_and_writes_once(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let (boss, agent) = (harness.agent(&office, "boss", true, &[]), harness.agent(&office, "one", true, &[]));
    harness.work_on(&office, "").await;
    harness.take(&agent, &office, 1, 0).await.expect("claims");
    let meter = Meter::new(CREDITS, &office);
    let calls: Vec<_> = (0..20).map(|_| call(&office, spender(&agent, &[&boss]), 100)).collect();
    join_all(calls.iter().map(async |call| harness.reserve_call(call).await.expect("enough"))).await;
    assert_eq!(meter.most().await, 2);
    assert_eq!(join_all(calls.iter().map(|call| harness.settle_call(call, Some(7)))).await, [7; 20]);
    assert_eq!(meter.most().await, 2);
    assert_eq!(harness.money(&office).await, (START - 140, 0));
}
