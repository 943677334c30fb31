//! A feed as a chain of hashes: who alters, removes, inserts or reorders events has to redo every hash after them and
//! both ends, and is found by anybody who kept an end.
//!
//! The hash of an event is the SHA-256 of these parts, each after its length as 8 bytes, big-endian: the text `mi event
//! 1`; the hash of the event before, 32 bytes; the cursor, 8 bytes; event id and office id, 16 bytes each; the time in
//! microseconds since 1970, 8 bytes; agent, category, type and summary as UTF-8; the metadata; the trace id. Integers are
//! big-endian, in two's complement. The metadata is, by kind of value: `n`, `t`, `f` for null, true, false; `d` and the
//! IEEE 754 double of a number, 8 bytes, zero without a sign; `s`, the length as 8 bytes, and the UTF-8 of a text; `a`,
//! the count as 8 bytes, and the values of a list; `o`, the count, and, in the order of the keys' bytes, key (as a text
//! without `s`) and value of an object. Before the first event the hash is 32 zero bytes.

use std::{collections::HashSet, fmt};

use ring::digest;
use serde_json::Value;

use crate::event::Event;

/// SHA-256.
pub type Hash = [u8; 32];
/// The hash before the first event.
pub const START: Hash = [0; 32];

/// One end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Cursor of the event; 0: before the first.
    pub cursor: i64,
    /// Its hash.
    pub hash: Hash,
}

impl Default for End {
    fn default() -> Self {
        Self { cursor: 0, hash: START }
    }
}

/// Both ends of the part of a chain that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// The newest event that is not there any more; the oldest one that is comes after it.
    pub anchor: End,
    /// The newest event.
    pub head: End,
}

/// An event in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The event.
    pub event: Event,
    /// Its place.
    pub cursor: i64,
    /// What it says is the hash of the event before.
    pub prev_hash: Vec<u8>,
    /// What it says is its own.
    pub hash: Vec<u8>,
}

/// What was done to a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An event says something else than it did.
    Altered,
    /// An event is missing.
    Removed,
    /// An event is there that never was.
    Inserted,
    /// An event is in another's place.
    Reordered,
}

/// Where a chain is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The first place.
    pub cursor: i64,
    /// What was done.
    pub fault: Fault,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match self.fault {
            Fault::Altered => "was altered",
            Fault::Removed => "was removed",
            Fault::Inserted => "was inserted",
            Fault::Reordered => "is in the place of another",
        };
        write!(f, "the event at cursor {} {done}", self.cursor)
    }
}

impl std::error::Error for Broken {}

/// The hash of an event in its place.
pub fn hash(event: &Event, cursor: i64, prev_hash: &[u8]) -> Hash {
    let mut metadata = Vec::new();
    encode(&event.metadata, &mut metadata);
    let parts: [&[u8]; 11] = [
        b"mi event 1",
        prev_hash,
        &cursor.to_be_bytes(),
        event.id.0.as_bytes(),
        event.office_id.0.as_bytes(),
        &event.time.timestamp_micros().to_be_bytes(),
        event.agent.as_bytes(),
        event.category.as_str().as_bytes(),
        event.kind.as_bytes(),
        event.summary.as_bytes(),
        &metadata,
    ];
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts.into_iter().chain([event.trace_id.as_bytes()]) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = START;
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    let count = |count: usize, out: &mut Vec<u8>| out.extend((count as u64).to_be_bytes());
    let text = |text: &str, out: &mut Vec<u8>| {
        count(text.len(), out);
        out.extend(text.as_bytes());
    };
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::Number(number) => {
            out.push(b'd');
            // The wire knows doubles only. Adding zero takes the sign from a negative zero.
            out.extend((number.as_f64().unwrap_or_default() + 0.0).to_bits().to_be_bytes());
        }
        Value::String(string) => {
            out.push(b's');
            text(string, out);
        }
        Value::Array(values) => {
            out.push(b'a');
            count(values.len(), out);
            values.iter().for_each(|value| encode(value, out));
        }
        Value::Object(map) => {
            out.push(b'o');
            count(map.len(), out);
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_bytes());
            for (key, value) in entries {
                text(key, out);
                encode(value, out);
            }
        }
    }
}

/// Checks a feed between its ends. The links are in the order of their cursors; those up to the anchor are left out.
///
/// # Errors
/// The first place where it is not what it was.
pub fn verify(ends: &Ends, links: &[Link]) -> Result<(), Broken> {
    let first = links.partition_point(|link| link.cursor <= ends.anchor.cursor);
    let links = &links[first..];
    let mut before: Option<End> = None;
    let mut last = ends.anchor;
    for link in links {
        let broken = |cursor, fault| Err(Broken { cursor, fault });
        if link.cursor > last.cursor + 1 {
            return broken(last.cursor + 1, Fault::Removed);
        }
        if link.cursor > ends.head.cursor {
            return broken(link.cursor, Fault::Inserted);
        }
        let own = hash(&link.event, link.cursor, &link.prev_hash);
        if link.prev_hash != last.hash || link.hash != own || link.cursor != last.cursor + 1 {
            return Err(judge(links, before, last, link));
        }
        before = Some(last);
        last = End { cursor: link.cursor, hash: own };
    }
    if last.cursor < ends.head.cursor {
        return Err(Broken { cursor: last.cursor + 1, fault: Fault::Removed });
    }
    if last != ends.head {
        return Err(Broken { cursor: last.cursor, fault: Fault::Altered });
    }
    Ok(())
}

