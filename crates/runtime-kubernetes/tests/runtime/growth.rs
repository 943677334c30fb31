//! Claims that grow with what their agents should have.

use mi_kubesim::{Matching, Pods};
use mi_runtime::{Cluster, Instance, Place};
use mi_runtime_kubernetes::agent_name;
use serde_json::{Value, json};

use crate::harness::Harness;

const GIB: u64 = 1 << 30;

async fn claim(harness: &Harness, place: Place) -> Value {
    let name = format!("work-{}-0", agent_name(place.agent_id));
    harness.get("persistentvolumeclaims", &name).await.expect("there")
}

/// Waits until the agent runs with this flaw, or with none.
async fn flawed(harness: &Harness, place: Place, words: Option<&str>) {
    let is = |seen: Option<&Instance>| {
        let running = seen.filter(|seen| seen.waiting.is_none() && !seen.altered);
        running.is_some_and(|seen| match (&seen.flaw, words) {
            (None, None) => true,
            (Some(flaw), Some(words)) => flaw.contains(words),
            _ => false,
        })
    };
    harness.seen(place, words.unwrap_or("it has no flaw"), is).await;
}

#[tokio::test]
async fn a_claim_grows_with_its_agent_and_never_shrinks() {
    let harness = Harness::simulated().await;
    harness.let_volumes_grow();
    let place = harness.agent();
    harness.started_with(place, GIB).await;
    harness.up(place).await;
    let before = claim(&harness, place).await;
    harness.stopped(place).await;
    harness.sim().hold_claims(Pods::all());
    harness.sim().forget_requests();
    harness.started_with(place, 3 * GIB).await;
    flawed(&harness, place, Some("is not as large yet as it should be")).await;
    harness.sim().release_claims(Pods::all());
    flawed(&harness, place, None).await;
    let after = claim(&harness, place).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(
        (&after["spec"]["resources"]["requests"]["storage"], &after["status"]["capacity"]["storage"]),
        (&json!((3 * GIB).to_string()), &json!((3 * GIB).to_string()))
    );
    let of_claims = Matching::all().resource("persistentvolumeclaims").writes();
    assert_eq!(harness.sim().requests_of(&of_claims).len(), 1);

    harness.stopped(place).await;
    harness.started_with(place, 2 * GIB).await;
    flawed(&harness, place, None).await;
    harness.runtime.look_over(true).await.expect("looked");
    assert_eq!(claim(&harness, place).await["spec"]["resources"]["requests"]["storage"], (3 * GIB).to_string());
    assert_eq!(harness.sim().requests_of(&of_claims).len(), 1, "there was nothing to do");
}

#[tokio::test]
async fn a_class_that_lets_no_volume_grow_is_told_of_until_it_does() {
    let harness = Harness::simulated().await;
    let place = harness.agent();
    harness.started_with(place, GIB).await;
    harness.up(place).await;
    harness.stopped(place).await;
    harness.started_with(place, 2 * GIB).await;
    let claim_name = format!("work-{}-0", agent_name(place.agent_id));
    let words = format!(
        "its claim {claim_name:?} asks for 1073741824 bytes and should ask for 2147483648: its storage class does not let volumes grow"
    );
    for _ in 0..2 {
        flawed(&harness, place, Some(&words)).await;
        harness.runtime.look_over(true).await.expect("looked");
    }
    // Another process has not tried it yet.
    let mut harness = harness;
    harness.restart_with("mi:1").await;
    flawed(&harness, place, Some("it is made larger with the next pass")).await;
    harness.let_volumes_grow();
    harness.runtime.look_over(true).await.expect("looked");
    flawed(&harness, place, None).await;
    assert_eq!(claim(&harness, place).await["status"]["capacity"]["storage"], (2 * GIB).to_string());
}
