//! What the server says about itself.

use kube::{
    Client, Config, Discovery, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind, verbs},
};
use serde_json::Value;

use crate::{cluster, refusal};

#[tokio::test]
async fn discovery_finds_every_kind() {
    let (_sim, client) = cluster().await;
    let version = client.apiserver_version().await.expect("a version");
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "36"));
    let discovery = Discovery::new(client.clone()).run().await.expect("discovered");
    let mut groups: Vec<String> = discovery.groups().map(|group| group.name().to_owned()).collect();
    groups.sort();
    assert_eq!(
        groups,
        [
            "",
            "agents.x-k8s.io",
            "apps",
            "batch",
            "coordination.k8s.io",
            "networking.k8s.io",
            "policy",
            "rbac.authorization.k8s.io",
            "storage.k8s.io",
        ]
    );
    let kind = GroupVersionKind::gvk("apps", "v1", "StatefulSet");
    let (resource, capabilities) = discovery.resolve_gvk(&kind).expect("a kind");
    assert_eq!((resource.plural.as_str(), capabilities.scope), ("statefulsets", Scope::Namespaced));
    let subresources: Vec<String> = capabilities.subresources.into_iter().map(|(sub, _)| sub.plural).collect();
    assert_eq!(subresources, ["status", "scale"]);
}

#[tokio::test]
async fn a_kubeconfig_leads_there() {
    let (sim, _client) = cluster().await;
    let config = Kubeconfig::from_yaml(&sim.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    let client = Client::try_from(config).expect("a client");
    client.apiserver_version().await.expect("a version");
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_not_found() {
    let (_sim, client) = cluster().await;
    let kind = |kind: &str| GroupVersionKind::gvk("agents.x-k8s.io", "v1beta1", kind);
    let (resource, capabilities) = pinned_kind(&client, &kind("Sandbox")).await.expect("a kind");
    assert!(resource.plural == "sandboxes" && capabilities.supports_operation(verbs::WATCH));
    assert!(pinned_kind(&client, &kind("SandboxClaim")).await.is_err());
    let other = GroupVersionKind::gvk("widgets.example.com", "v1", "Widget");
    assert_eq!(refusal(pinned_kind(&client, &other).await.map(drop)).0, 404);
}

#[tokio::test]
async fn dynamic_objects_can_be_used_by_what_was_discovered() {
    let (_sim, client) = cluster().await;
    let kind = GroupVersionKind::gvk("storage.k8s.io", "v1", "StorageClass");
    let (resource, _) = pinned_kind(&client, &kind).await.expect("a kind");
    let classes = kube::Api::<kube::api::DynamicObject>::all_with(client.clone(), &resource);
    let list = classes.list(&Default::default()).await.expect("a list");
    let names: Vec<String> = list.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["standard"]);
    let request = http::Request::get("/nothing").body(Vec::new()).expect("a request");
    assert_eq!(refusal(client.request::<Value>(request).await).0, 404);
}
