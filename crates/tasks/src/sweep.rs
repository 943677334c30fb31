//! What moves tasks on when nobody calls: deadlines, and agents that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use mi_kernel::{AgentId, OfficeId, Result, TaskId, Time};
use mi_proto::internal::v1::WatchRevokedAgentKeysRequest;
use mi_rpc::{convert, status::from_status};
use mi_store::Topic;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{TOPIC, Tasks, group_commit::TaskCommand, repo, sweep_clock::Look};

/// How late a deadline may be noticed. One look at an index of deadlines.
const INTERVAL: Duration = Duration::from_millis(400);
const BATCH: i64 = 1000;
/// How often every office with open work of certain agents is looked at, whatever was heard.
const FULL_PASS: Duration = Duration::from_secs(60);
/// How often offices are looked for in which something is left: a process may have ended, or failed, before it was done.
const SETTLE_INTERVAL: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(1);

impl Tasks {
    /// Starts what runs in the background. What was missed before the start is known when it returns.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(&self) -> Result<()> {
        let mut last = None;
        self.due(&mut last, &BTreeSet::new()).await?;
        let (sweeping, watching, passing) = (self.clone(), self.clone(), self.clone());
        self.background.spawn("task-sweep", async move { sweeping.sweep_forever(last).await });
        self.background.spawn("task-agents", async move { watching.watch_agents().await });
        self.background.spawn("task-pass", async move { passing.pass_forever().await });
        let (settling, ending) = (self.clone(), self.clone());
        self.background.spawn("task-settle", async move { settling.settle_forever().await });
        self.background.spawn_to_end("task-end", async move { ending.end_waiting().await });
        let (listening, heard) = (self.clone(), self.db.heard());
        self.background.spawn("task-listen", async move { listening.listen_forever(heard).await });
        Ok(())
    }

    /// Ends what is due, in all offices at the same time: one that is busy or in trouble does not hold up the others.
    async fn sweep_forever(&self, mut last: Option<Time>) {
        let mut under_way = FuturesUnordered::new();
        let mut offices: BTreeSet<OfficeId> = BTreeSet::new();
        loop {
            let pause = match self.due(&mut last, &offices).await {
                Ok((due, more)) => {
                    for (office_id, ids) in due {
                        offices.insert(office_id);
                        under_way.push(self.expire(office_id, ids));
                    }
                    if more { Duration::ZERO } else { INTERVAL }
                }
                Err(error) => {
                    tracing::warn!(target: "mi::tasks", error = %error.chain(), "leases could not be swept");
                    PAUSE
                }
            };
            let pause = tokio::time::sleep(pause);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    Some(office_id) = under_way.next() => drop(offices.remove(&office_id)),
                    () = &mut pause => break,
                }
            }
        }
    }

    /// What is due, in other offices than these; true: there may be more. Counts what was missed since the `last` time.
    async fn due(
        &self,
        last: &mut Option<Time>,
        besides: &BTreeSet<OfficeId>,
    ) -> Result<(BTreeMap<OfficeId, Vec<TaskId>>, bool)> {
        let mut conn = self.db.platform().read().await?;
        let repo::Seen { sweep_clock, told, waited_for } = repo::sweep_clock_get(&mut conn).await?;
        let now = told.map_or_else(|| self.clock.now(), |told| self.clock.agreed(told));
        let due = repo::task_due(&mut conn, now, besides, BATCH).await?;
        drop(conn);
        let look = Look { now, last: *last, shared: self.db.is_shared(), waited_for };
        if let Some(next) = sweep_clock.after(look) {
            let mut tx = self.db.platform().begin().await?;
            if !repo::sweep_clock_put(&mut tx, sweep_clock, next).await? {
                // Another process looked at the same moment.
                return Ok((BTreeMap::new(), true));
            }
            tx.commit().await?;
            if next.away > sweep_clock.away {
                let seconds = Duration::from_micros(next.away.abs_diff(sweep_clock.away)).as_secs_f64();
                tracing::info!(target: "mi::tasks", seconds, "the platform was away; leases last longer for it");
            }
        }
        *last = Some(now);
        let more = i64::try_from(due.len()) == Ok(BATCH);
        let mut by_office: BTreeMap<OfficeId, Vec<TaskId>> = BTreeMap::new();
        for (office, task) in due {
            by_office.entry(office).or_default().push(task);
        }
        Ok((by_office, more))
    }

    /// Ends what is due in an office. When it fails, it is not tried again at once.
    async fn expire(&self, office_id: OfficeId, ids: Vec<TaskId>) -> OfficeId {
        // Each by itself: one that cannot be read keeps none of the others from being ended. The last one put in is taken first.
        let ops = ids.into_iter().rev().map(|id| TaskCommand::Expire(vec![id])).collect();
        let swept = self.submit(office_id, ops, None, "").await;
        if let Err(error) = swept.and_then(|answers| answers.into_iter().collect::<Result<Vec<_>>>()) {
            tracing::warn!(target: "mi::tasks", office = %office_id, error = %error.chain(), "leases could not be swept");
            tokio::time::sleep(PAUSE).await;
        }
        office_id
    }

    /// Follows the scheduler's word on revoked keys: their agents may be gone.
    async fn watch_agents(&self) {
        let mut since = None;
        loop {
            let watched = async {
                let request = WatchRevokedAgentKeysRequest { since };
                let answer = self.registry.clone().watch_revoked_agent_keys(request).await;
                let mut stream = answer.map_err(|status| from_status(&status))?.into_inner();
                while let Some(told) = stream.message().await.map_err(|status| from_status(&status))? {
                    for key in told.keys {
                        // One office in trouble keeps no other from hearing; the pass over all of them comes to it.
                        if let Err(error) = self.gone(AgentId::parse(&key.agent_id)?).await {
                            tracing::warn!(target: "mi::tasks", agent = key.agent_id, error = %error.chain(), "its tasks wait");
                        }
                    }
                    since = told.time;
                }
                Ok::<(), mi_kernel::Error>(())
            };
            if let Err(error) = watched.await {
                tracing::debug!(target: "mi::tasks", error = %error.chain(), "the scheduler's word on agents is away");
            }
            since = since.or_else(|| Some(convert::timestamp(self.clock.now())));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn gone(&self, agent: AgentId) -> Result<()> {
        let offices = repo::office_of_agent(&mut self.db.platform().read().await?, agent).await?;
        for office_id in offices {
            self.reconcile(office_id, Some(agent)).await?;
        }
        Ok(())
    }

    async fn pass_forever(&self) {
        loop {
            let passed = async {
                let (mut failed, mut after) = (None, None);
                loop {
                    let page = repo::office_page_by_agents(&mut self.db.platform().read().await?, after).await?;
                    let Some((last, _)) = page.last() else { return failed.map_or(Ok(()), Err) };
                    after = Some(*last);
                    for (office_id, _) in page.into_iter().filter(|(_, counts)| *counts) {
                        failed = self.reconcile(office_id, None).await.err().or(failed);
                    }
                }
            };
            if let Err(error) = passed.await {
                tracing::debug!(target: "mi::tasks", error = %error.chain(), "not every office's agents could be looked at");
            }
            tokio::time::sleep(FULL_PASS).await;
            self.kick_all();
        }
    }

    /// Has consequences carried on that are left somewhere, for ever.
    async fn settle_forever(&self) {
        loop {
            let offices = async { repo::office_of_consequences(&mut self.db.platform().read().await?).await };
            match offices.await {
                Ok(offices) => {
                    for office_id in offices {
                        // An office that cannot take it in now is asked again.
                        drop(self.enqueue(office_id, vec![TaskCommand::Settle], None, ""));
                    }
                }
                Err(error) => {
                    tracing::warn!(target: "mi::tasks", %error, "what is left to do about tasks could not be looked for");
                }
            }
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }

    fn kick_all(&self) {
        self.group_commit.waited_for().into_iter().for_each(|id| self.kick(id));
    }

    /// Has claims look again when their queue may have changed by others than those who share the group commit.
    async fn listen_forever(&self, mut heard: broadcast::Receiver<Topic>) {
        loop {
            match heard.recv().await {
                Ok(topic) if !topic.is_everything() => topic.office_of(TOPIC).into_iter().for_each(|id| self.kick(id)),
                Ok(_) | Err(RecvError::Lagged(_)) => self.kick_all(),
                Err(RecvError::Closed) => return,
            }
        }
    }
}
