//! Streams that look again: at once, after each change in this process, and at a pace for what other processes change.

use std::time::Duration;

use mi_kernel::Result;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::status;

/// Messages that wait for a client.
const BUFFER: usize = 16;

/// Sends what `read` finds, in order, each time there may be something; after several messages, of which there may be
/// more, it looks again at once. Ends with the client or at the first error.
///
/// Level-triggered: a lost signal delays by `every` and loses nothing, as long as `read` goes by what it has sent.
pub fn polled<T, B, F>(
    mut changes: watch::Receiver<()>,
    every: Option<Duration>,
    mut read: impl FnMut() -> F + Send + 'static,
) -> ReceiverStream<Result<T, Status>>
where
    T: Send + 'static,
    B: IntoIterator<Item = T, IntoIter: Send> + Send,
    F: Future<Output = Result<B>> + Send,
{
    let (output, stream) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        loop {
            // Before the read, so that what changes during it is seen in the next one.
            changes.mark_unchanged();
            let found = match read().await {
                Ok(found) => found.into_iter(),
                Err(error) => {
                    let _ = output.send(Err(status(error))).await;
                    return;
                }
            };
            let mut sent = 0;
            for message in found {
                sent += 1;
                if output.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            if sent > 1 {
                continue;
            }
            tokio::select! {
                _ = tokio::time::timeout(every.unwrap_or(Duration::MAX), changes.changed()) => {}
                () = output.closed() => return,
            }
        }
    });
    stream.into()
}
