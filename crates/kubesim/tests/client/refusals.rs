//! What is refused, and how that is said.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{api, cluster, config, create, object, refusal, set, status};

#[tokio::test]
async fn what_is_missing_is_not_found() {
    let (_sim, client) = cluster().await;
    let missing = status(api::<StatefulSet>(&client).get("a").await);
    assert_eq!(missing.message, "statefulsets.apps \"a\" not found");
    let details = missing.details.expect("details");
    assert_eq!((details.name.as_str(), details.group.as_str(), details.kind.as_str()), ("a", "apps", "statefulsets"));
    let patch = Patch::Merge(json!({}));
    assert_eq!(refusal(api::<Secret>(&client).patch("a", &PatchParams::default(), &patch).await).0, 404);
}

#[tokio::test]
async fn names_are_checked() {
    let (_sim, client) = cluster().await;
    let bad = api::<ConfigMap>(&client).create(&PostParams::default(), &object(config("Bad_Name", "1"))).await;
    let status = status(bad);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let start = "ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 \
        subdomain must consist of";
    assert!(status.message.starts_with(start), "{}", status.message);
    let cause = &status.details.expect("details").causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldValueInvalid", "metadata.name"));
    let namespaces = Api::<Namespace>::all(client);
    let dotted = namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "a.b"}}))).await;
    assert_eq!(refusal(dotted).0, 422, "of a namespace a name is a label");
}

#[tokio::test]
async fn labels_are_checked_on_every_way() {
    let (_sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let labelled = |key: &str, value: &str| {
        let mut map = config("a", "1");
        map["metadata"]["labels"] = json!({key: value});
        map
    };
    create(&maps, config("a", "1")).await;
    for (key, value) in [("ok", "not ok"), ("not ok", "ok"), ("ok", &"x".repeat(64)), ("UPPER.com/x", "ok")] {
        let applied = maps.patch("a", &PatchParams::apply("mi"), &Patch::Apply(labelled(key, value))).await;
        assert_eq!(refusal(applied).0, 422, "{key}={value}");
    }
    let params = PatchParams::default();
    let number = Patch::Json::<()>(
        serde_json::from_value(json!([{"op": "add", "path": "/metadata/labels", "value": {"a": 1}}])).expect("a patch"),
    );
    let message = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go \
        struct field ConfigMap.metadata.labels of type string";
    let refused = refusal(maps.patch("a", &params, &number).await);
    assert_eq!(refused, (400, "BadRequest".to_owned(), message.to_owned()));
}

#[tokio::test]
async fn several_faults_are_told_at_once() {
    let (_sim, client) = cluster().await;
    let mut value = set("a", "");
    value["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    value["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "x", "mountPath": "/x"}]);
    let refused = status(api::<StatefulSet>(&client).create(&PostParams::default(), &object(value)).await);
    let message = "StatefulSet.apps \"a\" is invalid: [spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: \
        `selector` does not match template `labels`, spec.template.spec.containers[0].image: Required value, \
        spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"x\"]";
    assert_eq!(refused.message, message);
    let fields: Vec<_> = refused.details.expect("details").causes.into_iter().map(|cause| cause.field).collect();
    assert_eq!(fields.len(), 3);
}

#[tokio::test]
async fn a_body_that_is_not_for_its_address_is_refused() {
    let (_sim, client) = cluster().await;
    let post = async |path: &str, value: Value| {
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(value.to_string().into_bytes()).expect("a request");
        refusal(client.request::<Value>(request).await)
    };
    let maps = "/api/v1/namespaces/office/configmaps";
    assert_eq!(post(maps, json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})).await.0, 400);
    let mut elsewhere = config("a", "1");
    elsewhere["metadata"]["namespace"] = "default".into();
    let message = "the namespace of the provided object does not match the namespace sent on the request".to_owned();
    assert_eq!(post(maps, elsewhere).await, (400, "BadRequest".to_owned(), message));
    assert_eq!(post(maps, json!("text")).await.0, 400);
    let nameless = post(maps, json!({"metadata": {}})).await;
    assert_eq!(
        nameless.2,
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
    let nowhere = post("/api/v1/namespaces/none/configmaps", config("a", "1")).await;
    assert_eq!(nowhere.2, "namespaces \"none\" not found");
    assert_eq!(post("/apis/apps/v1/namespaces/office/deployments", json!({})).await.0, 404);
    let request = http::Request::post(maps).header("content-type", "application/vnd.kubernetes.protobuf");
    let request = request.body(b"k8s\0".to_vec()).expect("a request");
    assert_eq!(refusal(client.request::<Value>(request).await).0, 415);
}

#[tokio::test]
async fn yaml_is_understood() {
    let (sim, client) = cluster().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  key: \"1\"\n";
    let request = http::Request::patch("/api/v1/namespaces/office/configmaps/a?fieldManager=mi")
        .header("content-type", "application/apply-patch+yaml")
        .body(yaml.as_bytes().to_vec())
        .expect("a request");
    client.request::<ConfigMap>(request).await.expect("applied");
    assert_eq!(sim.get("configmaps", "office", "a").expect("it is there")["data"], json!({"key": "1"}));
}

#[tokio::test]
async fn an_immutable_object_stays() {
    let (_sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    let mut fixed = config("a", "1");
    fixed["immutable"] = true.into();
    create(&maps, fixed).await;
    let patch = Patch::Merge(json!({"data": {"key": "2"}}));
    let (code, _, message) = refusal(maps.patch("a", &PatchParams::default(), &patch).await);
    let expected = "ConfigMap \"a\" is invalid: data: Forbidden: field is immutable when `immutable` is set";
    assert_eq!((code, message.as_str()), (422, expected));
}
