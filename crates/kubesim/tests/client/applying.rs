//! Server-side apply.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::TimeDelta;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::ConfigMap};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mi_kernel::{Clock, Time};
use mi_kubesim::Setup;
use serde_json::{Value, json};

use crate::{api, cluster, cluster_with, config, create, json_of, refusal, sandboxes, set, status};

fn managers(object: &Value) -> Vec<(String, String)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    entries.iter().map(|entry| (text(&entry["manager"]), text(&entry["operation"]))).collect()
}

async fn apply(api: &Api<ConfigMap>, manager: &str, value: Value) -> Result<Value, kube::Error> {
    let applied = api.patch("a", &PatchParams::apply(manager), &Patch::Apply(value)).await?;
    Ok(json_of(&applied))
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

#[tokio::test]
async fn applying_creates_and_then_changes_only_what_differs() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let made = apply(&maps, "mi", map(json!({"x": "1", "y": "1"}))).await.expect("applied");
    assert_eq!(managers(&made), [("mi".to_owned(), "Apply".to_owned())]);
    let requests: Vec<u16> = sim.requests().into_iter().map(|request| request.status).collect();
    assert_eq!(requests, [201]);
    let version = sim.version();
    let same = apply(&maps, "mi", map(json!({"x": "1", "y": "1"}))).await.expect("applied");
    assert_eq!((same, sim.version()), (made, version), "nothing to do makes no version");
    let less = apply(&maps, "mi", map(json!({"y": "2"}))).await.expect("applied");
    assert_eq!(less["data"], json!({"y": "2"}));
}

/// A clock that each look puts forward by a minute.
#[derive(Default)]
struct Hasty(AtomicI64);

impl Clock for Hasty {
    fn now(&self) -> Time {
        let minutes = self.0.fetch_add(1, Ordering::Relaxed);
        Time::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }
}

#[tokio::test]
async fn nothing_to_do_is_nothing_later_as_well() {
    let (sim, client) = cluster_with(Setup { clock: Arc::new(Hasty::default()), ..Setup::default() }).await;
    let maps = api::<ConfigMap>(&client);
    let made = apply(&maps, "mi", map(json!({"x": "1"}))).await.expect("applied");
    let version = sim.version();
    assert_eq!(apply(&maps, "mi", map(json!({"x": "1"}))).await.expect("applied"), made);
    assert_eq!(sim.version(), version);
    // Even where the server fills in what is owned as a whole, and so differs from what is applied.
    let mut set = set("a", "i:1");
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "work"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    let sets = api::<StatefulSet>(&client);
    sets.patch("a", &PatchParams::apply("mi"), &Patch::Apply(&set)).await.expect("applied");
    sim.settled().await;
    let version = sim.version();
    sets.patch("a", &PatchParams::apply("mi"), &Patch::Apply(&set)).await.expect("applied");
    sim.settled().await;
    assert_eq!(sim.version(), version);
}

#[tokio::test]
async fn a_field_of_another_manager_is_a_conflict_that_force_resolves() {
    let (_sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    apply(&maps, "mi", map(json!({"x": "1", "y": "1"}))).await.expect("applied");
    let refused = status(apply(&maps, "other", map(json!({"x": "2", "y": "1"}))).await);
    let message = "Apply failed with 1 conflict: conflict with \"mi\": .data.x";
    assert_eq!((refused.code, refused.reason.as_str(), refused.message.as_str()), (409, "Conflict", message));
    let causes = refused.details.expect("details").causes;
    let causes: Vec<_> =
        causes.iter().map(|cause| (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str())).collect();
    assert_eq!(causes, [("FieldManagerConflict", "conflict with \"mi\"", ".data.x")]);
    let params = PatchParams::apply("other").force();
    let forced = json_of(&maps.patch("a", &params, &Patch::Apply(map(json!({"x": "2"})))).await.expect("forced"));
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    let owned: Vec<Value> = forced["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .iter()
        .map(|entry| json!([entry["manager"], entry["fieldsV1"]["f:data"]]))
        .collect();
    assert_eq!(owned, [json!(["mi", {"f:y": {}}]), json!(["other", {"f:x": {}}])]);
    // `mi` has lost x: it can only take it back, or leave it.
    assert_eq!(status(apply(&maps, "mi", map(json!({"x": "1", "y": "1"}))).await).code, 409);
    let left = apply(&maps, "mi", map(json!({"y": "1"}))).await.expect("applied");
    assert_eq!(left["data"], json!({"x": "2", "y": "1"}));
}

#[tokio::test]
async fn somebodys_edit_is_a_conflict_that_names_them() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    let params = PatchParams::apply("mi");
    sets.patch("a", &params, &Patch::Apply(set("a", "i:1"))).await.expect("applied");
    sim.settled().await;
    // Status is written by others all the time, and is no conflict.
    sets.patch("a", &params, &Patch::Apply(set("a", "i:2"))).await.expect("applied");
    let edited = sim.edit("statefulsets", "office", "a", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "evil".into();
        set["spec"]["replicas"] = 3.into();
    });
    let time = edited.expect("edited")["metadata"]["managedFields"]
        .as_array()
        .and_then(|entries| entries.iter().find(|entry| entry["manager"] == "kubectl-edit").cloned())
        .expect("an entry")["time"]
        .clone();
    let (code, _, message) = refusal(sets.patch("a", &params, &Patch::Apply(set("a", "i:2"))).await);
    let time = time.as_str().expect("a time");
    let expected = format!(
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using apps/v1 at {time}:\n- .spec.replicas\n\
            - .spec.template.spec.containers[name=\"agent\"].image"
    );
    assert_eq!((code, message), (409, expected));
    let forced = sets.patch("a", &params.clone().force(), &Patch::Apply(set("a", "i:2"))).await.expect("forced");
    let spec = json_of(&forced)["spec"].clone();
    let found = (&spec["replicas"], &spec["template"]["spec"]["containers"][0]["image"]);
    assert_eq!(found, (&json!(1), &json!("i:2")));
}

#[tokio::test]
async fn whoever_writes_a_field_owns_it_alone() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    apply(&maps, "mi", map(json!({"x": "1", "y": "1"}))).await.expect("applied");
    let edited = sim.edit("configmaps", "office", "a", |map| map["data"]["x"] = "2".into()).expect("edited");
    let owned = |manager: &str| {
        let entries = edited["metadata"]["managedFields"].as_array().expect("managers");
        entries.iter().find(|entry| entry["manager"] == manager).map(|entry| entry["fieldsV1"].clone())
    };
    assert_eq!(owned("mi"), Some(json!({"f:data": {"f:y": {}}})));
    assert_eq!(owned("kubectl-edit"), Some(json!({"f:data": {"f:x": {}}})));
    // What `mi` does not own it does not remove, though it once applied it.
    let left = apply(&maps, "mi", map(json!({"y": "1"}))).await.expect("applied");
    assert_eq!(left["data"], json!({"x": "2", "y": "1"}));
    // What somebody removes nobody owns.
    let removed = sim.edit("configmaps", "office", "a", |map| map["data"] = json!({"x": "2"})).expect("edited");
    let names: Vec<_> = managers(&removed).into_iter().map(|(manager, _)| manager).collect();
    assert_eq!(names, ["kubectl-edit"]);
}

