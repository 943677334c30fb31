//! The chart gives the platform the rights that it uses, and no other.

use std::collections::BTreeSet;

use mi_kernel::{BackupId, secret::Secret};
use mi_kubesim::{Conduct, Pods, Sim};
use mi_runtime::{Cluster, Runtime, Saving};
use mi_runtime_kubernetes::{Driver, agent_name};
use mi_testkit::until;
use serde::Deserialize;
use serde_json::json;

use crate::harness::{Harness, LIMIT};

const RBAC: &str = include_str!("../../../../deploy/helm/mi/templates/rbac.yaml");

/// Group, resource and verb.
type Right = (String, String, String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Role {
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// The rights in the whole cluster and those in an office, as the chart has them for all drivers.
fn given() -> [BTreeSet<Right>; 2] {
    let plain: Vec<&str> = RBAC.lines().filter(|line| !line.contains("{{")).collect();
    let plain = plain.join("\n");
    let roles: Vec<Role> = plain.split("\n---\n").map(|text| serde_saphyr::from_str(text).expect("a role")).collect();
    let mut roles = roles.into_iter().filter(|role| role.kind == "ClusterRole");
    [(); 2].map(|()| {
        let rules = roles.next().expect("two roles").rules;
        let rights = rules.into_iter().flat_map(|rule| {
            let mut rights = Vec::new();
            for (group, resource) in
                rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |it| (group, it)))
            {
                rights.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
            rights
        });
        rights.collect()
    })
}

#[tokio::test]
async fn the_chart_gives_the_rights_that_are_used() {
    let mut used = [BTreeSet::new(), BTreeSet::new()];
    for driver in [Driver::StatefulSet, Driver::Sandbox] {
        let mut harness = Harness::start_on(Sim::start().await, driver).await;
        live(&mut harness, driver).await;
        for request in harness.sim().requests() {
            // Roles are bound for the whole cluster or for an office: lists over all namespaces need the first.
            let in_office = request.namespace == harness.namespace() && request.resource != "rolebindings";
            let applied = request.verb == "patch" && request.content_type.contains("apply");
            // A claim is applied by its uid, and never made.
            let made = applied && request.resource != "persistentvolumeclaims";
            let verbs = if made { vec!["create", "patch"] } else { vec![&*request.verb] };
            for verb in verbs {
                let right = (request.group.clone(), request.rbac_resource(), verb.to_owned());
                used[usize::from(in_office)].insert(right);
            }
        }
    }
    // To bind a role is asked for nowhere but in the server.
    used[0].insert(("rbac.authorization.k8s.io".to_owned(), "clusterroles".to_owned(), "bind".to_owned()));
    assert_eq!(given(), used);
}

/// All that an agent can go through.
async fn live(harness: &mut Harness, driver: Driver) {
    harness.runtime.id().await.expect("known");
    let place = harness.agent();
    harness.runtime.prepare(place, None).await.expect("prepared");
    harness.edit("resourcequotas", "mi-office", json!({"spec": {"hard": {"pods": "0"}}})).await;
    let instance = harness.started(place).await;
    if driver == Driver::StatefulSet {
        harness.waits(place, "exceeded quota").await;
    }
    harness.edit("resourcequotas", "mi-office", json!({"spec": {"hard": {"pods": "5"}}})).await;
    harness.up(place).await;
    harness.runtime.started(place, instance).await.expect("cleared");
    harness.runtime.hand_over(place, &Secret::new("token")).await.expect("handed over");
    if driver == Driver::StatefulSet {
        let pod = format!("{}-0", agent_name(place.agent_id));
        harness.sim().set_log(&harness.namespace(), &pod, "agent", "", "the last word\n");
        harness.sim().conduct(Pods::all(), Conduct::CrashLoop { exit_code: 1, restarts: 1 });
        tokio::time::timeout(LIMIT, harness.lines.recv()).await.expect("in time").expect("a line");
        harness.sim().conduct(Pods::all(), Conduct::Run);
    }
    harness.runtime.look_over(true).await.expect("looked");
    harness.stopped(place).await;
    if driver == Driver::StatefulSet {
        harness.let_volumes_grow();
        harness.started_with(place, 2 << 30).await;
        harness.up(place).await;
        harness.stopped(place).await;
    }
    let backup = BackupId::new();
    harness.runtime.save(place, backup, &crate::harness::endpoint(), &Secret::new("token")).await.expect("asked for");
    until("it was sent", LIMIT, async || {
        let saving = harness.runtime.saving(place, backup);
        if saving == Saving::Sent { Ok(Some(())) } else { Err(format!("{saving:?}")) }
    })
    .await;
    harness.done("all of it is gone", async || harness.runtime.remove(place).await).await;
    harness.clear().await;
}
