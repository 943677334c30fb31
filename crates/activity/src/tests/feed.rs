//! The feed: each event once, in order, filtered, paged and watched.

use std::collections::BTreeSet;

use mi_kernel::EventId;
use mi_proto::v1::{ActivityEvent, ListActivityRequest, WatchActivityRequest};
use tonic::Code;

use super::*;

on_both! {
    doubled_and_concurrent_deliveries_are_in_the_feed_once,
    events_of_many_offices_come_in_together,
    an_event_comes_back_as_it_was_reported,
    a_watch_that_resumes_misses_nothing_and_sees_nothing_twice,
    a_watch_without_a_cursor_begins_with_what_is_new,
    filters_choose_by_agent_category_and_time,
    pages_stay_put_while_events_come_in,
    events_may_come_before_their_office,
    old_events_are_deleted_and_do_not_come_back,
}

fn ids(events: &[ActivityEvent]) -> Vec<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

fn own_ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<String> {
    events.into_iter().map(|event| event.id.to_string()).collect()
}

async fn list(world: &World, owner: &Actor, request: ListActivityRequest) -> Vec<ActivityEvent> {
    world.activity(owner).list_activity(request).await.expect("listed").into_inner().events
}

async fn watch(world: &World, owner: &Actor, office_id: OfficeId, after: Option<i64>) -> Streaming<Watched> {
    let request = WatchActivityRequest { office_id: office_id.to_string(), after_cursor: after, ..Default::default() };
    world.activity(owner).watch_activity(request).await.expect("watched").into_inner()
}

type Watched = mi_proto::v1::WatchActivityResponse;

async fn next_event(stream: &mut Streaming<Watched>) -> ActivityEvent {
    next(stream).await.expect("goes on").event.expect("an event")
}

fn of(office_id: OfficeId) -> ListActivityRequest {
    ListActivityRequest { office_id: office_id.to_string(), page_size: Some(200), ..Default::default() }
}

async fn doubled_and_concurrent_deliveries_are_in_the_feed_once(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let (other_office, other_owner) = world.office().await;
    let events: Vec<Event> = (0..60)
        .map(|i| world.event(if i % 3 == 0 { other_office } else { office_id }, "analyst", Category::Task))
        .collect();
    // Four relays that overlap, in different orders, through two replicas, all at once.
    let replica = world.replica().await;
    futures::future::join_all((0..4).map(|relay: usize| {
        let (world, events) = (if relay < 2 { &world } else { world.other(&replica) }, &events);
        async move {
            for start in 0..12 {
                let start = (start * 5 + relay * 25) % 60;
                let mut batch: Vec<Event> = events.iter().cycle().skip(start).take(20).cloned().collect();
                if relay > 1 {
                    batch.reverse();
                }
                world.append_events(&batch).await;
            }
        }
    }))
    .await;
    for (office_id, owner, count) in [(office_id, &owner, 40), (other_office, &other_owner, 20)] {
        let mut stream = watch(&world, owner, office_id, Some(0)).await;
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(next_event(&mut stream).await);
        }
        let cursors: Vec<i64> = seen.iter().map(|event| event.cursor).collect();
        assert_eq!(cursors, (1..=count).collect::<Vec<_>>());
        let expected = own_ids(events.iter().filter(|event| event.office_id == office_id));
        assert_eq!(BTreeSet::from_iter(ids(&seen)), BTreeSet::from_iter(expected));
        let listed = list(&world, owner, of(office_id)).await;
        assert_eq!(i64::try_from(listed.len()), Ok(count));
        assert_eq!(BTreeSet::from_iter(ids(&listed)), BTreeSet::from_iter(ids(&seen)));
    }
}

