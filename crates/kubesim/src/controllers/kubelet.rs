//! The status of a pod on its node.

use serde_json::{Value, json};

use crate::{
    conduct::Conduct,
    json::{copy, default, flag, has, list, moment, number, set, text},
    store::{Key, World},
    write::{Writer, is_true, set_condition},
};

const KUBELET: &str = "kubelet";
/// The code of a process that was killed for want of memory.
const KILLED: i32 = 137;

/// What a pod's containers are doing.
struct Stage {
    phase: &'static str,
    ready: bool,
    /// Of each container.
    state: Value,
    last: Value,
    restarts: Option<u32>,
}

impl Stage {
    fn waiting(reason: &str, message: &str) -> Self {
        let mut waiting = json!({"reason": reason});
        if !message.is_empty() {
            waiting["message"] = message.into();
        }
        let state = json!({"waiting": waiting});
        Self { phase: "Pending", ready: false, state, last: json!({}), restarts: None }
    }

    fn running(ready: bool, now: &Value) -> Self {
        let state = json!({"running": {"startedAt": now}});
        Self { phase: "Running", ready, state, last: json!({}), restarts: None }
    }

    fn ended(exit_code: i32, now: &Value) -> Self {
        let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
        let state = json!({"terminated": terminated(exit_code, now)});
        Self { phase, ready: false, state, last: json!({}), restarts: None }
    }

    fn looping(exit_code: i32, restarts: u32, pod: &Key, now: &Value) -> Self {
        let message = format!("back-off 5m0s restarting failed container pod={}_{}", pod.name, pod.namespace);
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
        let last = json!({"terminated": terminated(exit_code, now)});
        Self { phase: "Running", ready: false, state, last, restarts: Some(restarts) }
    }
}

fn terminated(exit_code: i32, now: &Value) -> Value {
    let reason = match exit_code {
        0 => "Completed",
        KILLED => "OOMKilled",
        _ => "Error",
    };
    json!({"exitCode": exit_code, "reason": reason, "startedAt": now, "finishedAt": now})
}

/// Brings a pod on its node one step further.
pub(super) fn run(world: &mut World, key: &Key, pod: &Value, conduct: &Conduct) {
    let images: Vec<&str> = list(pod, "/spec/containers").iter().map(|container| text(container, "/image")).collect();
    let uid = text(pod, "/metadata/uid").to_owned();
    let missing = missing(world, key, pod);
    let is_new = list(pod, "/status/containerStatuses").is_empty();
    let name = format!("{conduct:?} {images:?} {missing:?} {}", if is_new { "new" } else { "" });
    if world.conducts.stages.get(&uid) == Some(&name) {
        if missing.is_some() {
            world.block(key);
        }
        return;
    }
    let is_starting = text(pod, "/status/phase") == "Pending";
    world.conducts.stages.insert(uid, name);
    let now = moment(world.now());
    let stage = match conduct {
        _ if is_new => Stage::waiting("ContainerCreating", ""),
        Conduct::Evict(why) => return evict(world, key, why),
        Conduct::ImagePullBackOff(why) => Stage::waiting("ImagePullBackOff", why),
        Conduct::Create => Stage::waiting("ContainerCreating", ""),
        _ if missing.is_some() => match missing.unwrap_or_default() {
            (true, why) => {
                world.tell(key, KUBELET, "Warning", "FailedMount", &why);
                world.block(key);
                return;
            }
            (false, why) => {
                world.block(key);
                Stage::waiting("CreateContainerConfigError", &why)
            }
        },
        Conduct::Unready => Stage::running(false, &now),
        Conduct::CrashLoop { exit_code, restarts } => Stage::looping(*exit_code, *restarts, key, &now),
        Conduct::OutOfMemory { restarts } => Stage::looping(KILLED, *restarts, key, &now),
        Conduct::Finish(_) if is_starting => Stage::running(false, &now),
        Conduct::Finish(exit_code) => finish(*exit_code, pod, key, &now),
        Conduct::Run | Conduct::Linger | Conduct::Unschedulable(_) => match text(pod, "/spec/restartPolicy") {
            "Always" => Stage::running(true, &now),
            _ if is_starting => Stage::running(true, &now),
            _ => Stage::ended(0, &now),
        },
    };
    if is_starting && stage.phase == "Running" {
        // The next step is to be seen apart from this one.
        world.conducts.stages.remove(text(pod, "/metadata/uid"));
    }
    if let Some(waiting) = stage.state.get("waiting").filter(|_| !is_new) {
        let (reason, message) = (text(waiting, "/reason"), text(waiting, "/message"));
        match reason {
            "ImagePullBackOff" => world.tell(key, KUBELET, "Warning", "Failed", message),
            "CrashLoopBackOff" => world.tell(key, KUBELET, "Warning", "BackOff", message),
            _ => {}
        }
    }
    let address = address(world, key, pod);
    world.edit(key, &Writer::status(KUBELET), |pod| write(pod, &stage, &address, &now));
    if matches!(stage.phase, "Succeeded" | "Failed") {
        world.conducts.stages.remove(text(pod, "/metadata/uid"));
    }
}

fn finish(exit_code: i32, pod: &Value, key: &Key, now: &Value) -> Stage {
    match text(pod, "/spec/restartPolicy") {
        "Always" => Stage::looping(exit_code, 1, key, now),
        "OnFailure" if exit_code != 0 => Stage::looping(exit_code, 1, key, now),
        _ => Stage::ended(exit_code, now),
    }
}

