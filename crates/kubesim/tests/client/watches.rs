//! Watches, raw and through the `watcher` of `kube`.

use std::{pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{WatchEvent, WatchParams},
    runtime::watcher::{self, Event, watcher},
};
use mi_kubesim::{Fault, Matching, Setup, Sim};
use serde_json::json;
use tokio::time::timeout;

use crate::{api, cluster, cluster_with, config};

/// For broken code, not for slow machines.
const LIMIT: Duration = Duration::from_secs(60);

fn maps() -> Matching {
    Matching::all().resource("configmaps")
}

fn put(sim: &Sim, name: &str, label: &str) {
    let mut map = config(name, "1");
    map["metadata"]["labels"] = json!({"own": label});
    sim.create("configmaps", "office", map).expect("created");
}

/// The next event as a word and a name.
async fn next<E: std::fmt::Debug>(
    stream: &mut (impl Stream<Item = Result<WatchEvent<ConfigMap>, E>> + Unpin),
) -> Option<String> {
    let event = timeout(LIMIT, stream.next()).await.expect("an event")?;
    Some(match event.expect("no error") {
        WatchEvent::Added(map) => format!("added {}", map.name_any()),
        WatchEvent::Modified(map) => format!("modified {}", map.name_any()),
        WatchEvent::Deleted(map) => format!("deleted {}", map.name_any()),
        WatchEvent::Bookmark(mark) => format!("bookmark {}", mark.metadata.resource_version),
        WatchEvent::Error(status) => format!("error {} {}: {}", status.code, status.reason, status.message),
    })
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_a_version() {
    let (sim, client) = cluster().await;
    put(&sim, "before", "yes");
    let version = sim.version().to_string();
    put(&sim, "a", "yes");
    sim.edit("configmaps", "office", "a", |map| map["data"]["key"] = "2".into()).expect("edited");
    sim.create("configmaps", "default", config("elsewhere", "1")).expect("created");
    sim.delete("configmaps", "office", "before").expect("deleted");
    let maps = api::<ConfigMap>(&client);
    let mut events = pin!(maps.watch(&WatchParams::default(), &version).await.expect("a watch").boxed());
    for expected in ["added a", "modified a", "deleted before"] {
        assert_eq!(next(&mut events).await.as_deref(), Some(expected));
    }
    put(&sim, "late", "yes");
    assert_eq!(next(&mut events).await.as_deref(), Some("added late"));
}

#[tokio::test]
async fn an_object_that_leaves_a_selection_is_deleted_to_its_watch() {
    let (sim, client) = cluster().await;
    let version = sim.version().to_string();
    let params = WatchParams::default().labels("own=yes");
    let maps = api::<ConfigMap>(&client);
    let mut events = pin!(maps.watch(&params, &version).await.expect("a watch").boxed());
    put(&sim, "a", "no");
    for (label, expected) in [("yes", "added a"), ("yes", "modified a"), ("no", "deleted a")] {
        let now = sim.version().to_string();
        let edit = |map: &mut serde_json::Value| {
            map["metadata"]["labels"]["own"] = label.into();
            map["data"]["at"] = now.into();
        };
        sim.edit("configmaps", "office", "a", edit).expect("edited");
        assert_eq!(next(&mut events).await.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn bookmarks_tell_how_far_a_watch_has_come() {
    let setup = Setup { bookmarks: Duration::from_millis(20), ..Setup::default() };
    let (sim, client) = cluster_with(setup).await;
    let version = sim.version().to_string();
    let maps = api::<ConfigMap>(&client);
    let mut events = pin!(maps.watch(&WatchParams::default(), &version).await.expect("a watch").boxed());
    sim.create("secrets", "office", json!({"metadata": {"name": "a"}})).expect("created");
    let newest = format!("bookmark {}", sim.version());
    while next(&mut events).await.as_deref() != Some(&newest) {}
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_up() {
    let (sim, client) = cluster().await;
    let version = sim.version().to_string();
    let params = WatchParams::default().timeout(1);
    let maps = api::<ConfigMap>(&client);
    let mut events = pin!(maps.watch(&params, &version).await.expect("a watch").boxed());
    assert_eq!(next(&mut events).await, Some(format!("bookmark {version}")), "its last word");
    assert_eq!(next(&mut events).await, None);
    let open = |sim: &Sim| sim.open_watches(&maps_of_office());
    while open(&sim) > 0 {
        tokio::task::yield_now().await;
    }
}

fn maps_of_office() -> Matching {
    maps().namespace("office")
}

#[tokio::test]
async fn a_forgotten_version_is_gone() {
    let (sim, client) = cluster().await;
    let version = sim.version();
    put(&sim, "a", "yes");
    sim.compact();
    let newest = sim.version();
    let maps = api::<ConfigMap>(&client);
    let mut events = pin!(maps.watch(&WatchParams::default(), &version.to_string()).await.expect("a watch").boxed());
    let expected = format!("error 410 Expired: too old resource version: {version} ({newest})");
    assert_eq!(next(&mut events).await, Some(expected));
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn a_short_history_forgets_by_itself() {
    let (sim, client) = cluster_with(Setup { kept_changes: 3, ..Setup::default() }).await;
    let version = sim.version().to_string();
    (0..5).for_each(|number| put(&sim, &format!("m{number}"), "yes"));
    let maps = api::<ConfigMap>(&client);
    let mut events = pin!(maps.watch(&WatchParams::default(), &version).await.expect("a watch").boxed());
    assert!(next(&mut events).await.expect("an event").starts_with("error 410"));
}

/// The next event of a watcher; errors are shown, since it goes on after them.
async fn told(stream: &mut (impl Stream<Item = watcher::Result<Event<ConfigMap>>> + Unpin)) -> String {
    match timeout(LIMIT, stream.next()).await.expect("an event").expect("it does not end") {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitApply(map)) => format!("there {}", map.name_any()),
        Ok(Event::InitDone) => "done".to_owned(),
        Ok(Event::Apply(map)) => format!("applied {}", map.name_any()),
        Ok(Event::Delete(map)) => format!("deleted {}", map.name_any()),
        Err(error) => format!("error {error}"),
    }
}

async fn expect(stream: &mut (impl Stream<Item = watcher::Result<Event<ConfigMap>>> + Unpin), expected: &[&str]) {
    for expected in expected {
        assert_eq!(told(stream).await, *expected);
    }
}

fn own() -> watcher::Config {
    watcher::Config::default().labels("own=yes").page_size(2)
}

#[tokio::test]
async fn a_watcher_lists_in_pages_and_goes_on() {
    let (sim, client) = cluster().await;
    (0..3).for_each(|number| put(&sim, &format!("m{number}"), "yes"));
    sim.forget_requests();
    let mut stream = pin!(watcher(api::<ConfigMap>(&client), own()));
    expect(&mut stream, &["init", "there m0", "there m1", "there m2", "done"]).await;
    put(&sim, "m3", "yes");
    sim.delete("configmaps", "office", "m0").expect("deleted");
    expect(&mut stream, &["applied m3", "deleted m0"]).await;
    let verbs: Vec<String> = sim.requests().into_iter().map(|request| request.verb).collect();
    assert_eq!(verbs, ["list", "list", "watch"]);
}

#[tokio::test]
async fn a_watcher_lists_anew_after_410() {
    let (sim, client) = cluster().await;
    put(&sim, "a", "yes");
    let mut stream = pin!(watcher(api::<ConfigMap>(&client), own()));
    expect(&mut stream, &["init", "there a", "done"]).await;
    // The watch opens with the next look at the stream.
    put(&sim, "b", "yes");
    expect(&mut stream, &["applied b"]).await;
    assert_eq!(sim.expire_watches(&maps()), 1);
    assert!(told(&mut stream).await.contains("too old resource version"), "410");
    put(&sim, "c", "yes");
    expect(&mut stream, &["init", "there a", "there b", "there c", "done"]).await;
}

#[tokio::test]
async fn a_watcher_goes_on_after_a_broken_connection_without_a_list() {
    let (sim, client) = cluster().await;
    put(&sim, "a", "yes");
    let mut stream = pin!(watcher(api::<ConfigMap>(&client), own()));
    expect(&mut stream, &["init", "there a", "done"]).await;
    put(&sim, "b", "yes");
    expect(&mut stream, &["applied b"]).await;
    sim.forget_requests();
    assert_eq!(sim.break_watches(&maps()), 1);
    put(&sim, "c", "yes");
    let mut words = Vec::new();
    while words.last().is_none_or(|word| word != "applied c") {
        words.push(told(&mut stream).await);
    }
    assert!(words.iter().all(|word| word.starts_with("error") || word == "applied c"), "{words:?}");
    assert_eq!(sim.requests_of(&maps().verb("list")), []);
    assert_eq!(sim.requests_of(&maps().verb("watch")).len(), 1);
}

#[tokio::test]
async fn a_watch_may_break_after_so_many_events_or_stay_silent() {
    let (sim, client) = cluster().await;
    let version = sim.version().to_string();
    ["a", "b"].into_iter().for_each(|name| put(&sim, name, "yes"));
    let api: Api<ConfigMap> = api(&client);
    sim.fault_times(1, maps(), Fault::BreakWatch(1));
    let mut events = pin!(api.watch(&WatchParams::default(), &version).await.expect("a watch").boxed());
    assert_eq!(next(&mut events).await.as_deref(), Some("added a"));
    let broken = timeout(LIMIT, events.next()).await.expect("it is broken");
    assert!(matches!(broken, None | Some(Err(_))), "{broken:?}");

    sim.fault_times(1, maps(), Fault::HangWatch);
    let mut silent = pin!(api.watch(&WatchParams::default().timeout(1), &version).await.expect("a watch").boxed());
    let short = Duration::from_millis(1500);
    assert!(timeout(short, silent.next()).await.is_err(), "not even its end is told");
    assert_eq!(sim.open_watches(&maps()), 1);
    assert_eq!(sim.break_watches(&maps()), 1);
    assert!(matches!(timeout(LIMIT, silent.next()).await.expect("it is broken"), None | Some(Err(_))));
}

#[tokio::test]
async fn a_watch_can_begin_with_what_is_there() {
    let (sim, client) = cluster().await;
    put(&sim, "a", "yes");
    let mut stream = pin!(watcher(api::<ConfigMap>(&client), own().streaming_lists()));
    expect(&mut stream, &["init", "there a", "done"]).await;
    put(&sim, "b", "yes");
    expect(&mut stream, &["applied b"]).await;
    assert_eq!(sim.requests_of(&maps().verb("list")), []);
}
