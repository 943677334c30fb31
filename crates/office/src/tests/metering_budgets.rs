//! Budgets of agents: a wall for them and all whom they hired, told to the scheduler until it knows.

use chrono::TimeDelta;
use futures::future::join_all;
use mi_kernel::{Actor, Clock, Time};
use mi_proto::{
    internal::v1::{ChargeComputeRequest, RunningAgent},
    v1::{Agent, AgentBudget, GetBalanceRequest, SetAgentBudgetRequest},
};
use mi_rpc::convert::timestamp;
use mi_store::on;
use mi_testkit::{on_both, until};
use tonic::{Code, Status};

use super::{
    chat::refused,
    credits::{START, grant},
    harness::{Harness, LONG, administrator},
    metering::{call, spender},
    peer::Mood,
};

on_both! {
    a_budget_is_a_wall_and_whoever_reaches_it_has_to_wait,
    whoever_is_hired_spends_the_hirers_budget,
    raising_a_hirers_budget_frees_those_below,
    of_parallel_calls_none_breaks_a_budget,
    what_only_open_calls_stand_in_the_way_of_makes_nobody_wait,
    owners_limit_all_and_agents_those_below_them,
    what_is_no_budget_is_refused_by_field,
    the_scheduler_hears_of_a_budget_however_late,
    compute_that_uses_a_budget_up_makes_an_agent_wait,
    the_budget_of_one_that_is_gone_is_raised_all_the_same,
    an_agent_sets_no_more_than_an_operator_did,
    whoever_is_gone_waits_no_longer,
    what_of_a_budget_is_left_is_told,
    the_scheduler_hears_whom_the_credits_do_not_suffice_for,
    who_runs_when_nothing_is_left_says_so_until_there_is_more,
}

fn id(agent: &Actor) -> String {
    let Actor::Agent(agent) = agent else { panic!("an agent") };
    agent.agent_id.to_string()
}

impl Harness {
    async fn set_budget(&self, actor: &Actor, office: &str, agent: &str, amount: Option<i64>) -> Result<Agent, Status> {
        let request = SetAgentBudgetRequest { office_id: office.into(), agent: agent.into(), amount };
        Ok(self.credits(actor).set_agent_budget(request).await?.into_inner().agent.expect("always there"))
    }

    pub(super) async fn budget(&self, office: &str, agent: &str, amount: impl Into<Option<i64>>) {
        let shown = amount.into();
        let set = self.set_budget(&self.owner, office, agent, shown).await.expect("sets");
        assert_eq!((set.name.as_str(), set.budget), (agent, shown));
    }

    /// Waits until the scheduler was told this of the agent at last: its budget, and whether it has to wait.
    pub(super) async fn until_told(&self, agent: &Actor, budget: Option<i64>, waits: bool) {
        let id = id(agent);
        until("the scheduler knows", LONG, async || {
            let known = self.scheduler.known();
            let told = known.budgets.iter().filter(|told| told.agent_id == id).max_by_key(|told| told.version);
            let told = told.map(|told| (told.budget, !told.reached.is_empty()));
            if told == Some((budget, waits)) { Ok(Some(())) } else { Err(format!("{told:?}")) }
        })
        .await;
    }

    /// Waits until the scheduler was told at last why the office's credits do not suffice for the agent.
    async fn until_told_broke(&self, agent: &Actor, why: &str) {
        let id = id(agent);
        until("the scheduler knows", LONG, async || {
            let known = self.scheduler.known();
            let told = known.budgets.iter().filter(|told| told.agent_id == id).max_by_key(|told| told.version);
            let told = told.map(|told| told.broke.clone());
            if told.as_deref() == Some(why) { Ok(Some(())) } else { Err(format!("{told:?}")) }
        })
        .await;
    }

    fn hired(&self, agent: &Actor, lineage: &[&Actor]) {
        let lineage = lineage.iter().map(|agent| id(agent)).collect();
        self.scheduler.known().lineages.insert(id(agent), lineage);
    }
}

impl Harness {
    /// Charges the agent, which runs since it has begun, for the time until this minute.
    async fn charge_minute(&self, office: &str, agent: &Actor, begun: Time, minute: i64) {
        let request = ChargeComputeRequest {
            office_id: office.into(),
            until: Some(timestamp(begun + TimeDelta::minutes(minute))),
            at_most: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            agents: vec![RunningAgent { spender: Some(spender(agent, &[])), since: Some(timestamp(begun)) }],
        };
        self.metering().charge_compute(request).await.expect("charges");
    }

