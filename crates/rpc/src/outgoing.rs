//! Streams that go at the client's pace.

use std::pin::pin;

use futures::{Stream, StreamExt};
use mi_base::Tasks;
use mi_kernel::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, codegen::BoxStream};

use crate::status;

/// Messages for a client, of which at most `buffer` wait for it, from a task of their own: left to the client's pace, a
/// stream would stop in the middle of a query and keep its connection from everybody else. Ends soon after the client is
/// gone, and at shutdown with UNAVAILABLE, so that the client resumes elsewhere or later.
pub fn outgoing<W: Send + 'static>(
    tasks: &Tasks,
    buffer: usize,
    messages: impl Stream<Item = Result<W, Status>> + Send + 'static,
) -> BoxStream<W> {
    // The channel has room for 32 messages from the start, however few may wait, and most streams wait for their first: in a box
    // each, the room is that of as many pointers.
    let (sender, receiver) = mpsc::channel::<Box<Result<W, Status>>>(buffer + 1);
    let shutdown = tasks.closing();
    tasks.spawn_to_end("stream", async move {
        // Room for the last word is kept: a client that does not read must not hold the shutdown up.
        let Ok(last) = sender.clone().reserve_owned().await else { return };
        let handing_on = async {
            let mut messages = pin!(messages);
            while let Some(message) = messages.next().await {
                if sender.send(Box::new(message)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = handing_on => {}
            () = sender.closed() => {}
            () = shutdown.cancelled() => {
                let error = Error::unavailable("the platform is shutting down; resume in a moment");
                last.send(Box::new(Err(status(error))));
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver).map(|message| *message))
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
    use tonic::Code;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_nobody_reads_is_not_made() {
        let (tasks, made) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
        let counter = made.clone();
        let messages = stream::repeat_with(move || Ok::<_, Status>(counter.fetch_add(1, Ordering::SeqCst)));
        let mut reader = outgoing(&tasks, 4, messages);
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
        let read: Vec<usize> = reader.by_ref().take(3).map(|message| message.expect("no error")).collect().await;
        assert_eq!(read, [0, 1, 2]);
        settled(8).await;
        // What was made already comes before the end, which nobody has to wait for.
        assert_eq!(tasks.stop(LONG).await, None);
        let rest: Vec<Result<usize, Code>> =
            reader.map(|message| message.map_err(|status| status.code())).collect().await;
        assert_eq!(rest, [Ok(3), Ok(4), Ok(5), Ok(6), Err(Code::Unavailable)]);
    }

    #[tokio::test]
    async fn a_stream_ends_as_it_wants_to() {
        let tasks = Tasks::new();
        let short = outgoing(&tasks, 4, stream::iter([Ok(1), Err(Status::not_found("gone"))]));
        let all: Vec<Result<i32, Code>> = short.map(|message| message.map_err(|status| status.code())).collect().await;
        assert_eq!(all, [Ok(1), Err(Code::NotFound)]);
        assert_eq!(tasks.stop(LONG).await, None);
    }
}
