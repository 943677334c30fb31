//! Offices: what they are, what may be done with them when, and who may enter them.

pub mod repo;

use mi_kernel::{AccountId, Actor, Error, OfficeId, Result, Time, page::Page};
use mi_rpc::{Access, Caller};
use mi_store::{Db, FromRow, OfficeTx};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use crate::Settings;

/// Offices whose owner is remembered.
const MAX_OWNERS: u64 = 100_000;

/// Where an office stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// The other roles do not all know of it yet.
    Provisioning,
    /// In use.
    Active,
    /// Compute stopped, data kept.
    Suspended,
    /// On its way out.
    Deleting,
}

impl State {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl TryFrom<String> for State {
    type Error = strum::ParseError;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

/// What moves an office from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// All other roles know of it.
    Provisioned,
    /// Its owner has it stopped.
    Suspend,
    /// Its owner has it go on.
    Resume,
    /// Its owner has it deleted.
    Delete,
}

impl State {
    /// The state after a transition; none: the office is there already.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no such transition from this state.
    pub fn after(self, step: Transition) -> Result<Option<Self>> {
        use State::{Active, Deleting, Provisioning, Suspended};
        match (self, step) {
            (Provisioning, Transition::Provisioned) | (Suspended, Transition::Resume) => Ok(Some(Active)),
            (Active, Transition::Suspend) => Ok(Some(Suspended)),
            (Provisioning | Active | Suspended, Transition::Delete) => Ok(Some(Deleting)),
            (Active | Suspended, Transition::Provisioned)
            | (Suspended, Transition::Suspend)
            | (Active, Transition::Resume)
            | (Deleting, Transition::Delete | Transition::Provisioned) => Ok(None),
            (Provisioning, Transition::Suspend | Transition::Resume) => Err(Error::precondition(
                "OFFICE_NOT_ACTIVE",
                "the office is still being provisioned; try again in a moment",
            )),
            (Deleting, Transition::Suspend | Transition::Resume) => Err(Self::deleting()),
        }
    }

    /// The refusal of whatever an office that is being deleted takes no more.
    pub fn deleting() -> Error {
        Error::precondition("OFFICE_NOT_ACTIVE", "the office is being deleted")
    }
}

/// Whether one thing that the office needs is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// What blocks it; none: it holds.
    pub problem: Option<String>,
    /// When it was last looked at.
    pub time: Time,
}

/// An office.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Office {
    /// Identifies the office.
    pub id: OfficeId,
    /// The account that owns it.
    pub account_id: AccountId,
    /// Display name.
    pub name: String,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub state: State,
    /// What it allows.
    #[sqlx(json)]
    pub settings: Settings,
    /// Grows with every change that other roles need to know.
    pub version: i64,
    /// The newest version that all of them confirmed.
    pub applied_version: i64,
    /// What it needs.
    #[sqlx(json)]
    pub conditions: Vec<Condition>,
    /// When it was created.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
}

/// The offices of the platform.
#[derive(Clone)]
pub struct Offices {
    db: Db,
    owners: Cache<OfficeId, AccountId>,
}

impl Offices {
    /// The offices of this database.
    pub fn new(db: Db) -> Self {
        Self { db, owners: Cache::new(MAX_OWNERS) }
    }

    /// The offices that the caller owns; all of them for the administrator.
    ///
    /// # Errors
    /// `PermissionDenied` for whoever is no operator.
    pub async fn list(&self, caller: &Caller, page: &Page<OfficeId>) -> Result<(Vec<Office>, String)> {
        let owner = match caller.actor {
            Actor::Operator { administrator: true, .. } => None,
            Actor::Operator { account_id, .. } => Some(account_id),
            _ => return Err(Error::denied("only operators list offices")),
        };
        let rows = repo::office_list(&mut self.db.platform().read().await?, owner, page).await?;
        Ok(page.finish(rows, |office| office.id))
    }

    /// The office, whoever asks.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn read(&self, id: OfficeId) -> Result<Office> {
        let office = repo::office_get(&mut self.db.office(id).read().await?).await?;
        office.ok_or_else(|| Error::not_found("office", id))
    }

    /// Lets the caller into the office, for calls that learn from their own transaction whether the office is still there:
    /// who owns an office never changes, so that is read once.
    ///
    /// # Errors
    /// Those of [`Caller::enter`], and `NotFound` when there is no such office.
    pub async fn enter(&self, caller: &Caller, id: &str) -> Result<Access> {
        let id = OfficeId::parse(id)?;
        let owner = match self.owners.get(&id) {
            Some(owner) => owner,
            None => {
                let owner = self.read(id).await?.account_id;
                self.owners.insert(id, owner);
                owner
            }
        };
        caller.enter(id, owner)
    }

    /// Lets the caller into the office, as that is now.
    ///
    /// # Errors
    /// As [`Offices::enter`].
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<(Access, Office)> {
        let office = self.read(OfficeId::parse(id)?).await?;
        let access = caller.enter(office.id, office.account_id)?;
        Ok((access, office))
    }

    /// Lets the caller into the office inside a write transaction, in which nobody else changes the office.
    ///
    /// # Errors
    /// As [`Offices::enter`].
    pub async fn lock(&self, caller: &Caller, id: &str) -> Result<(OfficeTx, Access, Office)> {
        let id = OfficeId::parse(id)?;
        let mut tx = self.db.office(id).begin().await?;
        let office = repo::office_lock(&mut tx).await?.ok_or_else(|| Error::not_found("office", id))?;
        let access = caller.enter(office.id, office.account_id)?;
        Ok((tx, access, office))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        use State::{Active, Deleting, Provisioning, Suspended};
        let outcome = |state: State, step| match state.after(step) {
            Ok(Some(next)) => format!("{next:?}"),
            Ok(None) => "stays".into(),
            Err(error) => error.reason.into(),
        };
        let table = [
            (Provisioning, ["Active", "OFFICE_NOT_ACTIVE", "OFFICE_NOT_ACTIVE", "Deleting"]),
            (Active, ["stays", "Suspended", "stays", "Deleting"]),
            (Suspended, ["stays", "stays", "Active", "Deleting"]),
            (Deleting, ["stays", "OFFICE_NOT_ACTIVE", "OFFICE_NOT_ACTIVE", "stays"]),
        ];
        for (state, expected) in table {
            let steps = [Transition::Provisioned, Transition::Suspend, Transition::Resume, Transition::Delete];
            assert_eq!(steps.map(|step| outcome(state, step)), expected, "{state:?}");
        }
    }
}
