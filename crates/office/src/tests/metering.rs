//! Metering: what is reserved, settled and expired, and that however many spend at once, no more is spent than there is.

use std::time::Duration;

use futures::future::join_all;
use mi_kernel::{Actor, AgentId, CallId, TaskId, credits::CREDIT};
use mi_proto::{
    internal::v1::{GetHireTermsRequest, ReserveCreditsRequest, SettleCreditsRequest, Spender, TokenUsage},
    v1::{
        Balance, ClaimTasksRequest, CreateTaskRequest, GetTaskRequest, GetUsageRequest, ListTasksRequest,
        OfficeSettings, SuspendOfficeRequest, Task, UpdateOfficeSettingsRequest, Usage, UsageGroup,
    },
};
use mi_testkit::on_both;
use prost_types::FieldMask;
use tonic::{Code, Status};

use super::{
    chat::refused,
    credits::{START, grant},
    harness::{Harness, administrator},
};

on_both! {
    a_call_is_reserved_settled_and_explained_once,
    of_parallel_calls_none_spends_what_is_not_there,
    the_first_call_of_an_unknown_agent_is_checked_too,
    what_nobody_settles_is_settled_once_at_the_reservation,
    unknown_costs_what_was_reserved_and_zero_costs_nothing,
    a_call_may_turn_out_dearer_than_was_reserved,
    what_is_no_call_is_refused_by_field,
    a_suspended_office_begins_no_calls_and_ends_them,
    with_credits_off_nothing_is_refused,
    a_task_pays_with_its_tree_up_to_the_ceiling,
    without_credits_nothing_is_claimed,
    a_process_that_ends_settles_what_it_began_and_begins_nothing,
}

/// An agent's call.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) request: ReserveCreditsRequest,
}

impl Call {
    pub(super) fn settled(&self, amount: Option<i64>) -> SettleCreditsRequest {
        SettleCreditsRequest {
            office_id: self.request.office_id.clone(),
            call_id: self.request.call_id.clone(),
            amount,
            usage: Some(TokenUsage { input: 10, output: 3, cache_read: 5, cache_write: 1, reasoning: 2 }),
            note: String::new(),
        }
    }
}

pub(super) fn spender(agent: &Actor, lineage: &[&Actor]) -> Spender {
    let Actor::Agent(agent) = agent else { panic!("an agent") };
    let id = |actor: &&Actor| match actor {
        Actor::Agent(agent) => agent.agent_id.to_string(),
        _ => panic!("an agent"),
    };
    Spender {
        agent_id: agent.agent_id.to_string(),
        agent: agent.name.clone(),
        lineage: lineage.iter().map(id).collect(),
    }
}

pub(super) fn call(office: &str, spender: Spender, amount: i64) -> Call {
    let request = ReserveCreditsRequest {
        office_id: office.into(),
        call_id: CallId::new().to_string(),
        spender: Some(spender),
        task_id: String::new(),
        provider: "anthropic".into(),
        model: "claude-sonnet-4-5".into(),
        amount,
        valid_for: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
    };
    Call { request }
}

impl Harness {
    pub(super) async fn reserve_call(&self, call: &Call) -> Result<String, Status> {
        Ok(self.metering().reserve_credits(call.request.clone()).await?.into_inner().task_id)
    }

    pub(super) async fn settle_call(&self, call: &Call, amount: Option<i64>) -> i64 {
        let settled = self.metering().settle_credits(call.settled(amount)).await;
        settled.expect("settles").into_inner().amount
    }

    pub(super) async fn money(&self, office: &str) -> (i64, i64) {
        let Balance { balance, reserved, available } = self.balance(&self.owner, office).await.expect("reads");
        assert_eq!(available, balance - reserved);
        (balance, reserved)
    }

    pub(super) async fn used_by(&self, office: &str, group_by: UsageGroup) -> Vec<Usage> {
        let request = GetUsageRequest { office_id: office.into(), group_by: group_by.into(), ..Default::default() };
        self.credits(&self.owner).get_usage(request).await.expect("reads").into_inner().usages
    }

    pub(super) async fn set_ceiling(&self, office: &str, model_budget_per_task: i64) {
        let request = UpdateOfficeSettingsRequest {
            office_id: office.into(),
            settings: Some(OfficeSettings { model_budget_per_task, ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["model_budget_per_task".into()] }),
        };
        self.offices(&self.owner).update_office_settings(request).await.expect("sets");
    }

