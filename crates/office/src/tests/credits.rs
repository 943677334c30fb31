//! Credits: what is granted is in the ledger once, and the balance is its sum.

use futures::future::join_all;
use mi_kernel::{
    Actor, Clock, OfficeId, SystemClock,
    credits::CREDIT,
    event::{Category, Event},
};
use mi_proto::v1::{
    Balance, GetBalanceRequest, GetOfficeStatusRequest, GrantCreditsRequest, LedgerEntry, ListLedgerEntriesRequest,
    OfficeStatus,
};
use mi_store::{Db, Step, on};
use mi_testkit::{TestDb, on_both, until};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    chat::refused,
    harness::{Harness, LONG, administrator},
    peer::Mood,
    retention::DAY,
};
use crate::MIGRATIONS;

on_both! {
    what_is_granted_is_in_the_ledger_the_balance_and_the_feed,
    only_the_administrator_grants_and_strangers_see_nothing,
    the_same_request_grants_once_however_late_it_comes_again,
    of_many_grants_at_once_none_is_lost,
    what_cannot_be_granted_is_refused_by_field,
    a_deleted_office_is_granted_nothing,
    an_office_of_an_earlier_version_has_a_balance,
}

/// What an office begins with.
pub(super) const START: i64 = 10 * CREDIT;

pub(super) fn grant(office: &str, amount: i64, request_id: &str) -> GrantCreditsRequest {
    GrantCreditsRequest {
        office_id: office.into(),
        amount,
        reason: "for the first steps".into(),
        request_id: request_id.into(),
    }
}

impl Harness {
    pub(super) async fn grant(&self, actor: &Actor, request: GrantCreditsRequest) -> Result<LedgerEntry, Status> {
        let answer = self.credits(actor).grant_credits(request).await?.into_inner();
        Ok(answer.entry.expect("always there"))
    }

    pub(super) async fn balance(&self, actor: &Actor, office: &str) -> Result<Balance, Status> {
        let request = GetBalanceRequest { office_id: office.into(), agent: String::new() };
        Ok(self.credits(actor).get_balance(request).await?.into_inner().balance.expect("always there"))
    }

    /// The whole ledger but for what the office began with, in pages of this size.
    pub(super) async fn ledger(&self, actor: &Actor, office: &str, page_size: i32) -> Result<Vec<LedgerEntry>, Status> {
        let (mut entries, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListLedgerEntriesRequest { office_id: office.into(), page_size: Some(page_size), page_token };
            let page = self.credits(actor).list_ledger_entries(request).await?.into_inner();
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                let first = entries.pop().expect("what the office began with");
                assert_eq!((first.amount, first.balance_after, &*first.reference), (START, START, "start"));
                return Ok(entries);
            }
        }
    }
}

/// So much more than it began with.
fn has(granted: i64) -> Balance {
    let balance = START + granted;
    Balance { available: balance, balance, reserved: 0 }
}

async fn what_is_granted_is_in_the_ledger_the_balance_and_the_feed(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let admin = administrator();
    assert_eq!(harness.balance(&harness.owner, &office).await.expect("reads"), has(0));
    let first = harness.grant(&admin, grant(&office, 5 * CREDIT, "")).await.expect("grants");
    let second = harness.grant(&admin, grant(&office, 1, "")).await.expect("grants");
    let Actor::Operator { api_key_id, .. } = &admin else { panic!("an operator") };
    let expected = LedgerEntry {
        amount: 5 * CREDIT,
        balance_after: START + 5 * CREDIT,
        reason: "for the first steps".into(),
        reference: format!("api_key/{api_key_id}"),
        ..first.clone()
    };
    assert_eq!(first, expected);
    assert!(first.id < second.id && first.time.is_some());
    for page_size in [1, 50] {
        let ledger = harness.ledger(&harness.owner, &office, page_size).await.expect("lists");
        assert_eq!(ledger, [second.clone(), first.clone()]);
    }
    assert_eq!(harness.balance(&harness.owner, &office).await.expect("reads"), has(5 * CREDIT + 1));
    assert_eq!(harness.balance(&harness.owner, &other).await.expect("reads"), has(0), "another office has none of it");
    let status = GetOfficeStatusRequest { office_id: office.clone() };
    let status = harness.offices(&harness.owner).get_office_status(status).await.expect("reads").into_inner();
    assert_eq!(status.status.expect("always there").balance, Some(has(5 * CREDIT + 1)));

    let kinds = ["office.created", "credit.granted", "office.activated", "credit.granted", "credit.granted"];
    harness.until_events(&office, &kinds).await;
    let events = harness.activity.known().events.clone();
    let told = |event: &&Event| event.kind == "credit.granted" && event.office_id.to_string() == office;
    let [start, granted, _] = events.iter().filter(told).collect::<Vec<_>>()[..] else { panic!("{events:?}") };
    assert_eq!((start.category, &start.metadata["amount"]), (Category::Credit, &START.into()));
    assert_eq!((granted.category, &granted.metadata["entry_id"]), (Category::Credit, &first.id.as_str().into()));
    assert_eq!(granted.metadata["balance_after"], START + 5 * CREDIT);
}

