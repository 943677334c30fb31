//! One transaction over an office's credits: what it needs is read, changed in memory, and written together.
//!
//! The office's row in `balances` is locked first, so that nobody else reserves or spends meanwhile. It is read by one
//! statement and written by one, however many operations share it, but for who waits for a budget. An operation checks
//! everything before it changes anything: one that is refused leaves no trace but that an agent has to wait.

mod budgets;
mod compute;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use chrono::{DurationRound, TimeDelta};
use mi_kernel::{
    AgentId, CallId, Clock, Error, LedgerEntryId, Result, TaskId, Time,
    event::{Category, Event},
};
use mi_store::OfficeConn;
use mi_tenancy::State;
use serde_json::json;

use self::budgets::budget_reached;
use super::{
    CreditRules, Entry,
    model::{Account, Op, Payer, Reservation, Reserve, Settle, Spender, TaskCost, Tokens, Usage},
    out_of_credits,
    repo::{self, Purse, UsageKind, Wanted, Written},
};

/// For how long it is remembered that a call that is in no ledger has ended: longer than anybody repeats what he asked for.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// For how long what an expired call cost may be corrected.
const CORRECTED: Duration = Duration::from_secs(24 * 3600);
/// What is written for a reservation that nobody settled.
const EXPIRED: &str = "nobody said what it cost in time";

/// What an office's transaction changed that others have to hear of.
pub(super) struct Done {
    /// Events were written.
    pub(super) told: bool,
    /// Nothing is left to spend, for the first time.
    pub(super) exhausted: bool,
    /// The scheduler has to hear of budgets.
    pub(super) untold: bool,
}

/// The working set of one transaction.
pub(super) struct Batch<'a> {
    tx: &'a mut OfficeConn,
    rules: CreditRules,
    now: Time,
    purse: Purse,
    reservations: HashMap<CallId, Reservation>,
    /// What ended calls cost.
    debited: HashMap<CallId, i64>,
    accounts: HashMap<AgentId, Account>,
    costs: HashMap<TaskId, TaskCost>,
    /// What is to be written.
    put: BTreeSet<CallId>,
    dropped: Vec<CallId>,
    changed_accounts: BTreeSet<AgentId>,
    changed_costs: BTreeSet<TaskId>,
    usages: BTreeMap<(UsageKind, String), Usage>,
    entries: Vec<(Entry, Option<String>)>,
    events: Vec<Event>,
    exhausted: bool,
}

impl<'a> Batch<'a> {
    /// Reads what the operations are about, in a transaction that has the lock: by as many statements however many they are.
    ///
    /// # Errors
    /// `NotFound` when there is no such office.
    pub(super) async fn open(
        tx: &'a mut OfficeConn,
        clock: &dyn Clock,
        rules: CreditRules,
        ops: &[&Op],
    ) -> Result<Self> {
        let office_id = tx.office_id();
        let wanted = wanted(ops);
        let found = repo::open(tx, &wanted).await?.ok_or_else(|| Error::not_found("office", office_id))?;
        let mut batch = Self {
            tx,
            rules,
            now: found.purse.told.map_or_else(|| clock.now(), |told| clock.agreed(told)),
            purse: found.purse,
            reservations: found.reservations.into_iter().map(|found| (found.call_id, found)).collect(),
            debited: found.debited.into_iter().collect(),
            accounts: found.accounts.into_iter().map(|found| (found.agent_id, found)).collect(),
            costs: found.costs.into_iter().map(|found| (found.task_id, found)).collect(),
            put: BTreeSet::new(),
            dropped: Vec::new(),
            changed_accounts: BTreeSet::new(),
            changed_costs: BTreeSet::new(),
            usages: BTreeMap::new(),
            entries: Vec::new(),
            events: Vec::new(),
            exhausted: false,
        };
        // Whoever waits may be freed by a budget that is raised, and by what turns out to have cost less.
        let frees = |op: &&Op| match op {
            Op::SetBudget(_) => true,
            Op::Settle(settle) => {
                batch.reservations.get(&settle.call_id).is_some_and(|kept| kept.expires_at <= batch.now || kept.expired)
            }
            Op::Reserve(_) | Op::Expire(_) | Op::Compute(_) => false,
        };
        if ops.iter().any(frees) {
            let waiting = repo::account_waiting(batch.tx).await?;
            let lines =
                waiting.iter().flat_map(|account| [account.agent_id].into_iter().chain(account.lineage.clone()));
            let found = repo::account_get_all(batch.tx, &Vec::from_iter(lines.collect::<HashSet<_>>())).await?;
            batch.accounts.extend(found.into_iter().map(|found| (found.agent_id, found)));
        }
        Ok(batch)
    }

