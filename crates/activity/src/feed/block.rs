//! Events as they are stored: those of an office that came in together, under zstd.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use mi_kernel::{Error, OfficeId, Result, Time, chain::Link, event::Category};
use mi_proto::v1::ActivityEvent;
use mi_rpc::convert;
use prost::Message;

use crate::packed::{FAST, compress, decompress, int};

/// Most events of a block: who looks for one opens all of them.
const EVENTS: usize = 256;
/// Bytes before compression with which a block takes no more events.
const BYTES: usize = 64 << 10;
/// Most time between the events of a block: who reads by time looks through blocks that are so much younger, too.
pub(super) const SPAN: TimeDelta = TimeDelta::seconds(1);

/// The stored form, before compression. Events have their places and hashes.
#[derive(Clone, PartialEq, Message)]
struct Events {
    #[prost(message, repeated, tag = "1")]
    events: Vec<ActivityEvent>,
}

/// Compressed events, and what their row says of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    pub(super) office_id: OfficeId,
    pub(super) last_seq: i64,
    pub(super) first_time: Time,
    pub(super) last_time: Time,
    /// Whose events they are, and of which categories each has some.
    pub(super) agents: BTreeMap<String, i64>,
    /// One after the other, 16 bytes each.
    pub(super) ids: Vec<u8>,
    pub(super) raw_bytes: i64,
    pub(super) data: Vec<u8>,
}

impl Block {
    /// Of which categories it has events.
    pub(super) fn categories(&self) -> i64 {
        self.agents.values().fold(0, |all, categories| all | categories)
    }
}

/// Blocks of events, which are in the order of their places, office by office.
pub(super) fn pack(links: Vec<Link>) -> Result<Vec<Block>> {
    let (mut blocks, mut open): (Vec<Block>, Option<Open>) = (Vec::new(), None);
    for link in links {
        if let Some(full) = open.take_if(|open| !open.takes(&link)) {
            blocks.push(full.seal()?);
        }
        open.get_or_insert_with(|| Open::new(&link)).push(link);
    }
    blocks.extend(open.map(Open::seal).transpose()?);
    Ok(blocks)
}

/// The events of a block.
///
/// # Errors
/// `Internal` when it is damaged.
pub(super) fn unpack(data: &[u8], raw_bytes: i64) -> Result<Vec<ActivityEvent>> {
    let raw = decompress(data, raw_bytes)?;
    Ok(Events::decode(raw.as_slice()).map_err(Error::internal)?.events)
}

/// A bit for each category.
pub(super) fn mask(categories: &[Category]) -> i64 {
    let bit = |category| Category::ALL.iter().position(|known| known == category).map_or(0, |place| 1 << place);
    categories.iter().map(bit).fold(0, |mask, bit| mask | bit)
}

/// A block that is being filled.
struct Open {
    block: Block,
    events: Events,
    bytes: usize,
}

impl Open {
    /// For this event.
    fn new(link: &Link) -> Self {
        let (office_id, time) = (link.event.office_id, link.event.time);
        let block = Block {
            office_id,
            last_seq: 0,
            first_time: time,
            last_time: time,
            agents: BTreeMap::new(),
            ids: Vec::new(),
            raw_bytes: 0,
            data: Vec::new(),
        };
        Self { block, events: Events::default(), bytes: 0 }
    }

    fn takes(&self, link: &Link) -> bool {
        let (block, time) = (&self.block, link.event.time);
        block.office_id == link.event.office_id
            && self.events.events.len() < EVENTS
            && self.bytes < BYTES
            && block.last_time.max(time) - block.first_time.min(time) <= SPAN
    }

    fn push(&mut self, link: Link) {
        let Link { event, cursor, prev_hash, hash } = link;
        let block = &mut self.block;
        block.last_seq = cursor;
        block.first_time = block.first_time.min(event.time);
        block.last_time = block.last_time.max(event.time);
        block.ids.extend_from_slice(event.id.0.as_bytes());
        let of_agent = block.agents.entry(event.agent.clone()).or_default();
        *of_agent |= mask(&[event.category]);
        let (prev_hash, hash) = (prev_hash.into(), hash.into());
        let event = ActivityEvent { cursor, prev_hash, hash, ..convert::event_to_wire(event) };
        self.bytes += event.encoded_len();
        self.events.events.push(event);
    }

