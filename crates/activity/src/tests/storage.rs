//! What stays: over crashes, compaction and retention.

use mi_kernel::AgentId;
use mi_testkit::Stuck;
use object_store::{ObjectStoreExt, path::Path};

use super::{
    logs::{Log, numbered},
    *,
};
use crate::logs::{block::MAX_LINE, compact, read::MAX_ANSWER, retain::ORPHAN_AGE};

on_both! {
    acknowledged_lines_survive_a_crash,
    the_last_lines_are_found_across_segments_and_tail,
    compaction_takes_what_is_due_and_changes_no_line,
    answers_stay_below_what_clients_take,
    two_compactions_of_one_log_leave_one_segment,
    orphaned_objects_are_swept_and_no_others,
    retention_deletes_by_age_and_by_size_the_oldest_first,
    logs_that_cannot_be_compacted_are_in_the_way_of_no_other,
    an_office_in_which_nothing_can_be_deleted_is_in_the_way_of_no_other,
    an_orphan_that_cannot_be_deleted_is_in_the_way_of_no_other,
}

fn agent_id(log: &Log) -> AgentId {
    match &log.agent {
        Actor::Agent(agent) => agent.agent_id,
        other => panic!("{other:?}"),
    }
}

async fn compact(world: &World, log: &Log) -> bool {
    world.parts.logs.compact_one(log.office_id, agent_id(log)).await.expect("compacted")
}

async fn acknowledged_lines_survive_a_crash(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    log.numbers(&world, 1..=5).await;
    assert!(compact(&world, &log).await);
    log.numbers(&world, 6..=9).await;
    let event = world.event(log.office_id, "analyst", Category::Task);
    world.append_events(std::slice::from_ref(&event)).await;

    let world = world.restart().await;
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(1..=9));
    // The writer's run goes on, and its last batch comes again.
    assert_eq!(log.numbers(&world, 6..=10).await, 10);
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(1..=10));
    world.append_events(std::slice::from_ref(&event)).await;
    let request = mi_proto::v1::ListActivityRequest { office_id: log.office_id.to_string(), ..Default::default() };
    let events = world.activity(&log.owner).list_activity(request).await.expect("listed").into_inner().events;
    assert_eq!(events.iter().map(|event| event.id.clone()).collect::<Vec<_>>(), [event.id.to_string()]);
}

async fn the_last_lines_are_found_across_segments_and_tail(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    let start = world.clock.now();
    // Lines 1..=40, a second each; segments 1-10, 11-20, 21-30 of two blocks each; tail 31-35 and 36-40.
    for block in 0..8 {
        let lines = (block * 5 + 1..=block * 5 + 5).map(|i: i64| LogLine {
            time: Some(convert::timestamp(start + TimeDelta::seconds(i))),
            ..line(i.to_string())
        });
        log.send(&world, block * 5 + 1, lines.collect()).await.expect("appended");
        if block % 2 == 1 && block < 6 {
            assert!(compact(&world, &log).await);
        }
    }
    assert_eq!(world.objects().await.len(), 3);
    for limit in [1, 5, 6, 9, 10, 11, 19, 20, 21, 39, 40, 41] {
        let request = ListLogsRequest { limit: Some(limit), ..log.all() };
        let expected = numbered((41 - i64::from(limit)).max(1)..=40);
        assert_eq!(world.list(&log.owner, request).await, expected, "last {limit}");
    }
    let none = std::ops::RangeInclusive::new(1, 0);
    let at = |second: i64| Some(convert::timestamp(start + TimeDelta::seconds(second)));
    for (from, to, limit, expected) in [
        (8, 13, 100, 8..=12),
        (1, 11, 100, 1..=10),
        (28, 34, 100, 28..=33),
        (28, 34, 3, 31..=33),
        (0, 1, 100, none.clone()),
        (40, 99, 100, 40..=40),
        (41, 99, 100, none.clone()),
    ] {
        let request = ListLogsRequest { limit: Some(limit), start_time: at(from), end_time: at(to), ..log.all() };
        assert_eq!(world.list(&log.owner, request).await, numbered(expected), "{from}..{to}");
    }
}

