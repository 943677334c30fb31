//! What credits do when their office is made or removed.

use async_trait::async_trait;
use mi_kernel::{LedgerEntryId, OfficeId, Result};
use mi_proto::v1;
use mi_store::OfficeConn;
use mi_tenancy::{
    LifecycleStep, Office, OfficePart,
    accounts::{give_back_credits, take_credits},
};

use super::{Credits, Entry, grpc, repo};

/// A new office begins with some credits out of its account's allowance; what is left of them goes back in the end, so
/// that whoever makes and removes offices has no more of them.
#[async_trait]
impl OfficePart for Credits {
    async fn step(&self, tx: &mut OfficeConn, office: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create => {
                let rules = self.rules;
                let (amount, taken) = take_credits(tx, office.account_id, rules.office, rules.account).await?;
                repo::balance_insert(tx, amount, taken).await?;
                if amount > 0 {
                    let entry = Entry {
                        seq: 1,
                        id: LedgerEntryId::new(),
                        amount,
                        balance_after: amount,
                        reason: "starting balance".into(),
                        reference: "start".into(),
                        entered_at: office.created_at,
                    };
                    repo::entry_insert(tx, &entry, None).await?;
                }
                Ok(())
            }
            LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => {
                let Some((balance, taken)) = repo::balance_taken(tx).await? else { return Ok(()) };
                let left = balance.clamp(0, taken);
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
