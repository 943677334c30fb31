//! Lists: selectors, pages, versions.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{GetParams, ListParams, VersionMatch},
};
use mi_kubesim::{Fault, Matching, Sim};
use serde_json::json;

use crate::{api, cluster, config, refusal, status};

fn fill(sim: &Sim, count: usize) {
    for number in 0..count {
        let mut map = config(&format!("m{number}"), "1");
        map["metadata"]["labels"] = json!({"parity": if number % 2 == 0 { "even" } else { "odd" }, "own": "yes"});
        sim.create("configmaps", "office", map).expect("created");
    }
}

async fn names(api: &Api<ConfigMap>, params: &ListParams) -> Vec<String> {
    api.list(params).await.expect("a list").items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let (sim, client) = cluster().await;
    fill(&sim, 4);
    let maps = api::<ConfigMap>(&client);
    let labelled = |selector: &str| ListParams::default().labels(selector);
    assert_eq!(names(&maps, &labelled("parity=odd")).await, ["m1", "m3"]);
    assert_eq!(names(&maps, &labelled("own,parity notin (odd)")).await, ["m0", "m2"]);
    assert_eq!(names(&maps, &labelled("!own")).await, ["kube-root-ca.crt"]);
    assert_eq!(names(&maps, &ListParams::default().fields("metadata.name=m2")).await, ["m2"]);
    let everywhere = Api::<ConfigMap>::all(client.clone());
    let fields = ListParams::default().labels("own").fields("metadata.namespace!=office");
    assert_eq!(names(&everywhere, &fields).await, Vec::<String>::new());
    let unknown = maps.list(&ListParams::default().fields("data.key=1")).await;
    let message = "field label not supported: data.key".to_owned();
    assert_eq!(refusal(unknown), (400, "BadRequest".to_owned(), message));
    let phase = ListParams::default().fields("status.phase=Active");
    let active = Api::<Namespace>::all(client).list(&phase).await.expect("a list");
    let active: Vec<String> = active.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(active, ["default", "kube-node-lease", "kube-public", "kube-system", "office"]);
}

