//! Offices: what they are, what may be done with them when, and how the other roles learn of it.

pub mod converge;
pub(crate) mod grpc;
pub(crate) mod invites;
pub(crate) mod repo;
pub(crate) mod settings;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use mi_base::{Tasks, reserve::Reserve, signals::Signals};
use mi_kernel::{
    AccountId, Actor, Clock, Error, ErrorKind, OfficeId, Result, Time, event::Event, page::Page, text::display_name,
};
use mi_proto::{
    internal::v1::{ListTiersRequest, ProbeWallsRequest, agent_registry_service_client::AgentRegistryServiceClient},
    v1,
};
use mi_rpc::{Caller, RoleClient, convert, status::from_status};
use mi_store::{Db, OfficeTx, idempotency, outbox};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

pub use settings::Settings;

use crate::{
    accounts::repo::{self as accounts, Counted},
    drive::{
        repo::{Usage, usage_get},
        storage::Storage,
    },
    quotas::{self, Quotas},
    retention,
    tasks::{self, notices::Pending, tally::Tally},
};

/// Offices whose owner is remembered.
const OWNERS: u64 = 100_000;

/// Where an office stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What moves an office from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Provisioned,
    Suspend,
    Resume,
    Delete,
}

impl State {
    /// The one transition function. None: the office is there already.
    fn after(self, step: Move) -> Result<Option<Self>> {
        use State::{Active, Deleting, Provisioning, Suspended};
        match (self, step) {
            (Provisioning, Move::Provisioned) | (Suspended, Move::Resume) => Ok(Some(Active)),
            (Active, Move::Suspend) => Ok(Some(Suspended)),
            (Provisioning | Active | Suspended, Move::Delete) => Ok(Some(Deleting)),
            (Active | Suspended, Move::Provisioned)
            | (Suspended, Move::Suspend)
            | (Active, Move::Resume)
            | (Deleting, Move::Delete | Move::Provisioned) => Ok(None),
            (Provisioning, Move::Suspend | Move::Resume) => Err(Error::precondition(
                "OFFICE_NOT_ACTIVE",
                "the office is still being provisioned; try again in a moment",
            )),
            (Deleting, Move::Suspend | Move::Resume) => Err(Self::deleting()),
        }
    }

    pub(crate) fn deleting() -> Error {
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
#[derive(Debug, Clone, PartialEq)]
pub struct Office {
    /// Itself.
    pub id: OfficeId,
    /// The account that owns it.
    pub account_id: AccountId,
    /// Display name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// What it allows.
    pub settings: Settings,
    /// Grows with every change that other roles need to know.
    pub version: i64,
    /// The newest version that all of them confirmed.
    pub applied_version: i64,
    /// What it needs.
    pub conditions: Vec<Condition>,
    /// When it was created.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
}

/// What [`Offices`] are made of.
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replicas: converge::Replicas,
    pub(crate) registry: AgentRegistryServiceClient<RoleClient>,
    pub(crate) quotas: Quotas,
    pub(crate) outbox: Arc<Notify>,
    pub(crate) storage: Storage,
    pub(crate) tasks: Tasks,
    /// Wakes those who watch an office's chat.
    pub(crate) sent: Signals<OfficeId>,
    /// Wakes those who watch a drive.
    pub(crate) files: watch::Sender<()>,
    /// Offices in which somebody may wait for work that there is no more, or again.
    pub(crate) moved: Pending,
}

/// The offices of the platform.
#[derive(Clone)]
pub struct Offices {
    db: Db,
    clock: Arc<dyn Clock>,
    replicas: converge::Replicas,
    registry: AgentRegistryServiceClient<RoleClient>,
    /// How much an account and an office may have.
    pub(crate) quotas: Quotas,
    outbox: Arc<Notify>,
    storage: Storage,
    tasks: Tasks,
    /// Offices with a background driver in this process.
    driven: Arc<Mutex<HashSet<OfficeId>>>,
    owners: Cache<OfficeId, AccountId>,
    /// Wakes those who watch an office's chat.
    sent: Signals<OfficeId>,
    /// Wakes those who watch a drive.
    files: watch::Sender<()>,
    /// Those that were suspended, resumed or removed: in them somebody may wait for work.
    moved: Pending,
}

impl Offices {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { db, clock, replicas, registry, quotas, outbox, storage, tasks, sent, files, moved } = parts;
        let (driven, owners) = (Arc::default(), Cache::new(OWNERS));
        Self { db, clock, replicas, registry, quotas, outbox, storage, tasks, driven, owners, sent, files, moved }
    }

