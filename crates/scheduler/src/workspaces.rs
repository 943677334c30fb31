//! Workspaces on their way in and out where the platform itself cannot reach them: whoever has the volume sends what is on
//! it, and fetches what belongs there.
//!
//! A process takes one archive of an agent at a time; another process may take one more. Each is written under a name of its
//! own, and the first that is recorded is the backup: who comes too late takes nothing of it away.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mi_archive::Check;
use mi_kernel::{AgentId, BackupId, Error, ErrorKind, OfficeId, Result, text};
use mi_proto::v1::{self, SaveWorkspaceHeader, SaveWorkspaceRequest, save_workspace_request::Part};
use mi_rpc::{Caller, Refusal, status::from_status};
use ring::digest;
use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};
use tonic::{Status, Streaming};

use crate::{
    Scheduler,
    agents::{Agent, Desired, State, repo, rules},
    backups::{self, Backup, Upload},
    offices,
};

/// Most bytes of one message, either way.
const MAX_CHUNK: usize = 1 << 20;
/// The longest that whoever sends an archive may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest that an archive may be on its way.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Archives at a time, in one process: each holds a few parts in memory.
const MOST_AT_ONCE: usize = 8;
/// Most bytes of an archive of an agent that has no limit of its own.
const MOST_BYTES: i64 = 128 << 30;
/// How much larger than the files in it an archive may be: what surrounds them, where nothing can be compressed.
const SLACK_BYTES: i64 = 64 << 20;
/// Most bytes that an archive decodes to: a few bytes may stand for very many.
const MOST_DECODED: u64 = 1 << 40;

/// Agents whose workspace is being sent to this process.
#[derive(Default)]
pub(crate) struct Saving(Mutex<HashSet<AgentId>>);

impl Saving {
    /// Whether none is being sent.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// That an agent's workspace is being sent.
struct Turn {
    scheduler: Arc<Scheduler>,
    agent: AgentId,
}

impl Turn {
    fn take(scheduler: &Arc<Scheduler>, agent: AgentId) -> Result<Self> {
        let mut saving = scheduler.saving.0.lock().unwrap_or_else(PoisonError::into_inner);
        if saving.contains(&agent) {
            let text = "the workspace is being sent already; try again when that has ended";
            return Err(Error::new(ErrorKind::Aborted, "SAVE_UNDER_WAY", text));
        }
        if saving.len() >= MOST_AT_ONCE {
            let text = "too many workspaces are being sent at the moment; try again later";
            return Err(Error::exhausted("SAVES_BUSY", text, Duration::from_secs(2)));
        }
        saving.insert(agent);
        Ok(Self { scheduler: scheduler.clone(), agent })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.scheduler.saving.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.agent);
    }
}

/// What a token is good for.
enum Found {
    /// The agent is being fired, and this is the backup to make.
    Wanted(Box<Agent>, BackupId),
    /// It was made: the answer may have got lost.
    Made(Backup),
}

/// The header that a workspace begins with.
pub(crate) async fn header(stream: &mut Streaming<SaveWorkspaceRequest>) -> Result<SaveWorkspaceHeader> {
    let first = timeout(SILENCE, stream.message()).await.map_err(|_| stalled())?;
    match first.map_err(|status| from_status(&status))?.and_then(|message| message.part) {
        Some(Part::Header(header)) => Ok(header),
        _ => Err(Error::invalid("header", "must be in the first message")),
    }
}

/// What a later message adds to the archive.
pub(crate) fn chunk(message: Result<SaveWorkspaceRequest, Status>) -> Result<Bytes> {
    match message.map_err(|status| from_status(&status))?.part {
        Some(Part::Chunk(chunk)) if chunk.len() <= MAX_CHUNK => Ok(chunk),
        Some(Part::Chunk(_)) => Err(Error::invalid("chunk", format!("must have at most {MAX_CHUNK} bytes"))),
        Some(Part::Header(_)) => Err(Error::invalid("header", "must be in the first message only")),
        None => Err(Error::invalid("chunk", "is missing: a message after the first has the next bytes")),
    }
}

impl Scheduler {
    /// Takes in the workspace of an agent that is being fired.
    pub(crate) async fn save_workspace(
        self: &Arc<Self>,
        caller: &Caller,
        header: SaveWorkspaceHeader,
        content: BoxStream<'static, Result<Bytes>>,
    ) -> Result<Backup> {
        let (agent, id) = match self.wanted(caller, &header).await? {
            Found::Wanted(agent, id) => (*agent, id),
            Found::Made(backup) => return Ok(backup),
        };
        let turn = Turn::take(self, agent.id)?;
        let (done, outcome) = oneshot::channel();
        // A call that is given up is cleared away after, too. Its stream then ends with an error.
        self.tasks.spawn("scheduler-workspace", async move {
            let saved = turn.scheduler.save_archive(agent, id, content).await;
            drop(turn);
            let _ = done.send(saved);
        });
        outcome.await.map_err(|_| Error::unavailable("the platform is shutting down; send the workspace again"))?
    }

