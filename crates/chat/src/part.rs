//! What the chat does when its office is removed.

use async_trait::async_trait;
use mi_kernel::{OfficeId, Result};
use mi_store::OfficeConn;
use mi_tenancy::{LifecycleStep, Office, OfficePart};

use super::{Chat, repo};

#[async_trait]
impl OfficePart for Chat {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Create | LifecycleStep::Stop => Ok(()),
            LifecycleStep::Remove => Ok(repo::chat_delete(tx).await?),
        }
    }

    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        Ok(repo::message_clear_some(&self.db, office_id).await?)
    }
}
