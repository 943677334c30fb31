//! Brings the other roles to what the office's row says: level-triggered, safe to run twice and by two processes.
//!
//! Each role keeps its own copy of what it needs; the row's `version` orders the pushes, and `applied_version` says what
//! all have confirmed. A pass reads the row, pushes it, and records the outcome. Deletion is the same loop with
//! `RemoveOffice`, role by role, and the row goes last: a crash at any step leaves a row that the next pass finds.

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{OfficeId, Result, backoff::Backoff, event::Event};
use mi_proto::{
    internal::v1::{
        ApplyOfficeRequest, RemoveOfficeRequest, office_replica_service_client::OfficeReplicaServiceClient,
    },
    v1::OfficeStatus,
};
use mi_rpc::{RoleClient, status::from_status};
use mi_store::{DbResult, lease::Lease, outbox};
use mi_tenancy::{Condition, LifecycleStep, Office, State, Transition};

use super::{Lifecycle, repo};

/// How long a call waits for the other roles before it leaves the rest to the background.
const PATIENCE: Duration = Duration::from_secs(3);
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_secs(5) };
/// How often unfinished offices are looked for: after a crash, or when another process left off.
const INTERVAL: Duration = Duration::from_secs(10);
/// Of several processes over one database one looks, besides those that have begun: all of them would push the same to roles
/// that are in trouble already.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
const BATCH: i64 = 1000;

/// The roles that keep copies.
#[derive(Clone)]
pub(crate) struct Replicas {
    /// Agents and their compute.
    pub(crate) scheduler: OfficeReplicaServiceClient<RoleClient>,
    /// Feed and logs.
    pub(crate) activity: OfficeReplicaServiceClient<RoleClient>,
}

impl Lifecycle {
    /// One pass at once, so that the caller reads its own write; what is left continues in the background.
    pub(super) async fn converge_now(&self, id: OfficeId) {
        let (lifecycle, (done, waiting)) = (self.clone(), tokio::sync::oneshot::channel());
        // On its own task: a client that disconnects must not stop it half-way.
        self.tasks.spawn("office-push", async move {
            if !matches!(lifecycle.pass(id).await, Ok(true)) {
                lifecycle.drive(id);
            }
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(PATIENCE, waiting).await;
    }

    /// Finds unfinished offices for ever, while the lease is this process's.
    pub(crate) async fn converge_forever(self, lease: Lease) {
        loop {
            let found = async { if lease.held().await? { self.drive_all().await } else { Ok(()) } };
            if let Err(error) = found.await {
                tracing::warn!(target: "mi::office", %error, "unfinished offices could not be read");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Works on every unfinished office: however many are stuck, the others are found.
    async fn drive_all(&self) -> DbResult<()> {
        let mut after = None;
        loop {
            let ids = repo::office_unfinished(&mut self.context.db.platform().read().await?, after, BATCH).await?;
            ids.iter().for_each(|id| self.drive(*id));
            match ids.last() {
                Some(last) if i64::try_from(ids.len()) == Ok(BATCH) => after = Some(*last),
                _ => return Ok(()),
            }
        }
    }

    fn driven(&self) -> MutexGuard<'_, HashSet<OfficeId>> {
        self.0.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Repeats passes until nothing is left to do, unless somebody in this process does already.
    fn drive(&self, id: OfficeId) {
        if !self.driven().insert(id) {
            return;
        }
        let lifecycle = self.clone();
        self.tasks.spawn("office-drive", async move {
            let mut tries = 0;
            loop {
                match lifecycle.pass(id).await {
                    Ok(true) => break,
                    Ok(false) => tracing::debug!(target: "mi::office", office = %id, "not finished yet"),
                    Err(error) => {
                        tracing::warn!(target: "mi::office", office = %id, error = %error.chain(), "not converged yet")
                    }
                }
                tries += 1;
                tokio::time::sleep(BACKOFF.after(tries)).await;
            }
            lifecycle.driven().remove(&id);
        });
    }

    /// One pass; true: nothing is left to do.
    async fn pass(&self, id: OfficeId) -> Result<bool> {
        let Some(office) = repo::office_get(&mut self.context.db.office(id).read().await?).await? else {
            return Ok(true);
        };
        match office.state {
            _ if office.applied_version >= office.version => Ok(true),
            State::Deleting => self.reserve.freeing(|| self.remove(&office)).await,
            State::Provisioning | State::Active | State::Suspended => self.push(office).await,
        }
    }

    async fn push(&self, office: Office) -> Result<bool> {
        let status = match office.state {
            State::Suspended => OfficeStatus::Suspended,
            _ => OfficeStatus::Active,
        };
        let request = ApplyOfficeRequest {
            office_id: office.id.to_string(),
            account_id: office.account_id.to_string(),
            version: office.version,
            status: status.into(),
            settings: Some(office.settings.to_wire()),
        };
        let (mut scheduler, mut activity) = (self.replicas.scheduler.clone(), self.replicas.activity.clone());
        let (scheduler, activity) =
            tokio::join!(scheduler.apply_office(request.clone()), activity.apply_office(request));
        let now = self.context.clock.now();
        let condition = |kind: &str, outcome: &Result<_, tonic::Status>| Condition {
            kind: kind.to_owned(),
            problem: outcome.as_ref().err().map(|status| status.message().to_owned()),
            time: now,
        };
        let conditions = vec![condition("SchedulerReady", &scheduler), condition("ActivityReady", &activity)];
        let failed = scheduler.err().or(activity.err());

        let mut tx = self.context.db.office(office.id).begin().await?;
        let Some(mut current) = repo::office_lock(&mut tx).await? else {
            return Ok(true);
        };
        if failed.is_some() && current.applied_version >= office.version {
            // Another process got through with the same or more: what this one met is not how it is.
            return Ok(current.applied_version >= current.version);
        }
        current.conditions = conditions;
        if failed.is_none() {
            current.applied_version = current.applied_version.max(office.version);
            if let Some(state) = current.state.after(Transition::Provisioned)? {
                current.state = state;
                let summary = format!("Office {:?} is ready", current.name);
                let event = Event::lifecycle(current.id, "", "office.activated", summary, now);
                outbox::push(&mut tx, &event).await?;
            }
        }
        repo::office_update(&mut tx, &current).await?;
        tx.commit().await?;
        self.context.outbox.notify_one();
        match failed {
            Some(status) => Err(from_status(&status)),
            None => Ok(current.applied_version >= current.version),
        }
    }

    async fn remove(&self, office: &Office) -> Result<bool> {
        let id = office.id;
        // Agents first: while they are fired their events and logs still have a place to go.
        for mut replica in [self.replicas.scheduler.clone(), self.replicas.activity.clone()] {
            let request = RemoveOfficeRequest { office_id: id.to_string() };
            let answer = replica.remove_office(request).await.map_err(|status| from_status(&status))?.into_inner();
            if !answer.done {
                tracing::debug!(target: "mi::office", office = %id, left = answer.message, "being removed");
                return Ok(false);
            }
        }
        for part in &self.parts {
            while part.empty_some(id).await? {}
        }
        let mut tx = self.context.db.office(id).begin().await?;
        self.step(&mut tx, office, LifecycleStep::Remove, "").await?;
        // Another process may have been faster: then nothing of this counts.
        if repo::office_delete(&mut tx).await? {
            tx.commit().await?;
        }
        self.context.db.notify_office(id);
        tracing::info!(target: "mi::office", office = %id, "office deleted");
        Ok(true)
    }
}