    fn fire(&self, agent: &Actor) {
        let id = id(agent);
        self.scheduler.known().members.retain(|member| member.agent_id != id);
    }
}

fn reached(status: &Status) -> bool {
    refused(status) == (Code::ResourceExhausted, "BUDGET_REACHED".into(), None)
}

async fn a_budget_is_a_wall_and_whoever_reaches_it_has_to_wait(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let other = harness.agent(&office, "other", true, &[]);
    // What was spent before counts.
    let before = call(&office, spender(&agent, &[]), 40);
    harness.reserve_call(&before).await.expect("no budget yet");
    harness.settle_call(&before, Some(40)).await;
    harness.budget(&office, "analyst", 100).await;
    harness.until_told(&agent, Some(100), false).await;
    harness.reserve_call(&call(&office, spender(&agent, &[]), 60)).await.expect("just so");
    let over = call(&office, spender(&agent, &[]), 61);
    for _ in 0..3 {
        assert!(reached(&harness.reserve_call(&over).await.expect_err("a wall")));
    }
    harness.until_told(&agent, Some(100), true).await;
    harness.reserve_call(&call(&office, spender(&other, &[]), 5000)).await.expect("has no budget");
    let events = ["office.created", "credit.granted", "office.activated", "credit.budget_set", "credit.budget_reached"];
    harness.until_events(&office, &events).await;

    harness.budget(&office, "analyst", 200).await;
    harness.until_told(&agent, Some(200), false).await;
    harness.reserve_call(&over).await.expect("raised");
    // 0 is a wall at once, and nothing is none.
    harness.budget(&office, "analyst", 0).await;
    harness.until_told(&agent, Some(0), true).await;
    assert!(reached(&harness.reserve_call(&call(&office, spender(&agent, &[]), 0)).await.expect_err("a wall")));
    harness.budget(&office, "analyst", None).await;
    harness.until_told(&agent, None, false).await;
    harness.reserve_call(&call(&office, spender(&agent, &[]), 5000)).await.expect("no budget any more");
}

async fn whoever_is_hired_spends_the_hirers_budget(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [boss, middle, leaf] = ["boss", "middle", "leaf"].map(|name| harness.agent(&office, name, true, &[]));
    harness.budget(&office, "boss", 100).await;
    let below = call(&office, spender(&leaf, &[&middle, &boss]), 70);
    harness.reserve_call(&below).await.expect("within the hirer's");
    assert!(reached(
        &harness.reserve_call(&call(&office, spender(&boss, &[]), 31)).await.expect_err("it is carved out")
    ));
    harness.settle_call(&below, Some(80)).await;
    assert!(reached(
        &harness.reserve_call(&call(&office, spender(&middle, &[&boss]), 21)).await.expect_err("not beside it")
    ));
    harness.until_told(&middle, None, true).await;
    // A hired agent with more than its hirer has still spends the hirer's.
    harness.hired(&leaf, &[&middle, &boss]);
    harness.budget(&office, "leaf", 5000).await;
    assert!(reached(
        &harness.reserve_call(&call(&office, spender(&leaf, &[&middle, &boss]), 21)).await.expect_err("a wall")
    ));
    harness.reserve_call(&call(&office, spender(&leaf, &[&middle, &boss]), 20)).await.expect("just so");
}

async fn raising_a_hirers_budget_frees_those_below(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [boss, leaf, narrow] = ["boss", "leaf", "narrow"].map(|name| harness.agent(&office, name, true, &[]));
    harness.hired(&narrow, &[&boss]);
    harness.budget(&office, "boss", 50).await;
    harness.budget(&office, "narrow", 10).await;
    let used = call(&office, spender(&narrow, &[&boss]), 10);
    harness.reserve_call(&used).await.expect("enough");
    harness.settle_call(&used, Some(50)).await;
    for (agent, lineage) in [(&boss, &[][..]), (&leaf, &[&boss][..]), (&narrow, &[&boss][..])] {
        assert!(reached(&harness.reserve_call(&call(&office, spender(agent, lineage), 1)).await.expect_err("a wall")));
    }
    harness.until_told(&boss, Some(50), true).await;
    harness.until_told(&leaf, None, true).await;
    harness.until_told(&narrow, Some(10), true).await;
    harness.budget(&office, "boss", 100).await;
    harness.until_told(&boss, Some(100), false).await;
    harness.until_told(&leaf, None, false).await;
    harness.reserve_call(&call(&office, spender(&leaf, &[&boss]), 1)).await.expect("freed");
    // Its own budget still stands in the way.
    harness.until_told(&narrow, Some(10), true).await;
    harness.budget(&office, "narrow", None).await;
    harness.until_told(&narrow, None, false).await;
}

