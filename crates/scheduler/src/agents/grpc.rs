//! `mi.v1.AgentService`.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use mi_kernel::{AgentActor, Error, ExecId, InstanceId, OfficeId, Result, page::Page};
use mi_proto::v1::{self, agent_service_server::AgentService};
use mi_rpc::{Caller, Reply, convert::timestamp, handle, outgoing, status};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{Agent, repo, watch, wire};
use crate::{Scheduler, backups::Backup, exec, workspaces};

/// Messages of a watch that wait for its client.
const BUFFER: usize = 16;

/// Serves `mi.v1.AgentService`.
pub(crate) struct Handler {
    scheduler: Arc<Scheduler>,
}

impl Handler {
    pub(crate) fn new(scheduler: Arc<Scheduler>) -> Self {
        Self { scheduler }
    }

    fn wire(&self, agent: Agent) -> Option<v1::Agent> {
        Some(wire::agent(&self.scheduler.seen.freshen(agent), self.scheduler.runtime.sandbox()))
    }
}

fn backup_to_wire(backup: Backup) -> v1::Backup {
    v1::Backup {
        id: backup.id.to_string(),
        agent: backup.agent,
        size_bytes: backup.size_bytes,
        sha256: backup.sha256,
        created_at: Some(timestamp(backup.created_at)),
    }
}

/// An open session of an agent, in which it sends heartbeats and is told of commands.
struct Session {
    scheduler: Arc<Scheduler>,
    agent: AgentActor,
    instance: InstanceId,
    /// Whether an agent hired it: such a one is fired when it has nothing to do for long.
    hired: bool,
    messages: Streaming<v1::ConnectAgentRequest>,
    commands: mpsc::Receiver<ExecId>,
    _open: exec::Open,
}