fn evict(world: &mut World, key: &Key, why: &str) {
    let now = moment(world.now());
    world.edit(key, &Writer::status(KUBELET), |pod| {
        set(pod, "/status/phase", "Failed");
        set(pod, "/status/reason", "Evicted");
        set(pod, "/status/message", why);
        let disrupted =
            json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": why});
        set_condition(pod, disrupted, &now);
        unready(pod, "PodFailed", &now);
    });
    world.tell(key, KUBELET, "Warning", "Evicted", why);
}

/// A pod on a node that no longer answers is not ready; nothing else is known of it.
pub(super) fn mark_unready(world: &mut World, key: &Key) {
    let now = moment(world.now());
    if world.get(key).is_some_and(|pod| is_true(pod, "Ready")) {
        world.edit(key, &Writer::status("kube-controller-manager"), |pod| unready(pod, "", &now));
    }
    if let Some(pod) = world.get(key) {
        let uid = text(pod, "/metadata/uid").to_owned();
        world.conducts.stages.remove(&uid);
    }
}

fn unready(pod: &mut Value, reason: &str, now: &Value) {
    for kind in ["Ready", "ContainersReady"] {
        let mut condition = json!({"type": kind, "status": "False"});
        if !reason.is_empty() {
            condition["reason"] = reason.into();
        }
        set_condition(pod, condition, now);
    }
}

/// The first of the secrets and maps that the pod needs and that are not there: whether a volume needs it, and what
/// is said.
fn missing(world: &World, key: &Key, pod: &Value) -> Option<(bool, String)> {
    let is_absent = |resource, name: &str| world.find(resource, &key.namespace, name).is_none();
    for volume in list(pod, "/spec/volumes") {
        for (source, name, resource, kind) in [
            ("/secret", "/secret/secretName", "secrets", "secret"),
            ("/configMap", "/configMap/name", "configmaps", "configmap"),
        ] {
            let wanted = text(volume, name);
            let needs = has(volume, source) && !flag(volume, &format!("{source}/optional"));
            if needs && is_absent(resource, wanted) {
                let volume = text(volume, "/name");
                return Some((
                    true,
                    format!("MountVolume.SetUp failed for volume {volume:?} : {kind} {wanted:?} not found"),
                ));
            }
        }
    }
    for container in list(pod, "/spec/containers") {
        for variable in list(container, "/env") {
            for (source, resource, kind) in
                [("secretKeyRef", "secrets", "secret"), ("configMapKeyRef", "configmaps", "configmap")]
            {
                let reference = &variable["valueFrom"][source];
                let wanted = text(reference, "/name");
                if !reference.is_null() && !flag(reference, "/optional") && is_absent(resource, wanted) {
                    return Some((false, format!("{kind} {wanted:?} not found")));
                }
            }
        }
    }
    None
}

/// The address of a pod: the one that it has, else a new one.
fn address(world: &World, key: &Key, pod: &Value) -> String {
    let known = text(pod, "/status/podIP");
    if !known.is_empty() {
        return known.to_owned();
    }
    let number = world.version().wrapping_add(key.name.len() as u64) % 60_000;
    format!("10.244.{}.{}", number / 250, number % 250 + 2)
}

fn write(pod: &mut Value, stage: &Stage, address: &str, now: &Value) {
    // What once ran does not go back.
    let phase =
        if text(pod, "/status/phase") == "Running" && stage.phase == "Pending" { "Running" } else { stage.phase };
    set(pod, "/status/phase", phase);
    set(pod, "/status/hostIP", "192.0.2.1");
    set(pod, "/status/hostIPs", json!([{"ip": "192.0.2.1"}]));
    default(pod, "/status/startTime", now.clone());
    if stage.phase != "Pending" {
        set(pod, "/status/podIP", address);
        set(pod, "/status/podIPs", json!([{"ip": address}]));
    }
    let before = list(pod, "/status/containerStatuses").to_vec();
    let statuses = list(pod, "/spec/containers").iter().map(|container| {
        let known = before.iter().find(|known| known["name"] == container["name"]).unwrap_or(&Value::Null);
        let restarts = number(known, "/restartCount").unwrap_or_default();
        let running = stage.state.get("running").is_some();
        let mut status = json!({
            "name": container["name"],
            "image": container["image"],
            "imageID": if stage.phase == "Pending" { String::new() } else { format!("sim://{}", text(container, "/image")) },
            "ready": stage.ready,
            "started": running,
            "restartCount": stage.restarts.map_or(restarts, |least| restarts.max(i64::from(least))),
            "state": stage.state,
            "lastState": stage.last,
        });
        // A container that goes on running was started when it was.
        if running && has(known, "/state/running") {
            copy(&mut status, known, "/state");
        }
        if stage.last == json!({}) && !known.is_null() {
            copy(&mut status, known, "/lastState");
        }
        status
    });
    let statuses: Vec<Value> = statuses.collect();
    set(pod, "/status/containerStatuses", statuses);
    conditions(pod, stage, now);
}

fn conditions(pod: &mut Value, stage: &Stage, now: &Value) {
    let names: Vec<&str> = list(pod, "/spec/containers").iter().map(|container| text(container, "/name")).collect();
    let unready = format!("containers with unready status: [{}]", names.join(" "));
    let is_over = stage.phase == "Succeeded";
    let mut all = vec![
        json!({"type": "PodReadyToStartContainers", "status": if stage.phase == "Running" { "True" } else { "False" }}),
        json!({"type": "Initialized", "status": "True"}),
    ];
    for kind in ["Ready", "ContainersReady"] {
        all.push(if stage.ready {
            json!({"type": kind, "status": "True"})
        } else if is_over {
            json!({"type": kind, "status": "False", "reason": "PodCompleted"})
        } else {
            json!({"type": kind, "status": "False", "reason": "ContainersNotReady", "message": unready})
        });
    }
    all.into_iter().for_each(|condition| set_condition(pod, condition, now));
}
