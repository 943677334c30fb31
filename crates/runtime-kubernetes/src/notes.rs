//! Why a pod is not made, or a claim gets no volume: that is nowhere but in events. They are read for those alone whom it
//! concerns, each at most once a minute.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Event;
use kube::{Api, Client, api::ListParams};
use mi_kernel::{AgentId, Result};
use mi_runtime::Place;

use crate::{cache::Cache, calls::call, labels::namespace_name};

/// How often those are looked for whom it concerns.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long an agent is left alone after its events were read.
const PAUSE: Duration = Duration::from_secs(60);
/// Agents of one round.
const MOST: usize = 20;
/// Events of one object that are read.
const PAGE: u32 = 20;
/// The longest note, in characters.
const LONGEST: usize = 500;

/// Reads events until it is dropped.
pub(crate) async fn read(client: Client, cache: Arc<Cache>) {
    let mut asked: HashMap<AgentId, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let puzzling = puzzling(&cache);
        asked.retain(|agent, _| puzzling.iter().any(|(place, _)| place.agent_id == *agent));
        forget(&cache, &asked);
        let due = |(place, _): &(Place, String)| asked.get(&place.agent_id).is_none_or(|at| at.elapsed() >= PAUSE);
        let due: Vec<(Place, String)> = puzzling.into_iter().filter(due).take(MOST).collect();
        for (place, object) in due {
            asked.insert(place.agent_id, Instant::now());
            match note(&client, place, &object).await {
                Ok(Some(note)) => {
                    cache.seen().notes.insert(place.agent_id, note);
                    cache.tell(place.agent_id);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(target: "mi::kubernetes", error = %error.chain(), "events could not be read")
                }
            }
        }
    }
}

/// Agents of whom something is missing that should be there, and the object of which events may say why.
fn puzzling(cache: &Cache) -> Vec<(Place, String)> {
    let seen = cache.seen();
    let place =
        |(agent_id, office_id): (&AgentId, &mi_kernel::OfficeId)| Place { office_id: *office_id, agent_id: *agent_id };
    let puzzle = |place: Place| {
        let claim = seen.claims.of(place).find(|(_, claim)| claim.pending && !claim.deleting);
        let up = seen.workloads.of(place).find(|(_, workload)| workload.up && !workload.deleting);
        let podless = up.filter(|_| seen.pods.of(place).next().is_none());
        let object = claim.map(|(name, _)| name).or(podless.map(|(name, _)| name))?;
        Some((place, object.to_owned()))
    };
    seen.offices.iter().map(place).filter_map(puzzle).collect()
}

/// Forgets what was said of those whom it no longer concerns.
fn forget(cache: &Cache, asked: &HashMap<AgentId, Instant>) {
    cache.seen().notes.retain(|agent, _| asked.contains_key(agent));
}

/// The newest warning of an object.
async fn note(client: &Client, place: Place, object: &str) -> Result<Option<String>> {
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace_name(place.office_id));
    let chosen = ListParams::default().fields(&format!("involvedObject.name={object}")).limit(PAGE);
    let events = call(api.list(&chosen)).await?.items.into_iter();
    let time = |event: &Event| {
        let newest = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        newest.or(event.last_timestamp.as_ref().map(|time| time.0)).or(event.event_time.as_ref().map(|time| time.0))
    };
    let warnings = events.filter(|event| event.type_.as_deref() == Some("Warning"));
    let newest = warnings.max_by_key(|event| time(event));
    Ok(newest.and_then(|event| event.message).map(|message| message.chars().take(LONGEST).collect()))
}