async fn of_parallel_calls_none_breaks_a_budget(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let boss = harness.agent(&office, "boss", true, &[]);
    let workers: Vec<Actor> = (0..4).map(|n| harness.agent(&office, &format!("w{n}"), true, &[])).collect();
    harness.budget(&office, "boss", 1000).await;
    let calls: Vec<_> = (0..80).map(|n| call(&office, spender(&workers[n % 4], &[&boss]), 50)).collect();
    let reserved = join_all(calls.iter().map(|call| harness.reserve_call(call))).await;
    assert_eq!(reserved.iter().filter(|done| done.is_ok()).count(), 20);
    assert!(reserved.iter().filter_map(|done| done.as_ref().err()).all(reached));
    let settled = join_all(calls.iter().map(|call| harness.settle_call(call, Some(50)))).await;
    assert_eq!(settled.iter().sum::<i64>(), 1000);
    let balance = harness.balance(&harness.owner, &office).await.expect("reads");
    assert_eq!((balance.balance, balance.reserved), (START - 1000, 0));
}

async fn what_only_open_calls_stand_in_the_way_of_makes_nobody_wait(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    harness.budget(&office, "analyst", 100).await;
    let open = call(&office, spender(&agent, &[]), 90);
    harness.reserve_call(&open).await.expect("enough");
    let next = call(&office, spender(&agent, &[]), 20);
    assert!(reached(&harness.reserve_call(&next).await.expect_err("at the moment")));
    harness.settle_call(&open, Some(1)).await;
    harness.reserve_call(&next).await.expect("there is room again");
    let known = harness.scheduler.known();
    assert!(known.budgets.iter().all(|told| told.reached.is_empty()), "{:?}", known.budgets);
}

async fn owners_limit_all_and_agents_those_below_them(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [boss, leaf] = ["boss", "leaf"].map(|name| harness.agent(&office, name, true, &[]));
    harness.hired(&leaf, &[&boss]);
    let set = harness.set_budget(&boss, &office, "leaf", Some(7)).await.expect("below it");
    assert_eq!(set.budget, Some(7));
    for (actor, agent) in [(&boss, "boss"), (&leaf, "leaf"), (&leaf, "boss")] {
        let refusal = harness.set_budget(actor, &office, agent, Some(7)).await.expect_err("not below it");
        assert_eq!(refusal.code(), Code::PermissionDenied);
    }
    let (stranger, _) = harness.account("Stranger").await;
    let refusal = harness.set_budget(&stranger, &office, "leaf", Some(7)).await.expect_err("foreign");
    assert_eq!(refusal.code(), Code::NotFound);
}

async fn what_is_no_budget_is_refused_by_field(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.agent(&office, "analyst", true, &[]);
    for amount in [-1, i64::MIN, i64::MAX] {
        let refusal = harness.set_budget(&harness.owner, &office, "analyst", Some(amount)).await.expect_err("none");
        assert_eq!(refused(&refusal), (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some("amount".into())));
    }
    for agent in ["nobody", "no name at all", ""] {
        let refusal = harness.set_budget(&harness.owner, &office, agent, Some(1)).await.expect_err("no agent");
        assert!([Code::NotFound, Code::InvalidArgument].contains(&refusal.code()), "{agent}: {refusal:?}");
    }
}

async fn the_scheduler_hears_of_a_budget_however_late(mut harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    harness.budget(&office, "analyst", 10).await;
    harness.scheduler.be(Mood::Fails);
    let before = harness.scheduler.known().refused;
    assert!(reached(&harness.reserve_call(&call(&office, spender(&agent, &[]), 11)).await.expect_err("a wall")));
    harness.until_refused(&harness.scheduler, before).await;
    harness.crash().await;
    harness.scheduler.be(Mood::Works);
    harness.until_told(&agent, Some(10), true).await;
    // And once it knows, nothing is told again.
    let told = harness.scheduler.known().budgets.len();
    assert!(reached(&harness.reserve_call(&call(&office, spender(&agent, &[]), 11)).await.expect_err("a wall")));
    let credits = harness.resources().await.credits;
    credits.expire_due().await.expect("sweeps");
    assert_eq!(harness.scheduler.known().budgets.len(), told);
}

