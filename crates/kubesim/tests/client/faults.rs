//! Faults on demand, and what is remembered of requests.

use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use mi_kubesim::{Fault, Matching};
use serde_json::json;

use crate::{api, cluster, config, create, object, refusal, status};

fn maps() -> Matching {
    Matching::all().resource("configmaps")
}

#[tokio::test]
async fn the_next_requests_fail_and_then_no_more() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    let params = PostParams::default();
    sim.fault_times(2, maps().verb("create"), Fault::Status(500));
    for _ in 0..2 {
        let refused = maps_api.create(&params, &object(config("a", "1"))).await;
        let (code, reason, _) = refusal(refused);
        assert_eq!((code, reason.as_str()), (500, "InternalError"));
    }
    sim.fault_times(1, maps().verb("list"), Fault::Status(410));
    let (code, reason, _) = refusal(maps_api.list(&ListParams::default()).await);
    assert_eq!((code, reason.as_str()), (410, "Expired"));
    assert_eq!(sim.get("configmaps", "office", "a"), None);
    create(&maps_api, config("a", "1")).await;
    create(&api::<Secret>(&client), json!({"metadata": {"name": "a"}})).await;
}

#[tokio::test]
async fn of_several_faults_a_request_meets_the_first() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    sim.fault_times(1, maps(), Fault::Status(500));
    sim.fault_times(1, maps(), Fault::Status(503));
    for expected in [500, 503] {
        assert_eq!(refusal(maps_api.get("kube-root-ca.crt").await).0, expected);
    }
    maps_api.get("kube-root-ca.crt").await.expect("well again");
}

#[tokio::test]
async fn throttling_says_when_to_come_back() {
    let (sim, client) = cluster().await;
    let id = sim.fault(Matching::all().writes(), Fault::Throttle(7));
    let maps = api::<ConfigMap>(&client);
    let refused = status(maps.delete("kube-root-ca.crt", &DeleteParams::default()).await);
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(refused.details.expect("details").retry_after_seconds, 7);
    maps.get("kube-root-ca.crt").await.expect("reading is no write");
    sim.heal(id);
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.expect("deleted");
}

#[tokio::test]
async fn the_client_of_kube_tries_again_by_itself_unless_told_otherwise() {
    let (sim, _) = cluster().await;
    let config = kube::Config::new(sim.url().parse().expect("a URL"));
    let patient = kube::Client::try_from(config).expect("a client");
    for fault in [Fault::Throttle(0), Fault::Status(503)] {
        sim.forget_requests();
        sim.fault_times(1, maps(), fault);
        api::<ConfigMap>(&patient).get("kube-root-ca.crt").await.expect("the second answer");
        let answers: Vec<u16> = sim.requests().into_iter().map(|request| request.status).collect();
        assert_eq!(answers.len(), 2, "{answers:?}");
    }
}

#[tokio::test]
async fn rbac_can_be_taken_away() {
    let (sim, client) = cluster().await;
    sim.fault(Matching::all().resource("secrets").verb("list").namespace("office"), Fault::Forbid);
    let secrets = api::<Secret>(&client);
    let message = "secrets is forbidden: User \"system:serviceaccount:mi:mi\" cannot list resource \"secrets\" in API group \
        \"\" in the namespace \"office\"";
    let refused = secrets.list(&ListParams::default()).await;
    assert_eq!(refusal(refused), (403, "Forbidden".to_owned(), message.to_owned()));
    create(&secrets, json!({"metadata": {"name": "a"}})).await;
    sim.heal_all();
    assert_eq!(secrets.list(&ListParams::default()).await.expect("a list").items.len(), 1);
}

#[tokio::test]
async fn an_answer_may_be_lost_before_or_after_the_deed() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    let params = PostParams::default();
    for (name, fault, done) in [("a", Fault::Disconnect, false), ("b", Fault::LoseAnswer, true)] {
        sim.fault_times(1, maps(), fault);
        let lost = maps_api.create(&params, &object(config(name, "1"))).await;
        assert!(!matches!(lost, Ok(_) | Err(kube::Error::Api(_))), "{lost:?}");
        assert_eq!(sim.get("configmaps", "office", name).is_some(), done, "{name}");
    }
}

