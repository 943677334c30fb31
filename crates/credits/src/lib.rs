//! Credits: what an office may spend, and the ledger that explains every micro-credit of it.
//!
//! The balance is the sum of the ledger, always: both change in one transaction, under the lock of the office's
//! row in `balances`. Entries are only ever added.

mod grpc;
mod repo;

use std::sync::Arc;

use async_trait::async_trait;
use mi_kernel::{
    Actor, Clock, Error, LedgerEntryId, OfficeId, Result, Time,
    event::{Category, Event},
    page::Page,
    text::display_name,
};
use mi_proto::v1::{self, GrantCreditsRequest};
use mi_rpc::Caller;
use mi_store::{Db, FromRow, OfficeConn, idempotency, outbox};
use mi_tenancy::{LifecycleStep, Office, OfficePart, Offices, RoleContext, State};
use prost::Message;
use serde_json::json;
use tokio::sync::Notify;

/// Most micro-credits of one grant: a thousand million credits.
const MAX_GRANT: i64 = 1_000_000_000_000_000;
/// Most micro-credits that an office may have: a thousand such grants.
const MAX_BALANCE: i64 = 1000 * MAX_GRANT;

/// An entry of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
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
    entered_at: Time,
}

/// The credits of all offices.
#[derive(Clone)]
pub struct Credits {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
}

impl Credits {
    /// Credits of these offices.
    pub fn new(context: RoleContext, offices: Offices) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox, offices }
    }

    /// Micro-credits that the office has.
    async fn balance(&self, caller: &Caller, office: &str) -> Result<i64> {
        let (access, _) = self.offices.get(caller, office).await?;
        Ok(repo::balance_get(&mut self.db.office(access.office_id()).read().await?).await?)
    }

    /// Micro-credits that the connection's office may spend.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn available(&self, conn: &mut OfficeConn) -> Result<i64> {
        Ok(repo::balance_get(conn).await?)
    }

    /// Whether a balance refuses anything. Not yet: offices do not begin with credits in this version.
    pub fn metered(&self) -> bool {
        false
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
            let text = format!("must be 1 to {MAX_GRANT} micro-credits; 1000000 of them are one credit");
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
        tx.commit().await?;
        self.outbox.notify_one();
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

#[async_trait]
impl OfficePart for Credits {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create => Ok(repo::balance_insert(tx).await?),
            LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => Ok(repo::balance_delete(tx).await?),
        }
    }

    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        Ok(repo::entry_clear_some(&self.db, office_id).await?)
    }

    async fn report(&self, conn: &mut OfficeConn, report: &mut v1::OfficeStatusReport) -> Result<()> {
        report.balance = Some(grpc::balance(repo::balance_get(conn).await?));
        Ok(())
    }
}