    /// Whose token this is.
    async fn wanted(&self, caller: &Caller, header: &SaveWorkspaceHeader) -> Result<Found> {
        let office_id = OfficeId::parse(&header.office_id)?;
        let agent_id = AgentId::parse(&header.agent_id)?;
        let sha256 = digest::digest(&digest::SHA256, header.token.as_bytes());
        let mut tx = self.db.platform().begin().await?;
        let found = repo::agent_lock_by_token(&mut tx, sha256.as_ref()).await?;
        let tx_of_office = tx.within(office_id);
        let (name, problem) = match &found {
            None => ("", "an unknown token"),
            Some(agent) if agent.office_id != office_id => ("", "a token of another office"),
            Some(agent) if agent.id != agent_id => (&*agent.name, "the token of another agent"),
            Some(agent) => match (agent.fired_for(), agent.enrol_expires_at) {
                (None, _) => (&*agent.name, "a token that is not for a backup"),
                (Some(id), expires_at) => {
                    if let Some(made) = backups::repo::backup_get(tx_of_office, id).await? {
                        return Ok(Found::Made(made));
                    }
                    match expires_at {
                        Some(at) if at > self.clock.now() => return Ok(Found::Wanted(Box::new(agent.clone()), id)),
                        Some(_) => (&*agent.name, "an expired token"),
                        None => (&*agent.name, "a token that was used before"),
                    }
                }
            },
        };
        if offices::repo::office_get(tx_of_office).await?.is_some() {
            self.workspace_refused(caller, office_id, name, problem);
        }
        // Whose token it is must know that somebody else has it.
        if let Some(Agent { office_id, name, .. }) = found.as_ref().filter(|agent| agent.office_id != office_id) {
            self.workspace_refused(caller, *office_id, name, "its token, in another office");
        }
        Err(unusable())
    }

    fn workspace_refused(&self, caller: &Caller, office_id: OfficeId, agent: &str, problem: &str) {
        let refusal = Refusal {
            office_id,
            agent: agent.to_owned(),
            kind: "backup.refused",
            summary: format!("A workspace was refused: {problem}"),
            detail: problem.to_owned(),
        };
        caller.refusals.note(refusal, &caller.trace_id);
    }

    /// Writes an archive, reads it back, and records it; what does not become the backup is removed.
    pub(crate) async fn save_archive(
        &self,
        agent: Agent,
        id: BackupId,
        content: BoxStream<'static, Result<Bytes>>,
    ) -> Result<Backup> {
        let name = self.begin_try(&agent).await?;
        let saved = self.try_to_save(&agent, id, name, content).await;
        if saved.as_ref().ok().and_then(|backup| backup.upload) != Some(name) {
            self.give_up_try(agent.office_id, name).await;
        }
        saved
    }

