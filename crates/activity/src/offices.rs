//! The role's copy of the offices: whose they are, and which are gone.

pub(crate) mod repo;

use mi_kernel::{AccountId, Error, OfficeId, Result};
use mi_rpc::{Access, Caller};
use mi_store::Db;

/// Decides who may see an office.
#[derive(Debug, Clone)]
pub(crate) struct Offices {
    db: Db,
}

impl Offices {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Lets the caller into the office that a request names.
    ///
    /// # Errors
    /// `NotFound` for strangers, and alike for offices that are gone or that this role has not heard of.
    pub(crate) async fn enter(&self, caller: &Caller, office_id: &str) -> Result<Access> {
        let office_id = OfficeId::parse(office_id)?;
        let owner = repo::office_owner(&mut self.db.office(office_id).read().await?).await?;
        let owner = owner.ok_or_else(|| Error::not_found("office", office_id))?;
        caller.enter(office_id, owner)
    }

    /// Refuses an office that was removed.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn still_there(&self, office_id: OfficeId) -> Result<()> {
        match repo::office_owner(&mut self.db.office(office_id).read().await?).await? {
            Some(_) => Ok(()),
            None => Err(Error::not_found("office", office_id)),
        }
    }

    /// Takes over what the office role says, unless something newer is known.
    pub(crate) async fn apply(&self, office_id: OfficeId, account_id: AccountId, version: i64) -> Result<()> {
        let mut tx = self.db.office(office_id).begin().await?;
        repo::office_apply(&mut tx, account_id, version).await?;
        Ok(tx.commit().await?)
    }

    /// Marks the office as gone. When this returns, no transaction that still took it for alive is under way.
    pub(crate) async fn bury(&self, office_id: OfficeId) -> Result<()> {
        let mut tx = self.db.office(office_id).begin().await?;
        repo::office_bury(&mut tx).await?;
        Ok(tx.commit().await?)
    }
}
