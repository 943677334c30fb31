//! The real `kube` client against the simulated cluster.

mod applying;
mod deleting;
mod discovery;
mod faults;
mod lists;
mod namespaces;
mod objects;
mod pods;
mod refusals;
mod sandboxes;
mod sets;
mod stress;
mod watches;

use std::fmt::Debug;

use kube::{
    Api, Client, Config, Error,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind, NamespaceResourceScope, Status},
};
use mi_kubesim::{Setup, Sim};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// A usual cluster with a namespace `office`, and a client of it.
async fn cluster() -> (Sim, Client) {
    cluster_with(Setup::default()).await
}

async fn cluster_with(setup: Setup) -> (Sim, Client) {
    // Only the first one in a process counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sim = Sim::start_with(setup).await;
    let client = client(&sim);
    sim.create("namespaces", "", json!({"metadata": {"name": "office"}})).expect("a namespace");
    sim.settled().await;
    (sim, client)
}

/// A client that does not try again by itself, so that every refusal is seen.
fn client(sim: &Sim) -> Client {
    let mut config = Config::new(sim.url().parse().expect("a URL"));
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// An object of this type from JSON.
fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

/// JSON of an object.
fn json_of(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("JSON")
}

/// The API of a type in the namespace `office`.
fn api<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), "office")
}

/// The API of sandboxes, which no type is there for.
fn sandboxes(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("agents.x-k8s.io", "v1beta1", "Sandbox");
    let resource = ApiResource::from_gvk_with_plural(&kind, "sandboxes");
    Api::namespaced_with(client.clone(), "office", &resource)
}

async fn create<K>(api: &Api<K>, value: Value) -> K
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &object(value)).await.expect("created")
}

/// The status of a refusal.
fn status<T: Debug>(result: Result<T, Error>) -> Status {
    match result {
        Err(Error::Api(status)) => *status,
        other => panic!("no refusal: {other:?}"),
    }
}

/// Status, reason and message of a refusal.
fn refusal<T: Debug>(result: Result<T, Error>) -> (u16, String, String) {
    let status = status(result);
    (status.code, status.reason, status.message)
}

/// A map with one entry.
fn config(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
}

/// A StatefulSet with one replica of this image.
fn set(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "agent", "image": image}]},
            },
        },
    })
}

/// The names of objects.
fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().expect("a name")).collect()
}

/// A condition of an object, without its times.
fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    if let Some(map) = found.as_object_mut() {
        map.remove("lastTransitionTime");
        map.remove("observedGeneration");
    }
    found
}

/// Whether a pod runs and is ready.
fn is_ready(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && condition(pod, "Ready")["status"] == "True"
}