async fn only_the_administrator_grants_and_strangers_see_nothing(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.grant(&administrator(), grant(&office, CREDIT, "")).await.expect("grants");
    let member = harness.agent(&office, "worker", false, &[]);
    assert_eq!(harness.balance(&member, &office).await.expect("reads"), has(CREDIT));
    assert_eq!(harness.ledger(&member, &office, 50).await.expect_err("a member").code(), Code::PermissionDenied);
    let (stranger, _) = harness.account("Stranger").await;
    for actor in [&member, &harness.owner, &stranger] {
        let refused = harness.grant(actor, grant(&office, CREDIT, "")).await.expect_err("no administrator");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert_eq!(harness.balance(&stranger, &office).await.expect_err("foreign").code(), Code::NotFound);
    assert_eq!(harness.ledger(&stranger, &office, 50).await.expect_err("foreign").code(), Code::NotFound);
    assert_eq!(harness.balance(&harness.owner, &office).await.expect("reads"), has(CREDIT));
}

async fn the_same_request_grants_once_however_late_it_comes_again(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let admin = administrator();
    let twins = join_all((0..8).map(|_| harness.grant(&admin, grant(&office, CREDIT, "a")))).await;
    let first = twins[0].clone().expect("grants");
    assert!(twins.into_iter().all(|twin| twin.expect("answers") == first));
    harness.clock.advance(400 * DAY);
    assert_eq!(harness.grant(&admin, grant(&office, CREDIT, "a")).await.expect("answers"), first);
    let changed = harness.grant(&admin, grant(&office, 2 * CREDIT, "a")).await.expect_err("another content");
    assert_eq!(refused(&changed), (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some("request_id".into())));
    harness.grant(&admin, grant(&other, CREDIT, "a")).await.expect("another office");
    assert_eq!(harness.ledger(&harness.owner, &office, 50).await.expect("lists"), [first]);
    assert_eq!(harness.balance(&harness.owner, &office).await.expect("reads"), has(CREDIT));
}

async fn of_many_grants_at_once_none_is_lost(harness: Harness) {
    let office = harness.create("Busy").await.id;
    let admin = administrator();
    let granted = join_all((1..=40).map(|amount| harness.grant(&admin, grant(&office, amount, "")))).await;
    assert!(granted.iter().all(Result::is_ok));
    let ledger = harness.ledger(&harness.owner, &office, 7).await.expect("lists");
    assert_eq!(ledger.len(), 40);
    let mut balance = START;
    for entry in ledger.iter().rev() {
        balance += entry.amount;
        assert_eq!(entry.balance_after, balance, "each entry explains the balance after it");
    }
    assert_eq!(harness.balance(&harness.owner, &office).await.expect("reads"), has((1..=40).sum()));
}

async fn what_cannot_be_granted_is_refused_by_field(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let admin = administrator();
    const MOST: i64 = 1_000_000_000_000_000;
    let said = |reason: &str| GrantCreditsRequest { reason: reason.into(), ..grant(&office, 1, "") };
    for (field, request) in [
        ("amount", grant(&office, 0, "")),
        ("amount", grant(&office, -1, "")),
        ("amount", grant(&office, i64::MIN, "")),
        ("amount", grant(&office, MOST + 1, "")),
        ("amount", grant(&office, i64::MAX, "")),
        ("reason", said("")),
        ("reason", said("two\nlines")),
        ("reason", said(&"x".repeat(81))),
        ("request_id", grant(&office, 1, &"x".repeat(129))),
        ("office_id", grant("nowhere", 1, "")),
    ] {
        let refusal = harness.grant(&admin, request).await.expect_err(field);
        assert_eq!(refused(&refusal), (Code::InvalidArgument, "INVALID_ARGUMENT".into(), Some(field.into())));
    }
    let missing = harness.grant(&admin, grant(&OfficeId::new().to_string(), 1, "")).await.expect_err("no office");
    assert_eq!(missing.code(), Code::NotFound);
    // As much as there may be, and not one more.
    for _ in 0..999 {
        harness.grant(&admin, grant(&office, MOST, "")).await.expect("grants");
    }
    harness.grant(&admin, grant(&office, MOST - START, "")).await.expect("grants");
    let full = harness.grant(&admin, grant(&office, 1, "")).await.expect_err("full");
    assert_eq!(refused(&full), (Code::FailedPrecondition, "BALANCE_LIMIT".into(), None));
    assert_eq!(harness.balance(&harness.owner, &office).await.expect("reads"), has(1000 * MOST - START));
}

async fn a_deleted_office_is_granted_nothing(harness: Harness) {
    let (office, admin) = (harness.create("Gone").await.id, administrator());
    let first = harness.grant(&admin, grant(&office, 1, "a")).await.expect("grants");
    harness.scheduler.be(Mood::Fails);
    harness.delete(&office).await;
    harness.until_status(&office, Some(OfficeStatus::Deleting)).await;
    let refusal = harness.grant(&admin, grant(&office, 1, "b")).await.expect_err("deleting");
    assert_eq!(refused(&refusal), (Code::FailedPrecondition, "OFFICE_NOT_ACTIVE".into(), None));
    assert_eq!(harness.grant(&admin, grant(&office, 1, "a")).await.expect("answers what was granted before"), first);
    harness.scheduler.be(Mood::Works);
    harness.until_status(&office, None).await;
}

async fn an_office_of_an_earlier_version_has_a_balance(database: TestDb) {
    let before: Vec<Step> = MIGRATIONS.iter().copied().filter(|step| step.version < 190).collect();
    let old = Db::open(database.target(), &before).await.expect("opens");
    let (office, account, now) = (OfficeId::new(), Uuid::now_v7(), SystemClock.now());
    let mut tx = old.platform().begin().await.expect("begins");
    let statements: [&'static str; 2] = [
        "INSERT INTO accounts (id, name, administrator, created_at) VALUES ($2, 'ann', false, $3)",
        "INSERT INTO offices (id, account_id, name, state, settings, version, applied_version, conditions, created_at,
         updated_at) VALUES ($1, $2, 'Mine', 'active', '{\"model_budget_per_task\": 999}', 1, 1, '[]', $3, $3)",
    ];
    for sql in statements {
        on!(tx, |c| sqlx::query(sql).bind(office.0).bind(account).bind(now).execute(&mut *c).await.map(drop))
            .expect("writes");
    }
    tx.commit().await.expect("commits");
    old.close().await;
    // It has nothing until a process starts, which knows what offices begin with, and has it once.
    let mut harness = Harness::over(database).await;
    let id = office.to_string();
    for _ in 0..2 {
        until("the office has what a new one has", LONG, async || {
            let found = harness.balance(&administrator(), &id).await.map_err(|status| status.to_string())?;
            if found == has(0) { Ok(Some(())) } else { Err(format!("{found:?}")) }
        })
        .await;
        harness.crash().await;
    }
    harness.resources().await.credits.begin_all().await.expect("none is left");
    assert_eq!(harness.ledger(&administrator(), &id, 50).await.expect("lists"), []);
    harness.until_events(&id, &["credit.granted"]).await;
    let db = harness.db().await;
    let mut conn = db.platform().read().await.expect("reads");
    let sql = "SELECT b.taken, a.credits_taken, CAST(o.settings ->> 'model_budget_per_task' AS bigint) FROM balances AS b JOIN offices AS o ON o.id = b.office_id
               JOIN accounts AS a ON a.id = o.account_id WHERE b.office_id = $1";
    let found: (i64, i64, i64) =
        on!(conn, |c| sqlx::query_as(sql).bind(office.0).fetch_one(&mut *c).await).expect("is there");
    assert_eq!(found, (START, START, 0), "it counts for its account");
    // Other roles are told again of settings that they did not keep; what was stored without being heeded is none.
    harness.until_applied(&id, |copy| copy.version == 2).await;
}
