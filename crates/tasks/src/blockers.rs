//! What holds a task up: what it depends on, its subtasks, and tools that no agent has.
//!
//! Looking is one thing, and done for many tasks with few statements; judging by what was seen is another, and asks nobody.

use mi_kernel::{Result, TaskId};
use mi_proto::internal::v1::Member;

use super::{
    batch::{Batch, shortened},
    model::{State, Task, TaskTransition},
    repo::{self, Standing},
};

/// How a task stands that waits, or may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It has to wait, for this reason; if that does not come by itself, on whose account.
    Waits { reason: String, hangs_on: Option<TaskId> },
    /// Nothing holds it up. Why none of its open subtasks goes on by itself, if it has some.
    Free { stalled: String },
}

/// What others see of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) status: &'a str,
    /// What went wrong, or what it waits for.
    pub(super) text: &'a str,
    /// The task that failed or was cancelled on which it hangs.
    pub(super) hangs_on: Option<TaskId>,
}

impl Batch<'_> {
    /// Learns where these stand. Those that do not exist are left out.
    pub(super) async fn look_at(&mut self, ids: &[TaskId]) -> Result<()> {
        let is_known = |id: &TaskId| self.tasks.contains_key(id) || self.standings.contains_key(id);
        let missing: Vec<TaskId> = ids.iter().filter(|id| !is_known(id)).copied().collect();
        if !missing.is_empty() {
            let found = repo::task_standing(self.way.tx()?, &missing).await?;
            self.standings.extend(found);
        }
        Ok(())
    }

    /// Where a task stands that was looked at.
    ///
    /// # Errors
    /// `NotFound` when the office has none of this id.
    pub(super) fn standing(&self, id: TaskId) -> Result<Seen<'_>> {
        if let Some(Standing { status, text, hangs_on }) =
            self.standings.get(&id).filter(|_| !self.tasks.contains_key(&id))
        {
            return Ok(Seen { status, text, hangs_on: *hangs_on });
        }
        let task = self.get(id)?;
        let (text, hangs_on) = match task.state() {
            State::Blocked { reason, hangs_on } => (reason.as_str(), *hangs_on),
            _ => (task.progress.error.as_str(), None),
        };
        Ok(Seen { status: task.state().as_str(), text: if task.is_private() { "" } else { text }, hangs_on })
    }

    /// Subtasks that are not finished, as far as they are known.
    pub(super) fn known_subtasks(&self, id: TaskId) -> impl Iterator<Item = TaskId> {
        self.subtasks.get(&id).into_iter().flatten().copied().filter(|subtask| self.is_open(*subtask))
    }

    fn is_open(&self, id: TaskId) -> bool {
        self.standing(id).is_ok_and(|seen| !["done", "failed", "cancelled"].contains(&seen.status))
    }

    /// A subtask that goes on by itself, and one that does not, of what is known.
    fn some_subtasks(&self, id: TaskId) -> (Option<TaskId>, Option<TaskId>) {
        let hangs = |subtask: &TaskId| self.standing(*subtask).is_ok_and(|seen| seen.hangs_on.is_some());
        (self.known_subtasks(id).find(|subtask| !hangs(subtask)), self.known_subtasks(id).find(hangs))
    }

    /// Learns of an open subtask of each of these, if there is one: rather of one that goes on by itself.
    pub(super) async fn load_subtasks(&mut self, ids: &[TaskId]) -> Result<()> {
        let is_known = |id: &TaskId| {
            self.fresh.contains(id) || self.subtasks_loaded.contains(id) || self.some_subtasks(*id).0.is_some()
        };
        let asked: Vec<TaskId> = ids.iter().filter(|id| !is_known(id)).copied().collect();
        if asked.is_empty() {
            return Ok(());
        }
        let known: Vec<TaskId> = asked.iter().filter_map(|id| self.subtasks.get(id)).flatten().copied().collect();
        let found = repo::task_some_subtasks(self.way.tx()?, &asked, &known).await?;
        self.subtasks_loaded.extend(asked);
        for (parent, subtask, standing) in found {
            // There may be more like it, should it end in this transaction.
            self.subtasks_loaded.remove(&parent);
            self.subtasks.entry(parent).or_default().insert(subtask);
            self.standings.insert(subtask, standing);
        }
        Ok(())
    }

    /// A subtask that is not finished.
    pub(super) async fn open_subtask(&mut self, id: TaskId) -> Result<Option<TaskId>> {
        self.load_subtasks(&[id]).await?;
        let (live, hung) = self.some_subtasks(id);
        Ok(live.or(hung))
    }

    /// Learns what these tasks of the working set wait for.
    pub(super) async fn prepare(&mut self, ids: &[TaskId]) -> Result<()> {
        let tasks = ids.iter().filter_map(|id| self.tasks.get(id));
        let (mut awaited, mut wholes) = (Vec::new(), Vec::new());
        for task in tasks {
            awaited.extend(&task.spec.depends_on);
            if task.progress.worker.is_some() {
                wholes.push(task.id);
            }
        }
        self.look_at(&awaited).await?;
        self.load_subtasks(&wholes).await
    }

    /// How a task stands, by what was learnt.
    pub(super) fn outlook(&self, task: &Task) -> Result<Outlook> {
        let mut open = Vec::new();
        for id in &task.spec.depends_on {
            let seen = self.standing(*id)?;
            match seen.status {
                "done" => {}
                status @ ("failed" | "cancelled") => {
                    let why = if seen.text.is_empty() { String::new() } else { format!(": {}", seen.text) };
                    let reason = shortened(&format!("dependency {id} is {status}{why}"));
                    return Ok(Outlook::Waits { reason, hangs_on: Some(*id) });
                }
                _ => open.push((id, seen.hangs_on)),
            }
        }
        if let Some((id, Some(on))) = open.iter().find(|(_, hangs_on)| hangs_on.is_some()) {
            let reason = format!("waits for task {id}, which hangs on task {on}");
            return Ok(Outlook::Waits { reason, hangs_on: Some(*on) });
        }
        if let Some((first, _)) = open.first() {
            let rest = if open.len() > 1 { format!(" and {} more", open.len() - 1) } else { String::new() };
            return Ok(Outlook::Waits { reason: format!("waits for task {first}{rest}"), hangs_on: None });
        }
        let mut stalled = String::new();
        if task.progress.worker.is_some() {
            match self.some_subtasks(task.id) {
                // How many there are is not told: it would be read, and written, with each that ends.
                (Some(_), _) => {
                    return Ok(Outlook::Waits { reason: "waits for its subtasks".into(), hangs_on: None });
                }
                (None, Some(subtask)) => {
                    let why = self.standing(subtask)?.text;
                    stalled = shortened(&format!("no open subtask goes on by itself; subtask {subtask}: {why}"));
                }
                (None, None) => {}
            }
        }
        Ok(match self.lacks_tools(task) {
            true => {
                let reason = format!("no agent has the tools {}", task.spec.required_tools.join(", "));
                Outlook::Waits { reason, hangs_on: None }
            }
            false => Outlook::Free { stalled },
        })
    }

    /// Whether no agent of the office can use all that the task needs.
    fn lacks_tools(&self, task: &Task) -> bool {
        let has = |member: &Member| task.spec.required_tools.iter().all(|tool| member.tools.contains(tool));
        let roster = self.roster.as_deref();
        !task.spec.required_tools.is_empty() && roster.is_some_and(|members| !members.iter().any(has))
    }

    /// Blocks or frees a task that waits, as its blockers are now.
    pub(super) async fn reconsider(&mut self, id: TaskId, trace_id: &str) -> Result<()> {
        if matches!(self.get(id)?.state(), State::Blocked { .. } | State::Queued) {
            self.prepare(&[id]).await?;
            self.judge(id, trace_id)?;
        }
        Ok(())
    }

    /// The same by what was learnt.
    pub(super) fn judge(&mut self, id: TaskId, trace_id: &str) -> Result<()> {
        let task = self.get(id)?.clone();
        if !matches!(task.state(), State::Blocked { .. } | State::Queued) {
            return Ok(());
        }
        let step = match (self.outlook(&task)?, task.state()) {
            (Outlook::Waits { reason, hangs_on }, State::Blocked { reason: known, hangs_on: on })
                if reason == *known && hangs_on == *on =>
            {
                return Ok(());
            }
            (Outlook::Free { stalled }, State::Queued) if stalled == task.progress.stalled => return Ok(()),
            (Outlook::Waits { reason, hangs_on }, _) => TaskTransition::Block { reason, hangs_on },
            (Outlook::Free { stalled }, _) => TaskTransition::Free { stalled },
        };
        self.transition(id, step, trace_id)?;
        Ok(())
    }
}
