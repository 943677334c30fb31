//! What all that is seen of an agent comes to: whether its instance runs, and else why not.

use std::time::Duration;

use mi_kernel::{InstanceId, Time};
use mi_runtime::{Instance, Place};

use crate::{cache::Seen, growth::flaw, pods::PodView};

/// How long a pod may take to end beyond its time before its node is taken to be lost.
const LINGERING: Duration = Duration::from_secs(30);

/// What is seen of an agent's instance.
pub(crate) fn observe(seen: &Seen, place: Place, now: Time) -> Option<Instance> {
    let pods = || seen.pods.of(place).map(|(_, pod)| pod).filter(|pod| !pod.saves);
    let workload = seen.workloads.of(place).map(|(_, workload)| workload).next();
    let ending = |pod: &PodView| {
        let late = pod.ends_by.is_some_and(|by| by + LINGERING < now);
        let node = pod.node.as_deref().unwrap_or("no node");
        match late {
            true => format!(
                "its pod should have ended, and its node {node:?} does not say so: this goes on once the node is back or was removed from the cluster, or the pod is deleted by force"
            ),
            false => "its pod is being ended".to_owned(),
        }
    };
    if let Some(workload) = workload.filter(|workload| workload.up && !workload.deleting) {
        let id = workload.instance.unwrap_or(InstanceId::MIN);
        let pod = pods().find(|pod| pod.instance == workload.instance && pod.ends_by.is_none());
        let waiting = match pod {
            Some(pod) => pod.waiting.clone().map(|waiting| of_claims(seen, place).unwrap_or(waiting)),
            None => Some(match pods().find(|pod| pod.ends_by.is_some()) {
                Some(pod) => ending(pod),
                None => seen
                    .notes
                    .get(&place.agent_id)
                    .map(|note| format!("Kubernetes cannot make its pod: {note}"))
                    .or_else(|| workload.trouble.clone())
                    .unwrap_or_else(|| "its pod is not made yet".to_owned()),
            }),
        };
        return Some(Instance {
            waiting,
            up_since: pod.and_then(|pod| pod.up_since),
            altered: workload.altered || workload.instance.is_none(),
            flaw: flaw(seen, place),
            ..Instance::up(id)
        });
    }
    if pods().next().is_none() && workload.is_none_or(|workload| workload.down && !workload.deleting) {
        return None;
    }
    let left = pods().next();
    let id = left.and_then(|pod| pod.instance).or_else(|| workload.and_then(|workload| workload.instance));
    let waiting = left.map_or_else(|| "its pod is being ended".to_owned(), ending);
    Some(Instance { waiting: Some(waiting), ..Instance::up(id.unwrap_or(InstanceId::MIN)) })
}

/// What an agent's claim waits for, if it does.
fn of_claims(seen: &Seen, place: Place) -> Option<String> {
    let (name, claim) = seen.claims.of(place).find(|(_, claim)| claim.pending && !claim.deleting)?;
    let note = seen.notes.get(&place.agent_id).map(|note| format!(" ({note})")).unwrap_or_default();
    Some(match claim.classless {
        true => format!(
            "its claim {name:?} gets no volume: the cluster has no default storage class, and none is named in the platform's configuration{note}"
        ),
        false => format!("its claim {name:?} has no volume yet{note}"),
    })
}
