//! The life of an office: it is made, changed, suspended, resumed and deleted, with everything that belongs to it.
//!
//! What there is of an office beside its row are its parts ([`OfficePart`]). A step that concerns them is one transaction
//! for all, in the order of the list: whoever locks both queue and chat locks the queue first.

mod converge;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use mi_base::{Tasks, disk_reserve::DiskReserve};
use mi_kernel::{Actor, Error, ErrorKind, OfficeId, Result, event::Event, text::display_name};
use mi_proto::{
    internal::v1::{
        ListTiersRequest, ListTiersResponse, RunIsolationChecksRequest,
        agent_registry_service_client::AgentRegistryServiceClient,
    },
    v1,
};
use mi_rpc::{Caller, RoleClient, convert, status::from_status};
use mi_store::{OfficeConn, OfficeTx, idempotency, outbox};
use mi_tenancy::{LifecycleStep, Office, OfficePart, Offices, RoleContext, Settings, State, Transition, offices::repo};

pub(crate) use self::converge::{LEASE as CONVERGE_LEASE, Replicas};
use crate::retention;

/// What [`Lifecycle`] is made of.
pub(crate) struct Deps {
    pub(crate) context: RoleContext,
    pub(crate) offices: Offices,
    /// The other roles that keep copies of offices.
    pub(crate) replicas: Replicas,
    /// The scheduler, which knows the tiers of models.
    pub(crate) registry: AgentRegistryServiceClient<RoleClient>,
    /// What runs in the background.
    pub(crate) tasks: Tasks,
    /// What is given up for deletions on a full disk.
    pub(crate) reserve: DiskReserve,
    /// Everything that an office has.
    pub(crate) parts: Vec<Arc<dyn OfficePart>>,
}

/// The lives of all offices. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lifecycle(Arc<Inner>);

struct Inner {
    deps: Deps,
    /// Offices with a background driver in this process.
    driven: Mutex<HashSet<OfficeId>>,
}

impl std::ops::Deref for Lifecycle {
    type Target = Deps;
    fn deref(&self) -> &Deps {
        &self.0.deps
    }
}

impl Lifecycle {
    pub(crate) fn new(deps: Deps) -> Self {
        Self(Arc::new(Inner { deps, driven: Mutex::default() }))
    }

    /// Has every part take a step, in its transaction.
    async fn step(&self, tx: &mut OfficeConn, office: &Office, step: LifecycleStep, trace_id: &str) -> Result<()> {
        for part in &self.parts {
            part.step(tx, office, step, trace_id).await?;
        }
        Ok(())
    }

    /// The office, and a report of its status without its agents.
    pub(crate) async fn status(&self, caller: &Caller, id: &str) -> Result<(Office, v1::OfficeStatusReport)> {
        let (_, office) = self.offices.get(caller, id).await?;
        let mut report = v1::OfficeStatusReport::default();
        let mut conn = self.context.db.office(office.id).read().await?;
        for part in &self.parts {
            part.report(&mut conn, &mut report).await?;
        }
        Ok((office, report))
    }