async fn compaction_takes_what_is_due_and_changes_no_line(db: TestDb) {
    let world = World::new(db).await;
    let [large, many, old, young] =
        [Log::new(&world).await, Log::new(&world).await, Log::new(&world).await, Log::new(&world).await];
    old.numbers(&world, 1..=3).await;
    world.clock.advance(compact::DUE_AGE + Duration::from_secs(1));
    // Six MiB: more than one segment holds.
    for i in 0..6 {
        let lines = (0..17).map(|j| line(format!("{i} {j} {}", "x".repeat(61_000)))).collect();
        large.send(&world, i * 17 + 1, lines).await.expect("appended");
    }
    for i in 1..=compact::DUE_BLOCKS + 1 {
        many.numbers(&world, i..=i).await;
    }
    young.numbers(&world, 1..=3).await;
    let all = [&large, &many, &old, &young];
    let before = futures::future::join_all(all.map(|log| log.texts(&world))).await;
    world.parts.logs.compact().await.expect("compacted");
    let of =
        |objects: &[String], log: &Log| objects.iter().filter(|path| path.contains(&agent_id(log).to_string())).count();
    let objects = world.objects().await;
    assert_eq!(all.map(|log| of(&objects, log)), [2, 1, 1, 0], "{objects:?}");
    assert_eq!(futures::future::join_all(all.map(|log| log.texts(&world))).await, before);
    // Nothing is due any more.
    world.parts.logs.compact().await.expect("compacted");
    assert_eq!(world.objects().await, objects);
}

async fn answers_stay_below_what_clients_take(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    for i in 0..6 {
        let lines = (0..15).map(|j| line(format!("{:05}{}", i * 15 + j, "x".repeat(MAX_LINE - 5)))).collect();
        log.send(&world, i * 15 + 1, lines).await.expect("appended");
    }
    let lines = world.list(&log.owner, log.all()).await;
    let bytes: usize = lines.iter().map(|(_, text)| text.len()).sum();
    assert!(bytes <= MAX_ANSWER && bytes > MAX_ANSWER - 2 * MAX_LINE, "{bytes}");
    assert_eq!(lines.last().map(|(seq, _)| *seq), Some(90));
}

async fn two_compactions_of_one_log_leave_one_segment(db: TestDb) {
    let world = World::new(db).await;
    let replica = world.replica().await;
    let log = Log::new(&world).await;
    for round in 0..10 {
        log.numbers(&world, round * 10 + 1..=round * 10 + 10).await;
        let (one, two) = futures::join!(compact(&world, &log), compact(world.other(&replica), &log));
        assert!(one || two);
    }
    assert_eq!(world.objects().await.len(), 10);
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(1..=100));
}

async fn orphaned_objects_are_swept_and_no_others(db: TestDb) {
    let world = World::new(db).await;
    let log = Log::new(&world).await;
    log.numbers(&world, 1..=3).await;
    assert!(compact(&world, &log).await);
    let kept = world.objects().await;
    // As a crash between the object and its row leaves it.
    let orphan = Path::from(format!("logs/{}/{}/4-9-x.zst", log.office_id, agent_id(&log)));
    world.config.objects.put(&orphan, "x".into()).await.expect("put");
    world.parts.logs.sweep().await.expect("swept");
    assert_eq!(world.objects().await.len(), 2, "too young");
    world.clock.advance(ORPHAN_AGE + Duration::from_secs(60));
    world.parts.logs.sweep().await.expect("swept");
    assert_eq!(world.objects().await, kept);
}

async fn retention_deletes_by_age_and_by_size_the_oldest_first(db: TestDb) {
    let world = World::new(db).await;
    let (log, other) = (Log::new(&world).await, Log::new(&world).await);
    for i in 0..4 {
        log.numbers(&world, i * 10 + 1..=i * 10 + 10).await;
        assert!(compact(&world, &log).await);
        world.clock.advance(1 * DAY);
    }
    other.numbers(&world, 1..=10).await;
    assert!(compact(&world, &other).await);
    let sizes = futures::future::join_all(
        world
            .objects()
            .await
            .into_iter()
            .map(async |path| world.config.objects.head(&Path::from(path)).await.expect("object").size),
    )
    .await;
    let largest = sizes.into_iter().max().expect("some");

    // Written 4, 3, 2 and 1 days ago.
    let days = |days: u32| days * DAY - Duration::from_secs(1);
    world.parts.logs.retain(days(4), u64::MAX).await.expect("retained");
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(11..=40));
    world.parts.logs.retain(days(30), 2 * largest).await.expect("retained");
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(21..=40));
    assert_eq!(world.list(&other.owner, other.all()).await, numbered(1..=10));
    assert_eq!(world.objects().await.len(), 3);
    // Numbers are not used again, and a tail that was behind goes on with what is left.
    world.parts.logs.retain(Duration::ZERO, 0).await.expect("retained");
    assert_eq!(world.objects().await, Vec::<String>::new());
    log.numbers(&world, 41..=41).await;
    assert_eq!(world.list(&log.owner, log.all()).await, numbered(41..=41));
}