    /// Does an operation; answers what was debited.
    pub(super) fn apply(&mut self, op: &Op) -> Result<i64> {
        match op {
            Op::Reserve(reserve) => self.reserve(reserve).map(|()| 0),
            Op::Settle(settle) => Ok(self.settle(settle)),
            Op::Expire(call_id) => Ok(self.expire(*call_id)),
            Op::Compute(compute) => Ok(self.charge(compute)),
            Op::SetBudget(set) => self.set_budget(set).map(|()| 0),
        }
    }

    fn reserve(&mut self, asked: &Reserve) -> Result<()> {
        let expires_at = self.now + asked.valid_for;
        match self.reservations.get_mut(&asked.call_id) {
            Some(open) if !open.settled => {
                open.expires_at = open.expires_at.max(expires_at);
                self.put.insert(asked.call_id);
                return Ok(());
            }
            None if !self.debited.contains_key(&asked.call_id) => {}
            _ => return Err(Error::precondition("CALL_SETTLED", "the call has ended; a new one needs a new call_id")),
        }
        match self.purse.state {
            State::Active => {}
            State::Deleting => return Err(State::deleting()),
            State::Provisioning | State::Suspended => {
                let text = "the office is not active; models are not called in it";
                return Err(Error::precondition("OFFICE_NOT_ACTIVE", text));
            }
        }
        // What costs nothing needs something all the same: a wall is a wall.
        let needed = asked.amount.max(1);
        if self.rules.metered && self.purse.available() < needed {
            if self.purse.balance < needed {
                let balance = self.purse.balance;
                let why = format!("a call could cost {needed} micro-credits, and the office has {balance}; grant some");
                self.account(&asked.spender);
                self.note_broke(asked.spender.agent_id, &why);
            }
            return Err(out_of_credits(self.purse.available()));
        }
        self.check_budgets(&asked.spender, needed)?;
        if let Some(payer) = asked.payer.filter(|_| self.purse.settings.model_budget_per_task > 0) {
            let (ceiling, cost) = (self.purse.settings.model_budget_per_task, self.cost(payer.root_id));
            if cost.tree_spent.saturating_add(cost.tree_reserved).saturating_add(needed) > ceiling {
                let text = format!(
                    "the task {} and those below it cost {} of the {ceiling} micro-credits that model_budget_per_task \
                     allows, and the call could cost {needed}",
                    payer.root_id, cost.tree_spent
                );
                return Err(budget_reached(text));
            }
        }
        self.purse.reserved += asked.amount;
        self.spend(&asked.spender, 0, asked.amount);
        self.note_broke(asked.spender.agent_id, "");
        if let Some(payer) = asked.payer {
            self.cost_of(payer, 0, asked.amount);
        }
        let Spender { agent_id, name, lineage } = asked.spender.clone();
        let reservation = Reservation {
            call_id: asked.call_id,
            agent_id,
            agent: name,
            lineage,
            task_id: asked.payer.map(|payer| payer.task_id),
            root_id: asked.payer.map(|payer| payer.root_id),
            provider: asked.provider.clone(),
            model: asked.model.clone(),
            amount: asked.amount,
            settled: false,
            expired: false,
            expires_at,
        };
        self.reservations.insert(asked.call_id, reservation);
        self.put.insert(asked.call_id);
        Ok(())
    }

    fn settle(&mut self, asked: &Settle) -> i64 {
        match self.reservations.get(&asked.call_id) {
            None => match self.debited.get(&asked.call_id) {
                Some(debited) => *debited,
                None => {
                    self.remember_unknown(asked.call_id);
                    0
                }
            },
            Some(kept) if kept.settled => match asked.amount.filter(|_| kept.expired) {
                Some(cost) => {
                    let kept = kept.clone();
                    self.correct(kept, cost, asked)
                }
                None => kept.amount,
            },
            Some(open) => {
                let open = open.clone();
                self.end(open, asked, false)
            }
        }
    }

