//! Credits: what an office may spend, and the ledger that explains every micro-credit of it.
//!
//! The balance is the sum of the ledger, always: both change in one transaction, under the lock of the office's row in
//! `balances`. Entries are only ever added. What is spent is reserved before and settled after ([`group_commit`] says who
//! shares a transaction, [`batch`] what happens in it): available is the balance without what is reserved, so however many
//! spend at a time, no more is spent than there is.

mod batch;
mod budgets;
mod group_commit;
mod grpc;
mod model;
mod part;
mod repo;
mod sweep;
mod usage;

use std::{collections::HashMap, sync::Arc, time::Duration};

use mi_kernel::{
    Actor, Clock, Error, LedgerEntryId, OfficeId, Result, TaskId, Time,
    credits::CREDIT,
    event::{Category, Event},
    page::Page,
    text::display_name,
};
use mi_proto::{internal::v1::agent_registry_service_client::AgentRegistryServiceClient, v1::GrantCreditsRequest};
use mi_rpc::{Caller, RoleClient};
use mi_store::{Db, FromRow, OfficeConn, idempotency, outbox};
use mi_tenancy::{Offices, RoleContext, State};
use prost::Message;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, Notify};

pub use self::model::{Compute, Payer, Reserve, Running, Settle, Spender, Tokens};
pub use self::sweep::LEASE as SWEEP_LEASE;
use self::{group_commit::GroupCommit, model::Op, sweep::Troubles};

/// Most micro-credits of one grant, budget or call.
pub const MAX_GRANT: i64 = mi_kernel::credits::MOST;
/// Most micro-credits that an office may have: a thousand such grants.
const MAX_BALANCE: i64 = 1000 * MAX_GRANT;
/// The longest for which credits are set aside at once.
const MAX_VALID: Duration = Duration::from_secs(3600);
/// Most agents that are charged for compute at once.
const MAX_RUNNING: usize = 1000;
/// Longest note of the ledger, in characters.
const MAX_NOTE: usize = 200;
/// When an office without credits is worth another try: somebody has to grant some.
const CREDITS_RETRY: Duration = Duration::from_secs(60);

/// What whoever runs the platform decides about credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditRules {
    /// Whether a balance refuses anything. Budgets do in any case.
    pub metered: bool,
    /// Micro-credits that a new office begins with.
    pub office: i64,
    /// Micro-credits that the offices of an account begin with together.
    pub account: i64,
    /// Micro-credits for a minute in which an agent runs.
    pub minute_price: i64,
}

impl Default for CreditRules {
    fn default() -> Self {
        Self { metered: true, office: 10 * CREDIT, account: 1000 * CREDIT, minute_price: 100 }
    }
}

/// An entry of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize)]
struct Entry {
    /// Place in the office's ledger, from 1 without gaps.
    seq: i64,
    id: LedgerEntryId,
    /// Micro-credits by which the balance changed.
    amount: i64,
    /// Micro-credits after it.
    balance_after: i64,
    reason: String,
    reference: String,
    #[serde(serialize_with = "model::as_stored")]
    entered_at: Time,
}

/// What an office has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromRow)]
pub struct Balance {
    /// The sum of the ledger.
    pub balance: i64,
    /// What is set aside of it.
    pub reserved: i64,
}

impl Balance {
    /// Micro-credits that may be spent.
    pub fn available(self) -> i64 {
        self.balance.saturating_sub(self.reserved)
    }
}

/// The refusal of whatever costs, where nothing is left.
pub fn out_of_credits(available: i64) -> Error {
    let text = format!("the office has {available} micro-credits left to spend, which is too little; grant some");
    Error::exhausted("OUT_OF_CREDITS", text, CREDITS_RETRY)
}

/// The credits of all offices.
#[derive(Clone)]
pub struct Credits {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    /// The scheduler, which knows the agents and makes them wait.
    registry: AgentRegistryServiceClient<RoleClient>,
    background: mi_base::Tasks,
    rules: CreditRules,
    group_commit: GroupCommit,
    /// Of the sweep for what is due.
    troubles: Arc<Mutex<Troubles>>,
}

impl Credits {
    /// Credits of these offices. `background` runs what goes on without a call.
    pub fn new(
        context: RoleContext,
        offices: Offices,
        registry: AgentRegistryServiceClient<RoleClient>,
        background: mi_base::Tasks,
        rules: CreditRules,
    ) -> Self {
        let RoleContext { db, clock, outbox } = context;
        let (group_commit, troubles) = Default::default();
        Self { db, clock, outbox, offices, registry, background, rules, group_commit, troubles }
    }

