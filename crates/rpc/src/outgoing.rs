//! Streams that go at the client's pace.

use std::pin::pin;

use futures::{Stream, StreamExt};
use mi_base::Tasks;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, codegen::BoxStream};

/// Messages for a client, of which at most `buffer` wait for it, from a task of their own: left to the client's pace, a
/// stream would stop in the middle of a query and keep its connection from everybody else. Ends soon after the client is
/// gone.
pub fn outgoing<W: Send + 'static>(
    tasks: &Tasks,
    buffer: usize,
    messages: impl Stream<Item = Result<W, Status>> + Send + 'static,
) -> BoxStream<W> {
    let (sender, receiver) = mpsc::channel(buffer);
    tasks.spawn("stream", async move {
        let mut messages = pin!(messages);
        loop {
            let message = tokio::select! {
                () = sender.closed() => return,
                message = messages.next() => message,
            };
            let Some(message) = message else { return };
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use futures::stream;
    use mi_testkit::until;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_nobody_reads_is_not_made() {
        let (tasks, made) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
        let counter = made.clone();
        let messages = stream::repeat_with(move || Ok::<_, Status>(counter.fetch_add(1, Ordering::SeqCst)));
        let reader = outgoing(&tasks, 4, messages);
        // The buffer, and the one that does not fit into it.
        let settled = async |expected: usize| {
            until("the stream waits", LONG, async || {
                let made = made.load(Ordering::SeqCst);
                Ok::<_, Infallible>((made == expected).then_some(()))
            })
            .await;
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(made.load(Ordering::SeqCst), expected);
        };
        settled(5).await;
        let read: Vec<usize> = reader.take(3).map(|message| message.expect("no error")).collect().await;
        assert_eq!(read, [0, 1, 2]);
        // The reader is gone, and the stream with it.
        assert_eq!(tasks.stop(LONG).await, None);
    }
}
