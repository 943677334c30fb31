//! How long things took, as quantiles.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Result;

/// The longest that is told apart from longer.
const MOST: Duration = Duration::from_secs(60);

/// Durations, kept to three digits.
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, nanos(MOST), 3)?))
    }

    /// Times calls, one after the other.
    pub(crate) async fn of(calls: usize, mut call: impl AsyncFnMut() -> Result) -> Result<Self> {
        let mut latency = Self::new()?;
        for _ in 0..calls {
            latency.time(&mut call).await?;
        }
        Ok(latency)
    }

    /// Times one call.
    pub(crate) async fn time<T, E>(&mut self, mut call: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
        let start = Instant::now();
        let answer = call().await?;
        self.record(start.elapsed());
        Ok(answer)
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.0.saturating_record(nanos(took));
    }

    /// Microseconds that this share of the calls stayed within.
    pub(crate) fn micros(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// Milliseconds that this share of the calls stayed within.
    pub(crate) fn millis(&self, share: f64) -> f64 {
        self.micros(share) / 1e3
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_the_units_they_say() {
        let mut latency = Latency::new().expect("bounds are valid");
        for millis in 1..=100 {
            latency.record(Duration::from_millis(millis));
        }
        assert!((latency.millis(0.5) - 50.0).abs() < 0.1, "{}", latency.millis(0.5));
        assert!((latency.micros(0.99) - 99_000.0).abs() < 100.0, "{}", latency.micros(0.99));
    }
}