    /// Makes an office, and tells the other roles of it.
    pub(crate) async fn create(
        &self,
        caller: &Caller,
        request: &v1::CreateOfficeRequest,
        content: &[u8],
    ) -> Result<Office> {
        let Actor::Operator { account_id, .. } = caller.actor else {
            return Err(Error::denied("only operators create offices"));
        };
        let name = display_name("name", &request.name)?;
        let scope = format!("{}/CreateOffice", caller.actor.key());
        let replay = idempotency::Request::new(scope, &request.request_id, content)?;
        let (id, now) = (OfficeId::new(), self.context.clock.now());
        let mut tx = self.context.db.office(id).begin().await?;
        if let Some(replay) = &replay
            && let Some(known) = replay.replayed(&mut tx).await?
        {
            drop(tx);
            return self.offices.read(known.into()).await;
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
        repo::office_insert(&mut tx, &office).await?;
        let event = Event::lifecycle(office.id, "", "office.created", format!("Office {:?} created", office.name), now);
        outbox::push(&mut tx, &event.traced(&caller.trace_id)).await?;
        self.step(&mut tx, &office, LifecycleStep::Create, &caller.trace_id).await?;
        if let Some(replay) = &replay {
            replay.remember(&mut tx, office.id.0, now).await?;
        }
        tx.commit().await?;
        self.context.outbox.notify_one();
        self.converge_now(office.id).await;
        self.offices.read(office.id).await
    }

    /// Writes a changed office with its event, and tells the other roles before it returns, if they can be reached.
    async fn save(&self, mut tx: OfficeTx, mut office: Office, event: Event) -> Result<Office> {
        office.version += 1;
        office.updated_at = event.time;
        repo::office_update(&mut tx, &office).await?;
        outbox::push(&mut tx, &event).await?;
        tx.commit().await?;
        self.context.outbox.notify_one();
        // Before the other roles are waited for: whoever waits in the office is to know at once.
        self.context.db.notify_office(office.id);
        self.converge_now(office.id).await;
        Ok(office)
    }

    /// Changes the settings that the mask names.
    pub(crate) async fn update_settings(
        &self,
        caller: &Caller,
        request: v1::UpdateOfficeSettingsRequest,
    ) -> Result<Settings> {
        let mut given = request.settings.unwrap_or_default();
        let mask = request.update_mask.unwrap_or_default().paths;
        let checked = self.check_defaults(caller, &request.office_id, &mut given, &mask).await?;
        let (mut tx, access, mut office) = self.offices.lock(caller, &request.office_id).await?;
        if office.state == State::Deleting {
            return Err(State::deleting());
        }
        let paths = office.settings.update(&given, &mask)?;
        if checked.is_some_and(|checked| checked.hire_defaults() != office.settings.hire_defaults()) {
            let text = "somebody else changed the office's defaults meanwhile; read the settings again";
            return Err(Error::new(ErrorKind::Aborted, "CONFLICT", text));
        }
        if paths.iter().any(|path| path.ends_with("_retention")) {
            retention::schedule(&mut tx, &office.settings, self.context.clock.now()).await?;
        }
        let summary = format!("Settings changed: {}", paths.join(", "));
        let event = Event::lifecycle(office.id, "", "office.settings_updated", summary, self.context.clock.now())
            .with(serde_json::json!({ "fields": paths }))
            .traced(access.trace_id());
        Ok(self.save(tx, office, event).await?.settings)
    }

    /// Refuses defaults that hires cannot take; when there are new ones, answers the settings that have them. A provider is
    /// called by its own name from here on.
    /// The scheduler knows the tiers, and is asked before the transaction: none waits for another role.
    async fn check_defaults(
        &self,
        caller: &Caller,
        office: &str,
        given: &mut v1::OfficeSettings,
        mask: &[String],
    ) -> Result<Option<Settings>> {
        let before = self.offices.get(caller, office).await?.1.settings;
        let mut settings = before.clone();
        let changed = settings.update(given, mask)?;
        if !changed.iter().any(|path| path == "default_model_tier" || path == "default_provider") {
            return Ok(None);
        }
        let listed = self.registry.clone().list_tiers(ListTiersRequest {}).await;
        let ListTiersResponse { model_tiers: tiers, providers } =
            listed.map_err(|status| from_status(&status))?.into_inner();
        if let Some(known) = providers.iter().find(|known| known.aliases.contains(&given.default_provider)) {
            given.default_provider.clone_from(&known.name);
            settings = before;
            settings.update(given, mask)?;
        }
        settings.check_defaults(&changed, &tiers)?;
        Ok(Some(settings))
    }

    /// Checks in every role's database that offices are isolated from each other.
    pub(crate) async fn verify(&self, caller: &Caller, id: &str) -> Result<Vec<v1::IsolationCheck>> {
        self.offices.get(caller, id).await?;
        let own = self.context.db.run_isolation_checks("office").await?;
        let mut checks: Vec<v1::IsolationCheck> = own.into_iter().map(convert::isolation_check).collect();
        for mut replica in [self.replicas.scheduler.clone(), self.replicas.activity.clone()] {
            let answer = replica
                .run_isolation_checks(RunIsolationChecksRequest {})
                .await
                .map_err(|status| from_status(&status))?;
            checks.extend(answer.into_inner().checks);
        }
        Ok(checks)
    }

    /// Suspends, resumes or deletes.
    pub(crate) async fn transition(&self, caller: &Caller, id: &str, step: Transition) -> Result<Office> {
        let (mut tx, access, mut office) = self.offices.lock(caller, id).await?;
        let Some(state) = office.state.after(step)? else {
            return Ok(office);
        };
        office.state = state;
        let (kind, verb) = match step {
            Transition::Suspend => ("office.suspended", "suspended"),
            Transition::Resume => ("office.resumed", "resumed"),
            Transition::Delete => ("office.deletion_requested", "is being deleted"),
            Transition::Provisioned => ("office.provisioned", "is ready"),
        };
        let summary = format!("Office {:?} {verb}", office.name);
        let now = self.context.clock.now();
        let event = Event::lifecycle(office.id, "", kind, summary, now).traced(access.trace_id());
        if matches!(step, Transition::Suspend | Transition::Delete) {
            self.step(&mut tx, &office, LifecycleStep::Stop, access.trace_id()).await?;
        }
        self.save(tx, office, event).await
    }
}
