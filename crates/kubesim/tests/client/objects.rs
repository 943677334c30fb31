//! Creating, reading and changing objects.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Secret, Service},
};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{api, cluster, config, create, json_of, object, refusal, sandboxes, set};

#[tokio::test]
async fn a_new_object_has_what_the_server_gives_it() {
    let (sim, client) = cluster().await;
    let created = json_of(&create(&api::<ConfigMap>(&client), config("a", "1")).await);
    let metadata = &created["metadata"];
    assert_eq!(metadata["uid"].as_str().map(str::len), Some(36));
    assert_eq!(metadata["resourceVersion"], sim.version().to_string());
    assert_eq!(
        metadata["managedFields"],
        json!([{
            "manager": "unknown",
            "operation": "Update",
            "apiVersion": "v1",
            "time": metadata["creationTimestamp"],
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:key": {}}},
        }])
    );
    assert_eq!(created["data"], json!({"key": "1"}));
    assert_eq!(metadata.get("generation"), None, "nobody counts changes of a map");
    assert_eq!(sim.get("configmaps", "office", "a").expect("it is kept")["metadata"], *metadata);
}

#[tokio::test]
async fn names_are_generated_and_unique() {
    let (_sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let made = create(&maps, json!({"metadata": {"generateName": "map-"}})).await;
        let name = made.metadata.name.expect("a name");
        assert!(name.len() == 9 && name.starts_with("map-") && !seen.contains(&name), "{name}");
        seen.push(name);
    }
    create(&maps, config("a", "1")).await;
    let again = maps.create(&PostParams::default(), &object(config("a", "2"))).await;
    let message = "configmaps \"a\" already exists".to_owned();
    assert_eq!(refusal(again), (409, "AlreadyExists".to_owned(), message));
}

#[tokio::test]
async fn an_update_needs_the_newest_version() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let old = create(&maps, config("a", "1")).await;
    let mut new = old.clone();
    new.data.get_or_insert_default().insert("key".to_owned(), "2".to_owned());
    let newer = maps.replace("a", &PostParams::default(), &new).await.expect("the newest version");
    assert_ne!(newer.metadata.resource_version, old.metadata.resource_version);
    let message = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
        changes to the latest version and try again";
    let stale = maps.replace("a", &PostParams::default(), &new).await;
    assert_eq!(refusal(stale), (409, "Conflict".to_owned(), message.to_owned()));
    // What changes nothing makes no version.
    let version = sim.version();
    let same = maps.replace("a", &PostParams::default(), &newer).await.expect("nothing to do");
    assert_eq!((same, sim.version()), (newer, version));
}

#[tokio::test]
async fn the_generation_counts_changes_of_what_is_desired() {
    let (_sim, client) = cluster().await;
    let sandboxes = sandboxes(&client);
    let value = json!({
        "apiVersion": "agents.x-k8s.io/v1beta1",
        "kind": "Sandbox",
        "metadata": {"name": "a"},
        "spec": {"podTemplate": {"spec": {"containers": [{"name": "agent", "image": "i:1"}]}}},
    });
    let generation = |object: &DynamicObject| object.metadata.generation;
    let made: DynamicObject = create(&sandboxes, value).await;
    assert_eq!(generation(&made), Some(1));
    let params = PatchParams::default();
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = sandboxes.patch("a", &params, &Patch::Merge(labelled)).await.expect("patched");
    assert_eq!(generation(&patched), Some(1), "labels are not desired state");
    let status = json!({"status": {"service": "x"}, "spec": {"operatingMode": "Suspended"}});
    let patched = sandboxes.patch_status("a", &params, &Patch::Merge(status)).await.expect("patched");
    assert_eq!((generation(&patched), &patched.data["spec"]["operatingMode"]), (Some(1), &json!("Running")));
    assert_eq!(patched.data["status"]["service"], "x");
    let suspended = json!({"spec": {"operatingMode": "Suspended"}, "status": {"service": "y"}});
    let patched = sandboxes.patch("a", &params, &Patch::Merge(suspended)).await.expect("patched");
    assert_eq!((generation(&patched), &patched.data["status"]["service"]), (Some(2), &json!("x")));
}

