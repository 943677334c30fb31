//! Removing an office leaves nothing, and nothing comes back.

use mi_proto::{
    internal::v1::{AppendCapturedLogsRequest, CapturedLogs},
    v1::{TailLogsRequest, WatchActivityRequest},
};
use mi_store::on;
use object_store::{ObjectStoreExt, path::Path};
use tonic::Code;

use super::{logs::Log, *};

on_both! {
    a_removed_office_leaves_nothing_and_nothing_comes_back,
    a_large_office_goes_in_several_calls,
    open_streams_of_a_removed_office_end,
    what_comes_while_an_office_is_removed_does_not_stay,
}

/// Rows of every table but the tombstones.
async fn rows(world: &World) -> Vec<i64> {
    let mut conn = world.parts.db.platform().read().await.expect("connection");
    let mut counts = Vec::new();
    for sql in [
        "SELECT COUNT(*) FROM events",
        "SELECT COUNT(*) FROM feed_blocks",
        "SELECT COUNT(*) FROM feed_agents",
        "SELECT COUNT(*) FROM log_streams",
        "SELECT COUNT(*) FROM log_tail",
        "SELECT COUNT(*) FROM log_segments",
    ] {
        counts.push(on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("counted"));
    }
    counts
}

async fn fill(world: &World, log: &Log) {
    let events: Vec<Event> = (0..5).map(|_| world.event(log.office_id, "analyst", Category::Task)).collect();
    world.append_events(&events).await;
    log.numbers(world, 1..=5).await;
    let Actor::Agent(actor) = &log.agent else { panic!("an agent") };
    assert!(world.parts.logs.compact_one(log.office_id, actor.agent_id).await.expect("compacted"));
    log.numbers(world, 6..=8).await;
}

async fn a_removed_office_leaves_nothing_and_nothing_comes_back(db: TestDb) {
    let world = World::new(db).await;
    let (gone, kept) = (Log::new(&world).await, Log::new(&world).await);
    fill(&world, &gone).await;
    fill(&world, &kept).await;
    // An orphan of a crash goes with the office, too.
    let orphan = Path::from(format!("logs/{}/x/1-2-x.zst", gone.office_id));
    world.config.objects.put(&orphan, "x".into()).await.expect("put");
    let before = world.objects().await;
    assert_eq!(before.len(), 3);
    world.remove(gone.office_id).await;
    let left: Vec<String> = before.into_iter().filter(|path| path.contains(&kept.office_id.to_string())).collect();
    assert_eq!((world.objects().await, rows(&world).await), (left.clone(), vec![0, 1, 1, 1, 1, 1]));

    // Late deliveries are taken and dropped, so that their senders come to an end.
    world.append_events(&[world.event(gone.office_id, "analyst", Category::Lifecycle)]).await;
    let late = CapturedLogs {
        office_id: gone.office_id.to_string(),
        agent_id: AgentId::new().to_string(),
        agent: "analyst".into(),
        source: "pod".into(),
        first_index: 1,
        lines: vec![line("late")],
    };
    world.ingest().append_captured_logs(AppendCapturedLogsRequest { batches: vec![late] }).await.expect("dropped");
    world.apply(gone.office_id, mi_kernel::AccountId::new(), 99).await;
    assert_eq!(gone.send(&world, 9, vec![line("late")]).await.expect_err("gone").code(), Code::NotFound);
    // Again: nothing to do.
    world.remove(gone.office_id).await;
    assert_eq!((world.objects().await, rows(&world).await), (left, vec![0, 1, 1, 1, 1, 1]));
    assert_eq!(kept.texts(&world).await, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}

async fn a_large_office_goes_in_several_calls(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, _) = world.office().await;
    for i in 0..60 {
        let log = Log {
            office_id,
            owner: owner(mi_kernel::AccountId::new()),
            agent: agent(office_id, &format!("agent-{i}")),
            source: "run",
        };
        log.numbers(&world, 1..=1).await;
    }
    let request = RemoveOfficeRequest { office_id: office_id.to_string() };
    let first = OfficeReplicaServiceClient::new(world.service()).remove_office(request).await.expect("begun");
    assert!(!first.get_ref().done && first.get_ref().message.contains("logs"), "{first:?}");
    world.remove(office_id).await;
    assert_eq!(rows(&world).await, [0; 6]);
}

async fn open_streams_of_a_removed_office_end(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    let watch = WatchActivityRequest { office_id: log.office_id.to_string(), ..Default::default() };
    let tail = TailLogsRequest { office_id: log.office_id.to_string(), agent: "analyst".into(), ..Default::default() };
    let mut watch = world.activity(&log.owner).watch_activity(watch).await.expect("watched").into_inner();
    let mut tail = world.logs(&log.owner).tail_logs(tail).await.expect("tailed").into_inner();
    let removal = world.remove(log.office_id);
    let (watched, tailed, ()) = futures::join!(next(&mut watch), next(&mut tail), removal);
    assert_eq!(watched.expect_err("ended").code(), Code::NotFound);
    assert_eq!(tailed.expect_err("ended").code(), Code::NotFound);
}

async fn what_comes_while_an_office_is_removed_does_not_stay(db: TestDb) {
    let world = World::new(db).await;
    let replica = world.replica().await;
    for _ in 0..5 {
        let log = Log::new(&world).await;
        let Actor::Agent(actor) = &log.agent else { panic!("an agent") };
        let other = world.other(&replica);
        let writes = async {
            for i in 1..=20 {
                other.append_events(&[world.event(log.office_id, "analyst", Category::Task)]).await;
                if log.send(other, i, vec![line("x")]).await.is_ok() {
                    other.parts.logs.compact_one(log.office_id, actor.agent_id).await.expect("compacted or refused");
                }
            }
        };
        let removal = async {
            // Some of the writes come before it, some after.
            while log.texts(&world).await.len() < 5 {
                tokio::task::yield_now().await;
            }
            world.remove(log.office_id).await;
        };
        futures::join!(writes, removal);
        assert_eq!((rows(&world).await, world.objects().await), (vec![0; 6], Vec::new()));
    }
}
