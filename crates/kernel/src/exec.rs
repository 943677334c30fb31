//! How much of a command's input and output may be on its way between its three parties: the client, the platform, the
//! agent.

/// Bytes that may be on their way in one direction before the other side has said that it used some of them.
pub const WINDOW: usize = 256 << 10;
/// Bytes of one message.
pub const CHUNK: usize = 64 << 10;

/// What is on its way in one direction, as whoever watches both sides counts it.
#[derive(Debug, Default)]
pub struct Window(usize);

impl Window {
    /// Counts a message; false: it is empty, too large, or more than may be on its way.
    #[must_use]
    pub fn sent(&mut self, bytes: usize) -> bool {
        let fits = (1..=CHUNK).contains(&bytes) && self.0 + bytes <= WINDOW;
        if fits {
            self.0 += bytes;
        }
        fits
    }

    /// Takes off what was used; false: nothing, or more than there was.
    #[must_use]
    pub fn used(&mut self, bytes: i32) -> bool {
        match usize::try_from(bytes) {
            Ok(bytes @ 1..) if bytes <= self.0 => {
                self.0 -= bytes;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_on_its_way_than_the_window_and_no_more_is_used_than_was_sent() {
        let mut window = Window::default();
        assert!(!window.sent(0) && !window.sent(CHUNK + 1) && !window.used(1));
        assert!((0..WINDOW / CHUNK).all(|_| window.sent(CHUNK)));
        assert!(!window.sent(1));
        assert!(!window.used(0) && !window.used(-1) && !window.used(i32::MAX));
        assert!(window.used(7) && window.sent(7) && !window.sent(1));
        assert!(window.used(WINDOW as i32) && !window.used(1));
    }
}
