//! Namespaces: what is in them goes with them, and what they say about pods holds.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use mi_kubesim::Sim;
use serde_json::{Value, json};

use crate::{api, cluster, condition, config, create, is_ready, names, object, refusal, set};

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let (sim, client) = cluster().await;
    sim.create("statefulsets", "office", set("a", "i:1")).expect("created");
    sim.until("it runs", |sim| sim.get("pods", "office", "a-0").filter(is_ready)).await;
    let mut held = config("held", "1");
    held["metadata"]["finalizers"] = json!(["mi.example.com/hold"]);
    sim.create("configmaps", "office", held).expect("created");
    let namespaces = Api::<Namespace>::all(client.clone());
    let going = namespaces.delete("office", &DeleteParams::default()).await.expect("marked");
    let going = going.left().expect("it is there");
    assert_eq!(going.status.and_then(|status| status.phase).as_deref(), Some("Terminating"));

    let secret = json!({"metadata": {"name": "late"}});
    let late = api::<Secret>(&client).create(&PostParams::default(), &object(secret)).await;
    let message = "secrets \"late\" is forbidden: unable to create new content in namespace office because it is being \
        terminated";
    assert_eq!(refusal(late), (403, "Forbidden".to_owned(), message.to_owned()));

    let conditions = |sim: &Sim| {
        let office = sim.get("namespaces", "", "office")?;
        let held = condition(&office, "NamespaceFinalizersRemaining");
        (sim.list("pods", "office").is_empty() && held["status"] == "True").then_some(held)
    };
    let held = sim.until("only what is held is left", conditions).await;
    assert_eq!(held["message"], "Some content in the namespace has finalizers remaining: 1");
    assert_eq!(names(&sim.list("configmaps", "office")), ["held"]);
    let release = |map: &mut Value| map["metadata"]["finalizers"] = json!([]);
    sim.edit("configmaps", "office", "held", release).expect("released");
    sim.settled().await;
    assert_eq!(sim.get("namespaces", "", "office"), None);
    let gone = api::<ConfigMap>(&client).create(&PostParams::default(), &object(config("a", "1"))).await;
    assert_eq!(refusal(gone), (404, "NotFound".to_owned(), "namespaces \"office\" not found".to_owned()));
}

