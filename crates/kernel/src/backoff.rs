//! How long to wait before the next try.

use std::time::Duration;

/// Waits that double from `first` up to `most`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub most: Duration,
}

impl Backoff {
    /// The wait after this many failures in a row; none after none.
    pub fn after(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            // 2^20 seconds is far past any cap, and the shift stays in range.
            n => self.first.saturating_mul(1 << (n - 1).min(20)).min(self.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap() {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
        let seconds: Vec<u64> = (0..9).map(|n| backoff.after(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.after(u32::MAX).as_secs(), 60);
    }
}
