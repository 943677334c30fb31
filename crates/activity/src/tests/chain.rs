//! The feed as a chain: whatever is done to its rows is found, and retention breaks nothing.

use mi_kernel::{
    Error,
    chain::{self, Broken, End, Ends, Fault, Link},
};
use mi_proto::v1::{ActivityEvent, GetActivityHeadRequest, ListActivityRequest};
use mi_store::{exec, one};

use super::*;
use crate::feed::block::tampered;

on_both! {
    an_untouched_feed_is_whole_however_it_came_in,
    what_is_done_to_rows_is_found,
    retention_moves_the_anchor_and_leaves_no_gap,
}

impl World {
    async fn ends(&self, owner: &Actor, office_id: OfficeId) -> Ends {
        let request = GetActivityHeadRequest { office_id: office_id.to_string() };
        let head = self.activity(owner).get_activity_head(request).await.expect("answered").into_inner().head;
        let head = head.expect("always there");
        let hash = |bytes: &[u8]| bytes.try_into().expect("32 bytes");
        Ends {
            anchor: End { cursor: head.anchor_cursor, hash: hash(&head.anchor_hash) },
            head: End { cursor: head.cursor, hash: hash(&head.hash) },
        }
    }

    /// The whole feed in the order of its cursors, as a client reads it.
    async fn links(&self, owner: &Actor, office_id: OfficeId) -> Vec<Link> {
        let (mut links, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListActivityRequest { office_id: office_id.to_string(), page_token, ..Default::default() };
            let page = self.activity(owner).list_activity(request).await.expect("listed").into_inner();
            let link = |event: mi_proto::v1::ActivityEvent| {
                let (cursor, prev_hash, hash) = (event.cursor, event.prev_hash.to_vec(), event.hash.to_vec());
                Ok::<_, Error>(Link { event: convert::event_from_wire(event)?, cursor, prev_hash, hash })
            };
            let read: Result<Vec<Link>, Error> = page.events.into_iter().map(link).collect();
            links.extend(read.expect("events"));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                links.sort_by_key(|link| link.cursor);
                return links;
            }
        }
    }

    pub(super) async fn verified(&self, owner: &Actor, office_id: OfficeId) -> Result<(), Broken> {
        chain::verify(&self.ends(owner, office_id).await, &self.links(owner, office_id).await)
    }

    /// Works on the only block of a feed as somebody with the database's password would.
    async fn tamper(&self, office_id: OfficeId, change: fn(&mut Vec<ActivityEvent>)) {
        let mut tx = self.parts.db.office(office_id).begin().await.expect("begins");
        let sql = "SELECT events, raw_bytes FROM feed_blocks WHERE office_id = $1";
        let (data, raw_bytes): (Vec<u8>, i64) = one!(tx, sql).expect("one block");
        let (data, raw_bytes) = tampered(&data, raw_bytes, change);
        let sql = "UPDATE feed_blocks SET events = $2, raw_bytes = $3 WHERE office_id = $1";
        assert_eq!(exec!(tx, sql, data, raw_bytes).expect("written"), 1);
        tx.commit().await.expect("commits");
    }
}

async fn an_untouched_feed_is_whole_however_it_came_in(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    assert_eq!(world.ends(&owner, office_id).await, Ends::default());
    let odd = serde_json::json!({ "z": -0.0, "a": 1e300, "m": [0.1, 1e-7, 123_456_789.123_456_7, 5e-324], "é": { "b": 1, "B": [] } });
    let replica = world.replica().await;
    let writers = (0..3).map(|writer| {
        let (world, odd) = (if writer == 0 { world.other(&replica) } else { &world }, &odd);
        async move {
            for _ in 0..20 {
                let event = world.event(office_id, "ann", Category::Security).with(odd.clone());
                // Twice: the second delivery is none.
                world.append_events(&[event.clone(), world.event(office_id, "", Category::Task), event]).await;
            }
        }
    });
    futures::future::join_all(writers).await;
    let (ends, links) = (world.ends(&owner, office_id).await, world.links(&owner, office_id).await);
    assert_eq!((links.len(), ends.head.cursor, ends.anchor), (120, 120, End::default()));
    assert_eq!(chain::verify(&ends, &links), Ok(()));
}

