//! The end of an agent: what it had is saved, and then it is forgotten.

use mi_base::disk_reserve::is_full;
use mi_kernel::{BackupId, Result, event::Event};
use mi_runtime::Progress;
use mi_store::{Topic, outbox};
use serde_json::json;

use crate::{
    Scheduler,
    agents::{Agent, Desired, State, TOPIC, repo},
    offices, plan,
};

/// Agents of one transaction that get another hirer.
const HANDED_OVER: i64 = 200;

impl Scheduler {
    /// Fires: ends, backs up, removes, forgets, in this order; each part may be done again.
    pub(crate) async fn release(&self, mut agent: Agent, office_removing: bool) -> Result<Progress> {
        let Desired::Fire { force, backup_id } = agent.desired else {
            return Ok(Progress::Done);
        };
        if self.acting(agent.id)?.stop(agent.place()).await? == Progress::UnderWay {
            return Ok(Progress::UnderWay);
        }
        let saved = self.back_up(&agent, backup_id).await;
        if let Ok(Progress::UnderWay) = saved {
            return Ok(Progress::UnderWay);
        }
        if let Err(error) = saved {
            let reason = format!("the backup failed: {}", error.chain());
            agent.failures += 1;
            // There is no room for a backup, and it is not insisted on: to try again would only put off the end.
            let in_vain = is_full(&error) && (force || office_removing);
            if agent.failures < plan::MAX_BACKUP_FAILURES && !in_vain {
                agent.state = State::Terminating {
                    retry_at: Some(self.clock.now() + plan::RESTART_BACKOFF.after(agent.failures.unsigned_abs())),
                    reason,
                };
                self.record(&mut agent, None).await?;
                return Ok(Progress::Done);
            }
            self.discard_upload(&agent, backup_id).await?;
            if !force && !office_removing {
                agent.desired = Desired::Stop;
                let summary = format!("Agent {:?} could not be fired: {reason}", agent.name);
                agent.state = State::Failed { reason };
                let event = self.event(&agent, "agent.fire_failed", summary);
                self.record(&mut agent, Some(event)).await?;
                return Ok(Progress::Done);
            }
            tracing::warn!(target: "mi::scheduler", agent = %agent.id, reason, "fired without a backup, as asked");
        }
        if self.acting(agent.id)?.remove(agent.place()).await? == Progress::UnderWay {
            return Ok(Progress::UnderWay);
        }
        self.forget(&agent, Some(backup_id)).await.map(|()| Progress::Done)
    }

    /// The end of a fire: those whom it hired count as hired by who hired it, or by an operator, and the row goes.
    pub(crate) async fn forget(&self, agent: &Agent, backup_id: Option<BackupId>) -> Result<()> {
        let mut tx = loop {
            let mut tx = self.fenced(agent.office_id, agent.id).await?;
            // Nobody hires meanwhile: it is whoever it hired last that must not be left without a hirer.
            offices::repo::office_lock(&mut tx).await?;
            let handed_over = repo::agent_hand_over(&mut tx, &agent.name, &agent.hired_by, HANDED_OVER).await?;
            let more = i64::try_from(handed_over.len()) == Ok(HANDED_OVER);
            let events: Vec<Event> = handed_over.iter().map(|name| self.handed_over(agent, name)).collect();
            outbox::push_all(&mut tx, &events).await?;
            if !more {
                break tx;
            }
            tx.commit().await?;
        };
        if !repo::agent_delete(&mut tx, agent.id).await? {
            return Ok(());
        }
        let event = self.event(agent, "agent.fired", format!("Agent {:?} fired", agent.name));
        outbox::push(&mut tx, &event.with(json!({ "backup_id": backup_id }))).await?;
        tx.commit().await?;
        self.seen.doubt(agent.id);
        self.outbox.notify_one();
        self.db.notify(Topic::of(agent.office_id, TOPIC));
        Ok(())
    }

    /// What is told of an agent whose hirer is gone.
    fn handed_over(&self, hirer: &Agent, name: &str) -> Event {
        let (gone, to) = (&hirer.name, &hirer.hired_by);
        let now_of = if to.is_empty() { "an operator".to_owned() } else { format!("{to:?}") };
        let summary = format!("Agent {name:?} counts as hired by {now_of}, since {gone:?} was fired");
        let metadata = json!({ "from": gone, "to": to });
        Event::lifecycle(hirer.office_id, name, "agent.handed_over", summary, self.clock.now()).with(metadata)
    }
}
