//! How many pods of a disruption budget may be evicted.

use serde_json::{Value, json};

use crate::{
    json::{has, set},
    select::selects,
    store::{Key, World},
    write::{Writer, is_true},
};

/// Counts the pods of a budget.
pub(super) fn reconcile(world: &mut World, key: &Key) {
    let Some(budget) = world.get(key).cloned() else { return };
    let pods = world.list("pods", &key.namespace).filter(|(_, pod)| selects(&budget["spec"]["selector"], pod));
    let pods: Vec<_> = pods.map(|(_, pod)| pod.clone()).collect();
    let expected = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let is_healthy = |pod: &&std::sync::Arc<Value>| is_true(pod, "Ready") && !has(pod, "/metadata/deletionTimestamp");
    let healthy = i64::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i64::MAX);
    let share = |value: &Value, up: bool| match value {
        Value::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or_default();
            (expected * percent + if up { 99 } else { 0 }) / 100
        }
        value => value.as_i64().unwrap_or_default(),
    };
    let desired = if has(&budget, "/spec/minAvailable") {
        share(&budget["spec"]["minAvailable"], true)
    } else {
        (expected - share(&budget["spec"]["maxUnavailable"], true)).max(0)
    };
    let status = json!({
        "observedGeneration": budget["metadata"]["generation"],
        "disruptionsAllowed": (healthy - desired).max(0),
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
    });
    world.edit(key, &Writer::status("kube-controller-manager"), |budget| set(budget, "/status", status));
}
