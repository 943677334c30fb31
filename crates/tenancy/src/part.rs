//! What the resources of an office do when the office itself changes.

use async_trait::async_trait;
use mi_kernel::{OfficeId, Result};
use mi_proto::v1::OfficeStatusReport;
use mi_store::OfficeConn;

use crate::Office;

/// A step in the life of an office that its parts take in one transaction with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleStep {
    /// The office's row was written a moment ago.
    Create,
    /// The office is suspended, or its deletion begins: no work goes on in it.
    Stop,
    /// The office's row is deleted next: no other row may name the office any more.
    Remove,
}

/// A resource of which offices have something: a queue, a drive, secrets.
///
/// A part that has nothing to do at some point leaves that method out.
#[async_trait]
pub trait OfficePart: Send + Sync {
    /// Takes a step, in its transaction.
    ///
    /// # Errors
    /// Any error refuses the step, for all parts.
    async fn step(&self, tx: &mut OfficeConn, office: &Office, step: LifecycleStep, trace_id: &str) -> Result<()> {
        let _ = (tx, office, step, trace_id);
        Ok(())
    }

    /// Deletes a bounded part of what an office that is being deleted may have much of, before the transaction of
    /// [`LifecycleStep::Remove`], in transactions of its own, so that others write in between. True: there may be more.
    ///
    /// # Errors
    /// Those of the database and of storage; the deletion is tried again later.
    async fn empty_some(&self, office_id: OfficeId) -> Result<bool> {
        let _ = office_id;
        Ok(false)
    }

    /// Adds how much the connection's office has to the report of its status.
    ///
    /// # Errors
    /// Those of the database.
    async fn report(&self, conn: &mut OfficeConn, report: &mut OfficeStatusReport) -> Result<()> {
        let _ = (conn, report);
        Ok(())
    }
}
