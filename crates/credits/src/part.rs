//! What credits do when their office is made or removed.

use async_trait::async_trait;
use mi_kernel::{LedgerEntryId, OfficeId, Result, Time};
use mi_proto::v1;
use mi_store::{OfficeConn, outbox};
use mi_tenancy::{
    LifecycleStep, Office, OfficePart, State,
    accounts::{give_back_credits, take_credits},
    offices,
};

use super::{
    CreditRules, Credits, Entry, granted, grpc,
    repo::{self, Taken},
};

impl Credits {
    /// Gives an office of an earlier version what a new one begins with, once.
    pub(super) async fn begin(&self, office_id: OfficeId) -> Result<()> {
        let mut tx = self.db.office(office_id).begin().await?;
        let found = repo::balance_taken(&mut tx).await?.filter(|found| !found.begun);
        if found.is_none() {
            return Ok(());
        }
        match offices::repo::office_get(&mut tx).await?.filter(|office| office.state != State::Deleting) {
            Some(office) => self.give_start(&mut tx, &office, self.clock.now(), "").await?,
            None => repo::balance_begin(&mut tx, 0, 0).await.map(drop)?,
        }
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(())
    }

    /// Gives what an office begins with, out of its account's allowance.
    async fn give_start(&self, tx: &mut OfficeConn, office: &Office, now: Time, trace_id: &str) -> Result<()> {
        let CreditRules { office: most, account: allowance, .. } = self.rules;
        let (amount, taken) = take_credits(tx, office.account_id, most, allowance).await?;
        let (seq, balance_after) = repo::balance_begin(tx, amount, taken).await?;
        if amount == 0 {
            return Ok(());
        }
        let entry = Entry {
            seq,
            id: LedgerEntryId::new(),
            amount,
            balance_after,
            reason: "starting balance".into(),
            reference: "start".into(),
            entered_at: now,
        };
        repo::entry_insert(tx, &entry, None).await?;
        Ok(outbox::push(tx, &granted(office.id, &entry).traced(trace_id)).await?)
    }
}

/// A new office begins with some credits out of its account's allowance; what is left of them goes back in the end, so
/// that whoever makes and removes offices has no more of them.
#[async_trait]
impl OfficePart for Credits {
    async fn step(&self, tx: &mut OfficeConn, office: &Office, step: LifecycleStep, trace_id: &str) -> Result<()> {
        match step {
            LifecycleStep::Create => {
                repo::balance_insert(tx).await?;
                self.give_start(tx, office, office.created_at, trace_id).await
            }
            LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => {
                let Some(Taken { balance, reserved, taken, .. }) = repo::balance_taken(tx).await? else {
                    return Ok(());
                };
                // What is set aside was used, as far as anybody knows.
                let left = (balance - reserved).clamp(0, taken);
                if left > 0 {
                    give_back_credits(tx, office.account_id, left).await?;
                }
                repo::metering_clear(tx).await?;
                Ok(repo::balance_delete(tx).await?)
            }
        }
    }

    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        Ok(repo::entry_clear_some(&self.db, office_id).await? || repo::metering_clear_some(&self.db, office_id).await?)
    }

    async fn report(&self, conn: &mut OfficeConn, report: &mut v1::OfficeStatusReport) -> Result<()> {
        report.balance = Some(grpc::balance(repo::balance_get(conn).await?));
        Ok(())
    }
}
