//! WatchAgents: every agent as it is, then each that changes or goes.
//!
//! Level-triggered: each round compares the rows with what was sent, so a lost signal delays and loses nothing.

use std::{collections::HashMap, sync::Arc};

use futures::Stream;
use mi_kernel::{AgentId, Error, OfficeId, Result};
use mi_proto::v1::{self, WatchAgentsResponse};
use mi_store::{Batch, Topic};

use super::{TOPIC, repo, wire};
use crate::{Scheduler, offices};

/// Agents that are read, and held, at a time.
const BATCH: usize = 50;

/// What was last sent of each agent: its revision, and what a client needs to know to take it away.
type Sent = HashMap<AgentId, (i64, v1::Agent)>;

pub(crate) fn watch(
    scheduler: Arc<Scheduler>,
    office: OfficeId,
) -> impl Stream<Item = Result<WatchAgentsResponse>> + use<> {
    let (agents, mut sent) = (scheduler.db.listen(Topic::of(office, TOPIC)), Sent::new());
    agents.follow(async move || round(&scheduler, office, &mut sent).await)
}

/// The first agents that are not as they were sent last.
async fn round(scheduler: &Scheduler, office: OfficeId, sent: &mut Sent) -> Result<Batch<WatchAgentsResponse>> {
    let mut conn = scheduler.db.office(office).read().await?;
    let revisions = repo::agent_revisions(&mut conn).await?;
    let mut found = Vec::new();
    sent.retain(|id, (_, agent)| {
        let stays = revisions.contains_key(id);
        if !stays {
            found.push(WatchAgentsResponse { agent: Some(std::mem::take(agent)), deleted: true });
        }
        stays
    });
    if revisions.is_empty() {
        if found.is_empty() && offices::repo::office_get(&mut conn).await?.is_none() {
            return Err(Error::not_found("office", office));
        }
        // Once these are told, the office may be found gone.
        return Ok(Batch { more: !found.is_empty(), found });
    }
    let changed = |id: &AgentId, revision: i64| sent.get(id).is_none_or(|(known, _)| *known != revision);
    let changed: Vec<AgentId> =
        revisions.into_iter().filter(|(id, revision)| changed(id, *revision)).map(|(id, _)| id).collect();
    for agent in repo::agent_get_all(&mut conn, &changed[..changed.len().min(BATCH)]).await? {
        let (id, revision) = (agent.id, agent.revision);
        let message = wire::agent(&scheduler.seen.freshen(agent), scheduler.runtime.sandbox());
        // What may be long is not held for as long as the client watches.
        let (system_prompt, command) = (String::new(), String::new());
        let brief = v1::Agent { system_prompt, command, env: HashMap::new(), ..message.clone() };
        sent.insert(id, (revision, brief));
        found.push(WatchAgentsResponse { agent: Some(message), deleted: false });
    }
    Ok(Batch { found, more: changed.len() > BATCH })
}