    /// Remembers that a call has ended of which nothing is known: its reservation may still be under way, and would be one
    /// that nobody settles.
    fn remember_unknown(&mut self, call_id: CallId) {
        let ended = Reservation {
            call_id,
            agent_id: AgentId::MIN,
            agent: String::new(),
            lineage: Vec::new(),
            task_id: None,
            root_id: None,
            provider: String::new(),
            model: String::new(),
            amount: 0,
            settled: true,
            expired: false,
            expires_at: self.now + REMEMBERED,
        };
        self.reservations.insert(call_id, ended);
        self.put.insert(call_id);
    }

    /// Corrects, once, what an expired call was settled at, by an entry of its own.
    fn correct(&mut self, kept: Reservation, cost: i64, asked: &Settle) -> i64 {
        let (call_id, more) = (kept.call_id, cost - kept.amount);
        let spender = kept.spender();
        self.spend(&spender, more, 0);
        if let Some(payer) = kept.payer() {
            self.cost_of(payer, more, 0);
        }
        let usage = Usage { amount: more, tokens: asked.tokens.unwrap_or_default(), calls: 0 };
        self.used_by(&kept, usage);
        if more != 0 {
            let what = if more < 0 { "less" } else { "more" };
            let note = if asked.note.is_empty() { String::new() } else { format!("; {}", asked.note) };
            let reason = format!("correction: model {} cost {what}{note}", kept.model);
            let reference = format!("call/{call_id}");
            // What cost nothing as far as anybody knew has no entry yet.
            let key = (kept.amount == 0).then(|| reference.clone());
            self.debit(more, reason, reference, key);
        }
        self.reservations.insert(call_id, Reservation { amount: cost, expired: false, ..kept });
        self.put.insert(call_id);
        if more < 0 {
            self.free_below(&spender.chain().collect());
        }
        cost
    }

    fn expire(&mut self, call_id: CallId) -> i64 {
        let Some(due) = self.reservations.get(&call_id).filter(|kept| kept.expires_at <= self.now).cloned() else {
            return 0;
        };
        if due.settled {
            self.reservations.remove(&call_id);
            self.put.remove(&call_id);
            self.dropped.push(call_id);
            return 0;
        }
        self.end(due, &Settle { call_id, amount: None, tokens: None, note: EXPIRED.into() }, true)
    }

    /// Ends a reservation with what the call cost; an expired one is kept, to be corrected.
    fn end(&mut self, open: Reservation, asked: &Settle, expired: bool) -> i64 {
        let cost = asked.amount.unwrap_or(open.amount);
        let spender = open.spender();
        self.purse.reserved -= open.amount;
        self.spend(&spender, cost, -open.amount);
        if let Some(payer) = open.payer() {
            self.cost_of(payer, cost, -open.amount);
        }
        // Only of what cost nothing and used nothing nobody has to know.
        if cost > 0 || asked.tokens.is_some() || asked.amount.is_none() {
            self.used_by(&open, Usage { amount: cost, tokens: asked.tokens.unwrap_or_default(), calls: 1 });
        }
        if cost > 0 {
            let note = if asked.note.is_empty() { String::new() } else { format!("; {}", asked.note) };
            let reference = format!("call/{}", open.call_id);
            self.debit(cost, format!("model {}{note}", open.model), reference.clone(), Some(reference));
        }
        if cost > 0 && !expired {
            self.put.remove(&open.call_id);
            self.dropped.push(open.call_id);
            self.reservations.remove(&open.call_id);
            self.debited.insert(open.call_id, cost);
        } else {
            let call_id = open.call_id;
            let expires_at = self.now + if expired { CORRECTED } else { REMEMBERED };
            self.reservations.insert(call_id, Reservation { amount: cost, settled: true, expired, expires_at, ..open });
            self.put.insert(call_id);
        }
        cost
    }

    /// The account of an agent, which is made if need be, with its name and lineage.
    fn account(&mut self, spender: &Spender) -> &mut Account {
        let id = spender.agent_id;
        self.changed_accounts.insert(id);
        let account = self.accounts.entry(id).or_insert_with(|| Account::new(id));
        if account.name.is_empty() {
            account.name.clone_from(&spender.name);
            account.lineage.clone_from(&spender.lineage);
        }
        account
    }

    /// Adds to what an agent and everybody above it have spent and set aside.
    fn spend(&mut self, spender: &Spender, spent: i64, reserved: i64) {
        self.account(spender);
        for id in BTreeSet::from_iter(spender.chain()) {
            let account = self.accounts.entry(id).or_insert_with(|| Account::new(id));
            account.spent += spent;
            account.reserved += reserved;
            self.changed_accounts.insert(id);
        }
    }