    async fn try_to_save(
        &self,
        agent: &Agent,
        id: BackupId,
        name: BackupId,
        content: BoxStream<'static, Result<Bytes>>,
    ) -> Result<Backup> {
        let mut upload = Upload::new(self, Backup::path(agent.office_id, name));
        let filled = fill(&mut upload, most_bytes(agent), content);
        let filled = timeout(LONGEST, filled).await.unwrap_or_else(|_| Err(stalled()));
        // Once more before the object is there: somebody else may have sent it meanwhile, or nobody may want it any more.
        let wanted = match filled {
            Ok(()) => self.still_wanted(agent, id).await,
            Err(error) => Err(error),
        };
        match wanted {
            Ok(None) => {}
            Ok(Some(made)) => {
                upload.abort().await;
                return Ok(made);
            }
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
        let (size_bytes, sha256) = upload.finish().await?;
        let backup = Backup { upload: Some(name), ..self.backup_of(agent, id, size_bytes, sha256) };
        self.verify(&backup).await?;
        self.record_saved(agent, name, &backup).await?;
        Ok(backup)
    }

    /// The backup if there is one by now; refused when none is wanted any more.
    async fn still_wanted(&self, agent: &Agent, id: BackupId) -> Result<Option<Backup>> {
        let mut conn = self.db.office(agent.office_id).read().await?;
        if let Some(made) = backups::repo::backup_get(&mut conn, id).await? {
            return Ok(Some(made));
        }
        let now = repo::agent_get(&mut conn, agent.id).await?;
        now.filter(|now| now.waits_for(agent, id)).map(|_| None).ok_or_else(unusable)
    }

    /// Records the backup, which uses the token up.
    async fn record_saved(&self, agent: &Agent, name: BackupId, backup: &Backup) -> Result<()> {
        let mut tx = self.db.office(agent.office_id).begin().await?;
        let now = repo::agent_lock(&mut tx, agent.id).await?;
        let mut now = now.filter(|now| now.waits_for(agent, backup.id)).ok_or_else(unusable)?;
        if !self.end_try(&mut tx, name).await? {
            return Err(stalled());
        }
        self.keep(&mut tx, backup).await?;
        // The hash stays: whoever did not get the answer asks with it once more.
        now.enrol_expires_at = None;
        if !repo::agent_update(&mut tx, &mut now).await? {
            return Err(Error::internal("a locked row was changed by somebody else"));
        }
        tx.commit().await?;
        self.changed(&now);
        Ok(())
    }

    /// The backup that the calling agent was hired from, and its bytes; it was read whole before.
    pub(crate) async fn load_workspace(
        &self,
        caller: &Caller,
        request: &v1::LoadWorkspaceRequest,
    ) -> Result<(Backup, BoxStream<'static, Result<Bytes>>)> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let mut conn = self.db.office(office_id).read().await?;
        let (_, access) = self.enter(&mut conn, caller).await?;
        let name = text::lookup_name("name", &request.name)?;
        let agent = repo::agent_get_by_name(&mut conn, &name).await?;
        let agent = agent.ok_or_else(|| Error::not_found("agent", &name))?;
        let allowed = rules::may_act_on(&access, &caller.rule.callers, &agent);
        allowed.map_err(|error| caller.refused(office_id, error))?;
        let Some(id) = agent.restore_from else {
            let text = format!("agent {name:?} was not hired from a backup");
            return Err(Error::precondition("NO_BACKUP", text));
        };
        let backup = backups::find(&mut conn, &id.to_string()).await?;
        drop(conn);
        self.verify(&backup).await?;
        let stopped = |error| Error::unavailable("object storage stopped in the middle").caused_by(error);
        let pieces = self.read(&backup).await?.map_err(stopped);
        Ok((backup, pieces.map_ok(|piece| stream::iter(cut(piece)).map(Ok)).try_flatten().boxed()))
    }
}

/// A piece in parts that fit into a message.
fn cut(mut piece: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let length = piece.len().min(MAX_CHUNK);
        (length > 0).then(|| piece.split_to(length))
    })
}

impl Agent {
    /// The backup that is made of it before it goes, if it is being fired.
    fn fired_for(&self) -> Option<BackupId> {
        match (&self.desired, &self.state) {
            (Desired::Fire { backup_id, .. }, State::Terminating { .. }) => Some(*backup_id),
            _ => None,
        }
    }

    /// Whether the token that was shown is good for this backup yet.
    fn waits_for(&self, shown: &Self, id: BackupId) -> bool {
        self.fired_for() == Some(id) && self.enrol_sha256 == shown.enrol_sha256 && self.enrol_expires_at.is_some()
    }
}

/// How large an archive of the agent's workspace may be.
fn most_bytes(agent: &Agent) -> i64 {
    match agent.spec.resources.disk_bytes {
        0 => MOST_BYTES,
        most => most.saturating_add(most / 8).saturating_add(SLACK_BYTES),
    }
}

async fn fill(upload: &mut Upload, most: i64, mut content: BoxStream<'static, Result<Bytes>>) -> Result<()> {
    let mut check = Check::new(MOST_DECODED).map_err(no_archive)?;
    while let Some(piece) = timeout(SILENCE, content.next()).await.map_err(|_| stalled())? {
        let piece = piece?;
        let size = i64::try_from(piece.len()).unwrap_or(i64::MAX);
        if upload.size().saturating_add(size) > most {
            let text = format!("the archive of the workspace has more than {most} bytes");
            return Err(Error::precondition("WORKSPACE_TOO_LARGE", text));
        }
        // A few bytes may take long.
        let (looked_at, next) = (piece.clone(), move || check.add(&piece).map(|()| check));
        check = spawn_blocking(next).await.map_err(Error::internal)?.map_err(no_archive)?;
        upload.put(looked_at).await?;
    }
    check.finish().map_err(no_archive)
}

fn no_archive(error: io::Error) -> Error {
    let text = format!("what was sent is no zstd-compressed tar archive: {error}");
    Error::precondition("NO_ARCHIVE", text).caused_by(error)
}

fn unusable() -> Error {
    Error::unauthenticated("the token for the backup is unknown, used or expired")
}

fn stalled() -> Error {
    let text = "the workspace took too long to arrive, and was given up; send it again";
    Error::new(ErrorKind::DeadlineExceeded, "SAVE_STALLED", text)
}
