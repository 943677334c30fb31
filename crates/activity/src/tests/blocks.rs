//! The feed in blocks: whatever the order in which events come in, and with what came before there were blocks.

use fastrand::Rng;
use mi_proto::v1::{ActivityEvent, ListActivityRequest, WatchActivityRequest};
use mi_store::{exec, scalars};

use super::*;

on_both! {
    events_are_read_alike_whatever_their_blocks,
    events_of_before_there_were_blocks_stay_until_their_time_is_over,
    what_comes_again_is_known_whatever_came_in_between,
}

const AGENTS: [&str; 4] = ["", "ann", "bob", "cy"];
const CATEGORIES: [Category; 3] = [Category::Task, Category::Chat, Category::Model];

/// One of them by chance.
fn pick<T: Copy>(chance: &mut Rng, all: &[T]) -> T {
    all[chance.usize(..all.len())]
}

impl World {
    async fn page(&self, owner: &Actor, request: &ListActivityRequest) -> (Vec<ActivityEvent>, String) {
        let answer = self.activity(owner).list_activity(request.clone()).await.expect("listed").into_inner();
        (answer.events, answer.next_page_token)
    }

    /// All that a request lists, page by page.
    async fn all(&self, owner: &Actor, mut request: ListActivityRequest) -> Vec<ActivityEvent> {
        let mut all = Vec::new();
        loop {
            let (events, next) = self.page(owner, &request).await;
            assert!(events.len() <= usize::try_from(request.page_size.unwrap_or(50)).expect("a size"));
            all.extend(events);
            if next.is_empty() {
                return all;
            }
            request.page_token = next;
        }
    }

    /// The first events after a cursor that a watch brings.
    async fn after(&self, owner: &Actor, office_id: OfficeId, cursor: i64, count: usize) -> Vec<ActivityEvent> {
        let request =
            WatchActivityRequest { office_id: office_id.to_string(), after_cursor: Some(cursor), ..Default::default() };
        let mut stream = self.activity(owner).watch_activity(request).await.expect("watched").into_inner();
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.extend(next(&mut stream).await.expect("goes on").event);
        }
        seen
    }

    /// Puts these events, with their places, where the version before this one put them.
    async fn as_before(&self, events: &[ActivityEvent]) {
        for event in events {
            let event = event.clone();
            let (cursor, prev_hash, hash) = (event.cursor, event.prev_hash.to_vec(), event.hash.to_vec());
            let event = convert::event_from_wire(event).expect("valid");
            let mut tx = self.parts.db.office(event.office_id).begin().await.expect("begins");
            let sql = "INSERT INTO events (office_id, event_id, seq, time, agent, category, type, summary, metadata, trace_id,
                     prev_hash, hash)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
            let metadata = mi_store::Json(&event.metadata);
            let (agent, category) = (&event.agent, event.category.as_str());
            let (kind, summary, trace) = (&event.kind, &event.summary, &event.trace_id);
            exec!(
                tx, sql, event.id, cursor, event.time, agent, category, kind, summary, metadata, trace, prev_hash, hash
            )
            .expect("written");
            tx.commit().await.expect("commits");
        }
    }

    /// Makes the feed what it was when the version before this one had written it.
    async fn all_as_before(&self, office_id: OfficeId, events: &[ActivityEvent]) {
        self.as_before(events).await;
        let mut tx = self.parts.db.office(office_id).begin().await.expect("begins");
        for sql in [
            "DELETE FROM feed_blocks WHERE office_id = $1",
            "DELETE FROM feed_agents WHERE office_id = $1",
            "UPDATE offices SET newest_time = '1970-01-01T00:00:00+00:00' WHERE office_id = $1",
        ] {
            exec!(tx, sql).expect("done");
        }
        tx.commit().await.expect("commits");
    }

    async fn sizes(&self, office_id: OfficeId) -> (Vec<i64>, Vec<i64>) {
        let mut conn = self.parts.db.office(office_id).read().await.expect("connection");
        let rows = scalars!(conn, "SELECT seq FROM events WHERE office_id = $1 ORDER BY seq").expect("read");
        let blocks = "SELECT last_seq FROM feed_blocks WHERE office_id = $1 ORDER BY last_seq";
        (rows, scalars!(conn, blocks).expect("read"))
    }
}

