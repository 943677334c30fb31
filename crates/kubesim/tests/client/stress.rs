//! Many at once, with faults in between.

use std::collections::BTreeMap;

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::ConfigMap};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, reflector, watcher},
};
use mi_kubesim::{Fault, Matching, Setup, Sim};

use crate::{api, cluster, cluster_with, config, create, set};

#[tokio::test]
async fn one_of_many_writers_wins_each_version() {
    let (sim, client) = cluster().await;
    let maps = api::<ConfigMap>(&client);
    create(&maps, config("counter", "0")).await;
    let count = async |maps: &Api<ConfigMap>| {
        let mut conflicts = 0;
        loop {
            let mut map = maps.get("counter").await.expect("it is there");
            let data = map.data.get_or_insert_default();
            let next = data["key"].parse::<u32>().expect("a number") + 1;
            data.insert("key".to_owned(), next.to_string());
            match maps.replace("counter", &PostParams::default(), &map).await {
                Ok(_) => return conflicts,
                Err(kube::Error::Api(status)) if status.code == 409 => conflicts += 1,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let conflicts: usize = join_all((0..20).map(|_| count(&maps))).await.into_iter().sum();
    assert_eq!(sim.get("configmaps", "office", "counter").expect("it is there")["data"]["key"], "20");
    assert!(conflicts > 0, "they were at it together");
}

/// What a store of a reflector holds.
fn held(store: &reflector::Store<ConfigMap>) -> BTreeMap<String, Option<String>> {
    store.state().iter().map(|map| (map.name_any(), map.resource_version())).collect()
}

/// What there is.
fn there(sim: &Sim) -> BTreeMap<String, Option<String>> {
    let version = |map: &serde_json::Value| map["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let name = |map: &serde_json::Value| map["metadata"]["name"].as_str().expect("a name").to_owned();
    sim.list("configmaps", "office").iter().map(|map| (name(map), version(map))).collect()
}

#[tokio::test]
async fn a_reflector_sees_in_the_end_what_there_is_whatever_breaks() {
    // Little is remembered, so that versions are forgotten as well.
    let (sim, client) = cluster_with(Setup { kept_changes: 40, ..Setup::default() }).await;
    let maps = Matching::all().resource("configmaps");
    let (store, writer) = reflector::store();
    let config_of_watch = watcher::Config::default().page_size(5);
    let stream = reflector(writer, watcher(api::<ConfigMap>(&client), config_of_watch)).touched_objects();
    let follow = async {
        let mut stream = std::pin::pin!(stream);
        // Errors are what it recovers from.
        while stream.next().await.is_some() {}
    };
    let disturb = async {
        store.wait_until_ready().await.expect("it lists");
        for round in 0..12 {
            for number in 0..15 {
                let name = format!("m{number}");
                match (round + number) % 3 {
                    0 => drop(sim.create("configmaps", "office", config(&name, "1"))),
                    1 => drop(
                        sim.edit("configmaps", "office", &name, |map| map["data"]["key"] = round.to_string().into()),
                    ),
                    _ => drop(sim.delete("configmaps", "office", &name)),
                }
                tokio::task::yield_now().await;
            }
            match round % 5 {
                0 => drop(sim.break_watches(&maps)),
                1 => drop(sim.expire_watches(&maps)),
                2 => sim.compact(),
                3 => drop(sim.fault_times(1, maps.clone().verb("list"), Fault::LosePage)),
                _ => drop(sim.fault_times(1, maps.clone().verb("watch"), Fault::Disconnect)),
            }
        }
        let same = |sim: &Sim| (held(&store) == there(sim)).then_some(());
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(5));
        while same(&sim).is_none() {
            looks.tick().await;
        }
    };
    let both = async {
        tokio::select! {
            () = follow => unreachable!("a watch goes on"),
            () = disturb => {}
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), both).await.expect("they agree in the end");
}

#[tokio::test]
async fn a_hundred_sets_run_at_once() {
    let (sim, client) = cluster().await;
    let sets = api::<StatefulSet>(&client);
    let apply = async |number: usize| {
        let name = format!("a{number}");
        let patch = Patch::Apply(set(&name, "i:1"));
        sets.patch(&name, &PatchParams::apply("mi"), &patch).await.expect("applied");
    };
    join_all((0..100).map(apply)).await;
    sim.settled().await;
    let ready = sim.list("pods", "office").iter().filter(|pod| crate::is_ready(pod)).count();
    assert_eq!(ready, 100);
    sets.delete_collection(&Default::default(), &Default::default()).await.expect("deleted");
    sim.settled().await;
    assert_eq!(sim.list("pods", "office"), Vec::<serde_json::Value>::new());
}
