//! Messages that wake agents: each becomes a task to answer it.

use mi_kernel::{AgentId, NoteId, Result, TaskId, Time};
use mi_store::OfficeConn;

use super::{
    batch::Batch,
    create::Cause,
    model::{Assignee, Kind, Progress, Spec, State, Task},
    notes::{Note, note_insert},
    repo,
};

/// Why an agent is woken.
#[derive(Debug)]
pub(crate) struct Wake {
    /// Whom to wake.
    pub(crate) agent: String,
    pub(crate) agent_id: AgentId,
    /// Who wrote: an agent's name, or `operator`.
    pub(crate) from: String,
    /// The agent that wrote; none: an operator.
    pub(crate) author: Option<AgentId>,
    /// Whether it was written to the agent alone.
    pub(crate) direct: bool,
    /// `message/ID` and how far the message is from an operator.
    pub(crate) cause: Cause,
    pub(crate) body: String,
    pub(crate) trace_id: String,
}

/// Gives the agent a task to answer; one that waits for it already takes the message in. In the transaction that stores
/// the message; [`super::Tasks::woken`] follows it.
pub(crate) async fn wake(tx: &mut OfficeConn, wake: &Wake, now: Time) -> Result<()> {
    let mut batch = Batch::open(tx, now).await?;
    let title = match wake.direct {
        true => format!("Answer {}", wake.from),
        false => format!("Answer {} in the group", wake.from),
    };
    let rows = repo::task_kept_for(batch.tx, wake.agent_id).await?;
    let waits = |task: &&Task| task.spec.title == title && task.spec.cause.starts_with("message/");
    if let Some(task) = rows.iter().find(waits) {
        let note = Note::new(NoteId::new(), &wake.from, &wake.body, now);
        note_insert(batch.tx, task.id, &note).await?;
        return Ok(());
    }
    let to = if wake.direct { format!("to {}", wake.from) } else { "to the group".into() };
    let description =
        format!("{} wrote:\n\n{}\n\nAnswer {to} by a chat message if an answer is due.", wake.from, wake.body);
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
        created_by: wake.from.clone(),
        creator: wake.author,
        cause: wake.cause.text.clone(),
        verifies: None,
        excluded: None,
        request: None,
        created_at: now,
    };
    let assigned = Assignee { name: wake.agent.clone(), id: wake.agent_id };
    let progress = Progress::new(State::Queued, Some(assigned), wake.cause.depth, now);
    batch.insert(Task { id: TaskId::new(), cursor: 0, spec, progress }, &wake.trace_id);
    batch.finish().await?;
    Ok(())
}

/// What an agent's doings are caused by; see [`Batch::cause_of`].
pub(crate) async fn cause_of(tx: &mut OfficeConn, agent: AgentId, now: Time) -> Result<Cause> {
    Batch::open(tx, now).await?.cause_of(agent).await
}