async fn compute_that_uses_a_budget_up_makes_an_agent_wait(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    harness.budget(&office, "analyst", 150).await;
    let begun = harness.clock.now();
    for (minutes, waits) in [(1, false), (2, true)] {
        harness.charge_minute(&office, &agent, begun, minutes).await;
        harness.until_told(&agent, Some(150), waits).await;
    }
}

async fn who_runs_when_nothing_is_left_says_so_until_there_is_more(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let most = call(&office, spender(&agent, &[]), START - 150);
    harness.reserve_call(&most).await.expect("enough");
    harness.settle_call(&most, None).await;
    let begun = harness.clock.now();
    harness.charge_minute(&office, &agent, begun, 1).await;
    assert_eq!(harness.scheduler.known().budgets, [], "something is left");
    harness.charge_minute(&office, &agent, begun, 2).await;
    harness.until_told_broke(&agent, "the office has no credits left; grant some").await;
    harness.grant(&administrator(), grant(&office, 51, "")).await.expect("grants");
    harness.until_told_broke(&agent, "").await;
}

async fn the_budget_of_one_that_is_gone_is_raised_all_the_same(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [boss, leaf] = ["boss", "leaf"].map(|name| harness.agent(&office, name, true, &[]));
    let next = async |amount| harness.reserve_call(&call(&office, spender(&leaf, &[&boss]), amount)).await;
    harness.budget(&office, "boss", 50).await;
    let used = call(&office, spender(&leaf, &[&boss]), 50);
    harness.reserve_call(&used).await.expect("enough");
    harness.settle_call(&used, Some(50)).await;
    harness.fire(&boss);
    let refusal = next(1).await.expect_err("those below go on paying into it");
    assert!(reached(&refusal) && refusal.message().contains(&id(&boss)), "says what to type: {refusal:?}");
    harness.until_told(&leaf, None, true).await;

    // By name, and by id, which is always one agent's.
    harness.budget(&office, "boss", 60).await;
    harness.until_told(&leaf, None, false).await;
    let set = harness.set_budget(&harness.owner, &office, &id(&boss), Some(70)).await.expect("by id");
    assert_eq!(set, Agent { id: id(&boss), name: "boss".into(), budget: Some(70), ..Agent::default() });
    next(20).await.expect("raised");
    // Another one of that name: while it is there, the name is its own; then there are two.
    let second = harness.agent(&office, "boss", true, &[]);
    let set = harness.set_budget(&harness.owner, &office, "boss", Some(9)).await.expect("the one that is there");
    assert_eq!((set.id, set.budget), (id(&second), Some(9)));
    harness.fire(&second);
    let refusal = harness.set_budget(&harness.owner, &office, "boss", None).await.expect_err("which one");
    assert_eq!(refused(&refusal), (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some("agent".into())));
    assert!([&boss, &second].iter().all(|gone| refusal.message().contains(&id(gone))), "{refusal:?}");
    let set = harness.set_budget(&harness.owner, &office, &id(&boss), None).await.expect("removes");
    assert_eq!((set.id, set.budget), (id(&boss), None));
    next(5000).await.expect("no wall any more");
    // An agent limits one that is gone as one that is there: below it only.
    let refusal = harness.set_budget(&leaf, &office, &id(&boss), Some(1)).await.expect_err("above it");
    assert_eq!(refusal.code(), Code::PermissionDenied);
    let nobody = mi_kernel::AgentId::new().to_string();
    let refusal = harness.set_budget(&harness.owner, &office, &nobody, Some(1)).await.expect_err("never there");
    assert_eq!(refusal.code(), Code::NotFound);
}

