//! New tasks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use mi_kernel::{
    AgentId, Error, Result, TaskId,
    event::{Category, Event},
};
use mi_store::idempotency;
use mi_tenancy::{Author, State as OfficeState};

use super::{
    batch::Batch,
    blockers::Outlook,
    cycles::Layout,
    model::{Asked, Cause, New, Progress, Reference, Spec, State, Task},
    repo::{self, Parent},
};

/// The longest chain of causes: what is caused beyond it comes from agents that keep each other busy.
pub const LOOP_DEPTH: i32 = 16;

/// How long what an agent does without a task passes for an answer to the message that has reached it, or for a consequence
/// of the task that it ended.
const ANSWERING: Duration = Duration::from_secs(600);

impl Batch<'_> {
    /// What an agent's doings are caused by: the deepest task that it works on; without one, the newest message that has
    /// reached it lately, which it may be answering, or the last task that it ended lately, which it may be following up.
    /// Without those nobody asked for them.
    pub(super) async fn cause_of(&mut self, agent: AgentId) -> Result<Cause> {
        let rows = repo::task_held_by(self.way.tx()?, agent).await?;
        let held = self.insert_loaded(rows);
        let held = held.iter().filter_map(|id| self.get(*id).ok()).filter(|task| task.holder().is_some());
        let deepest = held.max_by_key(|task| task.progress.depth);
        if let Some(task) = deepest {
            return Ok(Cause::of(task));
        }
        if let Some(cause) = repo::wake_get(self.way.tx()?, agent, self.now - ANSWERING).await? {
            return Ok(cause);
        }
        let ended = match &self.ended {
            Some(ended) => ended.get(&agent),
            None => None,
        };
        let lately = ended.filter(|(time, _)| *time >= self.now - ANSWERING);
        Ok(lately.map(|(_, cause)| cause).unwrap_or_default())
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
    pub(super) async fn create(&mut self, news: &[New], by: &Author, trace_id: &str) -> Result<Vec<Task>> {
        if self.office.state == OfficeState::Deleting {
            return Err(OfficeState::deleting());
        }
        let known = self.created_before(news).await?;
        let cause = match by.agent_id {
            Some(agent) => self.cause_of(agent).await?,
            None => Cause::default(),
        };
        if known.iter().any(Option::is_none) {
            self.within_depth(&by.name, &cause, trace_id)?;
        }
        self.room_for(known.iter().filter(|known| known.is_none()).count())?;
        let ids: Vec<TaskId> = known.iter().map(|known| known.unwrap_or_else(TaskId::new)).collect();
        let of = |reference: Reference| match reference {
            Reference::Id(id) => id,
            Reference::Place(place) => ids[place],
        };
        let stored = |reference: &Reference| match reference {
            Reference::Id(id) => Some(*id),
            Reference::Place(_) => None,
        };
        let parents = news.iter().filter_map(|new| stored(new.parent.as_ref()?)).collect();
        let parents = self.parents(parents).await?;
        let others: Vec<TaskId> = news.iter().flat_map(|new| &new.depends_on).filter_map(stored).collect();
        self.look_at(&others).await?;
        let mut laid = Layout::default();
        for (place, new) in news.iter().enumerate() {
            if let Some(id) = known[place] {
                self.get(id)?;
                continue;
            }
            let assigned = new.assigned.as_ref().map_err(Error::again)?.clone();
            let parent = new.parent.map(of);
            let depends_on: Vec<TaskId> = new.depends_on.iter().map(|reference| of(*reference)).collect();
            for id in depends_on.iter().filter(|id| !laid.tasks.contains_key(id)) {
                self.standing(*id)
                    .map_err(|_| Error::invalid("depends_on", format!("names no task of this office: {id}")))?;
            }
            if let Some(id) = parent.filter(|id| !laid.tasks.contains_key(id)) {
                let parent = parents
                    .get(&id)
                    .ok_or_else(|| Error::invalid("parent_id", format!("names no task of this office: {id}")))?;
                if ["done", "failed", "cancelled"].contains(&parent.status.as_str()) {
                    let text = format!("the parent {id} is {} already; give it no more subtasks", parent.status);
                    return Err(Error::precondition("TASK_FINISHED", text));
                }
                let is_its = |agent| parent.creator == Some(agent) || parent.worker == Some(agent);
                if by.agent_id.is_some_and(|agent| !is_its(agent)) {
                    return Err(Error::denied("an agent adds subtasks only to a task that it works on or created"));
                }
            }
            laid.add(Task {
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
                    answers: None,
                    excluded: None,
                    request: new.request.clone(),
                    context: new.context.clone(),
                    created_at: self.now,
                },
                progress: Progress::new(State::Queued, assigned, cause.depth, self.moment()),
            });
        }
        self.refuse_cycles(&laid).await?;
        for id in &ids {
            let Some(mut task) = laid.tasks.remove(id) else { continue };
            if let Outlook::Waits { reason, hangs_on } = self.outlook(&task)? {
                task.progress.state = State::Blocked { reason, hangs_on };
            }
            self.insert(task, trace_id);
        }
        ids.iter().map(|id| self.get(*id).cloned()).collect()
    }

    /// What there is to know of tasks to which subtasks are added, as far as they exist.
    async fn parents(&mut self, ids: BTreeSet<TaskId>) -> Result<BTreeMap<TaskId, Parent>> {
        let (known, missing): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.get(*id).is_ok());
        let mut parents = BTreeMap::new();
        for id in known {
            let task = self.get(id)?;
            let worker = task.holder().and_then(|worker| worker.agent_id);
            parents.insert(id, Parent { status: task.state().as_str().into(), creator: task.spec.creator, worker });
        }
        if !missing.is_empty() {
            parents.extend(repo::task_parents(self.way.tx()?, &missing).await?);
        }
        Ok(parents)
    }

    /// The tasks that these calls created when they were sent before, as long as the office is there.
    async fn created_before(&mut self, news: &[New]) -> Result<Vec<Option<TaskId>>> {
        let keys: Vec<&str> = news.iter().filter_map(|new| Some(new.request.as_ref()?.key.as_str())).collect();
        if keys.is_empty() {
            return Ok(vec![None; news.len()]);
        }
        let rows = repo::task_by_request(self.way.tx()?, &keys).await?;
        let stored = self.insert_loaded(rows);
        let fresh = self.fresh().filter(|task| task.spec.request.is_some()).map(|task| task.id);
        let ids: Vec<TaskId> = stored.into_iter().chain(fresh).collect();
        let tasks: HashMap<&str, (&Asked, TaskId)> = ids
            .iter()
            .filter_map(|id| self.get(*id).ok()?.spec.request.as_ref().map(|asked| (asked.key.as_str(), (asked, *id))))
            .collect();
        let known =
            |new: &New| match new.request.as_ref().and_then(|asked| Some((asked, tasks.get(asked.key.as_str())?))) {
                None => Ok(None),
                Some((asked, (known, id))) if asked == *known => Ok(Some(*id)),
                Some(_) => Err(idempotency::Request::reused()),
            };
        news.iter().map(known).collect()
    }
}