    pub(super) async fn work_on(&self, office: &str, parent_id: &str) -> Task {
        let request = CreateTaskRequest {
            office_id: office.into(),
            title: "work".into(),
            parent_id: parent_id.into(),
            ..Default::default()
        };
        self.tasks(&self.owner).create_task(request).await.expect("creates").into_inner().task.expect("always there")
    }

    pub(super) async fn take(&self, actor: &Actor, office: &str, most: i32, wait: i64) -> Result<Vec<Task>, Status> {
        let request = ClaimTasksRequest {
            office_id: office.into(),
            max_tasks: Some(most),
            wait: Some(prost_types::Duration { seconds: wait, nanos: 0 }),
            ..Default::default()
        };
        Ok(self.tasks(actor).claim_tasks(request).await?.into_inner().tasks)
    }

    /// The error of a task, read alone and in the list.
    async fn task_errors(&self, office: &str, task: &str) -> [String; 2] {
        let mut tasks = self.tasks(&self.owner);
        let request = GetTaskRequest { office_id: office.into(), task_id: task.into() };
        let alone = tasks.get_task(request).await.expect("reads").into_inner().task.expect("always there");
        let request = ListTasksRequest { office_id: office.into(), ..Default::default() };
        let mut listed = tasks.list_tasks(request).await.expect("lists").into_inner().tasks;
        listed.retain(|listed| listed.id == task);
        [alone.error, listed.pop().expect("listed").error]
    }

    pub(super) async fn task_cost(&self, office: &str, task: &str) -> i64 {
        let request = GetTaskRequest { office_id: office.into(), task_id: task.into() };
        self.tasks(&self.owner).get_task(request).await.expect("reads").into_inner().task.expect("always there").cost
    }
}

async fn a_call_is_reserved_settled_and_explained_once(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let call = call(&office, spender(&agent, &[]), 400);
    for _ in 0..3 {
        assert_eq!(harness.reserve_call(&call).await.expect("there is enough"), "");
        assert_eq!(harness.money(&office).await, (START, 400));
    }
    for amount in [Some(150), Some(150), Some(7), None] {
        assert_eq!(harness.settle_call(&call, amount).await, 150, "what was debited, whatever is said later");
        assert_eq!(harness.money(&office).await, (START - 150, 0));
    }
    let [entry] = &harness.ledger(&harness.owner, &office, 50).await.expect("lists")[..] else { panic!("one") };
    assert_eq!((entry.amount, entry.balance_after), (-150, START - 150));
    assert_eq!(entry.reason, "model claude-sonnet-4-5");
    assert_eq!(entry.reference, format!("call/{}", call.request.call_id));
    let again = harness.reserve_call(&call).await.expect_err("it has ended");
    assert_eq!(refused(&again), (Code::FailedPrecondition, "CALL_SETTLED".into(), None));
    let mut terms = harness.metering();
    let terms = terms.get_hire_terms(GetHireTermsRequest { office_id: office }).await.expect("reads").into_inner();
    assert_eq!((terms.available, terms.metered), (START - 150, true));
}

async fn of_parallel_calls_none_spends_what_is_not_there(harness: Harness) {
    let office = harness.create("Busy").await.id;
    let agents: Vec<Actor> = (0..5).map(|n| harness.agent(&office, &format!("agent-{n}"), true, &[])).collect();
    // Twice as many as can be paid.
    let amount = START / 100;
    let calls: Vec<Call> = (0..200).map(|n| call(&office, spender(&agents[n % 5], &[]), amount)).collect();
    let reserved = join_all(calls.iter().map(|call| harness.reserve_call(call))).await;
    let (granted, turned_away): (Vec<_>, Vec<_>) = calls.iter().zip(reserved).partition(|(_, done)| done.is_ok());
    assert_eq!((granted.len(), turned_away.len()), (100, 100));
    for (_, refusal) in turned_away {
        assert_eq!(refused(&refusal.expect_err("too much")), (Code::ResourceExhausted, "OUT_OF_CREDITS".into(), None));
    }
    assert_eq!(harness.money(&office).await, (START, START));
    // Ended together, and twice each.
    let twice = granted.iter().chain(&granted).map(|(call, _)| harness.settle_call(call, Some(amount - 1)));
    assert!(join_all(twice).await.iter().all(|debited| *debited == amount - 1));
    let ledger = harness.ledger(&harness.owner, &office, 200).await.expect("lists");
    assert_eq!(ledger.len(), 100);
    let mut balance = START;
    for entry in ledger.iter().rev() {
        balance += entry.amount;
        assert_eq!(entry.balance_after, balance, "each entry explains the balance after it");
    }
    assert_eq!(harness.money(&office).await, (balance, 0));
    assert_eq!(balance, 100);
}

