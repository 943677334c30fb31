//! What containers printed before they ended. An agent ships its own lines: here are those that it could not, above all why
//! it crashed. Each run is read once by a process; whoever reads it again numbers its lines alike, so that none is kept twice.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::LogParams};
use mi_kernel::{Clock, InstanceId, Result};
use mi_runtime::{CapturedLine, Output, Place};
use tokio::sync::mpsc;

use crate::{agent::CONTAINER, cache::Cache, calls::call_gone, labels::namespace_name, pods::EndedRun};

/// How often ended runs are looked for.
const INTERVAL: Duration = Duration::from_secs(2);
/// Lines of one run that are read: the last ones.
const LINES: i64 = 500;
/// Bytes of one run that are read.
const BYTES: i64 = 1 << 20;
/// The longest line, in bytes; what is longer is cut.
const LINE: usize = 16 << 10;
/// Runs of one round.
const MOST: usize = 20;

/// A run that ended, and where its log is.
struct Ended {
    place: Place,
    agent: String,
    instance: InstanceId,
    pod: String,
    run: EndedRun,
}

/// Reads logs until it is dropped.
pub(crate) async fn read(client: Client, cache: Arc<Cache>, lines: mpsc::Sender<CapturedLine>, clock: Arc<dyn Clock>) {
    // By pod, the number of the newest run that was read.
    let mut read: HashMap<(Place, String), i32> = HashMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let ended = ended(&cache);
        read.retain(|(place, pod), _| ended.iter().any(|it| it.place == *place && it.pod == *pod));
        let new = |it: &Ended| read.get(&(it.place, it.pod.clone())).is_none_or(|newest| *newest < it.run.number);
        let new: Vec<Ended> = ended.into_iter().filter(new).take(MOST).collect();
        for it in new {
            match log_of(&client, &it).await {
                Ok(text) => {
                    read.insert((it.place, it.pod.clone()), it.run.number);
                    for text in text.unwrap_or_default().lines() {
                        let mut end = text.len().min(LINE);
                        while !text.is_char_boundary(end) {
                            end -= 1;
                        }
                        let line = CapturedLine {
                            place: it.place,
                            name: it.agent.clone(),
                            instance: it.instance,
                            run: it.run.number,
                            time: clock.now(),
                            output: Output::Stderr,
                            text: text[..end].to_owned(),
                        };
                        if lines.send(line).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(target: "mi::kubernetes", error = %error.chain(), "a log could not be read yet")
                }
            }
        }
    }
}

fn ended(cache: &Cache) -> Vec<Ended> {
    let seen = cache.seen();
    let mut found = Vec::new();
    for (agent_id, office_id) in &seen.offices {
        let place = Place { office_id: *office_id, agent_id: *agent_id };
        let agent = seen.workloads.of(place).next().map(|(_, workload)| workload.agent.clone());
        for (name, pod) in seen.pods.of(place) {
            if let (Some(run), Some(instance), Some(agent)) = (pod.ended, pod.instance, &agent) {
                found.push(Ended { place, agent: agent.clone(), instance, pod: name.to_owned(), run });
            }
        }
    }
    found
}

async fn log_of(client: &Client, ended: &Ended) -> Result<Option<String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace_name(ended.place.office_id));
    let chosen = LogParams {
        container: Some(CONTAINER.to_owned()),
        previous: ended.run.previous,
        tail_lines: Some(LINES),
        limit_bytes: Some(BYTES),
        ..LogParams::default()
    };
    call_gone(api.logs(&ended.pod, &chosen)).await
}
