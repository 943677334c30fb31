//! What integrations do when their office is removed.

use async_trait::async_trait;
use mi_kernel::Result;
use mi_store::OfficeConn;
use mi_tenancy::{LifecycleStep, Office, OfficePart};

use super::{DataKeys, Integrations, repo};

/// A removed office takes its secrets along, then the key that sealed them.
#[async_trait]
impl OfficePart for Integrations {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create | LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => {
                repo::secret_clear(tx).await?;
                DataKeys::destroy(tx).await
            }
        }
    }
}