fn of(office_id: OfficeId, page_size: i32) -> ListActivityRequest {
    ListActivityRequest { office_id: office_id.to_string(), page_size: Some(page_size), ..Default::default() }
}

fn ids(events: &[ActivityEvent]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

/// Events of about now: most a little later than the one before, some at the same time, some seconds earlier.
fn by_chance(world: &World, office_id: OfficeId, chance: &mut Rng, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..count {
        world.clock.advance(Duration::from_millis(pick(chance, &[0, 0, 1, 30, 400, 5000])));
        let mut event = world.event(office_id, pick(chance, &AGENTS), pick(chance, &CATEGORIES));
        event.time -= Duration::from_millis(pick(chance, &[0, 0, 0, 0, 200, 1000, 7000]));
        events.push(event);
    }
    events
}

async fn events_are_read_alike_whatever_their_blocks(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let (mut chance, start) = (Rng::with_seed(7), world.clock.now());
    let mut before = Vec::new();
    for round in 0..40 {
        let count = pick(&mut chance, &[1, 1, 2, 7, 40]);
        world.append_events(&by_chance(&world, office_id, &mut chance, count)).await;
        if round == 12 {
            before = world.all(&owner, of(office_id, 200)).await;
            world.all_as_before(office_id, &before).await;
        }
    }
    // Blocks of one second: each has events that are newer than some of each other's.
    world.clock.advance(DAY);
    for _ in 0..30 {
        let mut batch: Vec<Event> =
            (0..20).map(|_| world.event(office_id, pick(&mut chance, &AGENTS), Category::Task)).collect();
        batch.iter_mut().for_each(|event| event.time -= Duration::from_millis(chance.u64(..900)));
        world.append_events(&batch).await;
    }
    let end = world.clock.now() + Duration::from_secs(1);
    let listed = world.all(&owner, of(office_id, 200)).await;
    let mut links = listed.clone();
    links.sort_by_key(|event| event.cursor);
    let count = i64::try_from(links.len()).expect("few");
    assert_eq!(links.iter().map(|event| event.cursor).collect::<Vec<_>>(), (1..=count).collect::<Vec<_>>());
    let (rows, blocks) = world.sizes(office_id).await;
    assert!(rows.len() == before.len() && blocks.len() > 40, "{} {}", rows.len(), blocks.len());
    assert_eq!(world.verified(&owner, office_id).await, Ok(()));
    let time = |event: &ActivityEvent| convert::time("time", event.time.as_ref().expect("a time")).expect("valid");
    let mut sorted = links.clone();
    sorted.sort_by_key(|event| std::cmp::Reverse((time(event), event.cursor)));
    assert_eq!(ids(&listed), ids(&sorted));

    for _ in 0..40 {
        let (agent, categories) = (pick(&mut chance, &AGENTS), pick(&mut chance, &[0, 0, 1, 2]));
        let categories = CATEGORIES[..categories].to_vec();
        let within = u64::try_from((end - start).num_milliseconds()).expect("later");
        let mut at = || start + Duration::from_millis(chance.u64(..within));
        let (one, other) = (at(), at());
        let span = if chance.bool() { one.min(other)..one.max(other) } else { start - DAY..end + DAY };
        let request = ListActivityRequest {
            agent: agent.into(),
            categories: categories.iter().map(|category| category.as_str().into()).collect(),
            start_time: Some(convert::timestamp(span.start)),
            end_time: Some(convert::timestamp(span.end)),
            ..of(office_id, pick(&mut chance, &[9, 50, 200]))
        };
        let is_asked_for = |event: &&ActivityEvent| {
            (agent.is_empty() || event.agent == agent)
                && (categories.is_empty() || categories.iter().any(|category| category.as_str() == event.category))
                && span.contains(&time(event))
        };
        let expected: Vec<ActivityEvent> = sorted.iter().filter(is_asked_for).cloned().collect();
        assert_eq!(world.all(&owner, request.clone()).await, expected, "{request:?}");
    }
    for _ in 0..10 {
        let after = chance.usize(..links.len());
        let seen = world.after(&owner, office_id, i64::try_from(after).expect("few"), links.len() - after).await;
        assert_eq!(seen, links[after..], "after {after}");
    }
}

async fn events_of_before_there_were_blocks_stay_until_their_time_is_over(db: TestDb) {
    let world = World::new(db).await;
    // What is in blocks is older than what is not, though it comes before and after it, and the other way round.
    for (late_blocks, late_rows) in [(12, 0), (0, 12)] {
        let (office_id, owner) = world.office().await;
        let old: Vec<Event> = (0..450).map(|_| world.event(office_id, "ann", Category::Task)).collect();
        world.append_events(&old).await;
        let listed = world.all(&owner, of(office_id, 200)).await;
        world.all_as_before(office_id, &listed).await;
        assert_eq!(world.all(&owner, of(office_id, 200)).await, listed);
        // Delivered once more, to this version.
        world.append_events(&old[..300]).await;
        assert_eq!(world.all(&owner, of(office_id, 200)).await, listed);
        world.clock.advance(20 * DAY);
        let event = |agent: &str, late: u32| {
            let event = world.event(office_id, agent, Category::Task);
            Event { time: event.time - late * DAY, ..event }
        };
        // While both versions run, the one before goes on, too.
        let by_before = event("bob", late_rows);
        world.append_events(&[event("ann", late_blocks)]).await;
        world.append_events(std::slice::from_ref(&by_before)).await;
        let all = world.all(&owner, of(office_id, 200)).await;
        let moved = all.into_iter().find(|event| event.cursor == 452).expect("it is there");
        assert_eq!(moved.id, by_before.id.to_string());
        let mut tx = world.parts.db.office(office_id).begin().await.expect("begins");
        exec!(tx, "DELETE FROM feed_blocks WHERE office_id = $1 AND last_seq = 452").expect("deleted");
        exec!(tx, "DELETE FROM feed_agents WHERE office_id = $1 AND last_seq = 452").expect("deleted");
        tx.commit().await.expect("commits");
        world.as_before(&[moved]).await;
        world.append_events(&[by_before, event("cy", late_blocks)]).await;
        let seen = world.after(&owner, office_id, 0, 453).await;
        assert_eq!(seen.iter().map(|event| event.cursor).collect::<Vec<_>>(), (1..=453).collect::<Vec<_>>());
        assert_eq!([&seen[450].agent, &seen[451].agent, &seen[452].agent], ["ann", "bob", "cy"]);
        assert_eq!(world.verified(&owner, office_id).await, Ok(()));

        let left = async || {
            world.parts.feed.retain().await.expect("retained");
            assert_eq!(world.verified(&owner, office_id).await, Ok(()));
            world.sizes(office_id).await
        };
        assert_eq!(left().await.0.len(), 451);
        world.clock.advance(15 * DAY);
        assert_eq!(left().await, (vec![452], vec![451, 453]));
        world.clock.advance(10 * DAY);
        world.append_events(&[event("ann", 0)]).await;
        let behind = if late_blocks > 0 { vec![453, 454] } else { vec![451, 453, 454] };
        assert_eq!(left().await, (vec![452], behind));
        world.clock.advance(6 * DAY);
        assert_eq!(left().await, (vec![], vec![454]));
        assert_eq!(world.after(&owner, office_id, 0, 1).await[0].cursor, 454);
        world.remove(office_id).await;
        assert_eq!(world.sizes(office_id).await, (vec![], vec![]));
    }
}

async fn what_comes_again_is_known_whatever_came_in_between(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let mut chance = Rng::with_seed(3);
    let mut all: Vec<Event> = Vec::new();
    for _ in 0..60 {
        let count = pick(&mut chance, &[1, 3, 20]);
        let mut batch = by_chance(&world, office_id, &mut chance, count);
        all.extend(batch.iter().cloned());
        // What a relay sends again after a crash, from any time.
        let from = chance.usize(..all.len());
        batch.extend(all.iter().skip(from).take(15).cloned());
        if chance.bool() {
            batch.reverse();
        }
        world.append_events(&batch).await;
    }
    let mut listed = world.all(&owner, of(office_id, 200)).await;
    assert_eq!(listed.len(), all.len());
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    let mut expected: Vec<String> = all.iter().map(|event| event.id.to_string()).collect();
    expected.sort();
    assert_eq!(ids(&listed), expected);
    assert_eq!(world.verified(&owner, office_id).await, Ok(()));
}