async fn what_is_done_to_rows_is_found(db: TestDb) {
    let world = World::new(db).await;
    type Change = fn(&mut Vec<ActivityEvent>);
    let cases: [(Change, Broken); 6] = [
        (|events| events[2].summary = "nothing happened".into(), Broken { cursor: 3, fault: Fault::Altered }),
        (|events| drop(events.remove(3)), Broken { cursor: 4, fault: Fault::Removed }),
        (|events| drop(events.remove(0)), Broken { cursor: 1, fault: Fault::Removed }),
        (|events| drop(events.remove(5)), Broken { cursor: 6, fault: Fault::Removed }),
        (
            |events| {
                (events[1].cursor, events[4].cursor) = (5, 2);
                events.swap(1, 4);
            },
            Broken { cursor: 2, fault: Fault::Reordered },
        ),
        (
            // A copy of the fourth under the id of the office, which is an id like any other.
            |events| {
                let (id, prev_hash) = (events[3].office_id.clone(), events[3].hash.clone());
                let copy = ActivityEvent { id, prev_hash, ..events[3].clone() };
                events.insert(4, copy);
                for (place, event) in (1..).zip(&mut *events) {
                    event.cursor = place;
                }
            },
            Broken { cursor: 5, fault: Fault::Inserted },
        ),
    ];
    for (place, (change, broken)) in cases.into_iter().enumerate() {
        let (office_id, owner) = world.office().await;
        let events: Vec<Event> = (0..6).map(|_| world.event(office_id, "ann", Category::Security)).collect();
        world.append_events(&events).await;
        assert_eq!(world.verified(&owner, office_id).await, Ok(()));
        world.tamper(office_id, change).await;
        assert_eq!(world.verified(&owner, office_id).await, Err(broken), "{place}");
    }
}

async fn retention_moves_the_anchor_and_leaves_no_gap(db: TestDb) {
    let world = World::new(db).await;
    let (office_id, owner) = world.office().await;
    let (quiet, quiet_owner) = world.office().await;
    // More than a batch of old ones; then a young one, and behind it a late delivery of an old one.
    let late = world.event(office_id, "late", Category::Task);
    let old: Vec<Event> = (0..1200).map(|_| world.event(office_id, "ann", Category::Task)).collect();
    world.append_events(&old).await;
    world.append_events(&[world.event(quiet, "ann", Category::Task)]).await;
    world.clock.advance(29 * DAY);
    world.append_events(&[world.event(office_id, "ann", Category::Task), late]).await;
    let before = world.links(&owner, office_id).await;
    world.clock.advance(2 * DAY);
    world.parts.feed.retain().await.expect("retained");

    let ends = world.ends(&owner, office_id).await;
    let anchor = End { cursor: 1200, hash: before[1199].hash.clone().try_into().expect("a hash") };
    assert_eq!(ends.anchor, anchor);
    assert_eq!(world.links(&owner, office_id).await, before[1200..], "the late one waits for the one before it");
    assert_eq!(world.verified(&owner, office_id).await, Ok(()));
    // An empty feed has both ends at one place, and goes on from there.
    let emptied = world.ends(&quiet_owner, quiet).await;
    assert_eq!((emptied.anchor, emptied.head.cursor), (emptied.head, 1));
    world.append_events(&[world.event(quiet, "ann", Category::Task)]).await;
    assert_eq!(world.verified(&quiet_owner, quiet).await, Ok(()));
    world.clock.advance(31 * DAY);
    world.parts.feed.retain().await.expect("retained");
    assert_eq!(world.ends(&owner, office_id).await.anchor.cursor, 1202);
    assert_eq!(world.verified(&owner, office_id).await, Ok(()));
}