    /// What is given up for deletions on a full disk.
    fn reserve(&self) -> &Reserve {
        &self.storage.reserve
    }

    /// Has everybody look again who watches something in the office, or waits for work there.
    fn wake_watchers(&self, id: OfficeId) {
        self.sent.wake(&id);
        self.files.send_replace(());
        self.moved.put([id]);
    }

    async fn create(&self, caller: &Caller, request: &v1::CreateOfficeRequest, content: &[u8]) -> Result<Office> {
        let Actor::Operator { account_id, .. } = caller.actor else {
            return Err(Error::denied("only operators create offices"));
        };
        let name = display_name("name", &request.name)?;
        let scope = format!("{}/CreateOffice", caller.actor.key());
        let replay = idempotency::Request::new(scope, &request.request_id, content)?;
        let (id, now) = (OfficeId::new(), self.clock.now());
        let mut tx = self.db.office(id).begin().await?;
        if let Some(replay) = &replay
            && let Some(known) = replay.replayed(&mut tx).await?
        {
            drop(tx);
            return self.read(known.into()).await;
        }
        let office = Office {
            id,
            account_id,
            name,
            state: State::Provisioning,
            settings: Settings::default(),
            version: 1,
            applied_version: 0,
            conditions: Vec::new(),
            created_at: now,
            updated_at: now,
        };
        if !accounts::count(&mut tx, account_id, Counted::Offices, self.quotas.offices).await? {
            return Err(quotas::exceeded("the account", "offices", self.quotas.offices, "delete some first"));
        }
        repo::office_insert(&mut tx, &office).await?;
        tasks::repo::queue_insert(&mut tx).await?;
        if let Some(replay) = &replay {
            replay.remember(&mut tx, office.id.0, now).await?;
        }
        let event = Event::lifecycle(office.id, "", "office.created", format!("Office {:?} created", office.name), now);
        outbox::push(&mut tx, &event.traced(&caller.trace_id)).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        self.converge_now(office.id).await;
        self.read(office.id).await
    }

    async fn list(&self, caller: &Caller, page: &Page<OfficeId>) -> Result<(Vec<Office>, String)> {
        let owner = match caller.actor {
            Actor::Operator { administrator: true, .. } => None,
            Actor::Operator { account_id, .. } => Some(account_id),
            _ => return Err(Error::denied("only operators list offices")),
        };
        let rows = repo::office_list(&mut self.db.platform().read().await?, owner, page).await?;
        Ok(page.finish(rows, |office| office.id))
    }

    async fn read(&self, id: OfficeId) -> Result<Office> {
        let office = repo::office_get(&mut self.db.office(id).read().await?).await?;
        office.ok_or_else(|| Error::not_found("office", id))
    }

    /// The office, if the caller may see it.
    pub(crate) async fn get(&self, caller: &Caller, id: &str) -> Result<Office> {
        let office = self.read(OfficeId::parse(id)?).await?;
        caller.enter(office.id, office.account_id)?;
        Ok(office)
    }

    /// The account that owns the office. It never changes, so it is asked for once: for calls that learn from their own
    /// transaction whether the office is still there.
    pub(crate) async fn owner(&self, id: OfficeId) -> Result<AccountId> {
        if let Some(owner) = self.owners.get(&id).await {
            return Ok(owner);
        }
        let owner = self.read(id).await?.account_id;
        self.owners.insert(id, owner).await;
        Ok(owner)
    }

    /// The office inside a write transaction, locked, if the caller may change it.
    pub(crate) async fn lock(&self, caller: &Caller, id: &str) -> Result<(OfficeTx, Office)> {
        let id = OfficeId::parse(id)?;
        let mut tx = self.db.office(id).begin().await?;
        let office = repo::office_lock(&mut tx).await?.ok_or_else(|| Error::not_found("office", id))?;
        caller.enter(office.id, office.account_id)?;
        Ok((tx, office))
    }

    /// Writes a changed office with its event, and tells the other roles before it returns, if they can be reached.
    async fn save(&self, mut tx: OfficeTx, mut office: Office, event: Event) -> Result<Office> {
        office.version += 1;
        office.updated_at = event.time;
        repo::office_update(&mut tx, &office).await?;
        outbox::push(&mut tx, &event).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        self.converge_now(office.id).await;
        Ok(office)
    }