impl World {
    /// A replica for which this office's objects cannot be changed.
    async fn stuck(&self, office_id: OfficeId) -> Self {
        let objects = Arc::new(Stuck::new(self.config.objects.clone(), office_id));
        let config = ActivityConfig { objects, ..self.config.clone() };
        Self::start(config, self.clock.clone(), self.kept.clone()).await
    }
}

async fn logs_that_cannot_be_compacted_are_in_the_way_of_no_other(db: TestDb) {
    let world = World::new(db).await;
    // A page of them, before the one that can.
    let first = Log::new(&world).await;
    let mut stuck = Vec::new();
    for number in 0..compact::LOGS {
        let agent = agent(first.office_id, &format!("a{number}"));
        stuck.push(Log { office_id: first.office_id, owner: first.owner.clone(), agent, source: "run-1" });
    }
    let well = Log::new(&world).await;
    for log in stuck.iter().chain([&well]) {
        log.numbers(&world, 1..=3).await;
    }
    world.clock.advance(compact::DUE_AGE + Duration::from_secs(1));
    let troubled = world.stuck(first.office_id).await;
    troubled.parts.logs.compact().await.expect("goes on");
    let objects = world.objects().await;
    assert!(matches!(&objects[..], [one] if one.contains(&agent_id(&well).to_string())), "{objects:?}");
    assert_eq!(world.list(&well.owner, well.all()).await, numbered(1..=3));

    // Left alone for a while.
    let round = async || {
        troubled.parts.logs.compact().await.expect("goes on");
        stuck.iter().filter(|log| troubled.parts.logs.failure_backoff.waits(&agent_id(log), world.clock.now())).count()
    };
    assert_eq!(round().await, stuck.len());
    world.clock.advance(compact::BACKOFF.first);
    assert_eq!(round().await, stuck.len(), "tried again, and in vain");
    world.parts.logs.compact().await.expect("compacted");
    assert_eq!(world.objects().await.len(), 1 + stuck.len());
}

async fn an_office_in_which_nothing_can_be_deleted_is_in_the_way_of_no_other(db: TestDb) {
    let world = World::new(db).await;
    let (stuck, well) = (Log::new(&world).await, Log::new(&world).await);
    for log in [&stuck, &well] {
        for round in 0..2 {
            log.numbers(&world, round * 10 + 1..=round * 10 + 10).await;
            assert!(compact(&world, log).await);
            world.clock.advance(Duration::from_secs(1));
        }
        world.append_events(&[world.event(log.office_id, "analyst", Category::Task)]).await;
    }
    for table in ["log_segments", "feed_blocks"] {
        world.kept.0.refuse_deletes(table, stuck.office_id).await;
    }
    let largest = {
        let objects = world.objects().await;
        let sizes = objects.iter().map(async |path| world.config.objects.head(&Path::from(path.as_str())).await);
        let sizes = futures::future::join_all(sizes).await.into_iter();
        sizes.map(|object| object.expect("object").size).max().expect("some")
    };
    world.parts.logs.retain(DAY, largest).await.expect("goes on");
    assert_eq!(world.list(&well.owner, well.all()).await, numbered(11..=20));
    world.clock.advance(100 * DAY);
    world.parts.logs.retain(DAY, u64::MAX).await.expect("goes on");
    assert_eq!(world.list(&well.owner, well.all()).await, []);
    assert_eq!(world.list(&stuck.owner, stuck.all()).await, numbered(1..=20));
    world.parts.feed.retain().await.expect("goes on");
    let mut left = Vec::new();
    for log in [&stuck, &well] {
        let request = mi_proto::v1::ListActivityRequest { office_id: log.office_id.to_string(), ..Default::default() };
        left.push(world.activity(&log.owner).list_activity(request).await.expect("listed").into_inner().events.len());
    }
    assert_eq!(left, [1, 0]);
}

async fn an_orphan_that_cannot_be_deleted_is_in_the_way_of_no_other(db: TestDb) {
    let world = World::new(db).await;
    let (stuck, well) = (Log::new(&world).await, Log::new(&world).await);
    for log in [&stuck, &well] {
        let orphan = Path::from(format!("logs/{}/{}/1-2-x.zst", log.office_id, agent_id(log)));
        world.config.objects.put(&orphan, "x".into()).await.expect("put");
    }
    world.clock.advance(ORPHAN_AGE + Duration::from_secs(60));
    world.stuck(stuck.office_id).await.parts.logs.sweep().await.expect("goes on");
    let objects = world.objects().await;
    assert!(matches!(&objects[..], [one] if one.contains(&stuck.office_id.to_string())), "{objects:?}");
}
