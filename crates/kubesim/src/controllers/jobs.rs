//! Jobs: pods until enough of them succeeded, or too many failed.

use serde_json::{Value, json};

use super::{is_controlled_by, owned_by};
use crate::{
    delete::Deletion,
    json::{copy, default, flag, has, moment, number, set, text},
    store::{Key, World},
    write::{Writer, is_true, set_condition, suffix},
};

const CONTROLLER: &str = "job-controller";

/// Moves a job on.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(job) = world.get(key).cloned() else { return };
    let is_over = is_true(&job, "Complete") || is_true(&job, "Failed");
    if has(&job, "/metadata/deletionTimestamp") || is_over {
        return;
    }
    let uid = text(&job, "/metadata/uid").to_owned();
    let pods: Vec<(Key, Value)> = world
        .dependents(&uid)
        .into_iter()
        .filter(|key| key.resource == "pods")
        .filter_map(|key| {
            let pod = world.get(&key).filter(|pod| is_controlled_by(pod, &uid))?;
            Some((key, (**pod).clone()))
        })
        .collect();
    let of_phase = |phase: &str| pods.iter().filter(|(_, pod)| text(pod, "/status/phase") == phase).count() as i64;
    let (succeeded, failed) = (of_phase("Succeeded"), of_phase("Failed"));
    let active: Vec<&Key> = pods
        .iter()
        .filter(|(_, pod)| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed"))
        .filter(|(_, pod)| !has(pod, "/metadata/deletionTimestamp"))
        .map(|(key, _)| key)
        .collect();
    let completions = number(&job, "/spec/completions").unwrap_or(1);
    let suspended = flag(&job, "/spec/suspend");
    let ended = if succeeded >= completions {
        Some(
            json!({"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}),
        )
    } else if failed > number(&job, "/spec/backoffLimit").unwrap_or(6) {
        Some(
            json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}),
        )
    } else {
        None
    };
    let mut running = active.len() as i64;
    if suspended || ended.is_some() {
        for key in active {
            let _ = world.delete(key, &Deletion::background());
        }
        running = 0;
    } else {
        let wanted = number(&job, "/spec/parallelism").unwrap_or(1).min(completions - succeeded);
        while running < wanted && world.make(key, CONTROLLER, "pods", pod_of(key, &job)) {
            running += 1;
        }
    }
    let now = moment(world.now());
    world.edit(key, &Writer::status("kube-controller-manager"), |job| {
        for (name, count) in [("active", running), ("succeeded", succeeded), ("failed", failed)] {
            if count > 0 {
                set(job, &format!("/status/{name}"), count);
            } else {
                crate::json::remove(job, &format!("/status/{name}"));
            }
        }
        if !suspended {
            default(job, "/status/startTime", now.clone());
        }
        if suspended || crate::json::list(job, "/status/conditions").iter().any(|known| known["type"] == "Suspended") {
            let status = if suspended { "True" } else { "False" };
            let reason = if suspended { "JobSuspended" } else { "JobResumed" };
            set_condition(job, json!({"type": "Suspended", "status": status, "reason": reason}), &now);
        }
        if let Some(condition) = ended {
            if condition["type"] == "Complete" {
                set(job, "/status/completionTime", now.clone());
            }
            set_condition(job, condition, &now);
        }
    });
}

fn pod_of(key: &Key, job: &Value) -> Value {
    let template = &job["spec"]["template"];
    let mut pod = json!({
        "metadata": {
            "name": format!("{}-{}", key.name, suffix()),
            "generateName": format!("{}-", key.name),
            "ownerReferences": [owned_by(key, job)],
        },
        "spec": template["spec"],
    });
    copy(&mut pod, template, "/metadata/labels");
    copy(&mut pod, template, "/metadata/annotations");
    pod
}
