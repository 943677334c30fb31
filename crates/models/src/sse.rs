//! Server-sent events, as bytes that pass on and as data that is looked at.

use bytes::{Bytes, BytesMut};

/// The longest event that is looked at, in bytes; it may hold a picture.
const MAX_EVENT: usize = 16 << 20;

/// Takes bytes as they come, gives whole events.
#[derive(Default)]
pub(crate) struct Events {
    buffer: BytesMut,
    /// Up to here nothing ends an event.
    seen: usize,
    /// Where the line begins that is being read.
    line: usize,
    lost: bool,
}

/// One event.
pub(crate) struct Event {
    /// As it came.
    pub(crate) raw: Bytes,
    /// Its data; empty: it has none, such as a comment.
    pub(crate) data: String,
}

impl Events {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event that has ended.
    pub(crate) fn next(&mut self) -> Option<Event> {
        if self.lost {
            return self.rest().map(|raw| Event { raw, data: String::new() });
        }
        while let Some(offset) = self.buffer[self.seen..].iter().position(|byte| *byte == b'\n') {
            let end = self.seen + offset;
            let is_blank = matches!(&self.buffer[self.line..end], b"" | b"\r");
            (self.seen, self.line) = (end + 1, end + 1);
            if is_blank {
                let raw = self.buffer.split_to(self.seen).freeze();
                (self.seen, self.line) = (0, 0);
                let data = data(&raw);
                return Some(Event { raw, data });
            }
        }
        self.seen = self.buffer.len();
        // Whatever it is, it passes unread from here on.
        self.lost = self.buffer.len() > MAX_EVENT;
        if self.lost { self.next() } else { None }
    }

    /// What came after the last event.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        (self.seen, self.line) = (0, 0);
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}

fn data(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut data = String::new();
    for line in text.lines() {
        let Some(part) = line.strip_prefix("data:") else { continue };
        if !data.is_empty() {
            data.push('\n');
        }
        data += part.strip_prefix(' ').unwrap_or(part);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_split() {
        let text = ": hello\r\ndata: {\"é\":\r\ndata:1}\r\n\r\nevent: x\ndata: two\n\n\n: ping\n\ndata: [DONE]";
        for size in 1..text.len() {
            let (mut events, mut seen, mut raw) = (Events::default(), Vec::new(), Vec::new());
            for bytes in text.as_bytes().chunks(size) {
                events.push(bytes);
                while let Some(event) = events.next() {
                    raw.extend_from_slice(&event.raw);
                    seen.push(event.data);
                }
            }
            assert_eq!(seen, ["{\"é\":\n1}", "two", "", ""]);
            assert_eq!(events.rest().expect("unfinished"), "data: [DONE]");
            raw.extend_from_slice(b"data: [DONE]");
            assert_eq!(raw, text.as_bytes(), "nothing is lost on the way");
        }
    }

    #[test]
    fn an_endless_event_passes_unread() {
        let (mut events, mut passed) = (Events::default(), 0);
        for _ in 0..=MAX_EVENT / 1024 {
            events.push(&[b'x'; 1024]);
            passed += events.next().map_or(0, |event| event.raw.len());
        }
        assert_eq!(passed, MAX_EVENT + 1024);
    }
}