/// What was done at a link that does not fit to the last good one, told by where links like it belong.
fn judge(links: &[Link], before: Option<End>, last: End, link: &Link) -> Broken {
    let hashes: HashSet<&[u8]> = links.iter().map(|link| link.hash.as_slice()).collect();
    let follows = |end: &End, link: &Link| link.prev_hash == end.hash;
    let successor_elsewhere = links.iter().any(|other| other.cursor != link.cursor && follows(&last, other));
    let belongs_later = !follows(&last, link) && hashes.contains(link.prev_hash.as_slice());
    if !follows(&last, link) && before.is_some_and(|before| follows(&before, link)) {
        // It came after the one before the last: the last one was put between.
        return Broken { cursor: last.cursor, fault: Fault::Inserted };
    }
    let fault = match (successor_elsewhere, belongs_later) {
        (true, true) => Fault::Reordered,
        (true, false) => Fault::Inserted,
        // Good one place later: the one before it is gone, and the rest was moved up.
        (false, _) if hash(&link.event, link.cursor + 1, &link.prev_hash) == link.hash.as_slice() => Fault::Removed,
        (false, _) => Fault::Altered,
    };
    Broken { cursor: link.cursor, fault }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Clock, OfficeId, SystemClock, event::Event};

    fn chain(count: i64) -> (Ends, Vec<Link>) {
        let (office_id, mut head, mut links) = (OfficeId::new(), End::default(), Vec::new());
        for cursor in 1..=count {
            let event =
                Event::lifecycle(office_id, "ann", "thing.happened", format!("event {cursor}"), SystemClock.now())
                    .with(json!({ "b": [1, 0.5, null], "a": { "x": true } }));
            let own = hash(&event, cursor, &head.hash);
            links.push(Link { event, cursor, prev_hash: head.hash.to_vec(), hash: own.to_vec() });
            head = End { cursor, hash: own };
        }
        (Ends { anchor: End::default(), head }, links)
    }

    fn renumber(links: &mut [Link]) {
        for (link, cursor) in links.iter_mut().zip(1..) {
            link.cursor = cursor;
        }
    }

    /// What is found after something was done to a chain of five.
    fn found(act: impl Fn(&mut Vec<Link>)) -> (i64, Fault) {
        let (ends, mut links) = chain(5);
        assert_eq!(verify(&ends, &links), Ok(()));
        act(&mut links);
        let broken = verify(&ends, &links).expect_err("broken");
        (broken.cursor, broken.fault)
    }

    #[test]
    fn each_tampering_is_found_by_name() {
        use Fault::{Altered, Inserted, Removed, Reordered};
        for at in 0..5usize {
            let cursor = i64::try_from(at).expect("small") + 1;
            assert_eq!(found(|links| links[at].event.summary.push('!')), (cursor, Altered));
            assert_eq!(found(|links| links[at].event.metadata = json!({ "b": [1, 0.5, null] })), (cursor, Altered));
            assert_eq!(found(|links| links[at].hash[31] ^= 1), (cursor, Altered));
            assert_eq!(found(|links| drop(links.remove(at))), (cursor, Removed));
        }
        assert_eq!(found(Vec::clear), (1, Removed));
        let closed_up = |links: &mut Vec<Link>| {
            links.remove(2);
            renumber(links);
        };
        assert_eq!(found(closed_up), (3, Removed));
        let swapped = |links: &mut Vec<Link>| {
            links.swap(1, 3);
            renumber(links);
        };
        assert_eq!(found(swapped), (2, Reordered));
        let forged = |links: &mut Vec<Link>, at: usize, fits: bool| {
            let mut new = links[at].clone();
            new.event.id = crate::EventId::new();
            new.prev_hash = if fits { links[at].prev_hash.clone() } else { vec![7; 32] };
            new.hash = hash(&new.event, new.cursor, &new.prev_hash).to_vec();
            links.insert(at, new);
            renumber(links);
        };
        assert_eq!(found(|links| forged(links, 2, true)), (3, Inserted));
        assert_eq!(found(|links| forged(links, 2, false)), (3, Inserted));
        let appended = |links: &mut Vec<Link>| {
            let mut new = links[4].clone();
            (new.cursor, new.prev_hash) = (6, links[4].hash.clone());
            new.hash = hash(&new.event, 6, &new.prev_hash).to_vec();
            links.push(new);
        };
        assert_eq!(found(appended), (6, Inserted));
    }

    #[test]
    fn a_chain_goes_on_after_its_anchor() {
        let (mut ends, links) = chain(5);
        ends.anchor = End { cursor: 2, hash: links[1].hash.clone().try_into().expect("a hash") };
        assert_eq!(verify(&ends, &links[2..]), Ok(()));
        assert_eq!(verify(&ends, &links), Ok(()), "what is before the anchor does not matter");
        let broken = verify(&ends, &links[3..]).expect_err("the first one left is gone");
        assert_eq!(broken.to_string(), "the event at cursor 3 was removed");
        assert_eq!(verify(&Ends::default(), &[]), Ok(()));
    }
}