#[tokio::test]
async fn latency_and_silence_take_time() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    let pause = Duration::from_millis(80);
    sim.fault_times(1, maps(), Fault::Latency(pause));
    let start = Instant::now();
    maps_api.get("kube-root-ca.crt").await.expect("late");
    assert!(start.elapsed() >= pause);
    sim.fault_times(1, maps(), Fault::Hang);
    let silent = tokio::time::timeout(pause, maps_api.get("kube-root-ca.crt")).await;
    assert!(silent.is_err());
    maps_api.get("kube-root-ca.crt").await.expect("well again");
}

#[tokio::test]
async fn a_server_that_is_gone_answers_nobody_and_its_cluster_goes_on() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    let version = sim.version().to_string();
    let mut watch = std::pin::pin!(maps_api.watch(&WatchParams::default(), &version).await.expect("a watch"));
    let id = sim.go_down();
    assert!(matches!(watch.next().await, None | Some(Err(_))));
    assert!(!matches!(maps_api.get("kube-root-ca.crt").await, Ok(_) | Err(kube::Error::Api(_))));
    sim.create("statefulsets", "office", crate::set("s", "i:1")).expect("created by hand");
    sim.until("it runs all the same", |sim| sim.get("pods", "office", "s-0").filter(crate::is_ready)).await;
    sim.heal(id);
    maps_api.get("kube-root-ca.crt").await.expect("it is back");
}

#[tokio::test]
async fn webhooks_refuse_what_is_written_in_any_way() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    create(&maps_api, config("a", "1")).await;
    let id = sim.refuse(maps().name("a"), "policy.example.com", "hands off");
    let message = "admission webhook \"policy.example.com\" denied the request: hands off".to_owned();
    let applied = maps_api.patch("a", &PatchParams::apply("mi").force(), &Patch::Apply(config("a", "2"))).await;
    assert_eq!(refusal(applied), (403, "Forbidden".to_owned(), message));
    assert_eq!(refusal(maps_api.delete("a", &DeleteParams::default()).await).0, 403);
    create(&maps_api, config("b", "1")).await;
    sim.heal(id);
    maps_api.delete("a", &DeleteParams::default()).await.expect("deleted");
}

#[tokio::test]
async fn requests_are_remembered_as_rbac_sees_them() {
    let (sim, client) = cluster().await;
    let maps_api = api::<ConfigMap>(&client);
    sim.forget_requests();
    maps_api.patch("a", &PatchParams::apply("mi"), &Patch::Apply(config("a", "1"))).await.expect("applied");
    maps_api.get_opt("none").await.expect("nothing");
    maps_api.list(&ListParams::default()).await.expect("a list");
    let sets = api::<k8s_openapi::api::apps::v1::StatefulSet>(&client);
    sets.create(&PostParams::default(), &object(crate::set("s", "i:1"))).await.expect("created");
    sets.get_scale("s").await.expect("a scale");
    let seen: Vec<_> = sim
        .requests()
        .into_iter()
        .map(|request| {
            (request.verb.clone(), request.group.clone(), request.rbac_resource(), request.name, request.status)
        })
        .collect();
    let row = |verb: &str, group: &str, resource: &str, name: &str, status| {
        (verb.to_owned(), group.to_owned(), resource.to_owned(), name.to_owned(), status)
    };
    assert_eq!(
        seen,
        [
            row("patch", "", "configmaps", "a", 201),
            row("get", "", "configmaps", "none", 404),
            row("list", "", "configmaps", "", 200),
            row("create", "apps", "statefulsets", "", 201),
            row("get", "apps", "statefulsets/scale", "s", 200),
        ]
    );
    let applied = sim.requests_of(&maps().verb("patch")).remove(0);
    assert_eq!((applied.field_manager.as_str(), applied.namespace.as_str()), ("mi", "office"));
    assert_eq!(applied.content_type, "application/apply-patch+yaml");
    assert_eq!(sim.requests_of(&Matching::all().writes()).len(), 2);
}
