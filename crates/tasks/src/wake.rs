//! Messages that wake agents: each becomes a task to answer it.

use mi_kernel::{AgentId, NoteId, Result, TaskId};
use mi_store::OfficeConn;
use mi_tenancy::Author;

use super::{
    Tasks,
    batch::Batch,
    model::{ANSWER_LIMIT, Assignee, Cause, Channel, Kind, Progress, Spec, State, Task},
    notes::{Note, note_count, note_insert},
    repo,
};

/// Notes for further messages of its sender that a task takes in: with the note that there are more, as many as a worker
/// is shown.
const MAX_NOTES: i64 = 49;

/// Why an agent is woken.
#[derive(Debug)]
pub struct Wake {
    /// Name of the agent to wake.
    pub agent: String,
    /// Its id.
    pub agent_id: AgentId,
    /// Who wrote the message.
    pub from: Author,
    /// Whether it was written to the agent alone.
    pub direct: bool,
    /// `message/ID` and how far the message is from an operator.
    pub cause: Cause,
    /// What the message says.
    pub body: String,
    /// Trace of the call that sends the message.
    pub trace_id: String,
}

impl Tasks {
    /// Gives the agent a task to answer; one that waits for it already takes the message in. In the transaction that stores
    /// the message; [`Tasks::woken`] follows it.
    ///
    /// # Errors
    /// `Exhausted` when the office has as many open tasks as it may.
    pub async fn wake_agent(&self, tx: &mut OfficeConn, wake: &Wake) -> Result<()> {
        let mut batch = Batch::open(tx, &*self.clock).await?;
        batch.open_quota = self.quotas.open_tasks;
        let now = batch.now;
        repo::wake_put(batch.way.tx()?, wake.agent_id, &wake.cause, now).await?;
        let (channel, title) = match wake.direct {
            true => (Channel::Direct, format!("Answer {}", wake.from.name)),
            false => (Channel::Group, format!("Answer {} in the group", wake.from.name)),
        };
        let rows = repo::task_kept_for(batch.way.tx()?, wake.agent_id).await?;
        // One that waits for long is about to be given up: what is new is to have a time of its own.
        let waits = |task: &&Task| {
            let asked = task.spec.answers == Some(channel) && task.spec.creator == wake.from.agent_id;
            asked && task.progress.updated_at + ANSWER_LIMIT / 2 > now
        };
        if let Some(task) = rows.iter().find(waits) {
            let body = match note_count(batch.way.tx()?, task.id, &wake.from.name).await? {
                taken if taken < MAX_NOTES => wake.body.as_str(),
                MAX_NOTES => "There are more messages; read the chat.",
                _ => return Ok(()),
            };
            let note = Note::new(NoteId::new(), &wake.from.name, body, now);
            note_insert(batch.way.tx()?, task.id, &note).await?;
            return Ok(());
        }
        batch.room_for(1)?;
        let to = if wake.direct { format!("to {}", wake.from.name) } else { "to the group".into() };
        let description =
            format!("{} wrote:\n\n{}\n\nAnswer {to} by a chat message if an answer is due.", wake.from.name, wake.body);
        let spec = Spec {
            title,
            description,
            kind: Kind::General,
            priority: 50,
            parent: None,
            depends_on: Vec::new(),
            required_tools: Vec::new(),
            max_attempts: 3,
            verification_required: false,
            created_by: wake.from.name.clone(),
            creator: wake.from.agent_id,
            cause: wake.cause.text.clone(),
            verifies: None,
            answers: Some(channel),
            excluded: None,
            request: None,
            context: None,
            created_at: now,
        };
        let assigned = Assignee { name: wake.agent.clone(), id: wake.agent_id };
        let progress = Progress::new(State::Queued, Some(assigned), wake.cause.depth, batch.moment());
        batch.insert(Task { id: TaskId::new(), cursor: 0, spec, progress }, &wake.trace_id);
        batch.finish().await?;
        Ok(())
    }

    /// What an agent's doings are caused by: the task that it works on or ended lately, or the newest message to it. Locks the
    /// queue until the transaction ends.
    ///
    /// # Errors
    /// `NotFound` when the office is gone.
    pub async fn cause_of(&self, tx: &mut OfficeConn, agent: AgentId) -> Result<Cause> {
        Batch::open(tx, &*self.clock).await?.cause_of(agent).await
    }

    /// Locks the queue until the transaction ends: whoever locks both queue and chat locks the queue first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lock(&self, tx: &mut OfficeConn) -> Result<()> {
        repo::queue_open(tx).await?;
        Ok(())
    }
}
