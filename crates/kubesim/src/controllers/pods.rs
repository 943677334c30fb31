//! What becomes of pods: they get a node, run there as their conduct says, and end.

use serde_json::{Value, json};

use super::{claims_of, kubelet};
use crate::{
    conduct::Conduct,
    delete::Deletion,
    json::{entries, flag, has, list, list_mut, moment, set, text},
    store::{Key, World},
    write::{Writer, is_true, set_condition},
};

const SCHEDULER: &str = "default-scheduler";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Moves a pod on by one step.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(pod) = world.get(key).cloned() else { return };
    let conduct = world.conducts.of(&pod);
    let node = text(&pod, "/spec/nodeName").to_owned();
    if !node.is_empty() && world.find("nodes", "", &node).is_none() {
        // Its node was removed: nobody else will confirm that it is gone.
        let _ = world.delete(key, &Deletion::now());
        return;
    }
    if world.conducts.lost_nodes.contains(&node) {
        kubelet::mark_unready(world, key);
        return;
    }
    if has(&pod, "/metadata/deletionTimestamp") {
        if conduct != Conduct::Linger {
            let _ = world.delete(key, &Deletion::now());
        }
        return;
    }
    if matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed") {
        return;
    }
    if node.is_empty() {
        schedule(world, key, &pod, &conduct);
    } else {
        kubelet::run(world, key, &pod, &conduct);
    }
}

fn schedule(world: &mut World, key: &Key, pod: &Value, conduct: &Conduct) {
    let now = moment(world.now());
    match place(world, key, pod, conduct) {
        Ok(node) => {
            let mut bound = pod.clone();
            set(&mut bound, "/spec/nodeName", node.clone());
            let condition =
                json!({"type": "PodScheduled", "status": "True", "observedGeneration": pod["metadata"]["generation"]});
            set_condition(&mut bound, condition, &now);
            world.put(key, bound);
            let message = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
            world.tell(key, SCHEDULER, "Normal", "Scheduled", &message);
        }
        Err(why) => {
            let known = list(pod, "/status/conditions").iter().any(|condition| condition["message"] == *why);
            world.edit(key, &Writer::status(SCHEDULER), |pod| {
                let condition =
                    json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
                set_condition(pod, condition, &now);
            });
            if !known {
                world.tell(key, SCHEDULER, "Warning", "FailedScheduling", &why);
            }
        }
    }
}

/// The node of a pod, or why it gets none.
fn place(world: &World, key: &Key, pod: &Value, conduct: &Conduct) -> Result<String, String> {
    if let Conduct::Unschedulable(why) = conduct {
        return Err(why.clone());
    }
    let nodes: Vec<_> = world.list("nodes", "").collect();
    let none = |why: &str| {
        let all = nodes.len();
        let preemption = format!("{all} Preemption is not helpful for scheduling");
        format!("0/{all} nodes are available: {why}. preemption: 0/{all} nodes are available: {preemption}.")
    };
    for name in claims_of(pod) {
        match world.find("persistentvolumeclaims", &key.namespace, name) {
            None => return Err(none(&format!("persistentvolumeclaim {name:?} not found"))),
            Some(claim) if has(claim, "/metadata/deletionTimestamp") => {
                return Err(none(&format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            Some(claim) if text(claim, "/status/phase") != "Bound" => {
                return Err(none("pod has unbound immediate PersistentVolumeClaims"));
            }
            Some(_) => {}
        }
    }
    let (mut fitting, mut selected, mut cordoned, mut lost) = (Vec::new(), 0, 0, 0);
    for (node, object) in &nodes {
        let labels = &object["metadata"]["labels"];
        if !entries(pod, "/spec/nodeSelector").all(|(key, value)| labels[key] == *value) {
            selected += 1;
        } else if flag(object, "/spec/unschedulable") {
            cordoned += 1;
        } else if !is_true(object, "Ready") || world.conducts.lost_nodes.contains(&node.name) {
            lost += 1;
        } else {
            fitting.push(node.name.clone());
        }
    }
    let turn = usize::try_from(world.version()).unwrap_or_default();
    if let Some(node) = fitting.get(turn % fitting.len().max(1)) {
        return Ok(node.clone());
    }
    let reasons = [
        (selected, "node(s) didn't match Pod's node affinity/selector".to_owned()),
        (lost, format!("node(s) had untolerated taint {{{UNREACHABLE}: }}")),
        (cordoned, "node(s) were unschedulable".to_owned()),
    ];
    let reasons = reasons.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
    Err(none(&reasons.collect::<Vec<_>>().join(", ")))
}

/// Says of a node whether it answers.
pub(super) fn reconcile_node(world: &mut World, key: &Key) {
    let Some(node) = world.get(key).cloned() else { return };
    let lost = world.conducts.lost_nodes.contains(&key.name);
    let now = moment(world.now());
    if is_true(&node, "Ready") == lost || list(&node, "/status/conditions").is_empty() {
        world.edit(key, &Writer::status("kubelet"), |node| {
            let condition = if lost {
                json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."})
            } else {
                json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"})
            };
            set_condition(node, condition, &now);
        });
    }
    let is_tainted = list(&node, "/spec/taints").iter().any(|taint| taint["key"] == UNREACHABLE);
    if is_tainted != lost {
        world.edit(key, &Writer::controller("kube-controller-manager"), |node| {
            crate::json::default(node, "/spec/taints", json!([]));
            let Some(taints) = list_mut(node, "/spec/taints") else { return };
            taints.retain(|taint| taint["key"] != UNREACHABLE);
            if lost {
                taints.push(json!({"key": UNREACHABLE, "effect": "NoSchedule"}));
                taints.push(json!({"key": UNREACHABLE, "effect": "NoExecute"}));
            }
        });
    }
}

/// Has every pod, claim and node looked at anew, and all that was refused before.
pub(crate) fn release_all(world: &mut World) {
    let mut due: Vec<Key> = world.take_all_blocked().into_iter().collect();
    for resource in ["nodes", "pods", "persistentvolumeclaims"] {
        due.extend(world.list(resource, "").map(|(key, _)| key.clone()));
    }
    due.into_iter().for_each(|key| world.due.add(key));
}