async fn events_of_many_offices_come_in_together(db: TestDb) {
    let world = World::new(db).await;
    let gone = world.office().await.0;
    world.remove(gone).await;
    // Half of them are not known yet.
    let mut offices = Vec::new();
    for number in 0..60 {
        let office = if number % 2 == 0 { world.office().await } else { (OfficeId::new(), owner(AccountId::new())) };
        offices.push(office);
    }
    let mut all = Vec::new();
    for (round, share) in [1, 2, 3].into_iter().enumerate() {
        let places = (0..60).filter(|place| place % share == 0).map(|place| offices[place].0);
        let mut events: Vec<Event> =
            places.chain([gone]).map(|office_id| world.event(office_id, "ann", Category::Task)).collect();
        if round == 1 {
            // Besides what was taken in before.
            events.extend(all.iter().take(20).cloned());
        }
        world.append_events(&events).await;
        all.extend(events);
    }
    for (place, (office_id, owner)) in offices.iter().enumerate() {
        if place % 2 == 1 {
            let &Actor::Operator { account_id, .. } = owner else { panic!("an operator") };
            world.apply(*office_id, account_id, 0).await;
        }
        let listed = list(&world, owner, of(*office_id)).await;
        let own = own_ids(all.iter().filter(|event| event.office_id == *office_id));
        let cursors: Vec<i64> = listed.iter().map(|event| event.cursor).collect();
        let count = i64::try_from([1, 2, 3].into_iter().filter(|share| place % share == 0).count()).expect("few");
        assert_eq!(cursors, (1..=count).rev().collect::<Vec<_>>(), "{place}");
        assert_eq!(BTreeSet::from_iter(ids(&listed)), BTreeSet::from_iter(own), "{place}");
        assert_eq!(world.verified(owner, *office_id).await, Ok(()));
    }
}

async fn an_event_comes_back_as_it_was_reported(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let event = world.event(office_id, "analyst", Category::Security).traced("4bf92f3577b34da6a3ce929d0e0e4736");
    world.append_events(std::slice::from_ref(&event)).await;
    let (start, hash) = (mi_kernel::chain::START, mi_kernel::chain::hash(&event, 1, &mi_kernel::chain::START));
    let expected = ActivityEvent {
        cursor: 1,
        prev_hash: start.to_vec().into(),
        hash: hash.to_vec().into(),
        ..convert::event_to_wire(event)
    };
    assert_eq!(list(&world, &owner, of(office_id)).await, [expected]);
}

async fn a_watch_that_resumes_misses_nothing_and_sees_nothing_twice(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let replica = world.replica().await;
    let writers = futures::future::join_all((0..3).map(|writer| {
        let world = if writer == 0 { world.other(&replica) } else { &world };
        async move {
            let mut written = Vec::new();
            for _ in 0..30 {
                let event = world.event(office_id, "analyst", Category::Task);
                world.append_events(std::slice::from_ref(&event)).await;
                written.push(event.id.to_string());
            }
            written
        }
    }));
    let reader = async {
        let mut seen: Vec<ActivityEvent> = Vec::new();
        while seen.len() < 90 {
            // Breaks off after every few events and comes back with the last cursor.
            let mut stream = watch(&world, &owner, office_id, Some(seen.last().map_or(0, |event| event.cursor))).await;
            for _ in 0..7.min(90 - seen.len()) {
                seen.push(next_event(&mut stream).await);
            }
        }
        seen
    };
    let (written, seen) = futures::join!(writers, reader);
    let cursors: Vec<i64> = seen.iter().map(|event| event.cursor).collect();
    assert_eq!(cursors, (1..=90).collect::<Vec<_>>());
    assert_eq!(BTreeSet::from_iter(ids(&seen)), BTreeSet::from_iter(written.concat()));
}

async fn a_watch_without_a_cursor_begins_with_what_is_new(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    world.append_events(&[world.event(office_id, "a", Category::Task)]).await;
    let mut stream = watch(&world, &owner, office_id, None).await;
    // Not read from yet: what comes now is new all the same.
    let new = world.event(office_id, "b", Category::Task);
    world.append_events(std::slice::from_ref(&new)).await;
    let seen = next_event(&mut stream).await;
    assert_eq!((seen.id, seen.cursor), (new.id.to_string(), 2));
}