impl Session {
    /// Its next answer. The first refusal, such as when the agent's instance is replaced, is the last one. The client ends
    /// the session by dropping the stream of answers: what it sends after that counts nothing.
    async fn next(session: Option<Self>) -> Option<(Result<v1::ConnectAgentResponse, Status>, Option<Self>)> {
        let mut session = session?;
        let message = tokio::select! {
            biased;
            Some(exec_id) = session.commands.recv() => {
                let order = v1::ConnectAgentResponse { agent: None, exec_id: exec_id.to_string() };
                return Some((Ok(order), Some(session)));
            }
            message = session.messages.next() => message,
        };
        let Some(Ok(beat)) = message else { return None };
        if let Err(refused) = session.scheduler.heartbeat(&session.agent, session.instance).await {
            return Some((Err(status(refused)), None));
        }
        // After the sign of life: one that is written later than this is another process's.
        if session.hired {
            let idle_for = beat.idle_for.and_then(|lasts| lasts.try_into().ok());
            session.scheduler.note_idle(&session.agent, idle_for);
        }
        Some((Ok(v1::ConnectAgentResponse::default()), Some(session)))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// It is idle as far as this process knows: with another session it says so anew.
impl Drop for Session {
    fn drop(&mut self) {
        self.scheduler.note_idle(&self.agent, None);
    }
}

#[tonic::async_trait]
impl AgentService for Handler {
    type WatchAgentsStream = BoxStream<v1::WatchAgentsResponse>;
    type ConnectAgentStream = Answers<v1::ConnectAgentResponse>;
    type ExecAgentStream = exec::Answers<v1::ExecAgentResponse>;
    type ServeExecStream = exec::Answers<v1::ServeExecResponse>;
    type DownloadBackupStream = Answers<v1::DownloadBackupResponse>;
    type LoadWorkspaceStream = Answers<v1::LoadWorkspaceResponse>;

    async fn hire_agent(&self, request: Request<v1::HireAgentRequest>) -> Reply<v1::HireAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.hire(&caller, body).await?;
            v1::HireAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn list_agents(&self, request: Request<v1::ListAgentsRequest>) -> Reply<v1::ListAgentsResponse> {
        handle!(request, |caller, body| {
            let office_id = OfficeId::parse(&body.office_id)?;
            let mut conn = self.scheduler.db.office(office_id).read().await?;
            self.scheduler.enter(&mut conn, &caller).await?;
            let page = Page::parse(body.page_size, &body.page_token)?;
            let rows = repo::agent_list(&mut conn, &page).await?;
            let (agents, next_page_token) = page.finish(rows, |agent| agent.name.clone());
            v1::ListAgentsResponse {
                agents: agents.into_iter().filter_map(|agent| self.wire(agent)).collect(),
                next_page_token,
            }
        })
    }

    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Reply<v1::GetAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.get(&caller, &body.office_id, &body.name).await?;
            v1::GetAgentResponse { agent: Some(agent) }
        })
    }

    async fn watch_agents(&self, request: Request<v1::WatchAgentsRequest>) -> Reply<Self::WatchAgentsStream> {
        handle!(request, |caller, body| {
            let office_id = OfficeId::parse(&body.office_id)?;
            self.scheduler.enter(&mut self.scheduler.db.office(office_id).read().await?, &caller).await?;
            let messages = watch::watch(self.scheduler.clone(), office_id).map_err(status);
            outgoing(&self.scheduler.tasks, BUFFER, messages)
        })
    }

    async fn promote_agent(&self, request: Request<v1::PromoteAgentRequest>) -> Reply<v1::PromoteAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.promote(&caller, body).await?;
            v1::PromoteAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn update_agent(&self, request: Request<v1::UpdateAgentRequest>) -> Reply<v1::UpdateAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.update(&caller, body).await?;
            v1::UpdateAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn start_agent(&self, request: Request<v1::StartAgentRequest>) -> Reply<v1::StartAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.start(&caller, &body.office_id, &body.name).await?;
            v1::StartAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn stop_agent(&self, request: Request<v1::StopAgentRequest>) -> Reply<v1::StopAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.stop(&caller, &body.office_id, &body.name).await?;
            v1::StopAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn restart_agent(&self, request: Request<v1::RestartAgentRequest>) -> Reply<v1::RestartAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.restart(&caller, &body.office_id, &body.name).await?;
            v1::RestartAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn fire_agent(&self, request: Request<v1::FireAgentRequest>) -> Reply<v1::FireAgentResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.reserve.freeing(|| self.scheduler.fire(&caller, body.clone())).await?;
            v1::FireAgentResponse { agent: self.wire(agent) }
        })
    }

    async fn rotate_agent_identity(
        &self,
        request: Request<v1::RotateAgentIdentityRequest>,
    ) -> Reply<v1::RotateAgentIdentityResponse> {
        handle!(request, |caller, body| {
            let agent = self.scheduler.rotate(&caller, &body.office_id, &body.name).await?;
            v1::RotateAgentIdentityResponse { agent: self.wire(agent) }
        })
    }

    async fn connect_agent(
        &self,
        request: Request<Streaming<v1::ConnectAgentRequest>>,
    ) -> Reply<Self::ConnectAgentStream> {
        let caller = Caller::of(&request)?;
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| Status::cancelled("the session ended before it began"))?;
        let opened = async {
            let office_id = OfficeId::parse(&first.office_id)?;
            let mut conn = self.scheduler.db.office(office_id).read().await?;
            let (_, access) = self.scheduler.enter(&mut conn, &caller).await?;
            let agent = access.agent().cloned().ok_or_else(|| Error::denied("only agents hold a session"))?;
            drop(conn);
            let instance = InstanceId::parse(&first.instance_id)?;
            let ready = self.scheduler.report_ready(&caller, &agent, instance).await?;
            Ok((agent, instance, ready))
        };
        let (agent, instance, ready) = opened.await.map_err(status)?;
        let hired = !ready.hired_by.is_empty();
        let welcome = v1::ConnectAgentResponse { agent: self.wire(ready), exec_id: String::new() };
        let scheduler = self.scheduler.clone();
        let (open, commands) = scheduler.execs.open(agent.agent_id, instance);
        let session = Session { scheduler, agent, instance, hired, messages, commands, _open: open };
        let answers = stream::iter([Ok(welcome)]).chain(stream::unfold(Some(session), Session::next));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn exec_agent(&self, request: Request<Streaming<v1::ExecAgentRequest>>) -> Reply<Self::ExecAgentStream> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(exec::exec(self.scheduler.clone(), caller, request.into_inner()).await?))
    }

    async fn serve_exec(&self, request: Request<Streaming<v1::ServeExecRequest>>) -> Reply<Self::ServeExecStream> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(exec::serve(self.scheduler.clone(), caller, request.into_inner()).await?))
    }

    async fn list_backups(&self, request: Request<v1::ListBackupsRequest>) -> Reply<v1::ListBackupsResponse> {
        handle!(request, |caller, body| {
            let page = Page::parse(body.page_size, &body.page_token)?;
            let (backups, next_page_token) = self.scheduler.list_backups(&caller, &body.office_id, &page).await?;
            v1::ListBackupsResponse { backups: backups.into_iter().map(backup_to_wire).collect(), next_page_token }
        })
    }

    async fn download_backup(&self, request: Request<v1::DownloadBackupRequest>) -> Reply<Self::DownloadBackupStream> {
        handle!(request, |caller, body| {
            let (backup, bytes) = self.scheduler.open_backup(&caller, &body.office_id, &body.backup_id).await?;
            let first = v1::DownloadBackupResponse { backup: Some(backup_to_wire(backup)), chunk: Default::default() };
            let chunks = bytes.map(|piece| match piece {
                Ok(chunk) => Ok(v1::DownloadBackupResponse { backup: None, chunk }),
                Err(error) => Err(status(Error::unavailable("object storage stopped in the middle").caused_by(error))),
            });
            stream::iter([Ok(first)]).chain(chunks).boxed()
        })
    }

    async fn delete_backup(&self, request: Request<v1::DeleteBackupRequest>) -> Reply<v1::DeleteBackupResponse> {
        handle!(request, |caller, body| {
            let delete = || self.scheduler.delete_backup(&caller, &body.office_id, &body.backup_id);
            self.scheduler.reserve.freeing(delete).await?;
            v1::DeleteBackupResponse {}
        })
    }

    async fn save_workspace(
        &self,
        request: Request<Streaming<v1::SaveWorkspaceRequest>>,
    ) -> Reply<v1::SaveWorkspaceResponse> {
        handle!(request, |caller, mut stream| {
            let header = workspaces::header(&mut stream).await?;
            let content = stream.map(workspaces::chunk).boxed();
            let backup = self.scheduler.save_workspace(&caller, header, content).await?;
            v1::SaveWorkspaceResponse { backup: Some(backup_to_wire(backup)) }
        })
    }

    async fn load_workspace(&self, request: Request<v1::LoadWorkspaceRequest>) -> Reply<Self::LoadWorkspaceStream> {
        handle!(request, |caller, body| {
            let (backup, pieces) = self.scheduler.load_workspace(&caller, &body).await?;
            let first = v1::LoadWorkspaceResponse { backup: Some(backup_to_wire(backup)), chunk: Default::default() };
            let chunks = pieces.map_ok(|chunk| v1::LoadWorkspaceResponse { backup: None, chunk }).map_err(status);
            stream::iter([Ok(first)]).chain(chunks).boxed()
        })
    }

    async fn list_roles(&self, _: Request<v1::ListRolesRequest>) -> Reply<v1::ListRolesResponse> {
        let catalogue = self.scheduler.catalogues.current();
        let mut roles: Vec<v1::Role> = catalogue.roles.iter().map(wire::role).collect();
        roles.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(v1::ListRolesResponse { roles }))
    }

    async fn list_model_tiers(&self, _: Request<v1::ListModelTiersRequest>) -> Reply<v1::ListModelTiersResponse> {
        let model_tiers = wire::tiers(&self.scheduler.catalogues.current());
        Ok(Response::new(v1::ListModelTiersResponse { model_tiers }))
    }
}