async fn the_first_call_of_an_unknown_agent_is_checked_too(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let nobody = Spender { agent_id: AgentId::new().to_string(), agent: "new".into(), lineage: Vec::new() };
    for amount in [START + 1, i64::from(u32::MAX)] {
        let refusal =
            harness.reserve_call(&call(&office, nobody.clone(), amount)).await.expect_err("more than there is");
        assert_eq!(refused(&refusal), (Code::ResourceExhausted, "OUT_OF_CREDITS".into(), None));
    }
    harness.reserve_call(&call(&office, nobody.clone(), START)).await.expect("all that there is");
    // What costs nothing is refused as well where nothing is left: a wall is a wall.
    let free = harness.reserve_call(&call(&office, nobody, 0)).await.expect_err("nothing is left");
    assert_eq!(refused(&free), (Code::ResourceExhausted, "OUT_OF_CREDITS".into(), None));
}

async fn what_nobody_settles_is_settled_once_at_the_reservation(mut harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let (lost, kept) = (call(&office, spender(&agent, &[]), 400), call(&office, spender(&agent, &[]), 50));
    harness.reserve_call(&lost).await.expect("enough");
    harness.reserve_call(&kept).await.expect("enough");
    harness.crash().await;
    let credits = harness.resources().await.credits;
    credits.expire_due().await.expect("sweeps");
    assert_eq!(harness.money(&office).await, (START, 450), "their time is not up");
    harness.clock.advance(Duration::from_secs(200));
    harness.reserve_call(&kept).await.expect("puts its end off");
    harness.clock.advance(Duration::from_secs(101));
    for _ in 0..3 {
        credits.expire_due().await.expect("sweeps");
        assert_eq!(harness.money(&office).await, (START - 400, 50));
    }
    // Whoever comes too late hears what was debited.
    assert_eq!(harness.settle_call(&lost, None).await, 400);
    assert_eq!(harness.settle_call(&kept, Some(3)).await, 3);
    let ledger = harness.ledger(&harness.owner, &office, 50).await.expect("lists");
    let reasons: Vec<_> = ledger.iter().map(|entry| (entry.amount, &*entry.reason)).collect();
    let expired = "model claude-sonnet-4-5; nobody said what it cost in time";
    assert_eq!(reasons, [(-3, "model claude-sonnet-4-5"), (-400, expired)]);
}

async fn unknown_costs_what_was_reserved_and_zero_costs_nothing(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let (unknown, free) = (call(&office, spender(&agent, &[]), 400), call(&office, spender(&agent, &[]), 50));
    harness.reserve_call(&unknown).await.expect("enough");
    harness.reserve_call(&free).await.expect("enough");
    assert_eq!(harness.settle_call(&unknown, None).await, 400);
    for amount in [Some(0), None, Some(7)] {
        assert_eq!(harness.settle_call(&free, amount).await, 0);
    }
    assert_eq!(harness.money(&office).await, (START - 400, 0));
    let again = harness.reserve_call(&free).await.expect_err("it has ended");
    assert_eq!(refused(&again), (Code::FailedPrecondition, "CALL_SETTLED".into(), None));
    assert_eq!(harness.ledger(&harness.owner, &office, 50).await.expect("lists").len(), 1);
    // That is not remembered for ever, and no sweep makes a debit of it.
    harness.clock.advance(Duration::from_secs(3601));
    let credits = harness.resources().await.credits;
    credits.expire_due().await.expect("sweeps");
    assert_eq!(harness.money(&office).await, (START - 400, 0));
    let never = call(&office, spender(&agent, &[]), 1);
    assert_eq!(harness.settle_call(&never, Some(1)).await, 0, "what was never reserved is not debited");
}