async fn filters_choose_by_agent_category_and_time(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let start = world.clock.now();
    let mut events = Vec::new();
    for (name, category) in
        [("ann", Category::Task), ("bob", Category::Task), ("ann", Category::Chat), ("", Category::Credit)]
    {
        events.push(world.event(office_id, name, category));
        world.clock.advance(Duration::from_secs(1));
    }
    world.append_events(&events).await;
    let at = |seconds| Some(convert::timestamp(start + TimeDelta::seconds(seconds)));
    let check = async |request: ListActivityRequest, expect: &[usize]| {
        let expected = own_ids(expect.iter().map(|i| &events[*i]));
        assert_eq!(ids(&list(&world, &owner, request.clone()).await), expected, "{request:?}");
    };
    let all = of(office_id);
    let agent = |name: &str| ListActivityRequest { agent: name.into(), ..all.clone() };
    let categories = |names: &[&str]| ListActivityRequest {
        categories: names.iter().map(|name| (*name).into()).collect(),
        ..all.clone()
    };
    check(all.clone(), &[3, 2, 1, 0]).await;
    check(agent("ann"), &[2, 0]).await;
    check(agent("Bob"), &[1]).await;
    check(agent("eve"), &[]).await;
    check(categories(&["chat"]), &[2]).await;
    check(categories(&["credit, chat", "file"]), &[3, 2]).await;
    check(ListActivityRequest { agent: "ann".into(), ..categories(&["task"]) }, &[0]).await;
    check(ListActivityRequest { start_time: at(1), end_time: at(3), ..all.clone() }, &[2, 1]).await;

    let unknown = categories(&["task,gossip"]);
    let status = world.activity(&owner).list_activity(unknown).await.expect_err("unknown category");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("gossip") && status.message().contains("task, lifecycle"), "{status:?}");

    let watch = WatchActivityRequest {
        office_id: office_id.to_string(),
        agent: "ann".into(),
        categories: vec!["chat".into(), "task".into()],
        after_cursor: Some(1),
    };
    // What a database had that was restored since is waited for by nobody.
    let ahead = WatchActivityRequest { after_cursor: Some(i64::MAX), ..watch.clone() };
    let refused = world.activity(&owner).watch_activity(ahead).await.expect_err("ahead of all there is");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("begin anew, with cursor 0"), "{refused:?}");
    let mut stream = world.activity(&owner).watch_activity(watch).await.expect("watched").into_inner();
    assert_eq!(next_event(&mut stream).await.id, events[2].id.to_string());
}

async fn pages_stay_put_while_events_come_in(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    // Many with the same time: the cursor decides among them.
    let mut events: Vec<Event> = (0..25).map(|_| world.event(office_id, "ann", Category::Task)).collect();
    world.append_events(&events).await;
    events.reverse();
    let mut request = ListActivityRequest { page_size: Some(10), ..of(office_id) };
    let mut seen = Vec::new();
    loop {
        let page = world.activity(&owner).list_activity(request.clone()).await.expect("page").into_inner();
        seen.extend(ids(&page.events));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        world.append_events(&[world.event(office_id, "ann", Category::Task)]).await;
    }
    assert_eq!(seen, own_ids(&events));
}

async fn events_may_come_before_their_office(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, account_id) = (OfficeId::new(), AccountId::new());
    let event = world.event(office_id, "", Category::Lifecycle);
    world.append_events(std::slice::from_ref(&event)).await;
    world.apply(office_id, account_id, 0).await;
    assert_eq!(ids(&list(&world, &owner(account_id), of(office_id)).await), [event.id.to_string()]);
}

async fn old_events_are_deleted_and_do_not_come_back(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let mut old: Vec<Event> = (0..1500).map(|_| world.event(office_id, "ann", Category::Task)).collect();
    world.append_events(&old).await;
    world.clock.advance(29 * DAY);
    let young = world.event(office_id, "ann", Category::Task);
    world.append_events(std::slice::from_ref(&young)).await;
    world.parts.feed.retain().await.expect("retained");
    assert_eq!(list(&world, &owner, of(office_id)).await.len(), 200);
    world.clock.advance(2 * DAY);
    world.parts.feed.retain().await.expect("retained");
    // A delivery that comes a month late, the first of an event and the second of others.
    old[0].id = EventId::new();
    world.append_events(&old[..3]).await;
    let left = list(&world, &owner, of(office_id)).await;
    assert_eq!((ids(&left), left[0].cursor), (vec![young.id.to_string()], 1501));
    // Who goes on from before what is kept is told so; who begins at the beginning, or at the end, misses nothing.
    let mut behind = watch(&world, &owner, office_id, Some(5)).await;
    let refused = behind.message().await.expect_err("not all of it is kept");
    let told = "events after this cursor are no longer kept; begin anew, with cursor 0";
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, told));
    for after in [0, 1500] {
        let mut stream = watch(&world, &owner, office_id, Some(after)).await;
        assert_eq!(next_event(&mut stream).await.id, young.id.to_string());
    }
}