#[tokio::test]
async fn what_the_server_fills_in_and_what_others_add_stays() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    let params = PatchParams::apply("mi");
    let mut with_env = set("a", "i:1");
    with_env["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]);
    with_env["spec"]["template"]["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    sets.patch("a", &params, &Patch::Apply(with_env)).await.expect("applied");
    sim.edit("statefulsets", "office", "a", |set| {
        set["metadata"]["labels"] = json!({"theirs": "1"});
        let env = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().expect("variables");
        env.push(json!({"name": "C", "value": "theirs"}));
    })
    .expect("edited");
    let mut value = set("a", "i:1");
    value["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "B", "value": "2"}]);
    let applied = json_of(&sets.patch("a", &params, &Patch::Apply(value)).await.expect("applied"));
    let spec = &applied["spec"]["template"]["spec"];
    let env = json!([{"name": "B", "value": "2"}, {"name": "C", "value": "theirs"}]);
    assert_eq!(spec["containers"][0]["env"], env);
    assert_eq!(spec["containers"][0]["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(spec["securityContext"], json!({}), "emptied, and filled in again");
    assert_eq!(applied["metadata"]["labels"], json!({"theirs": "1"}));
}

#[tokio::test]
async fn the_status_is_applied_by_itself() {
    let (_sim, client) = cluster().await;
    let sandboxes = sandboxes(&client);
    let base = json!({"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "metadata": {"name": "a"}});
    let mut spec = base.clone();
    spec["spec"] = json!({"operatingMode": "Suspended", "podTemplate": {"spec": {"containers": []}}});
    spec["status"] = json!({"service": "ignored"});
    let params = PatchParams::apply("mi");
    let made = sandboxes.patch("a", &params, &Patch::Apply(spec)).await.expect("applied");
    assert_eq!(made.data["status"]["service"], Value::Null);
    let mut status = base;
    status["status"] = json!({"service": "x"});
    let applied = sandboxes.patch_status("a", &params, &Patch::Apply(status)).await.expect("applied");
    assert_eq!(
        (&applied.data["status"]["service"], &applied.data["spec"]["operatingMode"]),
        (&json!("x"), &json!("Suspended"))
    );
    let entries = applied.metadata.managed_fields.expect("managers");
    let own: Vec<_> = entries.iter().filter(|entry| entry.manager.as_deref() == Some("mi")).collect();
    let subresources: Vec<_> = own.iter().map(|entry| entry.subresource.as_deref()).collect();
    assert!(subresources.contains(&None) && subresources.contains(&Some("status")), "{subresources:?}");
}

#[tokio::test]
async fn an_apply_that_makes_no_sense_is_refused() {
    let (_sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let nobody = maps.patch("a", &PatchParams::default(), &Patch::Apply(config("a", "1"))).await;
    // The client itself asks for a manager when it applies.
    assert!(nobody.is_err());
    let mut managed = config("a", "1");
    managed["metadata"]["managedFields"] = json!([]);
    let (code, _, message) = refusal(apply(&maps, "mi", managed).await);
    assert_eq!((code, message.as_str()), (400, "metadata.managedFields must be nil"));
    let mut unknown = config("a", "1");
    unknown["metadata"]["uid"] = "0b9d5c1e-0000-0000-0000-000000000000".into();
    assert_eq!(refusal(apply(&maps, "mi", unknown).await).0, 409);
    create(&maps, config("a", "1")).await;
    let mut stale = config("a", "2");
    stale["metadata"]["resourceVersion"] = "1".into();
    assert_eq!(refusal(apply(&maps, "mi", stale).await).0, 409);
}
