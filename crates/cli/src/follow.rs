//! Streams that go on where they broke.

use std::time::Duration;

use mi_client::{jittered, retry};
use mi_kernel::backoff::Backoff;
use tonic::{Code, Response, Status, Streaming};

use crate::{failure::Failure, output::Output};

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };

/// Hands each message of a stream to `take`, and opens the stream again when the connection is lost; `open` resumes
/// after what was taken. Ends when the platform ends the stream.
pub(crate) async fn follow<T>(
    out: Output,
    open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    mut take: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    follow_until(out, open, |message| take(message).map(|()| None::<()>)).await.map(drop)
}

/// The same until `take` answers something; none: the platform ended the stream before.
pub(crate) async fn follow_until<T, R>(
    out: Output,
    mut open: impl AsyncFnMut() -> Result<Response<Streaming<T>>, Status>,
    mut take: impl FnMut(T) -> Result<Option<R>, Failure>,
) -> Result<Option<R>, Failure> {
    let mut stream = retry(&mut open).await?.into_inner();
    loop {
        let lost = match stream.message().await {
            Ok(Some(message)) => match take(message)? {
                Some(found) => return Ok(Some(found)),
                None => continue,
            },
            Ok(None) => return Ok(None),
            Err(status) if connection_lost(&status) => status,
            Err(status) => return Err(status.into()),
        };
        out.note(&format!("the stream broke ({}); resuming", lost.message()));
        let mut failures = 0;
        stream = loop {
            failures += 1;
            tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
            match open().await {
                Ok(response) => break response.into_inner(),
                Err(status) if connection_lost(&status) => {}
                Err(status) => return Err(status.into()),
            }
        };
    }
}

/// What a lost connection looks like, depending on where it broke.
fn connection_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
}
