//! Streams that look again: at once, after each change in this process, and at a pace for what other processes change.

use std::time::Duration;

use mi_kernel::Result;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::status;

/// Messages that wait for a client.
const BUFFER: usize = 16;

/// Sends what `read` finds, each time there may be something; none: nothing new. Ends with the client or at the first error.
///
/// Level-triggered: a lost signal delays by `every` and loses nothing, as long as `read` goes by what it has sent.
pub fn polled<T, F>(
    mut changes: watch::Receiver<()>,
    every: Option<Duration>,
    mut read: impl FnMut() -> F + Send + 'static,
) -> ReceiverStream<Result<T, Status>>
where
    T: Send + 'static,
    F: Future<Output = Result<Option<T>>> + Send,
{
    let (output, stream) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        loop {
            // Before the read, so that what changes during it is seen in the next one.
            changes.mark_unchanged();
            let message = match read().await {
                Ok(None) => None,
                Ok(Some(found)) => Some(Ok(found)),
                Err(error) => {
                    let _ = output.send(Err(status(error))).await;
                    return;
                }
            };
            if let Some(message) = message
                && output.send(message).await.is_err()
            {
                return;
            }
            tokio::select! {
                _ = tokio::time::timeout(every.unwrap_or(Duration::MAX), changes.changed()) => {}
                () = output.closed() => return,
            }
        }
    });
    stream.into()
}