#[tokio::test]
async fn patches_of_every_kind_change_an_object() {
    let (_sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, set("a", "i:1")).await;
    let params = PatchParams::default();
    let containers = |set: StatefulSet| json_of(&set)["spec"]["template"]["spec"]["containers"].clone();

    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s:1"}]}}}});
    let merged = sets.patch("a", &params, &Patch::Strategic(strategic)).await.expect("patched");
    let images = |set: StatefulSet| -> Vec<(Value, Value)> {
        let all = containers(set);
        all.as_array().expect("a list").iter().map(|one| (one["name"].clone(), one["image"].clone())).collect()
    };
    assert_eq!(images(merged), [(json!("agent"), json!("i:1")), (json!("side"), json!("s:1"))]);

    let patch = serde_json::from_value(json!([
        {"op": "test", "path": "/spec/template/spec/containers/1/name", "value": "side"},
        {"op": "remove", "path": "/spec/template/spec/containers/1"},
    ]));
    let patched = sets.patch("a", &params, &Patch::Json::<()>(patch.expect("a patch"))).await.expect("patched");
    assert_eq!(images(patched), [(json!("agent"), json!("i:1"))]);

    let merge = json!({"spec": {"template": {"spec": {"containers": [{"name": "new", "image": "n:1"}]}}}});
    let patched = sets.patch("a", &params, &Patch::Merge(merge)).await.expect("patched");
    assert_eq!(images(patched), [(json!("new"), json!("n:1"))], "a merge patch replaces lists");

    let test = serde_json::from_value(json!([{"op": "test", "path": "/spec/replicas", "value": 7}])).expect("a patch");
    let failed = sets.patch("a", &params, &Patch::Json::<()>(test)).await;
    assert_eq!(refusal(failed).0, 422);
}

#[tokio::test]
async fn a_scale_is_read_and_written_by_its_subresource() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    create(&sets, set("a", "i:1")).await;
    let scale = sets.get_scale("a").await.expect("a scale");
    assert_eq!(scale.spec.as_ref().and_then(|spec| spec.replicas), Some(1));
    let params = PatchParams::default();
    let scaled = sets.patch_scale("a", &params, &Patch::Merge(json!({"spec": {"replicas": 3}}))).await.expect("scaled");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(3));
    let ready = |sim: &mi_kubesim::Sim| {
        let set = sim.get("statefulsets", "office", "a")?;
        (set["status"]["readyReplicas"] == 3).then_some(set)
    };
    let set = sim.until("three are ready", ready).await;
    assert_eq!(set["metadata"]["generation"], 2);
    let stale = sets.replace_scale("a", &PostParams::default(), &scale).await;
    assert_eq!(refusal(stale).0, 409, "it was read before");
    assert_eq!(sets.get_scale("a").await.expect("a scale").status.map(|status| status.replicas), Some(3));
}

#[tokio::test]
async fn a_dry_run_answers_and_keeps_nothing() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let version = sim.version();
    let made = maps.create(&dry, &object(config("a", "1"))).await.expect("it would be made");
    assert_eq!(made.data.and_then(|data| data.get("key").cloned()).as_deref(), Some("1"));
    let params = PatchParams { dry_run: true, ..PatchParams::apply("me") };
    maps.patch("a", &params, &Patch::Apply(config("a", "1"))).await.expect("it would be applied");
    assert_eq!((sim.get("configmaps", "office", "a"), sim.version()), (None, version));
}

#[tokio::test]
async fn the_server_fills_in_what_was_left_out() {
    let (_sim, client) = cluster().await;
    let secret = json!({"metadata": {"name": "a"}, "stringData": {"token": "geheim"}});
    let secret = json_of(&create(&api::<Secret>(&client), secret).await);
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"token": "Z2VoZWlt"}), &json!("Opaque")));
    assert_eq!(secret.get("stringData"), None);
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    let service = json_of(&create(&api::<Service>(&client), service).await);
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let mut value = set("a", "registry:5000/i");
    let limits = json!({"cpu": "0.5", "memory": "1024Mi"});
    value["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": limits});
    let set = json_of(&create(&api::<StatefulSet>(&client), value).await);
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"], json!({"cpu": "500m", "memory": "1Gi"}));
    assert_eq!(container["imagePullPolicy"], "Always", "it has no tag");
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    assert_eq!(set["spec"]["persistentVolumeClaimRetentionPolicy"], retention);
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let (_sim, client) = cluster().await;
    let maps: Api<ConfigMap> = api(&client);
    create(&maps, config("a", "1")).await;
    let found = json_of(&maps.get_metadata("a").await.expect("metadata"));
    assert_eq!((&found["kind"], found.get("data")), (&json!("PartialObjectMetadata"), None));
    assert_eq!(found["metadata"]["name"], "a");
    let list = maps.list_metadata(&Default::default()).await.expect("a list");
    let names: Vec<_> = list.items.into_iter().filter_map(|item| item.metadata.name).collect();
    assert_eq!(names, ["a", "kube-root-ca.crt"]);
}