    fn cost(&self, task_id: TaskId) -> TaskCost {
        let none = TaskCost { task_id, spent: 0, tree_spent: 0, tree_reserved: 0 };
        self.costs.get(&task_id).cloned().unwrap_or(none)
    }

    /// Adds to what a task cost, and its tree.
    fn cost_of(&mut self, payer: Payer, spent: i64, reserved: i64) {
        let mut task = self.cost(payer.task_id);
        task.spent += spent;
        self.costs.insert(payer.task_id, task);
        let mut root = self.cost(payer.root_id);
        root.tree_spent += spent;
        root.tree_reserved += reserved;
        self.costs.insert(payer.root_id, root);
        self.changed_costs.extend([payer.task_id, payer.root_id]);
    }

    fn used_by(&mut self, call: &Reservation, usage: Usage) {
        let root = call.root_id.map(|id| id.to_string()).unwrap_or_default();
        self.used(&call.agent, format!("{}/{}", call.provider, call.model), root, usage);
    }

    fn used(&mut self, agent: &str, model: String, root: String, usage: Usage) {
        for key in [(UsageKind::Agent, agent.to_owned()), (UsageKind::Model, model), (UsageKind::Task, root)] {
            self.usages.entry(key).or_default().add(usage);
        }
    }

    /// Takes credits, or gives them back if it is less than none, with the entry that explains it.
    fn debit(&mut self, cost: i64, reason: String, reference: String, key: Option<String>) {
        self.purse.balance -= cost;
        self.purse.entries += 1;
        let entry = Entry {
            seq: self.purse.entries,
            id: LedgerEntryId::new(),
            amount: -cost,
            balance_after: self.purse.balance,
            reason,
            reference,
            entered_at: self.now,
        };
        self.entries.push((entry, key));
    }

    /// Writes what changed.
    pub(super) async fn finish(mut self) -> Result<Done> {
        // What is only set aside may come back: the end is when all is spent.
        self.purse.exhausted &= self.purse.available() <= 0;
        if self.rules.metered && !self.purse.exhausted && self.purse.balance <= 0 {
            (self.purse.exhausted, self.exhausted) = (true, true);
            let summary = format!("No credits are left: the balance is {} micro-credits", self.purse.balance);
            let metadata = json!({ "balance": self.purse.balance, "reserved": self.purse.reserved });
            let event = Event::lifecycle(self.tx.office_id(), "", "credit.exhausted", summary, self.now);
            self.events.push(event.category(Category::Credit).with(metadata));
        }
        let accounts: Vec<&Account> = self.changed_accounts.iter().filter_map(|id| self.accounts.get(id)).collect();
        let untold = accounts.iter().any(|account| account.told_version < account.version);
        let written = Written {
            purse: &self.purse,
            reservations: self.put.iter().filter_map(|id| self.reservations.get(id)).collect(),
            dropped: &self.dropped,
            accounts,
            costs: self.changed_costs.iter().filter_map(|id| self.costs.get(id)).collect(),
            hour: self.now.duration_trunc(TimeDelta::hours(1)).map_err(Error::internal)?,
            usages: &self.usages,
            entries: &self.entries,
            events: &self.events,
        };
        repo::write(self.tx, written).await?;
        Ok(Done { told: !self.events.is_empty(), exhausted: self.exhausted, untold })
    }
}

/// What operations are about, besides what is set aside already.
fn wanted(ops: &[&Op]) -> Wanted {
    let mut wanted = Wanted::default();
    for op in ops {
        match op {
            Op::Reserve(Reserve { call_id, spender, payer, .. }) => {
                wanted.calls.insert(*call_id);
                wanted.agents.extend(spender.chain());
                wanted.tasks.extend(payer.iter().flat_map(|payer| [payer.task_id, payer.root_id]));
            }
            Op::Settle(Settle { call_id, .. }) | Op::Expire(call_id) => wanted.calls.extend([*call_id]),
            Op::Compute(compute) => wanted.agents.extend(compute.agents.iter().flat_map(|agent| agent.spender.chain())),
            Op::SetBudget(set) => wanted.agents.extend(set.spender.chain()),
        }
    }
    wanted
}

/// Tokens of a call that are no more than anybody can use: what is added up stays a number.
pub(super) fn bounded(tokens: Tokens) -> Tokens {
    const MOST: i64 = 1_000_000_000_000;
    Tokens { input: tokens.input.clamp(0, MOST), output: tokens.output.clamp(0, MOST) }
}