    async fn update_settings(&self, caller: &Caller, request: v1::UpdateOfficeSettingsRequest) -> Result<Settings> {
        let given = request.settings.unwrap_or_default();
        let mask = request.update_mask.unwrap_or_default().paths;
        let checked = self.check_defaults(caller, &request.office_id, &given, &mask).await?;
        let (mut tx, mut office) = self.lock(caller, &request.office_id).await?;
        if office.state == State::Deleting {
            return Err(State::deleting());
        }
        let paths = office.settings.update(&given, &mask)?;
        if checked.is_some_and(|checked| checked.hire_defaults() != office.settings.hire_defaults()) {
            let text = "somebody else changed the office's defaults meanwhile; read the settings again";
            return Err(Error::new(ErrorKind::Aborted, "CONFLICT", text));
        }
        if paths.iter().any(|path| path.ends_with("_retention")) {
            retention::schedule(&mut tx, &office.settings, self.clock.now()).await?;
        }
        let summary = format!("Settings changed: {}", paths.join(", "));
        let event = Event::lifecycle(office.id, "", "office.settings_updated", summary, self.clock.now())
            .with(serde_json::json!({ "fields": paths }))
            .traced(&caller.trace_id);
        Ok(self.save(tx, office, event).await?.settings)
    }

    /// Refuses defaults with which every hire would fail; when there are new ones, answers the settings that have them.
    /// The scheduler knows the tiers, and is asked before the transaction: none waits for another role.
    async fn check_defaults(
        &self,
        caller: &Caller,
        office: &str,
        given: &v1::OfficeSettings,
        mask: &[String],
    ) -> Result<Option<Settings>> {
        let mut settings = self.get(caller, office).await?.settings;
        let changed = settings.update(given, mask)?;
        if !changed.iter().any(|path| path == "default_model_tier" || path == "default_provider") {
            return Ok(None);
        }
        let listed = self.registry.clone().list_tiers(ListTiersRequest {}).await;
        let tiers = listed.map_err(|status| from_status(&status))?.into_inner().model_tiers;
        settings.check_defaults(&changed, &tiers)?;
        Ok(Some(settings))
    }

    /// The office's tasks by status.
    async fn tally(&self, id: OfficeId) -> Result<Tally> {
        Ok(tasks::repo::queue_tally(&mut self.db.office(id).read().await?).await?)
    }

    /// What the office's files amount to.
    async fn drive_usage(&self, id: OfficeId) -> Result<Usage> {
        Ok(usage_get(&mut self.db.office(id).read().await?).await?)
    }

    /// Tries the walls of every role's database.
    async fn verify(&self, caller: &Caller, id: &str) -> Result<Vec<v1::WallCheck>> {
        self.get(caller, id).await?;
        let own = self.db.probe_walls("office").await?;
        let mut checks: Vec<v1::WallCheck> = own.into_iter().map(convert::wall_check).collect();
        for mut replica in [self.replicas.scheduler.clone(), self.replicas.activity.clone()] {
            let answer = replica.probe_walls(ProbeWallsRequest {}).await.map_err(|status| from_status(&status))?;
            checks.extend(answer.into_inner().checks);
        }
        Ok(checks)
    }

    /// Suspends, resumes or deletes.
    async fn transition(&self, caller: &Caller, id: &str, step: Move) -> Result<Office> {
        let (mut tx, mut office) = self.lock(caller, id).await?;
        let Some(state) = office.state.after(step)? else {
            return Ok(office);
        };
        office.state = state;
        let (kind, verb) = match step {
            Move::Suspend => ("office.suspended", "suspended"),
            Move::Resume => ("office.resumed", "resumed"),
            Move::Delete => ("office.deletion_requested", "is being deleted"),
            Move::Provisioned => ("office.provisioned", "is ready"),
        };
        let summary = format!("Office {:?} {verb}", office.name);
        let now = self.clock.now();
        let event = Event::lifecycle(office.id, "", kind, summary, now).traced(&caller.trace_id);
        if matches!(step, Move::Suspend | Move::Delete) {
            tasks::release_all(&mut tx, &*self.clock, &caller.trace_id).await?;
        }
        let saved = self.save(tx, office, event).await?;
        self.wake_watchers(saved.id);
        Ok(saved)
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
            let steps = [Move::Provisioned, Move::Suspend, Move::Resume, Move::Delete];
            assert_eq!(steps.map(|step| outcome(state, step)), expected, "{state:?}");
        }
    }
}
