//! The report that makes an instance `Running`, and its heartbeats.

use mi_kernel::{AgentActor, Error, ErrorKind, InstanceId, Result, event::Event};
use mi_rpc::Caller;
use mi_store::outbox;
use serde_json::json;

use crate::{
    Scheduler,
    agents::{Agent, State, repo},
};

const MAX_CONFLICTS: usize = 5;

fn replaced() -> Error {
    Error::new(ErrorKind::Aborted, "INSTANCE_REPLACED", "this instance is not the wanted one any more; it should end")
}

impl Scheduler {
    /// Takes the report of an instance that it is ready.
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
            self.seen.record(office_id, id, now);
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

    /// Takes a heartbeat of an instance; an error says that it is not wanted any more.
    pub(crate) async fn heartbeat(&self, agent: &AgentActor, instance: InstanceId) -> Result<()> {
        let (office_id, id, now) = (agent.office_id, agent.agent_id, self.clock.now());
        if self.seen.known(office_id, id, Some(instance), now) {
            return Ok(());
        }
        let before = self.seen.before();
        let agent = repo::agent_get(&mut self.db.office(office_id).read().await?, id).await?;
        let agent = agent.filter(|agent| agent.wants(instance)).ok_or_else(replaced)?;
        self.seen.record(office_id, id, now);
        self.seen.vouch(&agent, Some(instance), before, now);
        Ok(())
    }
}
