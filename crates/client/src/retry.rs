//! Trying again: only what was not delivered, a few times, with jitter.

use std::time::Duration;

use mi_kernel::backoff::Backoff;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Tries of one call, the first included.
const TRIES: u32 = 4;
/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(30);
/// The longest the platform may ask to wait: beyond it the caller hears the error instead.
const PATIENCE: Duration = Duration::from_secs(5);

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };

/// Sends a unary call, and again while the platform answers UNAVAILABLE.
///
/// For calls that read, that state what should be, or that carry a `request_id`: what was executed although its answer
/// was lost is executed twice otherwise. Use [`once`] for the rest.
///
/// # Errors
/// The status of the last try.
pub async fn retry<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    retry_unlimited(async || limited(call()).await).await
}

/// As [`retry`], with each try taking as long as it takes: for what sends a whole file.
///
/// # Errors
/// The status of the last try.
pub async fn retry_unlimited<T>(call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    retry_while(call, pause).await
}

/// Tries until it works, or `pause` ends it: of an error and the number of failures so far it says how long to wait before
/// the next try, and none after the last one.
///
/// # Errors
/// The error of the last try.
pub async fn retry_while<T, E>(
    mut call: impl AsyncFnMut() -> Result<T, E>,
    mut pause: impl FnMut(&E, u32) -> Option<Duration>,
) -> Result<T, E> {
    let mut failures = 0;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        failures += 1;
        match pause(&error, failures) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

/// How long to wait before the next try; none: this was the last.
fn pause(status: &Status, failures: u32) -> Option<Duration> {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
    let again = status.code() == Code::Unavailable && failures < TRIES && asked <= PATIENCE;
    // The jitter comes on top of what was asked for, so that callers who were told the same do not return together.
    again.then(|| asked + jittered(BACKOFF.after(failures)))
}

/// Sends a unary call once.
///
/// # Errors
/// Its status, or DEADLINE_EXCEEDED when it takes too long.
pub async fn once<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    limited(call).await
}

async fn limited<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(TRY_LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", TRY_LIMIT.as_secs()))),
    }
}

/// How long to wait before the next look or try of something that may take as long as it takes.
pub(crate) fn waited(before: u32) -> Duration {
    jittered(BACKOFF.after(before))
}

/// Somewhere between half of the wait and all of it.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_unavailable_is_tried_again_and_not_for_ever() {
        let down = Status::unavailable("down");
        let waits: Vec<_> = (1..=TRIES).map(|failures| pause(&down, failures)).collect();
        assert_eq!(waits[3], None);
        for (wait, most) in waits[..3].iter().zip([100, 200, 400]) {
            let wait = wait.expect("tries again").as_millis();
            assert!(wait >= most / 2 && wait <= most, "{wait} of {most}");
        }
        for other in
            [Status::internal("x"), Status::aborted("x"), Status::resource_exhausted("x"), Status::unknown("x")]
        {
            assert_eq!(pause(&other, 1), None);
        }
    }

    #[test]
    fn the_platform_s_word_on_the_wait_is_kept() {
        let asks = |secs| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(secs)));
            Status::with_error_details(Code::Unavailable, "busy", details)
        };
        assert!(pause(&asks(2), 1).expect("tries again") > Duration::from_secs(2));
        assert_eq!(pause(&asks(60), 1), None);
    }

    #[tokio::test]
    async fn a_call_that_recovers_answers() {
        let mut tries = 0;
        let answer = retry(async || {
            tries += 1;
            if tries < 2 { Err(Status::unavailable("down")) } else { Ok(tries) }
        })
        .await;
        assert_eq!(answer.expect("recovers"), 2);
    }
}
