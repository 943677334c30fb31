//! Agents that agents hired and that have had nothing to do for long are fired, with a backup, as the office's
//! `idle_fire_after` says. Those that operators hired stay, and so do those with agents below them, which may wait for
//! what they had these do, and all agents of an office that cannot pay for work.
//!
//! Agents tell with their heartbeats for how long they have had no work. That is kept in memory by the process that has their
//! session: after a restart it counts anew, so that nobody is fired too early. A process whose session stands still, since it
//! did itself or the agent has gone to another one, knows nothing: what an agent said a while ago, or before another process
//! heard of it, is no reason to fire it.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use mi_kernel::{AgentActor, AgentId, OfficeId, Result, Time};

use crate::{Scheduler, agents::rules, liveness::Idle, offices::repo::office_get};

/// How often idle agents are looked for.
const INTERVAL: Duration = Duration::from_secs(10);
/// Nobody is looked at who was idle for less: no office fires sooner.
const LEAST: TimeDelta = TimeDelta::seconds(60);
/// What an agent said longer ago counts no more: it says something every 10 seconds.
const FRESH: TimeDelta = TimeDelta::seconds(25);

/// Looks for them until it is dropped.
pub(crate) async fn run(scheduler: Arc<Scheduler>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        scheduler.fire_idle().await;
    }
}

impl Scheduler {
    /// Notes what an agent says of its work.
    pub(crate) fn note_idle(&self, agent: &AgentActor, idle_for: Option<Duration>) {
        let now = self.clock.now();
        let lasts = idle_for.map(|lasts| TimeDelta::from_std(lasts).unwrap_or(TimeDelta::MAX));
        // What is longer than anything can be is a time before which there was nothing.
        let since = lasts.map(|lasts| now.checked_sub_signed(lasts).unwrap_or(Time::UNIX_EPOCH));
        self.seen.idle(agent.office_id, agent.agent_id, since, now);
    }

    /// Fires whoever has had nothing to do for too long.
    pub(crate) async fn fire_idle(&self) {
        let now = self.clock.now();
        for (office_id, idle) in self.seen.idle_since(now - LEAST, now - FRESH) {
            if let Err(error) = self.fire_idle_of(office_id, &idle).await {
                tracing::warn!(target: "mi::scheduler", office = %office_id, error = %error.chain(), "idle agents stay for now");
            }
        }
    }

    async fn fire_idle_of(&self, office_id: OfficeId, idle: &[(AgentId, Idle)]) -> Result<()> {
        let office = office_get(&mut self.db.office(office_id).read().await?).await?;
        let limit = office.filter(|office| office.active).map_or(0, |office| office.settings.idle_fire_after_seconds);
        if limit <= 0 {
            return Ok(());
        }
        let latest = self.clock.now() - TimeDelta::seconds(limit);
        let due: Vec<_> = idle.iter().filter(|(_, idle)| idle.since <= latest).collect();
        // Where nobody is paid, nobody gets work: that is no reason to fire them.
        if due.is_empty() || rules::solvent(&self.terms(office_id).await?).is_err() {
            return Ok(());
        }
        for (agent, idle) in due {
            // One that cannot be fired now holds up no other.
            if let Err(error) = self.fire_for_idleness(office_id, *agent, *idle, limit).await {
                tracing::warn!(target: "mi::scheduler", office = %office_id, %agent, error = %error.chain(), "an idle agent stays for now");
            }
        }
        Ok(())
    }
}