async fn an_agent_sets_no_more_than_an_operator_did(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [boss, leaf] = ["boss", "leaf"].map(|name| harness.agent(&office, name, true, &[]));
    harness.hired(&leaf, &[&boss]);
    let own = async |amount| harness.set_budget(&boss, &office, "leaf", amount).await.map(|agent| agent.budget);
    assert_eq!(own(Some(500)).await.expect("nobody set one"), Some(500));
    harness.budget(&office, "leaf", 100).await;
    for amount in [Some(101), None] {
        assert_eq!(own(amount).await.expect_err("more than the operator allows").code(), Code::PermissionDenied);
    }
    assert_eq!(own(Some(30)).await.expect("less"), Some(30));
    assert_eq!(own(Some(100)).await.expect("up to there again"), Some(100));
    assert_eq!(own(None).await.expect_err("it stays").code(), Code::PermissionDenied);
    harness.budget(&office, "leaf", None).await;
    assert_eq!(own(Some(5000)).await.expect("the operator set none"), Some(5000));
    assert_eq!(own(None).await.expect("likewise"), None);
}

async fn whoever_is_gone_waits_no_longer(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [gone, there] = ["gone", "there"].map(|name| harness.agent(&office, name, true, &[]));
    for agent in ["gone", "there"] {
        harness.budget(&office, agent, 0).await;
    }
    for agent in [&gone, &there] {
        harness.until_told(agent, Some(0), true).await;
    }
    harness.fire(&gone);
    let (office, db) = (office.parse::<mi_kernel::OfficeId>().expect("an id"), harness.db().await);
    let sql = "SELECT name FROM agent_accounts WHERE office_id = $1 AND reached <> '' ORDER BY name";
    let begin = (mi_kernel::OfficeId::MIN, mi_kernel::AgentId::MIN);
    assert_eq!(harness.resources().await.credits.recall_waiting(begin).await.expect("tells"), begin, "all of them");
    let mut conn = db.office(office).read().await.expect("reads");
    let waiting: Vec<String> =
        on!(conn, |c| sqlx::query_scalar(sql).bind(office.0).fetch_all(&mut *c).await).expect("reads");
    assert_eq!(waiting, ["there"]);
}

async fn what_of_a_budget_is_left_is_told(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let ask = async |agent: &str| {
        let request = GetBalanceRequest { office_id: office.clone(), agent: agent.into() };
        harness.credits(&harness.owner).get_balance(request).await.map(|answer| answer.into_inner().budget)
    };
    let is = |budget, spent, reserved| {
        Some(AgentBudget { agent_id: id(&agent), agent: "analyst".into(), budget, spent, reserved })
    };
    assert_eq!(ask("").await.expect("reads"), None);
    assert_eq!(ask("analyst").await.expect("reads"), is(None, 0, 0));
    harness.budget(&office, "analyst", 100).await;
    let calls = [40, 30].map(|amount| call(&office, spender(&agent, &[]), amount));
    for call in &calls {
        harness.reserve_call(call).await.expect("enough");
    }
    harness.settle_call(&calls[0], Some(25)).await;
    assert_eq!(ask("analyst").await.expect("reads"), is(Some(100), 25, 30));
    assert_eq!(ask("nobody").await.expect_err("not there").code(), Code::NotFound);
}

async fn the_scheduler_hears_whom_the_credits_do_not_suffice_for(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let [rich, poor] = ["rich", "poor"].map(|name| harness.agent(&office, name, true, &[]));
    let open = call(&office, spender(&rich, &[]), START - 10);
    harness.reserve_call(&open).await.expect("enough");
    // What is only set aside may come back.
    harness.reserve_call(&call(&office, spender(&poor, &[]), 11)).await.expect_err("too much for now");
    harness.settle_call(&open, Some(START - 10)).await;
    for amount in [11, 12] {
        harness.reserve_call(&call(&office, spender(&poor, &[]), amount)).await.expect_err("too much");
    }
    let why = "a call could cost 11 micro-credits, and the office has 10; grant some";
    harness.until_told_broke(&poor, why).await;
    // It goes away with a call that can be paid, and with more credits.
    let cheap = call(&office, spender(&poor, &[]), 9);
    harness.reserve_call(&cheap).await.expect("enough");
    harness.until_told_broke(&poor, "").await;
    harness.settle_call(&cheap, Some(0)).await;
    harness.reserve_call(&call(&office, spender(&poor, &[]), 11)).await.expect_err("too much");
    harness.until_told_broke(&poor, why).await;
    harness.grant(&administrator(), grant(&office, 1, "")).await.expect("grants");
    harness.until_told_broke(&poor, "").await;
    let told = harness.scheduler.known().budgets.iter().map(|told| told.agent_id.clone()).collect::<Vec<_>>();
    assert_eq!(told, vec![id(&poor); told.len()], "nobody else is concerned");
}
