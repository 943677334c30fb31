//! Server-sent events, as far as model servers use them: the data of each event.

/// The longest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// Takes bytes as they come, gives the data of events.
#[derive(Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: String,
}

impl Events {
    /// The data of the events that these bytes end.
    ///
    /// # Errors
    /// When one is too long.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(&mut events),
                _ => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err(format!("it sent an event of more than {MAX_EVENT} bytes"));
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, events: &mut Vec<String>) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        if line.is_empty() {
            if !self.data.is_empty() {
                events.push(std::mem::take(&mut self.data));
            }
        } else if let Some(data) = line.strip_prefix("data:") {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data += data.strip_prefix(' ').unwrap_or(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_split() {
        let text =
            ": hello\r\ndata: {\"é\":\r\ndata:1}\r\n\r\nevent: x\ndata: two\n\n\n\ndata: unfinished\n".as_bytes();
        for size in 1..text.len() {
            let mut events = Events::default();
            let seen: Vec<String> = text.chunks(size).flat_map(|bytes| events.take(bytes).expect("short")).collect();
            assert_eq!(seen, ["{\"é\":\n1}", "two"]);
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        assert!((0..=MAX_EVENT / 1024).any(|_| events.take(&[b'x'; 1024]).is_err()));
    }
}
