//! WatchAgents: every agent as it is, then each that changes or goes.
//!
//! Level-triggered: each round compares the rows with what was sent, so a lost signal delays and loses nothing.

use std::{collections::HashMap, sync::Arc};

use futures::Stream;
use mi_kernel::{AgentId, OfficeId, Result};
use mi_proto::v1::{self, WatchAgentsResponse};
use mi_store::{Batch, Topic};

use super::{TOPIC, repo, wire};
use crate::Scheduler;

/// What was last sent of each agent.
type Sent = HashMap<AgentId, (i64, v1::Agent)>;

pub(crate) fn watch(
    scheduler: Arc<Scheduler>,
    office: OfficeId,
) -> impl Stream<Item = Result<WatchAgentsResponse>> + use<> {
    let (agents, mut sent) = (scheduler.db.listen(Topic::of(office, TOPIC)), Sent::new());
    agents.follow(async move || Ok(Batch { found: round(&scheduler, office, &mut sent).await?, more: false }))
}

async fn round(scheduler: &Scheduler, office: OfficeId, sent: &mut Sent) -> Result<Vec<WatchAgentsResponse>> {
    let mut conn = scheduler.db.office(office).read().await?;
    let revisions = repo::agent_revisions(&mut conn).await?;
    let mut messages = Vec::new();
    sent.retain(|id, (_, agent)| {
        let stays = revisions.contains_key(id);
        if !stays {
            messages.push(WatchAgentsResponse { agent: Some(agent.clone()), deleted: true });
        }
        stays
    });
    for (id, revision) in revisions {
        if sent.get(&id).is_some_and(|(known, _)| *known == revision) {
            continue;
        }
        if let Some(agent) = repo::agent_get(&mut conn, id).await? {
            let message = wire::agent(&scheduler.seen.freshen(agent.clone()), scheduler.runtime.sandbox());
            sent.insert(id, (agent.revision, message.clone()));
            messages.push(WatchAgentsResponse { agent: Some(message), deleted: false });
        }
    }
    Ok(messages)
}
