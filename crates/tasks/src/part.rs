//! What the queue does when its office is made, stopped or removed.

use async_trait::async_trait;
use mi_kernel::{OfficeId, Result};
use mi_proto::v1::OfficeStatusReport;
use mi_store::OfficeConn;
use mi_tenancy::{LifecycleStep, Office, OfficePart, quotas};

use super::{Tasks, batch::Batch, repo, wire};

#[async_trait]
impl OfficePart for Tasks {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, trace_id: &str) -> Result<()> {
        match step {
            LifecycleStep::Create => repo::queue_insert(tx).await?,
            // Everything that runs is given back.
            LifecycleStep::Stop => {
                let mut batch = Batch::open(tx, &*self.clock).await?;
                batch.release_all(trace_id).await?;
                batch.finish().await?;
            }
            LifecycleStep::Remove => repo::task_clear(tx).await?,
        }
        Ok(())
    }

    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        Ok(repo::task_clear_some(&self.db, office_id).await?)
    }

    async fn report(&self, conn: &mut OfficeConn, report: &mut OfficeStatusReport) -> Result<()> {
        let counts = repo::queue_status_counts(conn).await?;
        report.tasks = wire::counts(&counts);
        report.quotas.push(quotas::to_wire("open_tasks", counts.open(), self.quotas.open_tasks.into()));
        Ok(())
    }
}
