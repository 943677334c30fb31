//! What the drive does when its office is removed, and what it tells of it.

use async_trait::async_trait;
use mi_kernel::{OfficeId, Result};
use mi_proto::v1;
use mi_store::OfficeConn;
use mi_tenancy::{OfficePart, quotas};

use super::{Drive, repo};

#[async_trait]
impl OfficePart for Drive {
    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        self.storage.clear_some(office_id).await
    }

    async fn report(&self, conn: &mut OfficeConn, report: &mut v1::OfficeStatusReport) -> Result<()> {
        let usage = repo::usage_get(conn).await?;
        (report.drive_bytes, report.drive_files) = (usage.bytes, usage.files);
        let most = self.limits.office_bytes.try_into().unwrap_or(i64::MAX);
        report.quotas.push(quotas::to_wire("drive_bytes", usage.bytes, most));
        Ok(())
    }
}
