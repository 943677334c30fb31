//! Tasks that count on agents, when those change: held by one, kept for one, or in need of tools.
//!
//! Whom tasks count on is read without the tasks; then those of agents that are gone or paused, and those that could be done
//! or can no longer be, a page a transaction.

use mi_kernel::{AgentId, Result, TaskId};
use mi_proto::internal::v1::Member;

use super::{
    batch::Batch,
    members::Reconcile,
    model::TaskTransition,
    repo::{self, NOBODY},
};

/// Tasks of a page; few in the simulation, which has few.
const PAGE: i64 = if cfg!(test) { 2 } else { 64 };

impl Batch<'_> {
    /// Takes back what agents have that are no longer there, and looks again at what no agent could do. What is left for
    /// another transaction, if anything is.
    pub(super) async fn reconcile(&mut self, asked: &Reconcile) -> Result<Option<Reconcile>> {
        let Some(roster) = self.roster.clone() else { return Ok(None) };
        let (freshness, now) = (asked.freshness, self.now);
        self.freshness = freshness;
        let there = |id: AgentId| roster.iter().find(|member| member.agent_id == id.to_string());
        let gone = |id: &AgentId| there(*id).is_none() && freshness.is_gone(*id, now);
        let idle = |id: &AgentId| gone(id) || there(*id).is_some_and(|member| !member.working);
        // What was done before in this transaction counts.
        self.write().await?;
        let mut known = repo::task_counts_on(self.way.tx()?).await?;
        known.workers.retain(idle);
        known.assigned.retain(gone);
        known.tools.sort_unstable();
        if !known.workers.is_empty() || !known.assigned.is_empty() {
            let rows = repo::task_with_agents(self.way.tx()?, &known.workers, &known.assigned, PAGE).await?;
            let found = self.insert_loaded(rows);
            self.prepare(&found).await?;
            for id in &found {
                self.take_back(*id, &idle, &gone).await?;
            }
            if i64::try_from(found.len()).is_ok_and(|found| found >= PAGE) {
                return Ok(Some(asked.clone()));
            }
        }
        self.look_for_tools(asked, &known.tools, &roster).await
    }

    /// Takes a task from an agent that does not work on it any more, and keeps it no longer for one that is gone.
    async fn take_back(
        &mut self,
        id: TaskId,
        idle: &impl Fn(&AgentId) -> bool,
        gone: &impl Fn(&AgentId) -> bool,
    ) -> Result<()> {
        let task = self.get(id)?;
        if task.state().is_final() {
            return Ok(());
        }
        if task.holder().and_then(|worker| worker.agent_id).is_some_and(|agent| idle(&agent)) {
            self.release(id, None, "").await?;
        }
        let task = self.get(id)?;
        if task.progress.assigned.as_ref().is_some_and(|assigned| gone(&assigned.id)) {
            // A message is answered by whom it was written to, or not at all.
            let step = match task.spec.answers {
                Some(_) => TaskTransition::Cancel("the agent that was to answer is gone".into()),
                None => TaskTransition::Unassign,
            };
            self.transition(id, step, "")?;
        }
        Ok(())
    }

    /// Looks again at a page of what waits for tools that there are, or is queued though nobody has its tools.
    async fn look_for_tools(
        &mut self,
        asked: &Reconcile,
        needs: &[Vec<String>],
        roster: &[Member],
    ) -> Result<Option<Reconcile>> {
        let mut left = PAGE;
        for tools in needs {
            let after = match &asked.after {
                Some((before, _)) if before > tools => continue,
                Some((before, id)) if before == tools => *id,
                _ => NOBODY,
            };
            let has = |member: &Member| tools.iter().all(|tool| member.tools.contains(tool));
            let status = if roster.iter().any(has) { "blocked" } else { "queued" };
            let rows = repo::task_in_need(self.way.tx()?, tools, status, after, left).await?;
            let found = self.insert_loaded(rows);
            self.prepare(&found).await?;
            for id in &found {
                self.judge(*id, "")?;
            }
            left -= i64::try_from(found.len()).unwrap_or(left);
            if let (0, Some(last)) = (left.max(0), found.last()) {
                let after = Some((tools.clone(), *last));
                return Ok(Some(Reconcile { freshness: asked.freshness, after }));
            }
        }
        Ok(None)
    }
}