async fn a_call_may_turn_out_dearer_than_was_reserved(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let dear = call(&office, spender(&agent, &[]), START);
    harness.reserve_call(&dear).await.expect("enough");
    assert_eq!(harness.settle_call(&dear, Some(START + 5)).await, START + 5);
    assert_eq!(harness.money(&office).await, (-5, 0));
    harness.grant(&administrator(), grant(&office, 6, "")).await.expect("grants");
    harness.reserve_call(&call(&office, spender(&agent, &[]), 1)).await.expect("there is one again");
}

async fn what_is_no_call_is_refused_by_field(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let good = call(&office, spender(&agent, &[]), 1).request;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    for (field, request) in [
        ("call_id", ReserveCreditsRequest { call_id: "x".into(), ..good.clone() }),
        ("spender", ReserveCreditsRequest { spender: None, ..good.clone() }),
        ("amount", ReserveCreditsRequest { amount: -1, ..good.clone() }),
        ("amount", ReserveCreditsRequest { amount: i64::MAX, ..good.clone() }),
        ("valid_for", ReserveCreditsRequest { valid_for: seconds(0), ..good.clone() }),
        ("valid_for", ReserveCreditsRequest { valid_for: seconds(3601), ..good.clone() }),
        ("valid_for", ReserveCreditsRequest { valid_for: seconds(-1), ..good.clone() }),
        ("model", ReserveCreditsRequest { model: String::new(), ..good.clone() }),
        ("office_id", ReserveCreditsRequest { office_id: "x".into(), ..good.clone() }),
    ] {
        let refusal = harness.metering().reserve_credits(request).await.expect_err(field);
        assert_eq!(refused(&refusal), (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some(field.into())));
    }
    let settle = SettleCreditsRequest { amount: Some(-1), ..Call { request: good.clone() }.settled(None) };
    let refusal = harness.metering().settle_credits(settle).await.expect_err("negative");
    assert_eq!(refused(&refusal).2, Some("amount".into()));
    let nowhere = ReserveCreditsRequest { office_id: mi_kernel::OfficeId::new().to_string(), ..good };
    assert_eq!(harness.metering().reserve_credits(nowhere).await.expect_err("no office").code(), Code::NotFound);
    assert_eq!(harness.money(&office).await, (START, 0));
}

async fn a_suspended_office_begins_no_calls_and_ends_them(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let open = call(&office, spender(&agent, &[]), 10);
    harness.reserve_call(&open).await.expect("active");
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).suspend_office(suspend).await.expect("suspends");
    let refusal = harness.reserve_call(&call(&office, spender(&agent, &[]), 10)).await.expect_err("suspended");
    assert_eq!(refused(&refusal), (Code::FailedPrecondition, "OFFICE_NOT_ACTIVE".into(), None));
    assert_eq!(harness.settle_call(&open, Some(4)).await, 4);
    assert_eq!(harness.money(&office).await, (START - 4, 0));
}

async fn a_process_that_ends_settles_what_it_began_and_begins_nothing(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let open = call(&office, spender(&agent, &[]), 10);
    harness.reserve_call(&open).await.expect("goes on");
    harness.begin_to_end();
    let refusal = harness.reserve_call(&call(&office, spender(&agent, &[]), 10)).await.expect_err("ends");
    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(harness.settle_call(&open, Some(4)).await, 4);
    assert_eq!(harness.money(&office).await, (START - 4, 0));
}

async fn with_credits_off_nothing_is_refused(mut harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.credit_rules.metered = false;
    harness.crash().await;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let call = call(&office, spender(&agent, &[]), 2 * START);
    harness.reserve_call(&call).await.expect("not metered");
    assert_eq!(harness.settle_call(&call, None).await, 2 * START);
    assert_eq!(harness.money(&office).await, (-START, 0), "it is shown all the same");
    let task = harness.work_on(&office, "").await;
    assert_eq!(harness.take(&agent, &office, 1, 0).await.expect("not metered")[0].id, task.id);
    let terms = GetHireTermsRequest { office_id: office };
    assert!(!harness.metering().get_hire_terms(terms).await.expect("reads").into_inner().metered);
}

