//! `mi.internal.v1.OfficeReplicaService`: the office role says what offices there are.

use std::sync::Arc;

use mi_kernel::{AccountId, OfficeId, Result, page::Page};
use mi_proto::{
    internal::v1::{
        ApplyOfficeRequest, ApplyOfficeResponse, RemoveOfficeRequest, RemoveOfficeResponse, RunIsolationChecksRequest,
        RunIsolationChecksResponse, office_replica_service_server::OfficeReplicaService,
    },
    v1::OfficeStatus,
};
use mi_rpc::{Reply, convert, handle, status};
use mi_runtime::Progress;
use tonic::{Request, Response};

use super::{Office, repo};
use crate::{
    Scheduler,
    agents::{self, Agent},
    shards,
};

/// Serves the office role.
pub(crate) struct Handler {
    scheduler: Arc<Scheduler>,
}

impl Handler {
    pub(crate) fn new(scheduler: Arc<Scheduler>) -> Self {
        Self { scheduler }
    }
}

const PAGE: i32 = 200;

impl Scheduler {
    async fn apply_office(&self, request: ApplyOfficeRequest) -> Result<()> {
        let office = Office {
            id: OfficeId::parse(&request.office_id)?,
            account_id: AccountId::parse(&request.account_id)?,
            version: request.version,
            active: request.status() == OfficeStatus::Active,
            removing: false,
            settings: request.settings.unwrap_or_default().into(),
        };
        let mut tx = self.db.office(office.id).begin().await?;
        let before = repo::office_lock_or_wait(&mut tx).await?;
        let applied = repo::office_apply(&mut tx, &office).await?;
        let turned = applied && before.is_some_and(|before| before.active != office.active);
        if turned {
            agents::next_look::look_at_all(&mut tx).await?;
        }
        tx.commit().await?;
        if turned {
            self.seen.doubt_all_of(office.id);
            self.for_each_agent(office.id, |agent| self.queue.push(agent.id)).await?;
            self.db.notify(shards::topic());
        }
        Ok(())
    }

    /// Fires everybody; once nobody is left, removes backups, workspaces and the office itself. Answers what is waited for;
    /// nothing: nothing is left.
    async fn remove_office(&self, id: OfficeId) -> Result<Option<&'static str>> {
        let mut tx = self.db.office(id).begin().await?;
        if repo::office_lock_or_wait(&mut tx).await?.is_none() {
            repo::office_delete(&mut tx).await?;
            tx.commit().await?;
            return Ok(None);
        }
        repo::office_begin_removal(&mut tx).await?;
        tx.commit().await?;
        let mut to_fire = Vec::new();
        self.for_each_agent(id, |agent| to_fire.push(agent)).await?;
        if !to_fire.is_empty() {
            for mut agent in to_fire {
                // Already being fired: nothing to write, but somebody should look at it.
                let before = agent.clone();
                if !agent.begin_fire(false) {
                    let mut tx = self.db.office(id).begin().await?;
                    agents::revoked_keys::key_revoke(&mut tx, &before, self.clock.now()).await?;
                    if agents::repo::agent_update(&mut tx, &mut agent).await? {
                        tx.commit().await?;
                        self.changed(&agent);
                        self.db.notify(agents::revoked_keys::topic());
                    }
                }
                self.queue.push(agent.id);
            }
            return Ok(Some("agents are being fired"));
        }
        self.delete_backups_of(id).await?;
        if self.runtime.remove_office(id).await? == Progress::UnderWay {
            return Ok(Some("what it has in the cluster is being removed"));
        }
        while repo::office_clear_some(&self.db, id).await? {}
        let mut tx = self.db.office(id).begin().await?;
        repo::office_delete(&mut tx).await?;
        tx.commit().await?;
        self.db.notify_office(id);
        Ok(None)
    }

    async fn for_each_agent(&self, office: OfficeId, mut visit: impl FnMut(Agent)) -> Result<()> {
        let mut page = Page { size: PAGE, after: None };
        loop {
            let rows = agents::repo::agent_list(&mut self.db.office(office).read().await?, &page).await?;
            let more = i64::try_from(rows.len()).unwrap_or_default() == page.fetch();
            page.after = rows.last().map(|agent| agent.name.clone());
            rows.into_iter().for_each(&mut visit);
            if !more {
                return Ok(());
            }
        }
    }
}

#[tonic::async_trait]
impl OfficeReplicaService for Handler {
    async fn apply_office(&self, request: Request<ApplyOfficeRequest>) -> Reply<ApplyOfficeResponse> {
        handle!(request, |body| {
            self.scheduler.apply_office(body).await?;
            ApplyOfficeResponse {}
        })
    }

    async fn run_isolation_checks(&self, _: Request<RunIsolationChecksRequest>) -> Reply<RunIsolationChecksResponse> {
        let checks = self.scheduler.db.run_isolation_checks("scheduler").await.map_err(status)?;
        let checks = checks.into_iter().map(convert::isolation_check).collect();
        Ok(Response::new(RunIsolationChecksResponse { checks }))
    }

    async fn remove_office(&self, request: Request<RemoveOfficeRequest>) -> Reply<RemoveOfficeResponse> {
        handle!(request, |body| {
            let id = OfficeId::parse(&body.office_id)?;
            let waits_for = self.scheduler.remove_office(id).await?;
            RemoveOfficeResponse { done: waits_for.is_none(), message: waits_for.unwrap_or_default().to_owned() }
        })
    }
}
