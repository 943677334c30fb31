//! Waiting on a condition. The only place in tests that may sleep.

use std::{
    fmt::Display,
    panic::Location,
    time::{Duration, Instant},
};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(15);

/// Looks again and again until there is a value, and returns it.
///
/// `Ok(None)` and `Err(status)` both mean "not yet"; the status of the last look is what a failed test shows.
/// The limit is for broken code, not for slow machines: make it long, a passing test never waits for it.
///
/// # Panics
/// At the limit, naming `what`, the caller's line and the last status; also when a single look hangs until then.
#[track_caller]
pub fn until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>, E>,
) -> impl Future<Output = T> {
    // Taken here, not in the future: an async fn does not know its caller.
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        let mut last = "the first look did not come back".to_owned();
        loop {
            match tokio::time::timeout(limit.saturating_sub(start.elapsed()), look()).await {
                Ok(Ok(Some(value))) => return value,
                Ok(Ok(None)) => last = "nothing there".to_owned(),
                Ok(Err(status)) => last = status.to_string(),
                Err(_) => {}
            }
            assert!(start.elapsed() < limit, "{caller}: waited {limit:?} until {what}, in vain; last status: {last}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests join what they spawn")]
mod tests {
    use std::{convert::Infallible, future};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(60);

    /// What a wait that has to fail panics with.
    async fn panic_of(wait: impl Future<Output = ()> + Send + 'static) -> String {
        let failure = tokio::spawn(wait).await.expect_err("the wait panics");
        *failure.into_panic().downcast::<String>().expect("panics with a text")
    }

    #[tokio::test]
    async fn looks_again_after_nothing_and_after_an_error() {
        let mut looks = 0;
        let value = until("the third look", LONG, async || {
            looks += 1;
            match looks {
                1 => Ok(None),
                2 => Err("half way"),
                _ => Ok(Some("there")),
            }
        })
        .await;
        assert_eq!((value, looks), ("there", 3));
    }

    #[tokio::test]
    async fn tells_what_was_awaited_where_and_what_was_seen_last() {
        let text = panic_of(async {
            until("the agent runs", SHORT, async || Err::<Option<()>, _>("phase Pending")).await;
        })
        .await;
        assert!(text.contains("until.rs:"), "{text}");
        assert!(text.ends_with("until the agent runs, in vain; last status: phase Pending"), "{text}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_fails_at_the_limit() {
        let text = panic_of(async {
            until("an answer", SHORT, async || {
                future::pending::<()>().await;
                Ok::<_, Infallible>(Some(()))
            })
            .await;
        })
        .await;
        assert!(text.ends_with("last status: the first look did not come back"), "{text}");
    }
}
