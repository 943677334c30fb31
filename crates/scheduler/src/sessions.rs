//! Signs of life: kept in memory, written in batches, and the report that makes a compute `Running`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{AgentActor, AgentId, Error, ErrorKind, InstanceId, Result, Time, event::Event};
use mi_rpc::Caller;
use mi_store::outbox;
use serde_json::json;

use crate::{
    Scheduler,
    agents::{Agent, State, repo},
};

/// How often signs of life reach the database.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);
const MAX_CONFLICTS: usize = 5;

/// Last signs of life that are not in the database yet.
#[derive(Default)]
pub(crate) struct Seen(Mutex<HashMap<AgentId, Time>>);

impl Seen {
    fn map(&self) -> MutexGuard<'_, HashMap<AgentId, Time>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, agent: AgentId, now: Time) {
        self.map().insert(agent, now);
    }

    /// The agent as of now.
    pub(crate) fn freshen(&self, mut agent: Agent) -> Agent {
        agent.last_seen_at = self.map().get(&agent.id).copied().max(agent.last_seen_at);
        agent
    }
}

/// Writes signs of life for ever.
pub(crate) async fn flush(scheduler: Arc<Scheduler>) {
    loop {
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let seen: Vec<(AgentId, Time)> = std::mem::take(&mut *scheduler.seen.map()).into_iter().collect();
        if seen.is_empty() {
            continue;
        }
        let written = async {
            let mut tx = scheduler.db.platform().begin().await?;
            repo::agent_seen(&mut tx, &seen).await?;
            tx.commit().await
        };
        if let Err(error) = written.await {
            tracing::warn!(target: "mi::scheduler", %error, "signs of life could not be written");
            // Back into memory, unless something newer is there by now.
            let mut map = scheduler.seen.map();
            for (agent, time) in seen {
                map.entry(agent).or_insert(time);
            }
        }
    }
}

fn replaced() -> Error {
    Error::new(ErrorKind::Aborted, "INSTANCE_REPLACED", "this compute is not the wanted one any more; it should end")
}

impl Scheduler {
    /// Takes the report of a compute that it is ready.
    pub(crate) async fn report_ready(
        &self,
        caller: &Caller,
        agent: &AgentActor,
        instance: InstanceId,
    ) -> Result<Agent> {
        let (office_id, id) = (agent.office_id, agent.agent_id);
        for _ in 0..MAX_CONFLICTS {
            let now = self.clock.now();
            let mut tx = self.db.office(office_id).begin().await?;
            let agent = repo::agent_get(&mut tx, id).await?;
            let mut agent = agent.filter(|agent| agent.wants(instance)).ok_or_else(replaced)?;
            self.seen.record(id, now);
            let State::Starting { generation, .. } = agent.state else {
                // A reconnect: the row says Running already.
                return Ok(self.seen.freshen(agent));
            };
            agent.state = State::Running { instance, generation, since: now };
            agent.observed_generation = generation;
            agent.last_seen_at = Some(now);
            if !repo::agent_update(&mut tx, &mut agent).await? {
                continue;
            }
            let summary = format!("Agent {:?} runs with model {}", agent.name, agent.spec.model_tier);
            let event = Event::lifecycle(agent.office_id, &agent.name, "agent.running", summary, now)
                .with(json!({ "generation": generation, "instance_id": instance }))
                .traced(&caller.trace_id);
            outbox::push(&mut tx, &event).await?;
            tx.commit().await?;
            self.changed(&agent);
            return Ok(agent);
        }
        Err(Error::new(ErrorKind::Aborted, "CONFLICT", "the agent is being changed; report again"))
    }

    /// Takes a heartbeat of a compute; an error says that it is not wanted any more.
    pub(crate) async fn heartbeat(&self, agent: &AgentActor, instance: InstanceId) -> Result<()> {
        let id = agent.agent_id;
        let agent = repo::agent_get(&mut self.db.office(agent.office_id).read().await?, id).await?;
        agent.filter(|agent| agent.wants(instance)).ok_or_else(replaced)?;
        self.seen.record(id, self.clock.now());
        Ok(())
    }
}