#[tokio::test]
async fn a_namespace_has_an_account_and_some_stay_for_ever() {
    let (sim, client) = cluster().await;
    assert_eq!(names(&sim.list("serviceaccounts", "office")), ["default"]);
    let office = sim.get("namespaces", "", "office").expect("it is there");
    assert_eq!(office["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "office"}));
    let uid = |sim: &Sim| sim.get("serviceaccounts", "office", "default").map(|found| found["metadata"]["uid"].clone());
    let before = uid(&sim);
    sim.delete("serviceaccounts", "office", "default").expect("deleted");
    sim.settled().await;
    assert!(uid(&sim).is_some() && uid(&sim) != before, "it is made anew");
    let refused = Api::<Namespace>::all(client).delete("kube-system", &DeleteParams::default()).await;
    assert_eq!(refusal(refused).0, 403);
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

#[tokio::test]
async fn restricted_namespaces_take_restricted_pods_only() {
    let (sim, client) = cluster().await;
    let edit = |office: &mut Value| {
        office["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted".into();
    };
    sim.edit("namespaces", "", "office", edit).expect("edited");
    let pods = api::<Pod>(&client);
    let refused = pods.create(&PostParams::default(), &object(pod(json!({})))).await;
    let message = "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
        (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
        \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must \
        set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
        securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    assert_eq!(refusal(refused), (403, "Forbidden".to_owned(), message.to_owned()));
    let container = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let spec = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "i:1", "securityContext": container}],
    });
    create(&pods, pod(spec)).await;
    // A set may be made there: its pods are what is refused, which only events tell.
    sim.create("statefulsets", "office", set("loose", "i:1")).expect("created");
    let told = |sim: &Sim| sim.list("events", "office").into_iter().find(|event| event["reason"] == "FailedCreate");
    let event = sim.until("it is told", told).await;
    let text = event["message"].as_str().expect("a message");
    assert!(
        text.starts_with("create Pod loose-0 in StatefulSet loose failed error: pods \"loose-0\" is forbidden"),
        "{text}"
    );
}

#[tokio::test]
async fn a_baseline_keeps_out_what_reaches_for_the_node() {
    let (sim, client) = cluster().await;
    let edit = |office: &mut Value| {
        office["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline".into();
    };
    sim.edit("namespaces", "", "office", edit).expect("edited");
    let pods = api::<Pod>(&client);
    let reaching = json!({
        "hostNetwork": true,
        "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
        "containers": [{"name": "c", "image": "i:1", "securityContext": {"privileged": true}}],
    });
    let refused = pods.create(&PostParams::default(), &object(pod(reaching))).await;
    let message = "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
        (hostNetwork=true), privileged (container \"c\" must not set securityContext.privileged=true), hostPath volumes";
    assert_eq!(refusal(refused), (403, "Forbidden".to_owned(), message.to_owned()));
    create(&pods, pod(json!({}))).await;
}

#[tokio::test]
async fn quotas_and_limits_hold() {
    let (sim, client) = cluster().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "limits.memory": "1Gi"}}});
    sim.create("resourcequotas", "office", quota).expect("created");
    let pods = api::<Pod>(&client);
    let bare = pods.create(&PostParams::default(), &object(pod(json!({})))).await;
    let message = "pods \"a\" is forbidden: failed quota: q: must specify limits.memory for: c".to_owned();
    assert_eq!(refusal(bare), (403, "Forbidden".to_owned(), message));
    let range = json!({
        "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "default": {"memory": "768Mi"}, "max": {"memory": "900Mi"}}]},
    });
    sim.create("limitranges", "office", range).expect("created");
    let made = crate::json_of(&create(&pods, pod(json!({}))).await);
    let memory = json!({"limits": {"memory": "768Mi"}, "requests": {"memory": "768Mi"}});
    assert_eq!(made["spec"]["containers"][0]["resources"], memory);
    let mut second = pod(json!({}));
    second["metadata"]["name"] = "b".into();
    let refused = pods.create(&PostParams::default(), &object(second)).await;
    let message = "pods \"b\" is forbidden: exceeded quota: q, requested: limits.memory=768Mi, used: \
        limits.memory=768Mi, limited: limits.memory=1Gi";
    assert_eq!(refusal(refused), (403, "Forbidden".to_owned(), message.to_owned()));
    sim.settled().await;
    let status = sim.get("resourcequotas", "office", "q").expect("it is there")["status"].clone();
    assert_eq!(status["used"], json!({"pods": "1", "limits.memory": "768Mi"}));
    let mut large =
        pod(json!({"containers": [{"name": "c", "image": "i:1", "resources": {"limits": {"memory": "1Gi"}}}]}));
    large["metadata"]["name"] = "large".into();
    let (code, _, message) = refusal(pods.create(&PostParams::default(), &object(large)).await);
    let expected = "pods \"large\" is forbidden: maximum memory usage per Container is 900Mi, but limit is 1Gi";
    assert_eq!((code, message.as_str()), (403, expected));
}

#[tokio::test]
async fn a_set_goes_on_when_its_quota_grows() {
    let (sim, _client) = cluster().await;
    sim.create("resourcequotas", "office", json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}))
        .expect("created");
    sim.create("statefulsets", "office", set("a", "i:1")).expect("created");
    sim.settled().await;
    assert_eq!(sim.list("pods", "office"), Vec::<Value>::new());
    sim.edit("resourcequotas", "office", "q", |quota| quota["spec"]["hard"]["pods"] = "1".into()).expect("edited");
    sim.until("it runs", |sim| sim.get("pods", "office", "a-0").filter(is_ready)).await;
}