    fn seal(self) -> Result<Block> {
        let raw = self.events.encode_to_vec();
        Ok(Block { raw_bytes: int(raw.len()), data: compress(&raw, FAST)?, ..self.block })
    }
}

/// A block's bytes after somebody with the database's password has changed its events.
#[cfg(test)]
pub(crate) fn tampered(data: &[u8], raw_bytes: i64, change: impl FnOnce(&mut Vec<ActivityEvent>)) -> (Vec<u8>, i64) {
    let mut events = Events { events: unpack(data, raw_bytes).expect("own block") };
    change(&mut events.events);
    let raw = events.encode_to_vec();
    (compress(&raw, FAST).expect("fits"), int(raw.len()))
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock, event::Event};

    use super::*;

    fn links(events: Vec<Event>) -> Vec<Link> {
        let link = |(event, cursor)| Link { event, cursor, prev_hash: vec![1; 32], hash: vec![2; 32] };
        events.into_iter().zip(1..).map(link).collect()
    }

    fn event(office_id: OfficeId, time: Time) -> Event {
        Event::lifecycle(office_id, "ann", "thing.happened", "something happened", time)
    }

    /// Of each block the last place, and how many events it has.
    fn sizes(events: Vec<Event>) -> Vec<(i64, usize)> {
        let blocks = pack(links(events)).expect("fits");
        let size = |block: &Block| (block.last_seq, unpack(&block.data, block.raw_bytes).expect("own block").len());
        blocks.iter().map(size).collect()
    }

    #[test]
    fn a_block_has_bounds_in_events_bytes_and_time_and_is_of_one_office() {
        let (office, other, now) = (OfficeId::new(), OfficeId::new(), SystemClock.now());
        let many = (0..600).map(|_| event(office, now)).collect();
        assert_eq!(sizes(many), [(256, 256), (512, 256), (600, 88)]);
        let long = |_| Event { summary: "x".repeat(40_000), ..event(office, now) };
        assert_eq!(sizes((0..5).map(long).collect()), [(2, 2), (4, 2), (5, 1)]);
        let at = |millis| event(office, now + TimeDelta::milliseconds(millis));
        assert_eq!(sizes(vec![at(0), at(900), at(-100), at(-101), at(899)]), [(3, 3), (5, 2)]);
        assert_eq!(sizes(vec![at(0), event(other, now), event(other, now)]), [(1, 1), (3, 2)]);
        assert_eq!(sizes(Vec::new()), []);
    }

    #[test]
    fn a_block_says_what_is_in_it() {
        let (office, now) = (OfficeId::new(), SystemClock.now());
        let later = now + TimeDelta::milliseconds(5);
        let one = event(office, later).category(Category::Task);
        let two = Event { agent: String::new(), ..event(office, now) }.with(serde_json::json!({"count": 3}));
        let blocks = pack(links(vec![one.clone(), two.clone()])).expect("fits");
        let [block] = &blocks[..] else { panic!("{blocks:?}") };
        assert_eq!((block.last_seq, block.first_time, block.last_time), (2, now, later));
        let agents =
            BTreeMap::from([(String::new(), mask(&[Category::Lifecycle])), ("ann".into(), mask(&[Category::Task]))]);
        assert_eq!((&block.agents, block.categories()), (&agents, mask(&[Category::Task, Category::Lifecycle])));
        assert_eq!(block.ids, [one.id.0.into_bytes(), two.id.0.into_bytes()].concat());
        let back = unpack(&block.data, block.raw_bytes).expect("own block");
        let read: Vec<Event> =
            back.iter().cloned().map(|event| convert::event_from_wire(event).expect("valid")).collect();
        assert_eq!(read, [one, two]);
        assert!(back.iter().zip(1..).all(|(event, cursor)| event.cursor == cursor && event.hash[..] == [2; 32]));
    }

    #[test]
    fn each_category_has_a_bit_of_its_own() {
        let masks: Vec<i64> = Category::ALL.iter().map(|category| mask(&[*category])).collect();
        assert_eq!(masks, [1, 2, 4, 8, 16, 32, 64, 128]);
        assert_eq!(mask(Category::ALL), 255);
    }
}
