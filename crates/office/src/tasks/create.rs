//! New tasks.

use std::collections::BTreeSet;

use mi_kernel::{
    AgentId, Error, Result, TaskId,
    event::{Category, Event},
};
use mi_store::idempotency;

use super::{
    batch::Batch,
    model::{Assignee, Kind, Progress, Spec, State, Task, Worker},
    repo,
};
use crate::offices::State as OfficeState;

/// The longest chain of causes: what is caused beyond it comes from agents that keep each other busy.
pub(crate) const LOOP_DEPTH: i32 = 16;

/// A task by id, or by its place in the same batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    Id(TaskId),
    Place(usize),
}

/// A task that is to be created.
#[derive(Debug)]
pub(super) struct New {
    pub(super) title: String,
    pub(super) description: String,
    pub(super) kind: Kind,
    pub(super) priority: i32,
    pub(super) assigned: Option<Assignee>,
    pub(super) parent: Option<Reference>,
    pub(super) depends_on: Vec<Reference>,
    pub(super) required_tools: Vec<String>,
    pub(super) max_attempts: i32,
    pub(super) verification_required: bool,
    pub(super) replay: Option<idempotency::Request>,
}

/// What a task is created for, and how far that is from an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) text: String,
    pub(crate) depth: i32,
}

impl Batch<'_> {
    /// What an agent's doings are caused by: the deepest task that it works on. Without one nobody asked for them.
    pub(super) async fn cause_of(&mut self, agent: AgentId) -> Result<Cause> {
        let rows = repo::task_held_by(self.tx, agent).await?;
        let held = self.adopt(rows);
        let held = held.iter().filter_map(|id| self.get(*id).ok()).filter(|task| task.holder().is_some());
        let deepest = held.max_by_key(|task| task.progress.depth);
        Ok(deepest.map_or_else(Cause::default, |task| Cause {
            text: format!("task/{}", task.id),
            depth: task.progress.depth + 1,
        }))
    }

    /// Refuses what is caused by too long a chain, and has the agent paused that goes on with it.
    pub(super) fn within_depth(&mut self, agent: &str, cause: &Cause, trace_id: &str) -> Result<()> {
        if cause.depth <= LOOP_DEPTH {
            return Ok(());
        }
        let text = format!("{} causes lead from here back to an operator, and {LOOP_DEPTH} may", cause.depth);
        let event =
            Event::lifecycle(self.office_id(), agent, "loop.detected", format!("Loop detected: {text}"), self.now)
                .category(Category::Security)
                .with(serde_json::json!({ "cause": cause.text, "depth": cause.depth }))
                .traced(trace_id);
        self.tell(event);
        self.loops.push((agent.to_owned(), text.clone()));
        Err(Error::precondition("LOOP_DETECTED", text))
    }

    /// Creates tasks: all of them or none.
    pub(super) async fn create(&mut self, news: &[New], by: &Worker, trace_id: &str) -> Result<Vec<Task>> {
        if self.office.state == OfficeState::Deleting {
            return Err(OfficeState::deleting());
        }
        let mut known = Vec::new();
        for new in news {
            known.push(match &new.replay {
                Some(replay) => replay.replayed(self.tx).await?.map(TaskId::from),
                None => None,
            });
        }
        self.load(known.iter().flatten().copied().collect()).await?;
        let cause = match by.agent_id {
            Some(agent) => self.cause_of(agent).await?,
            None => Cause::default(),
        };
        if known.iter().any(Option::is_none) {
            self.within_depth(&by.name, &cause, trace_id)?;
        }
        let ids: Vec<TaskId> = known.iter().map(|known| known.unwrap_or_else(TaskId::new)).collect();
        let of = |reference: Reference| match reference {
            Reference::Id(id) => id,
            Reference::Place(place) => ids[place],
        };
        let outside = news.iter().flat_map(|new| new.depends_on.iter().chain(&new.parent));
        let outside = outside.filter_map(|reference| match reference {
            Reference::Id(id) => Some(*id),
            Reference::Place(_) => None,
        });
        self.load(outside.collect()).await?;
        let mut made = Vec::new();
        for (place, new) in news.iter().enumerate() {
            if let Some(id) = known[place] {
                made.push(self.get(id)?.clone());
                continue;
            }
            let parent = new.parent.map(of);
            let depends_on: Vec<TaskId> = new.depends_on.iter().map(|reference| of(*reference)).collect();
            let own = |id: &TaskId| made.iter().any(|task: &Task| task.id == *id);
            for id in depends_on.iter().filter(|id| !own(id)) {
                self.get(*id)
                    .map_err(|_| Error::invalid("depends_on", format!("names no task of this office: {id}")))?;
            }
            if let Some(id) = parent.filter(|id| !own(id)) {
                let parent = self.get(id);
                let parent =
                    parent.map_err(|_| Error::invalid("parent_id", format!("names no task of this office: {id}")))?;
                if parent.state().is_final() {
                    let text =
                        format!("the parent {id} is {} already; give it no more subtasks", parent.state().as_str());
                    return Err(Error::precondition("TASK_FINISHED", text));
                }
                self.refuse_cycle(id, &depends_on).await?;
            } else if let Some(id) = parent.filter(|id| depends_on.contains(id)) {
                return Err(waits_for_itself(id));
            }
            made.push(Task {
                id: ids[place],
                cursor: 0,
                spec: Spec {
                    title: new.title.clone(),
                    description: new.description.clone(),
                    kind: new.kind,
                    priority: new.priority,
                    parent,
                    depends_on,
                    required_tools: new.required_tools.clone(),
                    max_attempts: new.max_attempts,
                    verification_required: new.verification_required,
                    created_by: by.name.clone(),
                    creator: by.agent_id,
                    cause: cause.text.clone(),
                    verifies: None,
                    excluded: None,
                    created_at: self.now,
                },
                progress: Progress::new(State::Queued, new.assigned.clone(), cause.depth, self.now),
            });
        }
        for (place, task) in made.iter_mut().enumerate() {
            if known[place].is_some() {
                continue;
            }
            if let Some(reason) = self.obstacle(task).await? {
                task.progress.state = State::Blocked { reason };
            }
            self.insert(task.clone(), trace_id);
            if let Some(replay) = &news[place].replay {
                replay.remember(self.tx, task.id.0, self.now).await?;
            }
        }
        Ok(made)
    }

    /// Refuses dependencies that wait, by whatever way, for the parent: the parent waits for its subtasks.
    async fn refuse_cycle(&mut self, parent: TaskId, depends_on: &[TaskId]) -> Result<()> {
        if depends_on.is_empty() {
            return Ok(());
        }
        let mut above = BTreeSet::from([parent]);
        let mut next = Some(parent);
        while let Some(id) = next {
            self.load(vec![id]).await?;
            next = self.get(id)?.spec.parent.filter(|id| above.insert(*id));
        }
        let mut seen: BTreeSet<TaskId> = depends_on.iter().copied().collect();
        let mut layer: Vec<TaskId> = seen.iter().copied().collect();
        while !layer.is_empty() {
            if let Some(id) = layer.iter().find(|id| above.contains(id)) {
                return Err(waits_for_itself(*id));
            }
            self.load(layer.clone()).await?;
            let rows = repo::task_children(self.tx, &layer).await?;
            let children = self.adopt(rows);
            let waits = |id: &TaskId| self.get(*id).ok().filter(|task| !task.state().is_final());
            let below = layer.iter().filter_map(waits).flat_map(|task| task.spec.depends_on.iter().copied());
            let next: Vec<TaskId> = below.chain(children).filter(|id| seen.insert(*id)).collect();
            layer = next;
        }
        Ok(())
    }
}

fn waits_for_itself(id: TaskId) -> Error {
    let text = format!("closes a circle: task {id} would wait for its own subtask, and that for it");
    Error::invalid("depends_on", text)
}