    /// What the connection's office has.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn balance_of(&self, conn: &mut OfficeConn) -> Result<Balance> {
        Ok(repo::balance_get(conn).await?)
    }

    /// Why nobody takes work in the connection's office, if that is since it has no credits.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn broke(&self, conn: &mut OfficeConn) -> Result<Option<Error>> {
        let available = if self.rules.metered { self.balance_of(conn).await?.available() } else { 1 };
        Ok((available <= 0).then(|| out_of_credits(available)))
    }

    /// Whether a balance refuses anything.
    pub fn metered(&self) -> bool {
        self.rules.metered
    }

    /// Micro-credits that these tasks cost, with their whole tree those that have no parent.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn task_costs(&self, conn: &mut OfficeConn, ids: &[TaskId]) -> Result<HashMap<TaskId, i64>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let costs = repo::cost_get_all(conn, ids).await?;
        // One with a parent is at the top of no tree.
        Ok(costs.into_iter().map(|cost| (cost.task_id, cost.spent.max(cost.tree_spent))).collect())
    }

    /// Forgets what tasks cost that are deleted, in the transaction that deletes them. The queue is locked before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_tasks(tx: &mut OfficeConn, ids: &[TaskId]) -> Result<()> {
        // Whoever adds to costs has the lock.
        repo::balance_taken(tx).await?;
        Ok(repo::cost_delete(tx, ids).await?)
    }

    /// Sets credits aside for a call before it is made; again for the same call puts its end off.
    ///
    /// # Errors
    /// `Exhausted` with `OUT_OF_CREDITS` or `BUDGET_REACHED` when they are not there, `FailedPrecondition` when the call has
    /// ended or the office is not active.
    pub async fn reserve(&self, office_id: OfficeId, reserve: Reserve) -> Result<()> {
        if !(0..=MAX_GRANT).contains(&reserve.amount) {
            return Err(Error::invalid("amount", format!("must be 0 to {MAX_GRANT} micro-credits")));
        }
        if !(Duration::from_secs(1)..=MAX_VALID).contains(&reserve.valid_for) {
            return Err(Error::invalid("valid_for", format!("must be 1 to {} seconds", MAX_VALID.as_secs())));
        }
        self.submit(office_id, Op::Reserve(reserve)).await.map(drop)
    }

    /// Ends a reservation with what the call cost, once; answers what was debited.
    ///
    /// # Errors
    /// `Invalid` for an amount that is none, and those of the database.
    pub async fn settle(&self, office_id: OfficeId, mut settle: Settle) -> Result<i64> {
        if settle.amount.is_some_and(|amount| !(0..=MAX_GRANT).contains(&amount)) {
            return Err(Error::invalid("amount", format!("must be 0 to {MAX_GRANT} micro-credits, or unset")));
        }
        settle.tokens = settle.tokens.map(batch::bounded);
        settle.note = settle.note.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
        self.submit(office_id, Op::Settle(settle)).await
    }

    /// Charges the time for which agents ran, each minute once; answers what was debited.
    ///
    /// # Errors
    /// `Invalid` for too many agents, and those of the database.
    pub async fn charge(&self, office_id: OfficeId, compute: Compute) -> Result<i64> {
        if compute.agents.len() > MAX_RUNNING {
            return Err(Error::invalid("agents", format!("must be at most {MAX_RUNNING}")));
        }
        self.submit(office_id, Op::Compute(compute)).await
    }

    /// What the office has.
    async fn balance(&self, caller: &Caller, office: &str) -> Result<Balance> {
        let (access, _) = self.offices.get(caller, office).await?;
        Ok(repo::balance_get(&mut self.db.office(access.office_id()).read().await?).await?)
    }

    /// One page of the ledger, newest first, and the token of the next.
    async fn list(&self, caller: &Caller, office: &str, page: &Page<i64>) -> Result<(Vec<Entry>, String)> {
        let (access, _) = self.offices.get(caller, office).await?;
        let rows = repo::entry_list(&mut self.db.office(access.office_id()).read().await?, page).await?;
        Ok(page.finish(rows, |entry| entry.seq))
    }

    /// Gives credits to an office.
    async fn grant(&self, caller: &Caller, request: &GrantCreditsRequest) -> Result<Entry> {
        let (mut tx, access, office) = self.offices.lock(caller, &request.office_id).await?;
        if !(1..=MAX_GRANT).contains(&request.amount) {
            let text = format!("must be 1 to {MAX_GRANT} micro-credits, of which {CREDIT} are one credit");
            return Err(Error::invalid("amount", text));
        }
        let reason = display_name("reason", &request.reason)?;
        let scope = format!("{}/GrantCredits", access.key());
        let replay = idempotency::Request::new(scope, &request.request_id, &request.encode_to_vec())?;
        if let Some(replay) = &replay
            && let Some((entry, digest)) = repo::entry_by_key(&mut tx, &replay.key()).await?
        {
            return if digest == replay.digest() { Ok(entry) } else { Err(idempotency::Request::reused()) };
        }
        if office.state == State::Deleting {
            return Err(State::deleting());
        }
        let Some((seq, balance_after)) = repo::balance_add(&mut tx, request.amount, MAX_BALANCE).await? else {
            let text = format!("an office has at most {MAX_BALANCE} micro-credits; grant less");
            return Err(Error::precondition("BALANCE_LIMIT", text));
        };
        let entry = Entry {
            seq,
            id: LedgerEntryId::new(),
            amount: request.amount,
            balance_after,
            reason,
            reference: match &caller.actor {
                Actor::Operator { api_key_id, .. } => format!("api_key/{api_key_id}"),
                _ => String::new(),
            },
            entered_at: self.clock.now(),
        };
        repo::entry_insert(&mut tx, &entry, replay.as_ref()).await?;
        outbox::push(&mut tx, &granted(office.id, &entry).traced(access.trace_id())).await?;
        let relieved = repo::account_relieve(&mut tx).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        if relieved {
            self.push_budgets_soon(office.id);
        }
        Ok(entry)
    }
}

fn granted(office_id: OfficeId, entry: &Entry) -> Event {
    let summary = format!("{} micro-credits granted: {}", entry.amount, entry.reason);
    let metadata = json!({ "entry_id": entry.id, "amount": entry.amount, "balance_after": entry.balance_after });
    Event::lifecycle(office_id, "", "credit.granted", summary, entry.entered_at)
        .category(Category::Credit)
        .with(metadata)
}
