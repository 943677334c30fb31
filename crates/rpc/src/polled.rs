//! Streams that look again: at once, after each change in this process, and at a pace for what other processes change.

use std::time::Duration;

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mi_kernel::Result;
use tokio::{sync::watch, time::timeout};
use tonic::Status;

use crate::status;

/// What [`polled`] answers a client.
pub type Polled<T> = BoxStream<'static, Result<T, Status>>;

/// Sends what `read` finds, in order, each time there may be something; after several messages, of which there may be
/// more, it looks again at once. Ends with the client, who drops it, or at the first error. It reads nothing while its
/// client does not.
///
/// Level-triggered: a lost signal delays by `every` and loses nothing, as long as `read` goes by what it has sent.
pub fn polled<T, B, F>(
    changes: watch::Receiver<()>,
    every: Option<Duration>,
    read: impl FnMut() -> F + Send + 'static,
) -> Polled<T>
where
    T: Send + 'static,
    B: IntoIterator<Item = T> + Send,
    F: Future<Output = Result<B>> + Send,
{
    let rounds = stream::try_unfold((changes, read, false), move |(mut changes, mut read, wait)| async move {
        if wait {
            let _ = timeout(every.unwrap_or(Duration::MAX), changes.changed()).await;
        }
        // Before the read, so that what changes during it is seen in the next one.
        changes.mark_unchanged();
        let found: Vec<T> = read().await.map_err(status)?.into_iter().collect();
        let wait = found.len() <= 1;
        Ok::<_, Status>(Some((stream::iter(found.into_iter().map(Ok)), (changes, read, wait))))
    });
    rounds.try_flatten().boxed()
}