/// Reads all pages of two, doing something after the first.
async fn pages(sim: &Sim, client: &Client, after_first: impl FnOnce(&Sim)) -> Result<Vec<String>, kube::Error> {
    let maps = api::<ConfigMap>(client);
    let mut params = ListParams::default().limit(2).labels("own");
    let mut found = Vec::new();
    let mut after_first = Some(after_first);
    loop {
        let page = maps.list(&params).await?;
        found.extend(page.items.iter().map(ResourceExt::name_any));
        if let Some(after_first) = after_first.take() {
            after_first(sim);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

#[tokio::test]
async fn pages_show_one_moment() {
    let (sim, client) = cluster().await;
    fill(&sim, 5);
    let other = json!({"metadata": {"name": "m9", "labels": {"own": "yes"}}});
    sim.create("secrets", "office", other).expect("created");
    let found = pages(&sim, &client, |sim| {
        sim.delete("secrets", "office", "m9").expect("deleted");
        sim.delete("configmaps", "office", "m4").expect("deleted");
        let mut late = config("m2b", "1");
        late["metadata"]["labels"] = json!({"own": "yes"});
        sim.create("configmaps", "office", late).expect("created");
    });
    assert_eq!(found.await.expect("pages"), ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn a_page_whose_moment_is_forgotten_is_gone() {
    let (sim, client) = cluster().await;
    fill(&sim, 5);
    let found = pages(&sim, &client, |sim| {
        sim.create("configmaps", "office", config("late", "1")).expect("created");
        sim.compact();
    });
    let status = status(found.await);
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    // It says how to go on with less: from the same place, as things are now.
    let token = status.metadata.and_then(|metadata| metadata.continue_).expect("a token");
    let params = ListParams::default().labels("own").continue_token(&token);
    assert_eq!(names(&api(&client), &params).await, ["m2", "m3", "m4"]);

    sim.fault_times(1, Matching::all().resource("configmaps"), Fault::LosePage);
    assert_eq!(refusal(pages(&sim, &client, |_| {}).await).0, 410);
    assert_eq!(pages(&sim, &client, |_| {}).await.expect("pages").len(), 5);
}

#[tokio::test]
async fn lists_say_how_many_are_left() {
    let (sim, client) = cluster().await;
    fill(&sim, 5);
    let maps = api::<ConfigMap>(&client);
    let left = async |params: ListParams| maps.list(&params).await.expect("a list").metadata.remaining_item_count;
    assert_eq!(left(ListParams::default().limit(2)).await, Some(4));
    assert_eq!(left(ListParams::default().limit(2).labels("own")).await, None, "nobody counts behind a selector");
    // Of any version there are no pages. The client knows that, and does not ask for both.
    let address = "/api/v1/namespaces/office/configmaps?limit=2&resourceVersion=0";
    let request = http::Request::get(address).body(Vec::new()).expect("a request");
    let list: serde_json::Value = client.request(request).await.expect("a list");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(6));
}

#[tokio::test]
async fn a_list_can_be_of_a_version() {
    let (sim, client) = cluster().await;
    fill(&sim, 2);
    let maps = api::<ConfigMap>(&client);
    let version = sim.version().to_string();
    let exact = |version: &str| ListParams::default().labels("own").at(version).matching(VersionMatch::Exact);
    sim.delete("configmaps", "office", "m0").expect("deleted");
    assert_eq!(names(&maps, &exact(&version)).await, ["m0", "m1"]);
    assert_eq!(names(&maps, &ListParams::default().labels("own")).await, ["m1"]);
    sim.compact();
    let (code, reason, _) = refusal(maps.list(&exact(&version)).await);
    assert_eq!((code, reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn a_version_of_the_future_is_too_large() {
    let (sim, client) = cluster().await;
    let newest = sim.version();
    let future = ListParams::default().at("999999").matching(VersionMatch::NotOlderThan);
    let refused = status(api::<ConfigMap>(&client).list(&future).await);
    let message = format!("Timeout: Too large resource version: 999999, current: {newest}");
    assert_eq!((refused.code, refused.reason.as_str(), refused.message.as_str()), (504, "Timeout", message.as_str()));
    let details = refused.details.expect("details");
    assert_eq!(details.retry_after_seconds, 1);
    assert_eq!(details.causes[0].reason, "ResourceVersionTooLarge");
    let get = api::<ConfigMap>(&client).get_with("kube-root-ca.crt", &GetParams::at("999999")).await;
    assert_eq!(refusal(get).0, 504);
}

#[tokio::test]
async fn a_list_of_any_version_may_be_stale() {
    let (sim, client) = cluster().await;
    fill(&sim, 2);
    let maps = api::<ConfigMap>(&client);
    let any = ListParams::default().labels("own").match_any();
    sim.serve_stale_lists();
    let then = sim.version().to_string();
    sim.delete("configmaps", "office", "m0").expect("deleted");
    let list = maps.list(&any).await.expect("a list");
    assert_eq!((list.items.len(), list.metadata.resource_version), (2, Some(then)));
    assert_eq!(names(&maps, &ListParams::default().labels("own")).await, ["m1"], "the newest is the newest");
    sim.serve_fresh_lists();
    assert_eq!(names(&maps, &any).await, ["m1"]);
}

#[tokio::test]
async fn pods_are_selected_by_node_and_phase() {
    let (sim, client) = cluster().await;
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    sim.create("pods", "office", pod("a")).expect("created");
    let is_running = |sim: &Sim| sim.get("pods", "office", "a").filter(crate::is_ready);
    sim.until("it runs", is_running).await;
    sim.conduct(mi_kubesim::Pods::all().name("b"), mi_kubesim::Conduct::Unschedulable("none".to_owned()));
    sim.create("pods", "office", pod("b")).expect("created");
    sim.settled().await;
    let pods = api::<Pod>(&client);
    let of = async |fields: &str| {
        let list = pods.list(&ListParams::default().fields(fields)).await.expect("a list");
        list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(of("spec.nodeName=node-1").await, ["a"]);
    assert_eq!(of("spec.nodeName=").await, ["b"]);
    assert_eq!(of("status.phase!=Running").await, ["b"]);
}
