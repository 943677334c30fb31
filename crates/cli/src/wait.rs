//! Waiting for the platform to get there, with a spinner for whoever watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use mi_client::jittered;
use mi_kernel::backoff::Backoff;
use tokio::time::{Instant, timeout_at};

use crate::{failure::Failure, text::seconds};

const POLL: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(1) };

/// How long to wait, as flags take it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let told = || "must be a duration such as 90s, 10m or 2h".to_owned();
    seconds(text).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(told)
}

/// When a wait that may take so long is over; none: never.
pub(crate) fn end(limit: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(limit?)
}

/// What something comes to, if that is by then; no end: whenever that is.
pub(crate) async fn by<T>(end: Option<Instant>, something: impl Future<Output = T>) -> Option<T> {
    match end {
        Some(end) => timeout_at(end, something).await.ok(),
        None => Some(something.await),
    }
}

/// Asks again and again until `check` has an answer; none: the time is up.
pub(crate) async fn until<T>(
    doing: String,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let spinner = spinner(doing);
    let end = Instant::now() + limit;
    let mut asked = 0;
    let answer = loop {
        if let Some(answer) = check().await? {
            break Some(answer);
        }
        asked += 1;
        let pause = jittered(POLL.after(asked));
        if Instant::now() + pause > end {
            break None;
        }
        tokio::time::sleep(pause).await;
    };
    spinner.finish_and_clear();
    Ok(answer)
}

/// A spinner; indicatif hides it by itself where standard error is no terminal.
pub(crate) fn spinner(doing: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(doing);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A bar over bytes, hidden in the same way.
pub(crate) fn bytes_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_an_answer_and_not_longer_than_it_may() {
        let mut asked = 0;
        let found = until("x".into(), Duration::from_secs(5), async || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(found.await.expect("no error"), Some(3));
        let never = until("x".into(), Duration::from_millis(1), async || Ok(None::<()>)).await;
        assert_eq!(never.expect("no error"), None);
        let failed = until("x".into(), Duration::from_secs(5), async || Err::<Option<()>, _>(Failure::new("no"))).await;
        assert_eq!(failed.expect_err("passed on").exit_code(), 1);
    }
}