async fn a_task_pays_with_its_tree_up_to_the_ceiling(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.set_ceiling(&office, 1000).await;
    let (one, two) = (harness.agent(&office, "one", true, &[]), harness.agent(&office, "two", true, &[]));
    let root = harness.work_on(&office, "").await.id;
    let part = harness.work_on(&office, &root).await.id;
    let leaf = harness.work_on(&office, &part).await.id;
    let mut held = Vec::new();
    for agent in [&one, &one, &two] {
        held.extend(harness.take(agent, &office, 1, 0).await.expect("claims").into_iter().map(|task| task.id));
    }
    assert_eq!(held, [root.clone(), part.clone(), leaf.clone()]);
    // The one that it says, if it holds that, else the first that it holds.
    let says = |agent: &Actor, task_id: &str, amount| {
        let mut call = call(&office, spender(agent, &[]), amount);
        call.request.task_id = task_id.into();
        call
    };
    for (agent, said, pays) in [
        (&one, part.as_str(), part.as_str()),
        (&one, root.as_str(), root.as_str()),
        (&one, "", root.as_str()),
        (&one, leaf.as_str(), root.as_str()),
        (&two, "", leaf.as_str()),
        (&two, root.as_str(), leaf.as_str()),
        (&two, "nonsense", leaf.as_str()),
    ] {
        let call = says(agent, said, 10);
        assert_eq!(harness.reserve_call(&call).await.expect("enough"), pays, "{said}");
        assert_eq!(harness.settle_call(&call, Some(10)).await, 10);
    }
    let costs = [harness.task_cost(&office, &root).await, harness.task_cost(&office, &part).await];
    assert_eq!((costs, harness.task_cost(&office, &leaf).await), ([70, 10], 30));
    // What is open counts, too, wherever in the tree it is.
    let open = says(&two, "", 880);
    harness.reserve_call(&open).await.expect("within the ceiling");
    let refusal = harness.reserve_call(&says(&one, &part, 51)).await.expect_err("one too many");
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, "BUDGET_REACHED".into(), None));
    harness.reserve_call(&says(&one, &part, 50)).await.expect("just so");
    let refusal = harness.reserve_call(&says(&one, "", 1)).await.expect_err("whatever it says");
    assert_eq!(refused(&refusal), (Code::ResourceExhausted, "BUDGET_REACHED".into(), None));
    let free = harness.agent(&office, "free", true, &[]);
    harness.reserve_call(&says(&free, "", 5000)).await.expect("holds no task");
    harness.set_ceiling(&office, 0).await;
    harness.reserve_call(&says(&one, &part, 5000)).await.expect("no ceiling");
    assert!(TaskId::parse(&root).is_ok());
}

async fn without_credits_nothing_is_claimed(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let agent = harness.agent(&office, "analyst", true, &[]);
    let all = call(&office, spender(&agent, &[]), START);
    let waits = harness.take(&agent, &office, 1, 20);
    let spends = async {
        // Whenever the claim comes: it is refused by what it finds, or when there is nothing left.
        harness.reserve_call(&all).await.expect("all there is");
        assert_eq!(harness.settle_call(&all, None).await, START);
    };
    let (waited, ()) = tokio::join!(waits, spends);
    let told = waited.expect_err("refused while it waits");
    assert_eq!(refused(&told), (Code::ResourceExhausted, "OUT_OF_CREDITS".into(), None));
    let task = harness.work_on(&office, "").await;
    for actor in [&agent, &harness.owner] {
        let refusal = harness.take(actor, &office, 1, 0).await.expect_err("no credits");
        assert_eq!(refused(&refusal), (Code::ResourceExhausted, "OUT_OF_CREDITS".into(), None));
    }
    assert_eq!(harness.task_cost(&office, &task.id).await, 0, "reads work");
    let why = "OUT_OF_CREDITS: the office has 0 micro-credits left to spend, which is too little; grant some";
    assert_eq!(harness.task_errors(&office, &task.id).await, [why, why]);
    harness.grant(&administrator(), grant(&office, CREDIT, "")).await.expect("grants");
    assert_eq!(harness.task_errors(&office, &task.id).await, ["", ""]);
    assert_eq!(harness.take(&agent, &office, 1, 0).await.expect("credits again")[0].id, task.id);
}
